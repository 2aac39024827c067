"""Methods for agents that act through tools: few calls, a choice of modes, chunks between observations."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.centres.groups import Uncentred
from anypo.credit.granularity.turns import TurnDiscount
from anypo.credit.pipeline import Pipeline
from anypo.credit.plain import StandardDeviation
from anypo.credit.shape.calls import EarlyCall
from anypo.credit.shape.tokens import ThoughtEntropy
from anypo.credit.shaping.history import ToolCost
from anypo.credit.shaping.outcomes import ModeCost
from anypo.filter import Screen
from anypo.filter.thought import Thought
from anypo.generate import Independent, Modes
from anypo.objective.aggregates import SequenceSum
from anypo.objective.corrections import Banded
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import SequenceRatio
from anypo.objective.regularisers.terms import KL
from anypo.objective.trusts.bounded import Tapered
from anypo.systems.baselines.group_relative import dapo, grpo
from anypo.systems.registry import system
from anypo.update import GradientUpdate
from anypo.update.references import FrozenReference


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


@system("aspo-tir", title="Advantage Shaping Policy Optimization", paper="arXiv:2508.19201", base="dapo")
def aspo_tir() -> Algorithm:
    """DAPO for answers that may call a tool, with early calls preferred where it costs no accuracy: the advantage, not the reward, of
    right answers that call one moves by 2 (mean position of their first calls - its own) / their mean length, at most by 0.7 times
    itself. (A bonus in the reward is divided by the group's deviation, and is all that is left of it where every answer is right.)
    The position is the end of the first turn, of which there are at most four; what tools return is neither counted nor trained on. It
    takes two right callers in a group to move anything. The stronger setting of the paper is --set credit.shape.0.pull=2.5
    --set credit.shape.0.bound=0.9."""
    base = dapo()
    return base.replace(generate=Independent(turns=4), credit=base.credit.replace(shape=(EarlyCall(),)))


@system("funrl", title="FunRL (entropy-enhanced GRPO for function calls)", paper="arXiv:2508.05118", base="grpo")
def funrl() -> Algorithm:
    """GRPO for answers that reason before they call functions. A rollout's advantage grows by 0.4 min(H, |A| / 2), with H the mean
    entropy of its reasoning (up to ``</think>``): reasoning that was open is rewarded more and punished less, by at most a fifth, so
    that the sign stays and groups that are all right or all wrong teach nothing. The bonus is one number for the whole rollout, calls
    included. KL 0.001 to the initial model, temperature 0.7. The reward is the task's, and is meant to be one criterion, form and
    calls both right, as function_calls has it. Nothing was released: formula and constants are those of the paper's later version
    (EGPO) as a public re-implementation repeats them. Its two steps of preparing data, a judge that mends samples and a check of
    their syntax, come before a run and are not part of it."""
    base = grpo()
    return base.replace(
        generate=Independent(temperature=0.7),
        filter=Screen(signals=(Thought(),)),
        credit=base.credit.replace(shape=(ThoughtEntropy(),)),
        objective=base.objective.replace(regularise=(KL(coefficient=0.001),)),
        update=GradientUpdate(reference=FrozenReference()),
    )
