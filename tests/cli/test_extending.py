"""The code and the commands of docs/extending.md, run outside the repository."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from command import Outcome
from killing import apart

import anypo as library
from anypo import plugins

PAGE = Path(library.__file__).parents[1] / "docs/extending.md"
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", PAGE.read_text(encoding="utf-8"), flags=re.M | re.S)
FILES = {text.split("\n")[0].removeprefix("# "): text for kind, text in BLOCKS if kind in ("python", "yaml", "toml")}
COMMANDS = [line for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
TRAINING = [line for line in COMMANDS[:-1] if " train " in line and "flat" not in line]
INSTALLED = COMMANDS[-1]
WITH_A_MODEL = next(line for line in COMMANDS if "flat" in line)
SMALL = shlex.split(
    "--steps 1 --sft-steps 1 --eval-size 4 --set control.prompts=2 --set control.samples=4 --set generate.max_new=4"
)
CELLS = shlex.split(
    "--budget tokens=20 --seeds 1 --sft-steps 1 --eval-size 4 --samples 2 --evaluations 1 --jobs 1"
    " --set control.prompts=2 --set control.samples=4 --set generate.max_new=4"
)


@pytest.fixture
def folder(tmp_path):
    """A folder outside the repository with the page's files."""
    for name, text in FILES.items():
        if name != "pyproject.toml":
            (tmp_path / name).write_text(text)
    return tmp_path


@pytest.fixture
def here(anypo, folder, monkeypatch):
    """The command line in this process, which knows no plugin before the test and none after it."""
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    for name in ("_chosen", "_installed", "_broken"):
        monkeypatch.setattr(plugins, name, dict(getattr(plugins, name)))
    monkeypatch.setattr(plugins, "_told", set())
    monkeypatch.setattr(plugins, "_discovered", False)
    yield anypo
    own = {
        name
        for name, module in list(sys.modules.items())
        if str(getattr(module, "__file__", "")).startswith(str(folder))
    }
    for name in own:
        del sys.modules[name]
        plugins._withdraw(name)


@pytest.fixture
def away(folder):
    """`away("anypo evaluate ../run")` in a process and a folder of its own, as the console script would start it."""
    (folder / "away").mkdir()
    return lambda line, *more, site="": apart((*shlex.split(line)[1:], *more), folder / "away", site)


def ran(done: Outcome) -> dict:
    """The JSON a command printed."""
    assert done.code == 0, done.err[-2000:]
    return json.loads(done.out)


def of_run(path: Path) -> tuple[list[str], list[dict]]:
    """The plugins in a run's configuration and manifest."""
    config = yaml.safe_load((path / "config.yaml").read_text())
    return config["plugins"], json.loads((path / "manifest.json").read_text())["plugins"]


def test_the_page_shows_every_kind_in_about_ten_lines() -> None:
    assert set(FILES) == {"bounds.py", "wide.py", "climb.py", "parity.py", "flat.py", "smooth.yaml", "pyproject.toml"}
    for name in ("bounds.py", "wide.py", "climb.py", "parity.py"):
        body = re.split(r"\n@", FILES[name].split("class ", 1)[1])[0]
        assert len([line for line in body.splitlines() if line.strip()]) <= 14


@pytest.mark.parametrize("line", TRAINING)
def test_every_command_of_the_page_trains(here, tmp_path, monkeypatch, line) -> None:
    words = shlex.split(line)
    if "=" in words[0]:
        monkeypatch.setenv(*words.pop(0).split("="))
    found = ran(here(*words[1:], *SMALL, "--out", "run", "--json"))
    assert found["last_step"]["step"] == 1 and found["after"]["n"] == 4
    recorded, manifest = of_run(tmp_path / "run")
    assert [entry["name"] for entry in manifest] == recorded != []
    assert all(re.fullmatch("[0-9a-f]{64}", entry["sha256"]) for entry in manifest)


NAMED = shlex.split("--plugin bounds.py --plugin climb.py --plugin flat.py")


def test_a_run_finds_its_plugins_again(here, away, tmp_path) -> None:
    words = [*shlex.split(WITH_A_MODEL)[1:], *NAMED, *shlex.split("--task climb --set objective.trust=tanh")]
    del words[words.index("--task-set") : words.index("--task-set") + 2]
    ran(here(*words, *SMALL, "--out", "run", "--json"))
    assert of_run(tmp_path / "run")[0] == [str(tmp_path / name) for name in ("flat.py", "bounds.py", "climb.py")]
    assert ran(away("anypo resume ../run --steps 2 --json"))["last_step"]["step"] == 2
    assert ran(away("anypo evaluate ../run --size 4 --json"))["n"] == 4
    looked = away("anypo diagnose ../run --attribution --json")
    assert looked.code == 0 and "warning" not in looked.err, looked.err

    (tmp_path / "bounds.py").unlink()
    gone = here("evaluate", "run")
    assert gone.code == 2 and "bounds.py" in gone.err and "no such file" in gone.err
    report = here("report", "run")
    assert report.code == 0 and "warning" in report.err and "bounds.py" in report.err


