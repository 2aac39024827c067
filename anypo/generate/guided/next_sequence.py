"""Next-sequence prediction: short rollouts from informative places of a text, paid for agreeing with what follows there."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from anypo.context import Context
from anypo.control.base import Ask
from anypo.data.batch import Batch
from anypo.data.records import ACTION, CONTEXT, Group, Tokens, Trajectory
from anypo.generate.base import World, answered, rollout_key
from anypo.generate.guided.demonstrations import demonstration, solution, worked_only
from anypo.generate.resume import Start, decisions, resume
from anypo.generate.trees.segments import _OneTurn
from anypo.outlook import Outlook
from anypo.tasks.base import Task


class NextSequence(_OneTurn, name="next_sequence"):
    """REFINE (arXiv:2602.16704): the text of every problem (its `solution`) is cut into `chunks` equal pieces; in each,
    one position is drawn with probability softmax(smoothed entropy / `heat`), and from the true prefix up to it `length`
    tokens are sampled.

    Reward: ``cosine`` the mean cosine between the hidden states of the sampled and of the true tokens, ``exact`` the
    share of equal tokens, ``hybrid`` their sum. A token's hidden state is the one after it, so the last one takes a further
    position; where a rollout ends early, the tokens that it lacks agree with nothing. The rollouts of one text are a group
    (different prefixes); the text itself follows as a demonstration, for the next-token loss beside it. Positions closer than
    `length` to the end are left out.
    """

    provides = frozenset({"tag:demo"})
    chunks: int = Field(8, ge=1)
    length: int = Field(5, ge=1)
    heat: float = Field(1.0, gt=0.0)
    kernel: int = Field(5, ge=1, description="width of the smoothing of entropies; an even one is made odd")
    reward: Literal["cosine", "exact", "hybrid"] = "cosine"
    text: int = Field(256, ge=2, description="most tokens of a text")

    def suits(self, task: Task) -> str | None:
        return worked_only(task)

    def dormant(self, algorithm: Any, outlook: Outlook) -> str | None:
        if outlook.task is None:
            return None
        known = (outlook.task.train(index).solution for index in range(min(len(outlook.task), 64)))
        longest = max((len(text) for text in known), default=0)
        if longest > self.length:
            return super().dormant(algorithm, outlook)
        return (
            f"beside the imitation of the texts: the longest has {longest} characters, which leaves no place from where to predict "
            f"{self.length} tokens; set generate.length=1 or choose a task with longer solutions"
        )

    def rollout(self, asks: Sequence[Ask], world: World, context: Context) -> list[Group]:
        problems = [world.problem(ask) for ask in asks]
        texts = [demonstration(p, solution(p, world, self.text), world) for p in problems]
        entropy, hidden = self._read(texts, world)
        starts, homes = [], []
        for place, (ask, problem, text) in enumerate(zip(asks, problems, texts)):
            generator = np.random.default_rng(rollout_key(context, problem, ask.visit, 31, 0))
            cuts = positions(entropy[place], self.chunks, self.length, self.kernel, self.heat, generator)
            for sample, cut in enumerate(cuts):
                key = rollout_key(context, problem, ask.visit, cut, sample)
                starts.append(Start(problem, key, text, cut, sample=sample, most=cut + self.length))
                homes.append(place)
        done = resume(starts, world, self.sampling(context))
        own = self._read([_and_after(t) for t in done], world)[1] if done else []
        members: list[list[Trajectory]] = [[] for _ in problems]
        for start, place, trajectory, states in zip(starts, homes, done, own):
            reward = self._agreement(start.cut, trajectory, states, texts[place], hidden[place])
            rest = _continuation(trajectory, start.cut)
            members[place].append(rest.replace(reward=reward, rewards={"agreement": reward}))
        groups = []
        for ask, problem, text, group in zip(asks, problems, texts, members):
            groups.append(answered(ask, problem, group, context))
            groups.append(answered(ask, problem, [text], context))
        return [group for group in groups if group.trajectories]

    def _read(self, texts: Sequence[Trajectory], world: World) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Entropy [T] and hidden state [T, D] at every decision of every trajectory."""
        batch = Batch.of(texts, [0] * len(texts), 1)
        found = world.policy.fill(batch, ["entropy", "hidden"], grad=False)
        edges = np.cumsum([len(t) for t in texts])[:-1].tolist()
        split = [np.split(found[name].double().numpy(), edges) for name in ("entropy", "hidden")]
        return split[0], split[1]

    def _agreement(self, cut: int, ours: Trajectory, states: np.ndarray, text: Trajectory, truth: np.ndarray) -> float:
        """Agreement of the sampled tokens with the true ones. The state *after* token j is the one that predicts token j + 1, so
        states are compared one decision later; `states` [T + 1, D] hold the one after the last token, too, where the rollout goes
        on."""
        said, true = decisions(ours)[cut:], decisions(text)[cut : cut + self.length]
        n = min(len(said), len(true))
        exact = float((said[:n] == true[:n]).sum()) / self.length
        a, b = (torch.from_numpy(x[cut + 1 : cut + 1 + self.length]) for x in (states, truth))
        m = min(len(a), len(b))
        cosine = float(torch.nn.functional.cosine_similarity(a[:m], b[:m], dim=1).sum()) / self.length
        return {"cosine": cosine, "exact": exact, "hybrid": cosine + exact}[self.reward]


