"""Views: other contexts for the same decisions.

A part that reads ``logp@privileged`` has a `View` among its fields whose `view` is ``privileged``. Before credit is taken the view
writes, for every trajectory, the tokens on which the same actions are scored: another prompt before the same answer.
"""

from __future__ import annotations

import dataclasses
from abc import abstractmethod
from typing import Any

import numpy as np

from anypo.data.batch import Batch
from anypo.data.content import reworded
from anypo.data.records import CONTEXT, Tokens, Trajectory
from anypo.errors import UserError
from anypo.parts import Part


class View(Part, slot="view"):
    """Another context for the decisions of a trajectory; columns ask for it by `view`."""

    view: str

    @abstractmethod
    def content(self, trajectory: Trajectory, problem: Any, policy: Any) -> Tokens | None:
        """The tokens with the same decisions in another context; None where the context is the one that is trained on."""

    def suits(self, task: Any) -> str | None:
        """A sentence saying why `task` has nothing to show, or None."""
        return "it has no prompts, and this is another prompt before the same answer" if hasattr(task, "make") else None


class Privileged(View, name="privileged"):
    """The problem together with its worked solution (its answer where it has none), as OPSD's teacher sees it (arXiv 2601.18734).

    template: the text of the opening's last message, with ``{prompt}`` and ``{solution}``. Trajectories of problems without a text to
    show, or with media, are seen as they are.
    """

    view: str = "privileged"
    template: str = "{prompt}\n\nA correct solution:\n{solution}\n\nNow solve the problem yourself."

    def content(self, trajectory: Trajectory, problem: Any, policy: Any) -> Tokens | None:
        solution = _worked(problem)
        if not solution or not isinstance(trajectory.content, Tokens) or trajectory.content.media:
            return None
        messages = reworded(
            problem.messages, lambda asked: self.template.replace("{prompt}", asked).replace("{solution}", solution)
        )
        seen = behind(policy.encode(messages), trajectory.content)
        room = getattr(policy, "context", None)
        if room is not None and len(seen.tokens) > room:
            raise UserError(
                f"the answer to problem {trajectory.prompt} has {len(seen.tokens)} tokens with its prompt and solution before it, "
                f"more than the model's context of {room}; lower generate.max_new, or shorten the view's template or the solutions"
            )
        return seen

    def suits(self, task: Any) -> str | None:
        if hasattr(task, "make") or any(_worked(task.train(index)) for index in range(min(len(task), 64))):
            return super().suits(task)
        return "it has no worked solutions to show; name their column with --task-set solution=COLUMN, or choose a task that has them"


class Shown(View, name="shown"):
    """What was shown when sampling, where that is not what is trained on."""

    view: str = "shown"

    def content(self, trajectory: Trajectory, problem: Any, policy: Any) -> Tokens | None:
        shown = getattr(trajectory.content, "shown", None)
        return None if shown is None else behind(shown, trajectory.content)  # type: ignore[arg-type]


class Plain(View, name="plain"):
    """The problem alone, where what is trained on shows a guide beside it (`anypo.generate.guided`)."""

    view: str = "plain"

    def content(self, trajectory: Trajectory, problem: Any, policy: Any) -> Tokens | None:
        content = trajectory.content
        if (
            problem is None
            or not trajectory.extra.get("guide")
            or not isinstance(content, Tokens)
            or content.shown is not None
        ):
            return None
        return behind(policy.encode(problem.messages), content)


def _worked(problem: Any) -> str:
    """A problem's worked solution, or its answer."""
    return str(getattr(problem, "solution", "") or getattr(problem, "answer", ""))


def behind(prompt: np.ndarray, content: Tokens) -> Tokens:
    """`content` with its opening context replaced by `prompt` [L]."""
    other = np.flatnonzero(content.roles != CONTEXT)
    start = int(other[0]) if len(other) else len(content.roles)
    roles = np.full(len(prompt), CONTEXT, dtype=content.roles.dtype)
    return dataclasses.replace(
        content,
        tokens=np.concatenate([np.asarray(prompt, dtype=content.tokens.dtype), content.tokens[start:]]),
        roles=np.concatenate([roles, content.roles[start:]]),
        shown=None,
    )


def look(batch: Batch, views: tuple[View, ...], policy: Any) -> Batch:
    """The batch with the content of each view beside its trajectories."""
    groups = batch.group.tolist()
    problems = [batch.problems[g] if batch.problems else None for g in groups]
    seen = {
        v.view: tuple(v.content(t, problem, policy) for t, problem in zip(batch.trajectories, problems)) for v in views
    }
    return dataclasses.replace(batch, views={**batch.views, **seen}) if views else batch


__all__ = ["Plain", "Privileged", "Shown", "View", "behind", "look"]
