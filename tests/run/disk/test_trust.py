"""A run folder from elsewhere is data: nothing that it names is called."""

from __future__ import annotations

import shutil
import sys

import pytest
import yaml

from anypo import plugins
from anypo.callables import imported, spelled
from anypo.errors import UserError
from anypo.run.disk import trust
from anypo.run.disk.folder import RunFolder
from anypo.run.settings.config import resolve

CODE = (
    "from pathlib import Path\nPath('RAN').touch()\nfrom os import system\ndef make(**options): Path('RAN').touch()\n"
)


@pytest.fixture
def foreign(tmp_path, monkeypatch):
    """`foreign(model="tiny", ...)` is the folder of a run that somebody else began, beside a module that leaves RAN when imported."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(CODE)
    plain = resolve("grpo", "tiny", task="chain_sum", steps=1).model_dump(mode="json")

    def folder(**changes):
        path = tmp_path / "theirs"
        path.mkdir(exist_ok=True)
        (path / "config.yaml").write_text(yaml.safe_dump(plain | changes))
        return path

    yield folder
    sys.modules.pop("evil", None)


def algorithm(**fields):
    return resolve("grpo", "tiny", task="chain_sum").algorithm | fields


KINDS = {
    "task": {"task": "evil:make"},
    "library": {"task": "subprocess:check_call", "task_options": {"args": "touch RAN", "shell": True}},
    "verifier": {"task_options": {"verifier": {"part": "python", "function": "evil:make"}}},
    "text": {"task_options": {"verifier": '{part: python, function: "evil\\x3amake"}'}},
    "reward": {"task_options": {"rewards": [{"part": "python", "function": "evil:make"}]}},
    "role": {"algorithm": algorithm(models=[{"part": "cast", "role": "judge", "model": "evil:make"}])},
    "server": {"algorithm": algorithm(engine={"part": "remote", "url": "http://127.0.0.1:9/v1"})},
    "plugin": {"plugins": ["evil"]},
    "file": {"plugins": ["evil.py"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_foreign_folder_names_is_refused_in_a_sentence(kind, foreign, tmp_path):
    from anypo.diagnose.probe import audit_run
    from anypo.run.evaluation import evaluate
    from anypo.run.session import resume

    run = foreign(**KINDS[kind])
    before = sorted(run.iterdir())
    for use in (lambda: resume(run), lambda: evaluate(str(run)), lambda: audit_run(run)):
        with pytest.raises(UserError, match=r"evil|subprocess|127") as said:
            use()
        assert "--trust" in str(said.value) or "never called" in str(said.value)
    assert not (tmp_path / "RAN").exists() and sorted(run.iterdir()) == before


@pytest.mark.parametrize("kind", KINDS)
def test_looking_at_a_foreign_folder_runs_nothing(kind, foreign, tmp_path):
    from anypo.diagnose import diagnose
    from anypo.report.page import page
    from anypo.watch.runs import Runs

    run = foreign(**KINDS[kind])
    page(RunFolder.read(run))
    diagnose(run)
    runs = Runs([tmp_path])
    for entry in runs.listing()["runs"]:
        runs.detail(entry["id"])
    assert not (tmp_path / "RAN").exists()


def test_a_run_of_ones_own_is_trusted_wherever_it_moves_and_not_when_it_changes(foreign, tmp_path):
    run = foreign(**KINDS["task"])
    config = yaml.safe_load((run / "config.yaml").read_text())
    with RunFolder.create(tmp_path / "mine", config):
        pass
    trust.check(RunFolder.read_config(shutil.move(tmp_path / "mine", tmp_path / "moved")))
    with pytest.raises(UserError, match="--trust"):
        trust.check(config | {"task_options": {"more": 1}})


def test_another_user_or_machine_does_not_have_the_mark(foreign, monkeypatch, tmp_path):
    config = yaml.safe_load((foreign(**KINDS["task"]) / "config.yaml").read_text())
    trust.remember(config)
    trust.check(config)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another"))
    with pytest.raises(UserError, match="task: 'evil:make'"):
        trust.check(config)
    trust.check(config, trust=True)


def test_trust_never_reaches_the_standard_library(foreign):
    config = yaml.safe_load((foreign(**KINDS["library"]) / "config.yaml").read_text())
    with pytest.raises(UserError, match="standard library"):
        trust.check(config, trust=True)
    trust.check(config, trust=True, unused=("task", "task_options"))


@pytest.mark.parametrize("name", ["os:system", "builtins:eval", "evil:system", "os.path:join"])
def test_functions_of_the_standard_library_are_never_called(name, foreign):
    with pytest.raises(UserError, match="standard library"):
        imported(name)
    if not name.startswith("evil"):
        with pytest.raises(ValueError, match="standard library"):
            spelled(name)


def test_a_plugin_named_on_the_command_line_is_trusted(foreign, monkeypatch):
    run = foreign(**KINDS["plugin"])
    monkeypatch.setattr(plugins, "_chosen", {"evil": sys})
    trust.check(RunFolder.read_config(run))


def test_a_run_that_names_nothing_needs_no_mark(foreign):
    run = foreign(task_options={"system": "Answer: as you like, at 10:30 [in words]"})
    assert trust.trusted(RunFolder.read_config(run))


def test_a_configuration_without_end_is_refused():
    deep = "x"
    for _ in range(80):
        deep = [deep]
    with pytest.raises(UserError, match="deeper"):
        trust.check({"task_options": deep})


def test_a_folder_is_not_on_the_path_of_who_stands_in_it(foreign, monkeypatch):
    """Otherwise a file named as a library in it would be imported for that library."""
    from anypo.cli import main

    monkeypatch.chdir(foreign())
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    monkeypatch.setattr(sys, "argv", ["anypo", "rollouts", ".", "select 1"])
    before = list(sys.path)
    with pytest.raises(SystemExit):
        main()
    assert sys.path == before
