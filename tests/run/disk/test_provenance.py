import json
import subprocess
import sys
import types

import pytest
import torch

from anypo.errors import UserError
from anypo.run.record import provenance
from anypo.run.record.loggers import check_loggers, open_loggers
from anypo.tasks.base import Problem


class Policy(torch.nn.Linear):
    pass


class Task:
    name, outcome, weights, n_heldout = "chain_sum", "correct", {"correct": 1.0}, 3

    def __len__(self):
        return 500

    def train(self, index):
        return Problem.ask(f"{index} + 1 =", str(index + 1))

    heldout = train

    def describe(self):
        return {
            "source": {
                "package": "reasoning-gym",
                "versions": {"reasoning-gym": "0.1.20"},
                "dataset": "chain_sum",
                "seed": 3,
            },
            "rewards": [{"name": "correct", "verifier": {"part": "exact", "extract": "last_integer"}}],
        }


CONFIG = {"system": "grpo", "model": "tiny", "seed": 4, "dtype": "float32", "lora": 0}


def test_the_manifest_says_who_supplied_what(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["/somewhere/bin/anypo", "train", "--task", "my file.jsonl"])
    found = provenance.manifest(CONFIG, Policy(3, 2), Task())
    assert json.loads(json.dumps(found)) == found
    assert found["command"] == "anypo train --task 'my file.jsonl'"
    assert found["supplied"]["problems and answers"] == "reasoning-gym 0.1.20, chain_sum"
    assert found["supplied"]["rewards"] == "correct, judged by exact" and found["supplied"]["initial weights"] == "tiny"
    assert found["supplied"]["method"].startswith("grpo (arXiv:")
    about = {"name": "chain_sum", "outcome": "correct", "weights": {"correct": 1.0}, "problems": 500}
    assert found["task"].pop("first_problems") == provenance.first_problems(Task())
    assert found["task"] == about | Task().describe()
    assert found["model"]["trainable_parameters"] == 8 and found["seed"] == 4
    assert (
        found["versions"]["torch"] == torch.__version__.split("+")[0] or found["versions"]["torch"] == torch.__version__
    )
    assert found["created"].endswith("Z") and found["machine"]["cores"] >= 1


def test_what_has_changed_is_one_clause():
    before = provenance.manifest(CONFIG, Policy(3, 2), Task())
    assert provenance.changes(before, before) == ""

    class Other(Task):
        def train(self, index):
            return Problem.ask(f"{index} + 1 =", str(index + 2))

        def __len__(self):
            return 12

    said = provenance.changes(before, provenance.manifest(CONFIG, Policy(3, 2), Other()))
    assert said.startswith("the task's problems (500, now 12), the task's first problems (") and len(said) < 120
    assert provenance.changes({}, before) == ""  # nothing is known about an older run
    texts = [{"model": {"chat": {"sha256": letter * 64}, "sha256": letter * 64}} for letter in "ab"]
    assert provenance.changes(*texts) == "the model's chat.sha256 (aaaaaaaaaaaa, now bbbbbbbbbbbb)"


def test_other_sources_are_named_in_a_line():
    assert provenance.brief({"path": "q.jsonl", "sha256": "ab" * 32}) == "q.jsonl, sha256 abababababab"
    assert provenance.brief({"highest": 9}) == '{"highest": 9}' and provenance.brief("by hand") == "by hand"


def test_a_chained_run_names_the_run_its_weights_came_from():
    model = provenance.describe_model(CONFIG | {"init": "runs/sft"}, Policy(3, 2))
    assert model["source"] == "final weights of runs/sft"


def test_the_commit_is_that_of_the_checkout():
    code = provenance.describe_code()
    home = provenance.Path(provenance.anypo.__file__).parent
    asked = subprocess.run(["git", "-C", str(home), "rev-parse", "HEAD"], capture_output=True, text=True)
    tracked = subprocess.run(["git", "-C", str(home), "ls-files", "__init__.py"], capture_output=True, text=True)
    assert code["commit"] == (asked.stdout.strip() if tracked.stdout.strip() else "")


