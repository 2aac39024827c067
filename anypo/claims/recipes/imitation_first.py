"""Claims of `anypo.systems.recipes.imitation_first`."""

from __future__ import annotations

from anypo.claims.base import ClaimRun, Outcome, claim, compare
from anypo.claims.beds.exact import Testbed, mean, train
from anypo.claims.beds.recipes import imperfect, train_recipe
from anypo.systems import find

BED = Testbed(vocabulary=5, horizon=5, task=imperfect, lr=0.05)
"""One string of four letters in 256 is right, and worked solutions miss its last letter."""

STEPS, DEMONSTRATIONS = 120, {"replay.examples": 4}


@claim("sft-then-grpo", base="grpo", seconds=60, stand_in="an enumerable policy whose demonstrator is worth a half",
       published="RL from a supervised start is preferred over the supervised model (InstructGPT, figure 1)")  # fmt: skip
def sft_then_grpo(run: ClaimRun) -> Outcome:
    """Mean exact reward of the last tenth of 120 steps, where the worked solutions earn a half and a string beside them earns one:
    the registered recipe against GRPO from scratch at equal steps. Control arm: imitation for all of the steps, which must be
    beaten too."""
    steps = run.steps(STEPS)
    recipe = find("sft-then-grpo").recipe()
    sft, grpo = (stage.algorithm for stage in recipe.stages)
    sft, grpo = BED.adapt(sft).set(DEMONSTRATIONS), BED.adapt(grpo)

    def ours(seed: int) -> tuple[float, int]:
        first, second = recipe.stages
        first = first.replace(algorithm=sft, steps=steps // 2)
        staged = recipe.replace(stages=(first, second.replace(algorithm=grpo, steps=steps)))
        values, lengths = train_recipe(staged, BED, seed)
        values = values[: steps + 1]  # equal steps: what the first stage took is not the second's
        tail = max(1, len(values) // 10)
        return mean(values[-tail:]), lengths[0]

    found = run.each(ours)
    base = run.each(lambda seed: train(grpo, BED, steps, seed).final)
    imitated = run.each(lambda seed: train(sft, BED, steps, seed).final)
    run.note(
        f"imitation alone: {mean(imitated):.3f}; the first stage took {mean(length for _, length in found):.0f} steps."
    )
    better = [max(a, b) for a, b in zip(base, imitated)]
    run.note(f"GRPO from scratch: {mean(base):.3f}. Each seed is compared with the better of the two arms.")
    return compare(better, [value for value, _ in found], "mean exact reward at the end", run)
