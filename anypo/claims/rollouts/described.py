"""Claims of `anypo.systems.rollouts.described`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from anypo.claims.base import ClaimRun, Outcome, claim, compare, fails
from anypo.claims.beds import pictures
from anypo.claims.beds.exact import mean
from anypo.claims.beds.words import TextTask, greedy
from anypo.engine.config import Local
from anypo.generate.base import World
from anypo.generate.guided.described import DESCRIPTION
from anypo.roles import cast
from anypo.run.trainer import Trainer
from anypo.systems import find

MODELS = [{"role": "reasoner", "model": f"{pictures.__name__}:reasoner"}]
SEER = {"role": "seer", "model": f"{pictures.__name__}:perceiver"}
SIZES: Mapping[str, Any] = {
    **pictures.ASKED, "models": MODELS, "control.prompts": 16, "control.samples": 4, "replay.groups": 32,
    "update.optimiser.lr": 3e-3,
}  # fmt: skip


@dataclass(frozen=True)
class Run:
    """What came of one run: mean accuracy over the last third, the share of kept answers that were reasoned out of a false
    description, and the share of the last held-out answers that name a false count."""

    accuracy: float
    false_kept: float
    false_said: float


@claim(
    "sophia",
    published="8.5 % higher on average on eight benchmarks for InternVL3.0-38B; better than fine-tuning on answers of other models",
    base="the shortest right answer, whatever it was reasoned out of",
    seconds=180,
    seeds=4,
    stand_in="a character model that describes four in ten pictures (three counts in words) truly, and a program that reads "
    "descriptions, guesses a missing count as one of four and errs in one sum of ten",
)
def sophia(run: ClaimRun) -> Outcome:
    """Answers collected once, then 285 steps on them: accuracy on held-out questions, mean over the last third of the run, against the
    same without the gate (alpha 0). Control: answers reasoned out of the descriptions of another perceiver, always true, in terms
    that the policy cannot see. Notes: how many kept answers come from a false description; how many answers name a false count."""
    arms: Mapping[str, Mapping[str, Any]] = {
        "without the gate": {"filter.survival.0.alpha": 0.0},
        "ours": {},
        "another perceiver": {"generate.describer": "seer", "models": [*MODELS, SEER]},
    }
    task, steps = pictures.pictures(), run.steps(300)
    rows = run.each(lambda seed: _trained(task, list(arms.values()), steps, run.steps(150), seed))
    by = {name: [row[place] for row in rows] for place, name in enumerate(arms)}
    for name, found in by.items():
        kept, said = mean(one.false_kept for one in found), mean(one.false_said for one in found)
        run.note(f"{name}: {kept:.2f} of the kept answers from a false description, {said:.2f} name a false count.")
    accuracy = {name: [one.accuracy for one in found] for name, found in by.items()}
    return compare(
        accuracy["without the gate"], accuracy["ours"], "accuracy on unseen questions", run, least=0.05,
        controls={"another perceiver": accuracy["another perceiver"]},
        premise=fails([a < 0.9 for a in accuracy["without the gate"]], "without the gate it stays below 0.9"),
    )  # fmt: skip


def _trained(task: TextTask, arms: list[Mapping[str, Any]], steps: int, warm_up: int, seed: int) -> list[Run]:
    copy = pictures.describer(warm_up, seed)
    return [_one(task, copy(), changes, steps, seed) for changes in arms]


def _one(task: TextTask, policy: Any, changes: Mapping[str, Any], steps: int, seed: int) -> Run:
    collect = max(1, steps // 20)
    method = find("sophia").algorithm().set({**SIZES, "generate.until": collect, "replay.collect": collect, **changes})
    world = World(task, policy, Local().sampler(policy))  # type: ignore[arg-type]
    world.models = cast(method.models, policy, world.sampler, seed)
    trainer = Trainer(method, world, seed, steps)
    unseen = [task.heldout(n) for n in range(task.n_heldout)]
    false: list[bool] = []
    right: list[float] = []
    said: list[str] = []
    for step in range(1, steps + 1):
        trainer.step()
        false += [not pictures.is_true(t.extra[DESCRIPTION], g.problem) for g in trainer.groups for t in g.trajectories]
        if 3 * step >= 2 * steps and (steps - step) % max(1, steps // 12) == 0:
            said = greedy(policy, [p.messages[0]["content"] for p in unseen], 8)
            right.append(mean(pictures.graded(p, text) for p, text in zip(unseen, said)))
    pairs = zip(unseen, said, strict=True)
    return Run(mean(right), mean(false), mean(pictures.says_false(text, p) for p, text in pairs))
