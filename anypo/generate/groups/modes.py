"""Answer modes: the policy says first how it will answer, and some rollouts are told how (A2FM, arXiv:2510.12838)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.records import Group
from anypo.generate.base import OWN, World, answered, rollout_key
from anypo.generate.resume import Start
from anypo.generate.trees.segments import _Forking
from anypo.outlook import Outlook


class Modes(_Forking, name="modes"):
    """`forced` rollouts per mode with the mode's tag given as context, and `free` ones in which the policy chooses;
    together they are the prompt's group, so modes compete directly. The number of rollouts asked by control is not used.

    Forced tags carry no gradient, chosen ones do. The reward component ``mode`` is the index of the tag an answer begins
    with, counting from 0 for the cheapest, -1 for an answer without one, which `mode_cost` pays nothing.
    """

    tags: tuple[str, ...] = ("<instant>", "<reasoning>", "<agentic>")
    forced: int = Field(3, ge=0)
    free: int = Field(3, ge=0)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        most = getattr(outlook.task, "turns", None)
        if most == 1 and self.turns == 1:
            return (
                f"in its last mode, {self.tags[-1]}, that the others do not: an episode of this task is one answer, without tools; "
                "choose one that has some (--task calculator --set generate.turns=4 --set 'generate.stop=[\"</calc>\"]')"
            )
        return super().dormant(algorithm, outlook)

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        said = [tag for tag in self.tags for _ in range(self.forced)] + [""] * self.free
        problems = [world.problem(ask) for ask in asks]
        starts = [
            Start(problem, rollout_key(context, problem, ask.visit, OWN, sample), sample=sample, said=tag, guidance=tag)
            for ask, problem in zip(asks, problems)
            for sample, tag in enumerate(said)
        ]
        done = iter(self.resumed(starts, world, context))
        out = []
        for ask, problem in zip(asks, problems):
            members = []
            for tag in said:
                trajectory = next(done)
                mode = self.mode(tag + trajectory.text)
                members.append(trajectory.replace(rewards={**trajectory.rewards, "mode": float(mode)}))
            out.append(answered(ask, problem, members, context))
        free = [t.rewards["mode"] for g in out for t in g.trajectories if not t.guidance]
        for index, tag in enumerate(self.tags):
            context.log(f"generate/free_{tag.strip('<>')}", sum(m == index for m in free) / max(1, len(free)))
        return out

    def mode(self, text: str) -> int:
        """Index of the tag that `text` begins with (spaces aside), -1 without one."""
        begin = text.lstrip()
        return next((index for index, tag in enumerate(self.tags) if begin.startswith(tag)), -1)
