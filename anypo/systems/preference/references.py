"""Methods whose reference model is more than a penalty: a soup, the author of the data, the anchor of a regression."""

from __future__ import annotations

from anypo.algorithm import Algorithm
from anypo.credit.granularity.branches import CriticValues
from anypo.credit.pipeline import Pipeline
from anypo.credit.select.leftover import Leftover
from anypo.generate import ReRolled
from anypo.objective.aggregates import SequenceSum
from anypo.objective.policy_gradient import PolicyGradient
from anypo.objective.ratios import SequenceRatio
from anypo.objective.step_regression import StepRegression
from anypo.objective.trusts.clips import SoftClip
from anypo.replay import Dataset
from anypo.systems.baselines.reinforcement import ppo
from anypo.systems.registry import system
from anypo.update import FrozenReference, GradientUpdate, PeriodicReference, SoupReference


@system(
    "salsa",
    title="Soup-based Alignment Learning",
    paper="arXiv:2411.01798",
    base="ppo",
    excuses={"checks": "needs the path of a second model, which no default can name"},
    needs={"update.reference.models": ["tiny"]},
)
def salsa() -> Algorithm:
    """RLHF's PPO with another reference: the average, parameter by parameter, of the initial policy and a second model fine-tuned
    from the same ancestor, frozen. The penalty for leaving it is not zero at the start, and the same KL budget then covers a
    region around a better point. Needs the second model: --set update.reference.models='[PATH]'."""
    return ppo().replace(update=GradientUpdate(epochs=4, reference=SoupReference(own=0.5)))


@system(
    "a-lol",
    title="Advantage-based Leftover Lunch RL",
    paper="arXiv:2305.14718",
    base="reinforce",
    excuses={
        "on-policy": "its ratio divides by the reference, which is also its sampler, and not by the step's policy"
    },
)
def a_lol() -> Algorithm:
    """Offline policy gradient on responses the reference model wrote, with the whole response as one action. Advantage: its reward
    minus the reference's value of the prompt, which is the mean reward of the prompt's stored responses (the paper trains a small
    head for it). The first fifth of the run collects. Responses with a negative advantage are dropped, the others drawn in
    proportion to it. Loss: A times the importance ratio pi(y) / pi_ref(y), clipped to [0.1, 1.9] and detached, times -log pi(y),
    summed over tokens. --set objective.ratio='{part: token, denominator: ref}' is A-LoL seq, --set objective.ratio=score A-LoL
    ref-free."""
    return Algorithm(
        replay=Dataset(),
        credit=Pipeline(select=(Leftover(share=0.5),)),
        objective=PolicyGradient(
            ratio=SequenceRatio(normalise=False, denominator="ref"),
            trust=SoftClip(low=0.9, high=0.9),
            aggregate=SequenceSum(),
        ),
        update=GradientUpdate(reference=FrozenReference()),
    )


@system("dapo-direct", title="Direct Advantage Policy Optimization", paper="arXiv:2412.18279", base="dpo")
def dapo_direct() -> Algorithm:
    """Step-level regression instead of a clipped ratio. States between reasoning steps are valued by fresh completions,
    a critic is fitted to these values, and a step's advantage is the critic's difference over it (the verified reward at
    the end). The loss is half the squared gap between the step's log-ratio to the reference and A / beta: |A| sets how
    far it moves, then it stops. The reference becomes the policy at every step; four passes over each batch. The paper trains a
    critic of its own and then the actor, on data of the reference policy, and begins again; here the critic is a ridge regression on
    the policy's last hidden states, refitted with every batch, and the data are the step's. A step ends with a line, so an answer of
    one line is one step (``generate.delimiter``). (Not the clip-higher method of the same name.)"""
    return Algorithm(
        generate=ReRolled(delimiter="\n", continuations=8),
        credit=Pipeline(granularity=CriticValues()),
        objective=StepRegression(),
        update=GradientUpdate(epochs=4, reference=PeriodicReference(every=1)),
    )
