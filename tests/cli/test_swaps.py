"""Ten methods nobody has named: three parts of a named one swapped at random, trained from the command line."""

from __future__ import annotations

import json
import math
import random

import pytest

from anypo.compare.vary import slots
from anypo.errors import UserError
from anypo.run.settings.config import resolve
from anypo.systems import find, methods

ROOMS = ("credit", "objective", "update")
FAMILIES = ("baselines", "objectives", "credits", "rollouts")  # others have worlds, data or models of their own


def draw(rng: random.Random) -> tuple[str, list[str]]:
    """A system and three swaps that the grammar accepts; what it refuses is drawn again."""
    while True:
        name = rng.choice(sorted(s.name for s in methods().values() if s.family in FAMILIES))
        base = find(name).algorithm()
        paths = [(path, slot) for path, slot in slots(base) if path.split(".")[0] in ROOMS and path not in ROOMS]
        swaps = {path: rng.choice(sorted(slot.parts)) for path, slot in rng.sample(paths, min(3, len(paths)))}
        changed = len(swaps) == 3 and all(_part(base, path) != part for path, part in swaps.items())
        try:
            if changed and resolve(name, "tiny", swaps):
                return name, [word for path, part in swaps.items() for word in ("--set", f"{path}={part}")]
        except UserError:
            continue


def _part(value, path):
    for step in path.split("."):
        value = value[int(step)] if step.isdigit() else getattr(value, step)
    return value.part


@pytest.mark.parametrize("seed", range(10))
def test_three_random_swaps_train_or_are_refused_in_a_sentence(anypo, seed):
    rng = random.Random(seed)
    sizes = ("--steps", "2", "--sft-steps", "1", "--eval-size", "0", "--set", "control.prompts=4")
    for trial in range(4):
        name, swaps = draw(rng)
        done = anypo("train", "--system", name, "--model", "tiny", *swaps, *sizes, "--out", f"run{trial}", "--json")
        if done.code == 0:
            break
        said = done.err.strip().splitlines()[-1]
        assert done.code == 2 and said.startswith("anypo: "), (name, swaps, done.err)
    last = json.loads(done.out)["last_step"]
    broken = [key for key, value in last.items() if isinstance(value, float) and not math.isfinite(value)]
    assert last["step"] == 2 and not broken, (name, swaps, broken)