def test_the_cells_of_a_comparison_find_its_plugins(here) -> None:
    words = (
        "compare",
        "grpo,grpo-tanh",
        *NAMED,
        "--model",
        "flat",
        "--task",
        "climb",
        *CELLS,
        "--out",
        "both",
        "--json",
    )
    found = ran(here(*words))
    assert found["cells"] == 2 and not found["failures"]


def test_children_of_sweeps_know_a_plugin(here) -> None:
    words = "estimators --plugin bounds --systems grpo-tanh --staleness 0,1 --draws 40 --jobs 2 --json"
    assert [row["system"] for row in ran(here(*words.split()))] == ["grpo-tanh"] * 2


def test_an_installed_package_is_found_by_its_entry_point(away, tmp_path) -> None:
    project, site = tmp_path / "project", str(tmp_path / "site")
    project.mkdir()
    for name in ("pyproject.toml", "bounds.py"):
        (project / name).write_text(FILES[name])
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--no-index", "-t", site]
    subprocess.run([*pip, str(project)], check=True, capture_output=True)
    assert ran(away(INSTALLED, *SMALL, "--out", "run", "--json", site=site))["last_step"]["step"] == 1
    recorded, (entry,) = of_run(tmp_path / "away/run")
    assert recorded == [] and (entry["name"], entry["version"]) == ("bounds", "1.2.0")
    assert ran(away("anypo resume run --steps 2 --json", site=site))["last_step"]["step"] == 2


@pytest.fixture
def package(here, tmp_path, monkeypatch):
    """`package(text)` installs a package of one module, by hand."""

    def install(text: str) -> None:
        about = tmp_path / "site/anypo_bounds-1.2.0.dist-info"
        about.mkdir(parents=True)
        (tmp_path / "bounds.py").unlink()  # else the current folder has it first
        (about.parent / "bounds.py").write_text(text)
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: anypo-bounds\nVersion: 1.2.0\n")
        (about / "entry_points.txt").write_text("[anypo.plugins]\nbounds = bounds\n")
        monkeypatch.syspath_prepend(about.parent)

    return install


def test_names_of_an_installed_package_are_listed(here, package) -> None:
    package(FILES["bounds.py"])
    listed = here("systems", "list", "tanh", "--json")
    assert "grpo-tanh" in {system["name"] for system in json.loads(listed.out)} and not listed.err
    assert "tanh" in {part["part"] for part in json.loads(here("systems", "parts", "trust", "--json").out)}
    varied = here("compare", "grpo", "--vary", "trust=clip,tanh", "--budget", "wrong=1")
    assert "unknown budget" in varied.err


def test_a_broken_package_is_a_warning_until_its_names_are_asked_for(here, package, tmp_path) -> None:
    text = FILES["bounds.py"] + "\n\nraise RuntimeError('no licence')\n"
    package(text)
    quiet = here("train", "--model", "tiny", "--dry-run")
    assert quiet.code == 0 and quiet.err == ""  # nothing of it was asked for
    listed = here("systems", "list", "tanh")
    assert listed.code == 0 and listed.err.count("warning") == 1 and "grpo-tanh" not in listed.out
    for words in ("--system grpo-tanh", "--set objective.trust=tanh", "--task tanh-sums", "--model tanh-model"):
        asked = here("train", "--model", "tiny", *words.split())
        assert asked.code == 2 and "tanh" in asked.err and "anypo-bounds 1.2.0" in asked.err, asked.err
        assert f"bounds.py, line {len(text.splitlines())}: RuntimeError: no licence" in asked.err
    assert not list(tmp_path.glob("runs/*"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("x = 1\ny = 1 / 0\n", "bad.py, line 2: ZeroDivisionError: division by zero"),
        ("def f(:\n", "bad.py, line 1: SyntaxError"),
        ("import not_there\n", "bad.py, line 1: ModuleNotFoundError: No module named 'not_there'"),
        ("import sys\nsys.exit(3)\n", "bad.py, line 2: SystemExit: 3"),
        (
            "from anypo.objective.base import Trust\nclass Clip(Trust): pass\n",
            "bad.py, line 2: two trust parts are named 'clip': anypo.objective.trusts.clips.Clip and bad.Clip",
        ),
        (
            "from anypo.systems import system\n@system('grpo')\ndef mine(): pass\n",
            "two systems are named 'grpo': anypo.systems.",
        ),
        ("from anypo.tasks import task\n@task('gcd')\ndef mine(): pass\n", "two tasks are named 'gcd'"),
        (
            "from anypo.tasks import task\n@task('guess_number')\ndef mine(): pass\n",
            "named 'guess_number': the library",
        ),
        ("from anypo.tasks import task\n@task('a/b')\ndef mine(): pass\n", "a task cannot be named 'a/b'"),
        ("from anypo.tasks import task\n@task('x')\ndef mine(**all): pass\n", "bad.mine: 'all' has no name of its own"),
        ("from anypo.policies import model\n@model('tiny')\ndef mine(): pass\n", "two models are named 'tiny'"),
    ],
)
def test_a_plugin_that_fails_is_one_sentence(here, tmp_path, text, says) -> None:
    (tmp_path / "bad.py").write_text(text)
    done = here("train", "--plugin", "bad", "--model", "tiny")
    assert done.code == 2 and says in done.err and len(done.err.splitlines()) == 1, done.err
    assert done.err.startswith("anypo: plugin 'bad' cannot be imported: ")
    assert not list(tmp_path.glob("runs/*")) and "bad" not in plugins.chosen()


