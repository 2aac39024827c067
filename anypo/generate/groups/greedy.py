"""Independent rollouts with one greedy rollout per prompt beside them, as a baseline."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.generate.base import Independent, World, episode
from anypo.generate.conversation import play

GREEDY = -3
"""The role of greedy rollouts in their keys (no random number decides them, but the environment may use the key)."""


class WithGreedy(Independent, name="with_greedy"):
    """Independent rollouts; the reward of one greedy decoding of the same prompt is written into each of them as the reward
    component ``greedy`` (ReMax, arXiv:2310.10505). The greedy rollout itself is not trained on; its tokens are logged."""

    traced = True
    provides = frozenset({"greedy"})

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        groups = super().rollout(asks, world, context)
        sampling = dataclasses.replace(self.sampling(context), temperature=0.0, top_p=1.0, top_k=0, min_p=0.0)
        episodes = [
            dataclasses.replace(episode(ask, group.problem, context, GREEDY, 0), sample=-1)
            for ask, group in zip(asks, groups)
        ]
        greedy = play(episodes, world.task, world.policy, world.sampler, sampling, self.turns, self.workspace)
        context.log("rollout/greedy_tokens", sum(len(t) for t in greedy))
        return [
            group.replace(
                trajectories=tuple(
                    t.replace(rewards={**t.rewards, "greedy": baseline.reward}) for t in group.trajectories
                )
            )
            for group, baseline in zip(groups, greedy)
        ]
