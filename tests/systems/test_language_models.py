"""Systems on a character model with the embedded engine: the same parts, real tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch

from anypo.claims.beds.words import SMALL, TextTask, question, warm
from anypo.data.batch import Batch
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.generate.guided.demonstrations import demonstration
from anypo.generate.logits import next_logits
from anypo.policies.loading import load
from anypo.run.trainer import Trainer
from anypo.systems import find

SUMS = tuple(question(f"{a}+{b}=", str(a + b)) for a in range(6) for b in range(6))
PROGRAMS = tuple(question(f"print {n}", f"a={n}\nprint(a)", want=n) for n in range(24))


def world(programs: bool = False, steps: int = 0, context: int = 320) -> World:
    problems = PROGRAMS if programs else SUMS
    task = TextTask(problems, lambda p, text: float(text.strip() == p.answer))
    policy = (
        warm([(p.messages[0]["content"], p.answer) for p in SUMS], steps, 0)()
        if steps
        else load({**SMALL, "context": context}, seed=0)
    )
    return World(task, policy, Local().sampler(policy))  # type: ignore[arg-type]


ACTS: dict[str, tuple[dict[str, object], Callable[[Mapping[str, float], Batch], object]]] = {
    "spark": ({"generate.answers": 2}, lambda m, b: m["generate/auxiliary_groups"] and b.n_groups > 2),
    "coderl-plus": ({"generate.answers": 2}, lambda m, b: "generate/auxiliary_groups" in m),
    "refine": (
        {"generate.chunks": 2, "generate.length": 1},
        lambda m, b: bool((~b.sequences["demo"]).any()) and len(b.sequences["reward/agreement"].unique()) > 1,
    ),
    "otr": ({"generate.draws": 16}, lambda m, b: bool((b.sequences["length"] == 1).all()) and b.n_sequences > 4),
    "nlpo": ({}, lambda m, b: 0 < m["generate/mask_size"] < 97 and all(t.kept is not None for t in b.trajectories)),
    "poise": ({"credit.centre.warmup": 4}, lambda m, b: float(b["advantage"].abs().max()) > 0),
    "dagrpo": ({}, lambda m, b: m["generate/anchored_share"] > 0 and bool(b.sequences["demo"].any())),
    "echo-ttrl": (
        {"generate.depth": 0, "generate.rise": 0.0, "generate.look": 1},
        lambda m, b: m["generate/forked_share"] > 0 and bool((b.sequences["fork"] >= 0).any()),
    ),
    "ettrl": ({"generate.forks": 1, "generate.branches": 1}, lambda m, b: m["generate/shared_share"] > 0),
    "spo-segment": (
        {"generate.continuations": 2, "generate.interval": 2},
        lambda m, b: m["generate/estimation_tokens"] > 0,
    ),
    "spo-tree": ({"generate.branching": [2, 2]}, lambda m, b: bool((b.sequences["fork"] == 3).any())),
    "dr-po": ({}, lambda m, b: m["generate/given_tokens"] > 0 and bool((b.weight == 0).any())),
    "latr": (
        {"generate.rival": 0.0, "generate.gap": 1.0, "generate.lookahead": [2], "generate.edit": None},
        lambda m, b: m["generate/born_per_tree"] > 0 and bool((b.sequences["fork"] >= 0).any()),
    ),
    "treepo": (
        {"generate.segment": 1, "filter": "screen"},
        lambda m, b: bool((b.sequences["fork"] > 0).any()),
    ),
    "int": ({"generate.continuations": 2, "generate.reply": 8}, lambda m, b: "generate/reviewed" in m),
    "xrpo": ({"generate.base": 2, "generate.exemplars": 1}, lambda m, b: b.n_sequences > 4),
    "a2fm-apo": (
        {"generate.forced": 1, "generate.free": 1},
        lambda m, b: set(b.sequences["reward/mode"].tolist()) >= {0.0, 1.0, 2.0},
    ),
    "v-zero": ({}, lambda m, b: b.n_sequences > 0),
}
"""By system: settings for a small model, and what shows in its step that the method itself acted."""


@pytest.mark.parametrize("name", ACTS)
def test_what_the_system_is_for_happens_on_a_language_model(name: str) -> None:
    settings, acted = ACTS[name]
    place = world(
        programs=name == "coderl-plus", steps=60 if name == "spark" else 0, context=1024 if name == "int" else 320
    )
    sizes = {"control.prompts": 2, "control.samples": 4, "generate.max_new": 6, "update.optimiser.lr": 1e-3}
    trainer = Trainer(find(name).algorithm().set(sizes | settings), place, 0, 3)
    seen = []
    for _ in range(3):
        metrics = trainer.step()
        assert all(np.isfinite(value) for value in metrics.values()), metrics
        assert trainer.batch is not None and len(trainer.batch)
        seen.append(bool(acted(metrics, trainer.batch)))
    assert any(seen)


def test_next_logits_are_those_the_decisions_were_drawn_from() -> None:
    place = world()
    demos = [demonstration(place.task.train(i), place.policy.answer(f"{i}7"), place) for i in range(3)]
    logits = next_logits(place.policy, demos)
    batch = Batch.of(demos, [0, 0, 0], 1)
    logp = place.policy.fill(batch, ["logp"], grad=False)["logp"]
    tokens = torch.cat([torch.from_numpy(t.content.tokens[t.content.actions]) for t in demos]).long()  # type: ignore[union-attr]
    torch.testing.assert_close(logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0], logp, rtol=1e-4, atol=1e-5)


def test_auxiliary_questions_join_the_batch_with_groups_of_their_own() -> None:
    place = world(steps=60)
    trainer = Trainer(
        find("spark").algorithm().set({"control.prompts": 6, "control.samples": 4, "generate.max_new": 3}), place, 0, 2
    )
    metrics = trainer.step()
    assert 2 <= metrics["generate/auxiliary_groups"] <= 6
    kinds = {name for t in trainer.batch.trajectories for name in t.rewards}  # type: ignore[union-attr]
    assert kinds & {"judge_point", "judge_pair", "reflection"} and "correct" in kinds
    sizes = {"control.prompts": 2, "generate.max_new": 3}
    texts = []
    for method in (find("spark").algorithm().set({"generate.share": 0.0}), find("grpo").algorithm()):
        runner = Trainer(method.set(sizes), world(), 0, 2)
        runner.step()
        texts.append(len(runner.groups))
    assert texts == [2, 2]  # without a share there are no questions


def test_exemplars_reach_the_prompt_of_a_hopeless_question() -> None:
    place = world()
    method = (
        find("xrpo")
        .algorithm()
        .set({"generate.base": 2, "generate.exemplars": 1, "control.samples": 6, "generate.max_new": 3})
    )
    trainer = Trainer(method, place, 0, 2)
    memory = trainer.memory[trainer.algorithm.generate]
    from anypo.data.tokens import hashed

    memory["prompts"].append(SUMS[0].prompt)
    memory["features"].append(hashed(place.policy.encode(SUMS[0].messages)))
    memory["messages"].append([*map(dict, SUMS[0].messages), {"role": "assistant", "content": "0"}])
    trainer.step()
    shown = [t for g in trainer.groups for t in g.trajectories if t.guidance == "exemplars"]
    assert shown
    for t in shown:
        assert place.policy.decode(t.content.shown).startswith("0+0=")  # type: ignore[union-attr]
        assert not place.policy.decode(t.content.tokens).startswith("0+0=0")  # type: ignore[union-attr]