def test_inside_a_foreign_checkout_no_commit_is_claimed(tmp_path, monkeypatch):
    subprocess.run(["git", "init", "-q", str(tmp_path)], check=True)
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "__init__.py").touch()
    monkeypatch.setattr(provenance.anypo, "__file__", str(tmp_path / "site-packages" / "__init__.py"))
    assert provenance.describe_code() == {"version": provenance.anypo.__version__, "commit": "", "modified": None}


def test_the_hash_of_weights_sees_every_bit_and_nothing_else():
    torch.manual_seed(0)
    weights = {"a": torch.randn(5, 3), "b": {"c": torch.ones(2, dtype=torch.bfloat16)}, "n": 3}
    same = {"n": 3, "b": dict(weights["b"]), "a": weights["a"].T.contiguous().T}
    assert provenance.sha256(weights) == provenance.sha256(same)
    nudged = weights["a"].clone()
    nudged[4, 2] = torch.nextafter(nudged[4, 2], torch.tensor(9.0))
    others = [
        {**weights, "a": nudged},
        {**weights, "a": weights["a"].reshape(3, 5)},
        {**weights, "n": 4},
        {**weights, "b": {"c": torch.ones(2, dtype=torch.float16)}},
        {**weights, "z": torch.zeros(0)},
    ]
    hashes = {provenance.sha256(state) for state in [weights, *others]}
    assert len(hashes) == 1 + len(others)


# -- loggers ------------------------------------------------------------------------------------------------------------------


def test_an_unknown_logger_is_refused_with_the_nearest_name():
    with pytest.raises(UserError, match=r"unknown logger 'tensorbord'\. Did you mean 'tensorboard'\?"):
        check_loggers(["tensorbord"])


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(name, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, name, None)
    for attempt in (lambda: check_loggers([name]), lambda: open_loggers([name], tmp_path, {})):
        with pytest.raises(UserError, match=f"the logger '{name}' needs the package {name}: pip install {name}"):
            attempt()


def recorder(calls):
    def note(name, result=None):
        return lambda *a, **k: calls.append((name, a, k)) or result

    return note


def test_metrics_reach_wandb_in_the_same_run_after_a_resume(monkeypatch, tmp_path):
    calls = []
    note = recorder(calls)
    run = types.SimpleNamespace(log=note("log"), finish=note("finish"))
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=note("init", run)))
    for _ in range(2):
        (logger,) = open_loggers(["wandb"], tmp_path / "run", {"seed": 1})
        logger.log(3, {"step": 3, "reward/mean": 0.5})
        logger.close()
    names = [name for name, _, _ in calls]
    assert names == ["init", "log", "finish"] * 2
    assert calls[0][2]["id"] == calls[3][2]["id"] and calls[0][2]["resume"] == "allow"
    assert calls[1] == ("log", ({"step": 3, "reward/mean": 0.5},), {"step": 3})


def test_metrics_reach_trackio(monkeypatch, tmp_path):
    calls = []
    note = recorder(calls)
    module = types.SimpleNamespace(init=note("init"), log=note("log"), finish=note("finish"))
    monkeypatch.setitem(sys.modules, "trackio", module)
    (logger,) = open_loggers(["trackio"], tmp_path / "run", {"seed": 1})
    logger.log(2, {"reward/mean": 0.5})
    logger.close()
    assert [(name, a) for name, a, _ in calls] == [("init", ()), ("log", ({"reward/mean": 0.5},)), ("finish", ())]


def test_metrics_reach_tensorboard(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (logger,) = open_loggers(["tensorboard"], tmp_path, {})
    for step in (1, 2):
        logger.log(step, {"step": step, "reward/mean": step / 2})
    logger.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("reward/mean")] == [(1, 0.5), (2, 1.0)]
    assert events.Tags()["scalars"] == ["reward/mean"]
