"""Rewards from a model that reads the answers: the policy itself, as it was, other weights, a server or a program."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field, field_validator

from anypo.context import Context
from anypo.data.content import parted
from anypo.data.records import CANCELLED, Group, Trajectory, prompt_id
from anypo.engine.base import Sampling
from anypo.errors import UserError
from anypo.filter.base import Signal
from anypo.filter.consensus import PSEUDO
from anypo.roles.verdict import read
from anypo.tasks.unlabelled import LABEL

QUESTION = """Question:
{question}

Answer to judge:
{answer}

How good is this answer, from 0 (worthless) to {most} (perfect)? Say why in a sentence, then end with "Score: N"."""

MOST_KEPT = 10_000
"""Verdicts that are remembered."""

LONGEST = 20_000
"""Characters of an answer that are shown: the last ones, where its end is."""


class Judge(Signal, name="judge"):
    """Component ``judge``: the verdict of the model in the role `role`, in [0, 1] (a model as judge: arXiv:2306.05685).

    question: what it is asked, with {question}, {answer}, {reference} (the problem's own answer, shown only where named) and
    {most}. The verdict is the last number after "score" of its reply, or else the last number, over `most`; with `verdict` = ``yes``
    it is 1 for a last yes, 0 for a last no. A reply without one counts as `unread`, and so does an answer that is too long for the
    judge. What an answer says to its judge ("give this a 10") is read by it like the rest: nothing here keeps a policy from
    learning to. replace_reward: the verdict is the reward, and no
    label is needed; otherwise `weight` times it is added to the reward. All answers of a step are asked about in one batch, equal
    ones once; at temperature 0 a verdict is remembered, unless the judge is the policy as it is, which changes.
    """

    role: str = "judge"
    question: str = QUESTION
    verdict: Literal["number", "yes"] = "number"
    most: float = Field(10.0, gt=0.0)
    weight: float = Field(1.0, allow_inf_nan=False)
    replace_reward: bool = Field(False, description="the verdict in the place of the reward")
    unread: float = Field(0.0, ge=0.0, le=1.0)
    max_new: int = Field(128, ge=1, description="most new tokens of a verdict")
    temperature: float = Field(0.0, ge=0.0)

    @field_validator("question")
    @classmethod
    def _asks(cls, question: str) -> str:
        try:
            shown = question.format(question="q", answer="\0", reference="r", most=1)
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(
                f"it may hold {{question}}, {{answer}}, {{reference}} and {{most}}, and not {error}"
            ) from None
        if "\0" not in shown:
            raise ValueError("it does not show the {answer}")
        return question

    def required(self) -> frozenset[str]:
        return super().required() | {f"model:{self.role}", f"model:{self.role}:ask"}

    def provided(self) -> frozenset[str]:
        return PSEUDO if self.replace_reward else frozenset()

    def start(self) -> dict[str, Any]:
        return {"verdicts": {}}

    def score(self, groups: list[Group], context: Context) -> list[Group]:
        questions = [[self.asked(group, t) for t in group.trajectories] for group in groups]
        answered = [[t.finish != CANCELLED for t in group.trajectories] for group in groups]
        posed = {q for asked, ended in zip(questions, answered) for q, whole in zip(asked, ended) if whole}
        verdicts = self.judge(sorted(posed), context)
        out, found = [], []
        for group, asked in zip(groups, questions):
            done = []
            for trajectory, q in zip(group.trajectories, asked):
                if trajectory.finish == CANCELLED:  # given up while it was sampled: no answer to ask about
                    done.append(trajectory)
                    continue
                verdict = verdicts[q]
                found.append(verdict)
                done.append(self._paid(trajectory, self.unread if verdict is None else verdict))
            out.append(group.replace(trajectories=tuple(done)))
        read = [verdict for verdict in found if verdict is not None]
        context.log("filter/judged", sum(read) / max(1, len(read)))
        context.log("filter/judge_read", len(read) / max(1, len(found)))
        return out

    def asked(self, group: Group, trajectory: Trajectory) -> str:
        """What the judge is asked about one answer."""
        messages = parted(group.problem.messages)[0] or group.problem.messages
        said = [str(m["content"]) for m in messages if m["role"] != "system"]
        return self.question.format(
            question="\n\n".join(said),
            answer=trajectory.text.strip()[-LONGEST:],
            reference=group.problem.answer,
            most=f"{self.most:g}",
        )

    def judge(self, questions: Sequence[str], context: Context) -> dict[str, float | None]:
        """The verdict of every question, None where the reply had none."""
        if context.world is None:
            raise UserError("filter (judge) needs a world with models to ask")
        model, memory = context.world.models[self.role], context.memory[self]["verdicts"]
        keeps = self.temperature == 0 and model.spec != "self"
        known = {q: memory[_key(q)] for q in questions if keeps and _key(q) in memory}
        sampling = Sampling(self.max_new, self.temperature)
        new = [q for q in questions if q not in known]
        # one that is too long must not end a run; where all are, the model says why
        open_ = [q for q in new if model.fits(({"role": "user", "content": q},), sampling)] or new
        replies = model.ask(
            [({"role": "user", "content": q},) for q in open_],
            sampling,
            (context.seed, context.step, prompt_id("judge")),
        )
        fresh: dict[str, float | None] = dict.fromkeys(new)
        fresh |= {q: read(reply, self.verdict, self.most) for q, reply in zip(open_, replies)}
        if keeps:
            memory.update({_key(q): verdict for q, verdict in fresh.items()})
            for old in list(memory)[: max(0, len(memory) - MOST_KEPT)]:
                del memory[old]
        return known | fresh

    def _paid(self, trajectory: Trajectory, verdict: float) -> Trajectory:
        components, extra = dict(trajectory.rewards), dict(trajectory.extra)
        if self.replace_reward and LABEL in components:
            extra[LABEL] = components.pop(LABEL)  # a hidden verdict of the task, which credit must not read
        reward = self.weight * verdict + (0.0 if self.replace_reward else trajectory.reward)
        weights = {} if self.replace_reward else dict(trajectory.weights)
        if weights or self.replace_reward:  # where nobody said what the reward is made of, it stays so
            weights["judge"] = self.weight
        components["judge"] = verdict
        return trajectory.replace(reward=reward, rewards=components, weights=weights, extra=extra)


def _key(question: str) -> str:
    return hashlib.sha256(question.encode(errors="replace")).hexdigest()[:32]


__all__ = ["Judge", "read"]
