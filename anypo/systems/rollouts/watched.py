"""Methods that stop rollouts while they are sampled: to go on with them in the next step, or not at all."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.control import Uniform
from anypo.filter import DropCancelled, Screen
from anypo.generate.watched.pooled import Pooled
from anypo.generate.watched.pruned import Pruned
from anypo.objective.aggregates import SequenceMean
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.trusts.clips import Clip
from anypo.systems.baselines.group_relative import grpo
from anypo.systems.registry import system


@system("april", title="Active Partial Rollouts (APRIL)", paper="arXiv:2509.18521", base="grpo")
def april() -> Algorithm:
    """GRPO that does not wait for the longest answers: twice the groups of a step are in work, the step ends as soon as enough of them
    are complete, and the others go on in the next one, first in, first out, from the tokens they have. Nothing sampled is thrown
    away. Long groups are trained on late, and in pieces that several versions of the policy wrote; at first what is trained on is
    short. As in the release (RLsys-Foundation/APRIL@a72b585, whose scripts this follows: 64 groups for 32, clip 0.2 and 0.28,
    temperature 0.8, no KL), the old log-probabilities are those of the present weights, so that with its one update per
    batch every ratio is 1 and nothing corrects for old pieces. What the sampler said is kept, too:
    ``objective.ratio.denominator=behaviour`` divides by it. With dynamic filtering (six of the scripts) it is ``filter={part: screen,
    rounds: 10, survival: [drop_degenerate]}``, where a round ends with as many groups as are missing still. Ours: what goes on are
    tokens, where the release puts texts together and tokenises them anew; groups that complete in the very moment of the last one
    needed wait, where it loses them; a reward is given when the group is complete, where it keeps those of finished siblings from the
    step that scored them."""
    return grpo().replace(
        generate=Pooled(temperature=0.8),
        objective=PolicyGradient(trust=Clip(low=0.2, high=0.28), aggregate=SequenceMean()),
    )


@system("arrol", title="Online rollout pruning (ARRoL)", paper="arXiv:2603.24840", base="grpo")
def arrol() -> Algorithm:
    """GRPO that gives up half of a prompt's sixteen rollouts on the way. A small head, trained beside the policy on its last hidden
    state after the first tokens, says how likely each is to be right; counts of how that came out calibrate it; and the rarer of right
    and wrong ones is kept more often, so that what is left is as balanced, and its rewards as spread, as can be. Those given
    up leave the engine at once and are not trained on; means and deviations are those of the survivors, and nothing corrects for the
    selection. Published: half is kept, half of it to be right, sixteen rollouts, judged after 512 tokens, no pruning in the first 20
    steps; here judged after a quarter of generate.max_new, and pruned from a fifth of the run on. Ours, for the paper's code
    (Hsu1023/ARRoL@fe9ad20) is announced only: the rule of survival, which meets both shares in expectation where the head is certain,
    the ten parts of the calibration, and 64 hidden units. Its vote at test time, weighted by the head, is not built:
    scores here are of single answers."""
    return grpo().replace(control=Uniform(samples=16), generate=Pruned(), filter=Screen(survival=(DropCancelled(),)))
