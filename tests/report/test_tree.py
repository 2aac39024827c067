"""Rollouts shown as the tree they are: in the terminal, as JSON, in the report."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from anypo.claims.beds.exact import Testbed
from anypo.cli.runs.rollouts import register
from anypo.errors import UserError
from anypo.report import page, tree
from anypo.run.disk import rollouts as stored
from anypo.run.disk.folder import RunFolder
from anypo.run.trainer import Trainer


def row(sample: int, length: int, parent: int = -1, fork: int = -1, **fields: Any) -> dict[str, Any]:
    """A rollout whose decisions are the letters of the alphabet from its number on."""
    letters = [chr(97 + sample + n) for n in range(length)]
    return {
        "sample": sample, "length": length, "parent": parent, "fork": fork, "pieces": ["?", *letters], "roles": [0] + [1] * length,
        "advantages": [0.5] * length, "entropy": [1.0] * length, "logp": [-1.0] * length, "reward": 1.0, "finish": "stop",
        "trained": True, **fields,
    }  # fmt: skip


def outline(stretches: list[tree.Stretch]) -> list[Any]:
    return [(s.row["sample"], s.begin, s.end, outline(s.branches)) for s in stretches]


def test_rollouts_part_where_they_forked() -> None:
    rows = [row(0, 6), row(1, 2), row(2, 5, 0, 3), row(3, 6, 2, 4), row(4, 6, 2, 1), row(5, 3, 9, 2), row(6, 6, 0, 6)]
    found = tree.grown(rows)
    assert outline(found) == [
        (0, 0, 1, [
            (0, 1, 3, [(0, 3, 6, [(0, 6, 6, []), (6, 6, 6, [])]), (2, 3, 4, [(2, 4, 5, []), (3, 4, 6, [])])]),
            (4, 1, 6, []),
        ]),
        (1, 0, 2, []),
        (5, 0, 3, []),
    ]  # fmt: skip
    assert [s.text for s in found] == ["a", "bc", "fgh"] and tree.grown([]) == []
    assert sorted(leaf.row["sample"] for s in found for leaf in s.leaves) == list(range(7))


def test_a_shared_stretch_has_the_mean_advantage_of_those_that_share_it() -> None:
    rows = [
        row(0, 3, advantages=[1.0, 1.0, 1.0]),
        row(1, 3, 0, 1, advantages=[0.0, 0.0, 0.0], finish="cancelled", trained=False),
    ]
    (top,) = tree.grown(rows)
    assert (top.advantage, [s.advantage for s in top.branches]) == (0.5, [1.0, 0.0])
    assert tree.weighed(top) == "1 tokens, p 0.37, advantage +0.5, 2 branches at decision 1, entropy 1.00"
    assert top.branches[1].given_up and "pruned, not trained" in tree.weighed(top.branches[1])
    assert "<li class=pruned><code>bc" in tree.html([top]).replace("cd", "bc") and "&lt;" in tree.html(
        tree.grown([row(0, 1, pieces=["?", "<"])])
    )
    bare = row(0, 2, pieces=None, advantages=None, entropy=None, logp=None)
    assert tree.weighed(tree.grown([bare])[0]) == "2 tokens, reward 1"
    assert tree.line("a\nb") == "a⏎b" and len(tree.line("x" * 300)) <= 60


@pytest.fixture
def ran(tmp_path):
    """A folder with the rollouts of one step of a method."""

    def run(system: str, **changes: Any) -> RunFolder:
        bed = Testbed(vocabulary=3, horizon=6, prompts=3, batch=3, group=6, spread=0.8)
        trainer = Trainer(bed.adapt(system).set({"filter": "screen", **changes}), bed.world(1), 0, 3)
        metrics = trainer.step()
        folder = RunFolder.create(tmp_path / system, {"system": system, "task": "exact"}, {})
        folder.append_metrics({"step": 1, **metrics})
        (folder.path / "rollouts").mkdir(exist_ok=True)
        table = stored.table(1, trainer.groups, trainer.batch, trainer.world.policy.decode)
        stored.write(folder.path / "rollouts" / "step-000001.parquet", table)
        return folder

    return run


def test_a_run_of_treepo_as_a_tree(ran) -> None:
    app = typer.Typer()
    register(app)
    app.callback()(lambda: None)
    folder = ran("treepo", **{"generate.segment": 2, "generate.max_new": 6})
    found = tree.shown(RunFolder.read(folder.path))
    rows = [r for r in folder.rollouts(1).to_pylist() if r["group_id"] == found.group]
    assert found.rollouts == len(rows) == 6 and found.decisions == sum(r["length"] for r in rows)

    def sampled(stretches: list[tree.Stretch]) -> int:
        return sum(s.end - s.begin + sampled(s.branches) for s in stretches)

    assert sampled(found.top) == found.sampled < found.decisions and "fallback_share" in found.measured
    told = CliRunner().invoke(app, ["rollouts", str(folder.path), "--tree", "--json"])
    branches = json.loads(told.stdout)["branches"]
    assert told.exit_code == 0 and len(branches) == len(found.top) and np.isfinite(branches[0]["entropy"])
    seen = CliRunner().invoke(app, ["rollouts", str(folder.path), "--tree", "--group", str(found.group)])
    assert seen.exit_code == 0 and "are shared" in seen.stdout and "branches at decision" in seen.stdout
    assert found.about() in page(folder) and "branches at decision" in page(folder)


def test_what_is_no_tree_is_said_in_a_sentence(ran) -> None:
    folder = ran("grpo")
    with pytest.raises(UserError, match="no rollouts of step 1 share a beginning"):
        tree.shown(folder)
    with pytest.raises(UserError, match="step 1 has no group 7; it has 0 to 2"):
        tree.shown(folder, group=7)
    with pytest.raises(UserError, match="no rollouts of step 9"):
        tree.shown(folder, step=9)
    assert "branches at decision" not in page(folder)