def positions(
    entropy: np.ndarray, chunks: int, length: int, kernel: int, heat: float, generator: np.random.Generator
) -> list[int]:
    """One prefix length per chunk, drawn by softmax of the smoothed entropy over `heat`; prefixes leave room for
    `length` tokens."""
    smooth = smoothed(entropy, kernel)[: max(0, len(entropy) - length)]
    out = []
    for chunk in np.array_split(np.arange(len(smooth)), chunks):
        if len(chunk):
            weight = np.exp((smooth[chunk] - smooth[chunk].max()) / heat)
            out.append(int(generator.choice(chunk, p=weight / weight.sum())))
    return out


def smoothed(values: np.ndarray, kernel: int) -> np.ndarray:
    """Stride-1 average over an odd window with zero padding, [T]."""
    width = kernel + 1 - kernel % 2
    return np.convolve(np.pad(values, width // 2), np.full(width, 1 / width), mode="valid")


def _and_after(trajectory: Trajectory) -> Trajectory:
    """The trajectory with one decision more (its token is a placeholder), so that the state after its last token is read; one that
    has ended has no such state."""
    if not trajectory.truncated:
        return trajectory
    content = trajectory.content
    assert isinstance(content, Tokens)
    n = len(trajectory) + 1
    longer = Tokens(np.append(content.tokens, 0).astype(np.int32), np.append(content.roles, ACTION).astype(np.int8))
    return Trajectory(trajectory.prompt, longer, np.zeros(n), np.zeros(n, np.int64), temperature=trajectory.temperature)


def _continuation(trajectory: Trajectory, cut: int) -> Trajectory:
    """The trajectory with its first `cut` decisions turned into context."""
    content = trajectory.content
    assert isinstance(content, Tokens)
    roles = content.roles.copy()
    roles[content.actions[:cut]] = CONTEXT

    def rest(array: np.ndarray | None) -> np.ndarray | None:
        return None if array is None else array[cut:]

    return trajectory.replace(
        content=dataclasses.replace(content, roles=roles),
        logp=trajectory.logp[cut:],
        version=trajectory.version[cut:],
        entropy=rest(trajectory.entropy),
        log_mass=rest(trajectory.log_mass),
        kept=None if trajectory.kept is None else trajectory.kept.part(cut, len(trajectory)),
        turn=rest(trajectory.turn),
        step_rewards=rest(trajectory.step_rewards),
    )