def test_half_a_plugin_is_none_and_a_mended_one_is_whole(here, tmp_path) -> None:
    from anypo.objective.base import Trust

    text = "from anypo.objective.base import Trust\nclass Half(Trust, name='half'): pass\n"
    (tmp_path / "half.py").write_text(text + "raise ValueError\n")
    assert here("systems", "show", "grpo", "--plugin", "half.py").code == 2 and "half" not in Trust.parts
    (tmp_path / "half.py").write_text(text + "# mended, and of another length\n")
    assert here("systems", "show", "grpo", "--plugin", "half.py").code == 0 and "half" in Trust.parts


def test_a_name_has_one_owner_who_may_come_again(here, tmp_path, monkeypatch) -> None:
    import importlib

    from anypo.errors import UserError
    from anypo.systems import find

    monkeypatch.syspath_prepend(tmp_path)
    text = "from anypo.systems import find, system\n@system('mine')\ndef mine():\n    return find('grpo').algorithm()\n"
    (tmp_path / "owner.py").write_text(text)
    first = importlib.import_module("owner")
    del sys.modules["owner"]
    assert importlib.import_module("owner").mine is find("mine").build is not first.mine
    (tmp_path / "slip.py").write_text(text.replace("mine", "slip") + text.replace("mine", "slip"))
    with pytest.raises(UserError, match=r"named .slip.: slip\.slip and slip\.slip"):
        importlib.import_module("slip")
    plugins._withdraw("slip")


def test_what_is_no_plugin_is_said_and_help_imports_nothing(here, tmp_path, monkeypatch) -> None:
    for name in ("bad.py", "json.py", "two words.py"):
        (tmp_path / name).write_text("raise RuntimeError\n")
    for name, says in {
        "absent": "there is no module 'absent'",
        "absent.py": "there is no such file",
        "a/b": "give a module",
        "json.py": "a module named 'json' exists already",
        "two words.py": "rename the file",
    }.items():
        done = here("--plugin", name, "systems", "show", "grpo")
        assert done.code == 2 and says in done.err, done.err
    monkeypatch.setenv("ANYPO_PLUGINS", "bad")
    for words in ("--help", "train --help", "--plugin bad train --help", "systems show --help"):
        shown = here(*words.split())
        assert shown.code == 0 and "--plugin" in shown.out
    assert here("systems", "show", "grpo").code == 2


def test_options_of_registered_tasks_are_checked_before_anything_is_loaded(here, tmp_path) -> None:
    words = ("train", "--plugin", "climb.py", "--model", "tiny", "--task")
    for more, says in {
        "climb --task-set trns=2": "Did you mean 'turns'?",
        "climb --task-set turns=many": "field 'turns' = 'many'",
        "clim": "Did you mean 'climb'",
    }.items():
        done = here(*words, *more.split())
        assert done.code == 2 and says in done.err, done.err
    assert not list(tmp_path.glob("runs/*"))


def test_in_python_importing_is_enough(here, tmp_path, monkeypatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    import bounds  # type: ignore[import-not-found]
    import wide  # type: ignore[import-not-found]

    from anypo.run.settings.config import resolve
    from anypo.tasks import load, names

    found = resolve("grpo-tanh", "tiny", {"generate": "wide"})
    assert found.plugins == ("wide", "bounds") == (wide.__name__, bounds.__name__)
    library.plugin("climb")
    assert "climb" in names() and load("climb", {"low": 7}).heldout(0).answer == "7"
    assert load("climb").train(0).answer == "25", "training problems come after the held-out ones"
    assert resolve("grpo", "tiny").plugins == ("climb",)
    assert resolve("grpo", "tiny", plugins=["bounds.py"]).plugins == ("climb", str(tmp_path / "bounds.py"))
