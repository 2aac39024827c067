"""Whatever is typed or written into a file, the command line answers with a sentence: the causes that fuzzing found."""

from __future__ import annotations

import re
import sys
import time

import pytest
import yaml

from anypo.cli import main
from anypo.errors import UserError, cut, nearest, shown, unknown
from anypo.reading import yaml_value

BOMB = "a: &a [x,x]\n" + "".join(
    f"{b}: &{b} [{','.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefgh", "bcdefghi")
)

VALUES = [
    "!!float x",
    "!!int x",
    "!!timestamp x",
    "!!bool x",
    "!!binary x",
    "1" * 5000,
    "[" * 5000,
    "{1, 2",
    "2020-01-01",
    "!!set {a}",
]


@pytest.mark.parametrize("value", VALUES)
def test_values_that_are_none(anypo, value) -> None:
    done = anypo("train", "-m", "tiny", "--dry-run", "--set", f"control.prompts={value}")
    assert done.code == 2 and "Traceback" not in done.err and 20 < len(done.err) < 800


FILES = {
    "latin": "généré: 1".encode("latin-1"),
    "bytes": bytes(range(256)),
    "null key": b"null: 1",
    "true key": b"true: {part: uniform}",
    "number key": b"1: 2",
    "inner key": b"control: {part: uniform, 1: 2}",
    "part": b"control: {part: {}}",
    "list": b"control: [1]",
    "deep": b"control: " + b"[" * 3000,
    "bomb": f"control: {{part: uniform, prompts: 4}}\n{BOMB}".encode(),
    "bomb as a part": f"{BOMB.replace('a: &a', 'control: &a', 1)}".encode(),
    "empty": b"",
    "stages": b"stages: {null: 1}\nname: x",
}


@pytest.mark.parametrize("name", FILES)
def test_algorithm_files_that_are_none(anypo, tmp_path, name) -> None:
    (tmp_path / "method.yaml").write_bytes(FILES[name])
    began = time.monotonic()
    for words in (("train", "-m", "tiny", "--dry-run", "--config", "method.yaml"), ("compare", "method.yaml,grpo")):
        done = anypo(*words)
        assert done.code == 2 and "Traceback" not in done.err and len(done.err) < 1000
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("compare grpo --vary control.samples={,}", "is not a value"),
        ("train --task nonsense --dry-run", "unknown task 'nonsense'"),
        ("train -t chain_sum --task-set max_termz=3 --dry-run", "max_terms"),
        ("train -t os:system --dry-run", "standard library"),
        ("train --system " + "x" * 5000, "5,000 characters"),
        ("train --set " + "x" * 5000, "5,000 characters"),
        ("train --task " + "x" * 5000 + " --dry-run", "too long"),
        ("train --config .", "no algorithm file"),
        ("systems show " + "x" * 5000, "5,000 characters"),
    ],
)
def test_one_sentence(anypo, words, said) -> None:
    done = anypo(*words.split())
    assert done.code == 2 and said in done.err and "Traceback" not in done.err and len(done.err) < 1000


def test_a_text_that_cannot_be_printed_is_printed_all_the_same(anypo) -> None:
    done = anypo("train", "--system", "\ud800")
    assert done.code == 2 and "ud800" in done.err


def test_a_file_that_cannot_be_written_is_a_sentence(anypo, tmp_path) -> None:
    done = anypo("estimators", "-s", "grpo", "--draws", "40", "--csv", "/proc/nowhere/x.csv")
    assert done.code == 2 and "/proc/nowhere" in done.err and "Traceback" not in done.err


def test_the_last_net_calls_it_a_bug_of_ours_and_keeps_the_traceback(anypo, monkeypatch, tmp_path) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("anypo.run.settings.written.resolve", lambda *_, **__: {}["x" * 3000])
    done = anypo("train", "--dry-run")
    assert done.code == 1 and "bug of ours" in done.err and "KeyError" in done.err and len(done.err) < 800
    (file,) = tmp_path.glob("anypo-bug-*.txt")
    assert str(file) in done.err and "Traceback" in file.read_text() and "train --dry-run" in file.read_text()


def test_the_last_net_knows_a_machine_without_memory(anypo, monkeypatch) -> None:
    def full(*_, **__):
        raise MemoryError

    monkeypatch.setattr("anypo.run.settings.written.resolve", full)
    done = anypo("train", "--dry-run")
    assert done.code == 1 and "memory" in done.err


def test_what_is_echoed_is_cut_before_it_is_written_out() -> None:
    bomb: object = "x"
    for _ in range(60):
        bomb = [bomb] * 9
    assert len(shown(bomb)) < 220 and shown(bomb).endswith("…")
    assert shown([1, "a", {"b": (2,)}, (), None]) == "[1, 'a', {'b': (2,)}, (), None]"
    assert shown("é" * 300).endswith("(300 characters)") and shown(10**5000) == "a value of type int"
    assert cut("x" * 300, 10) == "xxxxxxxxxx… (300 characters)"
    assert len(str(UserError("y" * 10**6))) < 2100
    assert nearest(None, ["a", None, 1]) == " Known: a." and "'1'" in str(unknown("field", 1, ["a"]))


def test_a_few_lines_of_yaml_that_stand_for_billions_are_refused() -> None:
    with pytest.raises(ValueError, match="100,000 values"):
        yaml_value(BOMB)
    assert yaml_value("a: &x [1, 2]\nb: *x") == {"a": [1, 2], "b": [1, 2]}


@pytest.mark.parametrize(
    "text", ["a: [1, {b: 1e-5}]", "- - - x", "[1, [2", "a: b: c", "*a", "\ud800", "!!float x", "[" * 99 + "]" * 99]
)
def test_the_reader_in_c_says_and_makes_what_the_other_does(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def told() -> str:
        try:
            return repr(yaml_value(text))
        except ValueError as error:
            return str(error)

    fast = told()
    monkeypatch.setattr(yaml, "CSafeLoader", None)
    assert fast == told()


@pytest.mark.parametrize("text", ["{" * 100_000, "[" * 5000 + "]" * 5000, "- " * 20_000])
def test_what_is_nested_without_end_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="nested too deeply"):  # the reader in C would end the process
        yaml_value(text)


@pytest.mark.parametrize(
    "words, says",
    [
        (("--task", "{part: }"), r"a task is a name or \{mix: \[...\]\}, not \{'part': None\}"),
        (("--task", "{name: 3}"), r"a task is a name or"),
        (("--task", "sums", "--task-set", f"max_terms={'1' * 80}"), "max_terms is at most 1,000,000,000, not 111"),
        (("--task", "chain_sum", "--task-set", "min_terms=2000000000"), "min_terms is at most 1,000,000,000"),
    ],
)
def test_tasks_that_are_none(words: tuple[str, ...], says: str, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(sys, "argv", ["anypo", "train", "--model", "tiny", "--dry-run", *words])
    with pytest.raises(SystemExit) as left:
        main()
    assert left.value.code == 2 and re.search(says, " ".join(capsys.readouterr().err.split()))
