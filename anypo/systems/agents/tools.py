"""Methods for agents that act through tools: few calls, a choice of modes, chunks between observations."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import Uncentred
from anypo.credit.granularity.turns import TurnDiscount
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shaping.history import ToolCost
from anypo.credit.shaping.outcomes import ModeCost
from anypo.generate import Independent, Modes
from anypo.objective.aggregates import SequenceSum
from anypo.objective.corrections import Banded
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import SequenceRatio
from anypo.objective.trusts.bounded import Tapered
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system


@system(
    "otc-po",
    title="Optimal Tool Calls",
    paper="arXiv:2504.14870",
    base="grpo",
    excuses={"common offset": "compares rewards with absolute levels: right from 1 on"},
)
def otc_po() -> Algorithm:
    """Multiplies the outcome by a factor that is largest at the fewest tool calls any right answer of the prompt has
    needed so far, so wrong answers never profit from saving calls. Then GRPO. Calls are counted by the reward component
    ``tool_calls``, or as the turns before the answer; there are at most four turns, which is also the constant that smooths the
    factor where no call is needed (set both together). ``credit.shaping.0.form=absolute`` is the variant without groups."""
    return grpo().replace(
        generate=Independent(turns=4),
        credit=Pipeline(shaping=(ToolCost(smoothing=4.0),), scale=StandardDeviation()),
    )


@system("a2fm-apo", title="Adaptive Policy Optimization of A2FM", paper="arXiv:2510.12838", base="grpo")
def a2fm_apo() -> Algorithm:
    """One policy, three answer modes. Three rollouts are forced into each mode and three choose freely, in one group, so
    modes compete directly; on prompts that the cheap mode solves with rate p >= 0.7 the other modes' reward is
    multiplied by 1 - p^2, and an answer that names no mode earns nothing. Forced tags are context, chosen ones are trained.
    With ``generate.turns`` above 1 the agentic mode calls whatever tools the task has, and what they return is not trained
    on. Counts, threshold and exponent are not published; these are ours. The supervised first stage, which teaches the tags,
    is not part of it."""
    return grpo().replace(
        generate=Modes(forced=3, free=3), credit=Pipeline(shaping=(ModeCost(),), scale=StandardDeviation())
    )


@system(
    "ipa-chunk",
    title="Interaction-Perceptive Agentic Policy Optimization",
    paper="arXiv:2512.24873",
    base="reinforce",
    excuses={"common offset": "has no baseline"},
)
def ipa_chunk() -> Algorithm:
    """Agents act in chunks: all tokens between two observations. The return of a chunk is the outcome times 0.95 per chunk that
    follows it, equal for its tokens. Chunks of successful episodes are imitated, without an importance ratio; those of failed ones
    are weighted by the geometric mean of their token ratios, at most 1. Chunks whose trainer-to-sampler ratio (again a geometric
    mean) exceeds 5 are left out. Sum over tokens, no baseline. In a task of one turn there is one chunk and nothing to discount.
    With rewards 0 and 1 failures have no gradient; --set credit.shaping='[{part: rescale, low: 0.5}]' makes them -1 and 1.
    generate=rollback begins hard prompts late in an expert's solution, and earlier as they succeed."""
    chunk = {"span": "turn", "normalise": True}
    return Algorithm(
        credit=Pipeline(centre=Uncentred(), granularity=TurnDiscount(gamma=0.95)),
        objective=PolicyGradient(
            ratio=SequenceRatio(**chunk),
            trust=Tapered(),
            aggregate=SequenceSum(),
            corrections=(
                Banded(
                    ratio=SequenceRatio(numerator="old", denominator="behaviour", **chunk),
                    low=0.0,
                    high=5.0,
                    weigh=False,
                ),
            ),
        ),
    )
