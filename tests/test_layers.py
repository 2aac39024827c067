"""The packages keep to the layers of docs/architecture.md, and the check sees what it is there to see."""

from __future__ import annotations

from pathlib import Path

import pytest
from layers import ROOT, Layers, circles, problems

PAGE = """# A house

## Layers

```
top, other    what is used by nobody
low.high      above the rest of its package
low           at the bottom
house         the root
```

| from | to | why |
| --- | --- | --- |
{kept}
## After

```
not, a, layer
```
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A package that keeps to its page; tests overwrite files of it."""
    for name, text in {
        "__init__": "",
        "top/__init__": "",
        "top/roof": "from house.low import floor\nfrom house.low.high import ladder\nimport numpy",
        "other": "import house.low.floor",
        "low/__init__": "",
        "low/floor": "FLOOR = 1",
        "low/high": "from . import floor\ndef ladder(): ...",
    }.items():
        write(tmp_path / "house", name, text)
    return tmp_path


def write(package: Path, name: str, text: str) -> None:
    path = package / f"{name}.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def found(house: Path, name: str = "", text: str = "", kept: str = "") -> list[str]:
    """The problems of the house with one file written anew and one line in the table."""
    if name:
        write(house / "house", name, text)
    page = house / "page.md"
    page.write_text(PAGE.format(kept=kept), encoding="utf-8")
    return problems(house / "house", page)


def test_anypo_has_no_circles_and_no_arrows_up() -> None:
    assert problems(ROOT / "anypo", ROOT / "docs" / "architecture.md") == []


def test_every_excuse_has_a_reason() -> None:
    assert all(len(reason.split()) > 5 for reason in Layers.read(ROOT / "docs" / "architecture.md").kept.values())


def test_a_house_in_order(house: Path) -> None:
    assert found(house) == []


@pytest.mark.parametrize(
    "text",
    [
        "from house.top.roof import x",
        "from house.top import roof",
        "import house.top.roof",
        "from ..top import roof",
        "try:\n    from house.top import roof\nexcept ImportError:\n    pass",
        "class A:\n    from house.top import roof",
    ],
)
def test_an_arrow_up_however_it_is_written(house: Path, text: str) -> None:
    (sentence,) = [line for line in found(house, "low/cellar", text) if line.startswith("arrow")]
    assert sentence.startswith("arrow: low.cellar:") and "imports top.roof" in sentence


def test_an_arrow_inside_a_function_counts(house: Path) -> None:
    text = "async def f():\n    def g():\n        from house.top import roof"
    assert found(house, "low/cellar", text) == ["arrow: low.cellar:3 imports top.roof inside a function"]


def test_an_arrow_within_a_package_and_to_a_neighbour(house: Path) -> None:
    assert found(house, "low/cellar", "from house.low.high import ladder") == ["arrow: low.cellar:1 imports low.high"]
    write(house / "house", "low/cellar", "")
    assert found(house, "other", "import house.top") == ["arrow: other:1 imports top"]


def test_imports_for_types_only_do_not_count(house: Path) -> None:
    text = "import typing\nif typing.TYPE_CHECKING:\n    from house.top import roof\nelse:\n    import house.top"
    assert found(house, "low/cellar", text) == ["arrow: low.cellar:5 imports top"]


def test_an_excuse_covers_what_it_names_and_must_be_needed(house: Path) -> None:
    line = "| `low.cellar` | `top` | The cellar has a chimney that ends above the roof. |\n"
    assert found(house, "low/cellar", "import house.top.roof", line) == []
    assert found(house, "low/floor", "import house.other", line) == [
        "circle: low.floor <-> other",
        "arrow: low.floor:1 imports other",
    ]
    assert found(house, "low/cellar", "", line)[-1] == "no arrow: low.cellar -> top is excused but not there"


def test_circles_at_the_top_and_through_functions(house: Path) -> None:
    write(house / "house", "low/one", "from house.low import two")
    assert found(house, "low/two", "import house.low.three") == []
    assert found(house, "low/three", "def f():\n    from house.low.one import x") == [
        "circle through functions: low.one <-> low.three <-> low.two"
    ]
    assert found(house, "low/three", "from house.low.one import x") == ["circle: low.one <-> low.three <-> low.two"]


def test_a_module_without_a_place_and_a_place_without_a_module(house: Path) -> None:
    assert found(house, "annex", "") == ["no place: annex is in no layer of page.md"]
    (house / "house" / "annex.py").unlink()
    (house / "house" / "other.py").unlink()
    assert found(house) == ["no module: other"]


def test_a_page_without_layers(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("# Nothing\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no section 'Layers'"):
        problems(tmp_path, tmp_path / "page.md")


def test_circles_are_those_of_mutual_reach() -> None:
    """Against the definition: two nodes share a circle exactly when each reaches the other."""
    graph = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("d", "e"), ("e", "d"), ("f", "a"), ("e", "g")]
    assert circles(graph) == [["a", "b", "c"], ["d", "e"]]
