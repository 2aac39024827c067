"""What becomes of guided rollouts: part of the group, in its place, in the place of a failed member, or a group beside it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from anypo.data.records import TARGET, Group, Trajectory
from anypo.generate.base import rollout_key
from anypo.generate.groups.rounds import solved
from anypo.generate.guided.guides import DRAWN, Guide
from anypo.parts import Part

if TYPE_CHECKING:
    from anypo.generate.guided.guiding import Guiding

CONTEXT = "context"
"""The key of rollouts that were shown one of several contexts: which."""


class Fate(Part, slot="fate"):
    """How many guided rollouts a prompt gets, and where they end."""

    @abstractmethod
    def groups(self, step: Guiding) -> list[Group]:
        """What is trained on, a group or more for every ask."""


class Join(Fate, name="join"):
    """`guided` of a prompt's rollouts are guided and stay in its group: they share its mean and deviation (ICPO,
    arXiv:2510.26519). A prompt without a guide has all its rollouts without one."""

    guided: int = Field(1, ge=0)

    def groups(self, step: Guiding) -> list[Group]:
        helped = [min(self.guided, ask.samples) for ask in step.asks]
        first = step.plain([ask.samples - n for ask, n in zip(step.asks, helped)])
        ladders = step.ladders([place for place, group in enumerate(first) if helped[place] and step.wants(group)])
        begin = [len(group.trajectories) for group in first]
        rest = step.plain([0 if place in ladders else n for place, n in enumerate(helped)], begin)
        wishes = [
            (place, guides[n % len(guides)], begin[place] + n)
            for place, guides in ladders.items()
            for n in range(helped[place])
        ]
        fresh = _by_place(wishes, step.play(wishes))
        return [
            group.replace(trajectories=(*group.trajectories, *more.trajectories, *fresh.get(place, ())))
            for place, (group, more) in enumerate(zip(first, rest))
        ]


class Regroup(Fate, name="regroup"):
    """A group that wants help is rolled out again as a whole, with one guide after the other until it wants none (Guide,
    arXiv:2506.13923; GHPO, arXiv:2507.10628; SAGE, arXiv:2602.03143). The last of these groups takes the place of the first; the
    others are set aside."""

    def groups(self, step: Guiding) -> list[Group]:
        blind = step.part.trigger.blind
        nothing = [step.group(place, ()) for place in range(len(step.asks))]
        before = [blind and step.wants(group) for group in nothing]
        ladders = step.ladders([place for place, wanted in enumerate(before) if wanted])
        groups = step.plain([0 if place in ladders else ask.samples for place, ask in enumerate(step.asks)])
        if not blind:
            ladders = step.ladders([place for place, group in enumerate(groups) if step.wants(group)])
        waiting, level = dict(ladders), 0
        while waiting:
            wishes = [(p, guides[level], n) for p, guides in waiting.items() for n in range(step.asks[p].samples)]
            for place, fresh in _by_place(wishes, step.play(wishes)).items():
                if groups[place].trajectories:
                    step.aside.append(groups[place].replace(aside=True))
                groups[place] = groups[place].replace(trajectories=tuple(fresh))
            level += 1
            waiting = {
                place: guides
                for place, guides in waiting.items()
                if level < len(guides) and not blind and step.wants(groups[place])
            }
        return groups


class Rescue(Fate, name="rescue"):
    """A group that wants help gets one rollout with each guide; the right one with the least telling guide takes the place of the
    group's first member that has failed, as all have where the trigger is `failing` (Scaf-GRPO, arXiv:2510.19807). No guided rollout
    right, or no member wrong: the group stays."""

    def groups(self, step: Guiding) -> list[Group]:
        groups = step.plain([ask.samples for ask in step.asks])
        ladders = step.ladders([place for place, group in enumerate(groups) if step.wants(group)])
        wishes = [(place, guide, 0) for place, guides in ladders.items() for guide in guides]
        for place, fresh in _by_place(wishes, step.play(wishes)).items():
            members, task = list(groups[place].trajectories), step.world.task
            failed = next((n for n, t in enumerate(members) if not solved(t, task)), None)
            chosen = None if failed is None else next((t for t in fresh if solved(t, task)), None)
            unused = [t for t in fresh if t is not chosen]
            if failed is not None and chosen is not None:
                unused.append(members[failed])
                members[failed] = chosen.replace(sample=members[failed].sample)
                groups[place] = groups[place].replace(trajectories=tuple(members))
            if unused:
                step.aside.append(step.group(place, unused).replace(aside=True))
        return groups


class Imitated(Fate, name="imitated"):
    """A group that wants help stays as it is, and its prompt is rolled out again as often with one guide after the other until one of
    these rollouts is right. The right ones of that guide are a group of their own with the tag ``target``, to be imitated; the others
    are set aside (Cog-Rethinker, arXiv:2510.15979). Every guide is asked for when its turn comes, so that it may show what went wrong
    before, and hears of the shortest of the right rollouts. Targets stand beside their prompt's group, so that where a step has more
    than it trains on, what is left out has nothing to do with the kind."""

    provides = frozenset({f"tag:{TARGET}"})

    def groups(self, step: Guiding) -> list[Group]:
        groups, targets = step.plain([ask.samples for ask in step.asks]), dict[int, Group]()
        waiting, level = [place for place, group in enumerate(groups) if step.wants(group)], 0
        deepest = 0
        while waiting and level <= deepest:
            ladders = step.ladders(waiting)
            deepest = max((guide.level for guides in ladders.values() for guide in guides), default=0)
            turn = {place: next((g for g in guides if g.level == level), None) for place, guides in ladders.items()}
            wishes = [(p, g, n) for p, g in turn.items() if g is not None for n in range(step.asks[p].samples)]
            for place, fresh in _by_place(wishes, step.play(wishes)).items():
                right = [t.replace(tag=TARGET) for t in fresh if solved(t, step.world.task)]
                wrong = [t for t in fresh if not solved(t, step.world.task)]
                if right:
                    targets[place] = step.group(place, right)
                    best, shown = min(right, key=len), turn[place]
                    assert shown is not None
                    step.part.guides.learn(step.problems[place], shown, best, step)
                    waiting.remove(place)
                if wrong:
                    step.aside.append(step.group(place, wrong).replace(aside=True))
            level += 1
        step.context.log("generate/imitated", float(sum(len(group.trajectories) for group in targets.values())))
        beside = [[group, targets[place]] if place in targets else [group] for place, group in enumerate(groups)]
        return [group for both in beside for group in both]


class Beside(Fate, name="beside"):
    """A prompt that is given help keeps its group and gets a second one of the same size, all with its first guide: the two share no
    statistics (POPE, arXiv:2601.18779)."""

    def groups(self, step: Guiding) -> list[Group]:
        groups = step.plain([ask.samples for ask in step.asks])
        ladders = step.ladders([place for place, group in enumerate(groups) if step.wants(group)])
        wishes = [(p, guides[0], n) for p, guides in ladders.items() for n in range(step.asks[p].samples)]
        fresh = _by_place(wishes, step.play(wishes))
        return groups + [step.group(place, members) for place, members in fresh.items()]


class Contexts(Fate, name="contexts"):
    """A prompt's rollouts are divided over its first `contexts` guides; each then loses its guide with probability `dropout`. All are
    one group; those with a guide have the key ``context``, its number (NudgeRL, arXiv:2605.15726). A prompt with fewer guides has
    all its rollouts without one."""

    provides = frozenset({f"key:{CONTEXT}"})
    contexts: int = Field(2, ge=1)
    dropout: float = Field(0.5, ge=0.0, le=1.0)

    def groups(self, step: Guiding) -> list[Group]:
        nothing = [step.group(place, ()) for place in range(len(step.asks))]
        ladders = step.ladders([place for place, group in enumerate(nothing) if step.wants(group)])
        wishes: list[tuple[int, Guide, int]] = []
        for place, guides in ladders.items():
            samples = step.asks[place].samples
            if len(guides) >= self.contexts:
                key = rollout_key(step.context, step.problems[place], step.asks[place].visit, DRAWN, 1)
                kept = np.flatnonzero(np.random.default_rng(key).random(samples) >= self.dropout)
                begin = samples - len(kept)
                wishes += [
                    (place, guides[n * self.contexts // samples], begin + k) for k, n in enumerate(kept.tolist())
                ]
        guided = [0] * len(step.asks)
        for place, _, _ in wishes:
            guided[place] += 1
        groups = step.plain([ask.samples - n for ask, n in zip(step.asks, guided)])
        named = [
            t.replace(keys={**t.keys, CONTEXT: guide.level}) for t, (_, guide, _) in zip(step.play(wishes), wishes)
        ]
        fresh = _by_place(wishes, named)
        return [g.replace(trajectories=(*g.trajectories, *fresh.get(place, ()))) for place, g in enumerate(groups)]


def _by_place(wishes: list[tuple[int, Guide, int]], made: list[Trajectory]) -> Mapping[int, list[Trajectory]]:
    """Guided rollouts by the ask that they answer."""
    found: dict[int, list[Trajectory]] = {}
    for (place, _, _), trajectory in zip(wishes, made):
        found.setdefault(place, []).append(trajectory)
    return found


__all__ = ["Beside", "Contexts", "Fate", "Imitated", "Join", "Regroup", "Rescue"]
