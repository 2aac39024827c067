"""A failed answer reviewed by the policy that wrote it (InT): which step was wrong, and what belongs in its place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from anypo import policies
from anypo.claims.beds.words import TextTask
from anypo.context import Context, Memory
from anypo.control.base import Ask
from anypo.data.records import DEMO
from anypo.engine.base import Completion
from anypo.generate import Interventions
from anypo.generate.base import World
from anypo.generate.guided.demonstrations import proposed
from anypo.outlook import Outlook
from anypo.systems import find
from anypo.tasks.base import Problem

ATTEMPT = "To find the sum, add 12 and 7.\n12 + 7 = 20\nSo it is 20."
REFERENCE = "12 + 7 = 19\nThe answer is 19"


class Scripted:
    """Says one text to every request of a call; keeps what was asked."""

    exact = True

    def __init__(self, policy: Any, *texts: str) -> None:
        self.policy, self.texts, self.asked = policy, list(texts), []

    def generate(self, requests: Any) -> list[Completion]:
        self.asked.append([self.policy.decode(r.tokens) for r in requests])
        tokens = self.policy.answer(self.texts.pop(0))
        n = len(tokens)
        return [
            Completion(tokens, np.full(n, -0.5), np.ones(n), np.zeros(n), np.zeros(n, np.int64), "stop")
            for _ in requests
        ]


def reviewed(review: str, continuation: str = "So it is 19.") -> tuple[list[Any], Scripted, Context]:
    policy = policies.load({"model": "tiny", "layers": 2, "hidden": 32, "intermediate": 48, "context": 2048}, seed=0)
    problem = Problem.ask("How much is 12 + 7?", "19", REFERENCE)
    task = TextTask((problem,) * 4, lambda p, text: float(text.strip().endswith("19.")))
    sampler = Scripted(policy, ATTEMPT, review, continuation)
    part = Interventions(continuations=3, max_new=120)
    context = Context(0, 10, 7, Memory(part))
    return part.rollout([Ask(0, 2)], World(task, policy, sampler), context), sampler, context


def test_the_step_that_the_policy_names_is_replaced_and_a_right_first_step_is_kept() -> None:
    groups, sampler, context = reviewed("Step: 2\nReplacement: 12 + 7 = 19")
    assert len(groups) == 3 and [g.trajectories[0].guidance for g in groups[1:]] == [DEMO, DEMO]
    assert groups[1].trajectories[0].text == "To find the sum, add 12 and 7.\n12 + 7 = 19\n"
    (review, *_), continued = sampler.asked[1], sampler.asked[2]
    assert "1. To find the sum, add 12 and 7.\n2. 12 + 7 = 20\n3. So it is 20." in review and REFERENCE in review
    assert len(continued) == 6 and all(
        REFERENCE not in text for text in continued
    )  # what goes on does not see the solution
    assert context.metrics["generate/reviewed"] == 1 and context.metrics["generate/interventions"] == 2


def test_an_intervention_from_which_nothing_succeeds_is_thrown_away() -> None:
    groups, _, context = reviewed("Step: 2\nReplacement: 12 + 7 = 21", "So it is 21.")
    assert len(groups) == 1 and context.metrics["generate/interventions"] == 0


@pytest.mark.parametrize(
    ("review", "found"),
    [
        ("Step: 2\nReplacement: 12 + 7 = 19", ("To find the sum, add 12 and 7.\n", "12 + 7 = 19\n")),
        ("The first wrong step is **Step 2**.\n\nReplacement: 12 + 7 = 19\nThe answer is 19",
         ("To find the sum, add 12 and 7.\n", "12 + 7 = 19\n")),
        ("step 1 replacement: Add.", ("", "Add.\n")),
        ("Step: 3\nReplacement: So it is 19.", ("To find the sum, add 12 and 7.\n12 + 7 = 20\n", "So it is 19.")),
        ("Step: 4\nReplacement: more", None),
        ("Step: 0\nReplacement: more", None),
        ("Step: 2\nReplacement: 12 + 7 = 20", None),
        ("Step: 2\nReplacement:", None),
        ("I see nothing wrong.", None),
    ],
)  # fmt: skip
def test_reviews_are_read_or_thrown_away(review: str, found: tuple[str, str] | None) -> None:
    assert proposed(review, ATTEMPT, "\n") == found


def test_without_solutions_the_review_does_not_happen_and_says_so() -> None:
    method = find("int").algorithm()
    bare = TextTask((Problem.ask("1+1", "2"),) * 4, lambda p, text: 0.0)
    assert "the task has none" in method.generate.dormant(method, Outlook(20, task=bare))
    assert method.generate.dormant(method, Outlook(20)) is None
