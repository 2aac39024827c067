"""Recipes that imitate worked solutions before they learn from rewards."""

from __future__ import annotations

from anypo.recipes import Above, Recipe, Stage
from anypo.systems.registry import find, system


@system(
    "sft-then-grpo", title="Supervised fine-tuning, then GRPO", paper="arXiv:2203.02155", base="grpo", kind="recipe"
)
def sft_then_grpo() -> Recipe:
    """Two stages: supervised fine-tuning on the task's worked solutions until a quarter of the held-out problems is solved (at most
    100 steps; --set stages.0.until.value), then GRPO from the policy as that left it, which is also where a reference is taken.
    The order of InstructGPT's pipeline with GRPO (arXiv:2402.03300) in PPO's place and a verifier in that of its reward model; the
    target is this library's, for published runs fix the number of epochs."""
    return Recipe(
        stages=(
            Stage(name="sft", algorithm=find("sft").algorithm(), steps=100, until=Above(value=0.25)),
            Stage(name="grpo", algorithm=find("grpo").algorithm(), steps=100),
        )
    )
