"""Over-provisioned rollouts: a step ends as soon as it has the groups it needs, and the others go on in the next."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import CANCELLED, Group
from anypo.engine.base import Completion, Request, Sampling, Seen
from anypo.generate.base import OWN, Generate, World, answered, rollout_key
from anypo.generate.conversation import Episode, joined, request
from anypo.generate.resume import Start, begun, ended
from anypo.outlook import Outlook
from anypo.tasks.base import Problem


class Pooled(Generate, name="pooled"):
    """`over` times as many groups as a step needs are in work at once; the step ends as soon as enough of them are complete, and the
    others wait in a pool with their tokens so far, to be gone on with first in, first out (APRIL, arXiv:2509.18521). One turn.

    A group is complete when all its rollouts have ended. Every decision keeps the log-probability, the entropy and the version it
    was sampled with, whatever the step in which it is trained on; the length limit is that of the whole answer; the environment
    answers once the group is complete, with the reward of that step. An answer that was put off goes on with the random
    numbers it would have had, so that with still weights it is the answer that would not have been interrupted. Groups beyond the
    needed ones that complete in the last moment wait, too, and are the first of the next step. `over` 1 is `independent`.
    """

    traced = True
    provides = frozenset({"off_policy"})
    requires = frozenset({"watched"})
    over: float = Field(2.0, ge=1.0, description="groups in work for every group that a step needs")

    def refuse(self, algorithm: Any) -> str | None:
        if self.turns != 1:
            return "goes on with one-turn answers only; set generate.turns to 1"
        heating = [path for path, part in algorithm.walk() if "sampling_temperature" in part.provided()]
        if heating:
            return f"an answer that waits would go on at another temperature, which {heating[0]} sets anew in every step; choose one"
        return None

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if round(self.over * algorithm.control.prompts) > algorithm.control.prompts:
            return super().dormant(algorithm, outlook)
        return f"generate.over={self.over:g} has no more groups in work than a step needs; set generate.over=2"

    def regime(self) -> tuple[str, ...]:
        return (f"{self.over:g} times the groups of a step are in work at once",)

    def start(self) -> dict[str, Any]:
        return {"pool": [], "missing": 0}

    def wants(self, planned: int, missing: int, context: Context) -> int:
        memory = context.memory[self]
        memory["missing"] = missing
        return max(0, round(self.over * planned) - len(memory["pool"]))

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        memory, sampling = context.memory[self], self.sampling(context)
        carried = [Unfinished.restored(saved) for saved in memory["pool"]]
        work = carried + [Unfinished.of(ask) for ask in asks]
        problems = [world.problem(group.ask) for group in work]
        played = [group.episodes(problem, world, sampling, context) for group, problem in zip(work, problems)]
        needed = memory["missing"] or len(asks)
        advance(work, played, needed, world, sampling)
        enough = [place for place, group in enumerate(work) if group.complete][:needed]
        memory["pool"] = [group.plain() for place, group in enumerate(work) if place not in set(enough)]
        _log(carried, work, enough, context)
        enough.sort(key=lambda place: (work[place].ask.index, work[place].ask.visit))
        episodes = [episode for place in enough for episode in played[place]]
        said = [completion for place in enough for completion in work[place].said]
        made = iter(ended(episodes, said, world, sampling) if episodes else [])
        return [
            answered(work[place].ask, problems[place], [next(made) for _ in work[place].said], context)
            for place in enough
        ]


@dataclasses.dataclass
class Unfinished:
    """A group in work: what was asked for, and what every rollout has said so far (None: nothing yet)."""

    ask: Ask
    said: list[Any]

    @staticmethod
    def of(ask: Ask) -> Unfinished:
        return Unfinished(ask, [None] * ask.samples)

    @property
    def going(self) -> list[int]:
        """The rollouts that have not ended."""
        return [sample for sample, said in enumerate(self.said) if said is None or said.finish == CANCELLED]

    @property
    def complete(self) -> bool:
        return not self.going

    @property
    def tokens(self) -> int:
        """Decisions so far."""
        return sum(len(said.tokens) for said in self.said if said is not None)

    def episodes(self, problem: Problem, world: World, sampling: Sampling, context: Context) -> list[Episode]:
        """Its rollouts as conversations, not gone on with yet."""
        keys = [rollout_key(context, problem, self.ask.visit, OWN, sample) for sample in range(len(self.said))]
        starts = [Start(problem, key, sample=sample) for sample, key in enumerate(keys)]
        return [begun(start, world, sampling) for start in starts]

    def plain(self) -> dict[str, Any]:
        """As plain data (checkpoint safe); a problem of the task is found again by its index, one of the ask's own is kept."""
        said = [None if one is None else one.plain() for one in self.said]
        own = {} if self.ask.problem is None else {"problem": _written_out(self.ask.problem)}
        return {"index": self.ask.index, "visit": self.ask.visit, "said": said} | own

    @staticmethod
    def restored(saved: Mapping[str, Any]) -> Unfinished:
        """The group that `plain` described."""
        said = [None if one is None else Completion.restored(one) for one in saved["said"]]
        own = Problem(**saved["problem"]) if "problem" in saved else None
        return Unfinished(Ask(saved["index"], len(said), problem=own, visit=saved["visit"]), said)


def advance(
    work: Sequence[Unfinished], played: Sequence[Sequence[Episode]], needed: int, world: World, sampling: Sampling
) -> None:
    """Sample on all that is going until `needed` groups are complete, and put what was said into `work`."""
    places = [(number, sample) for number, group in enumerate(work) for sample in group.going]
    left = [len(group.going) for group in work]
    if left.count(0) >= needed:
        return

    def watch(news: Sequence[Seen]) -> Sequence[int]:
        for seen in news:
            left[places[seen.place][0]] -= bool(seen.finish)
        return range(len(places)) if left.count(0) >= needed else ()

    requests = [going_on(played[number][sample], work[number].said[sample], sampling) for number, sample in places]
    fresh = world.sampler.watched(requests, watch) if requests else []  # type: ignore[attr-defined]
    for (number, sample), completion in zip(places, fresh):
        work[number].said[sample] = joined(work[number].said[sample], completion)


def _written_out(problem: Problem) -> dict[str, Any]:
    """The fields of a problem, as plain as what it shows."""
    fields = {field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)}
    return fields | {"messages": tuple(map(dict, problem.messages)), "metadata": dict(problem.metadata)}


def going_on(episode: Episode, said: Completion | None, sampling: Sampling) -> Request:
    """The request for the rest of an answer of which `said` is there."""
    if said is None or not len(said.tokens):
        return request(episode, sampling)
    rest = request(dataclasses.replace(episode, kept=said), sampling)
    return dataclasses.replace(rest, begun=len(said.tokens))


def _log(carried: Sequence[Unfinished], work: Sequence[Unfinished], enough: Sequence[int], context: Context) -> None:
    """How much is in work, how much of it waits, and how long what is trained on now has waited."""
    waiting = sum(group.tokens for group in work) - sum(work[place].tokens for place in enough)
    context.log("generate/in_work", float(len(work)))
    context.log("generate/waiting_groups", float(len(work) - len(enough)))
    context.log("generate/waiting_tokens", float(waiting))
    context.log("generate/resumed_share", sum(place < len(carried) for place in enough) / max(1, len(enough)))


__all__ = ["Pooled", "Unfinished"]
