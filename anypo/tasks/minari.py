"""Minari data sets as tasks: recorded transitions, and the environment they were recorded in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np

from anypo.data.records import prompt_id
from anypo.data.transitions import Arrays
from anypo.errors import UserError, brief
from anypo.files import sha256
from anypo.tasks import environments
from anypo.tasks.base import Problem
from anypo.tasks.gym import GymEpisode, GymTask, opened


class MinariTask(GymTask):
    """A `GymTask` with the transitions that a local Minari data set holds (`transitions`), which are read when first asked for.

    Training episodes are those of the environment that was recorded, held-out ones of the data set's evaluation environment
    where it names one; `options` go to `gymnasium.make`. Raises `UserError` for an environment that is not installed, and
    where the spaces of the data are not the environment's.
    """

    def __init__(self, name: str, options: Mapping[str, Any] | None = None) -> None:
        import minari  # only where a data set is asked for

        self.about = environments.check(name)
        self.folder = environments.find(name)
        try:
            self.data = minari.MinariDataset(self.folder)
        except (ValueError, OSError, AssertionError, KeyError) as error:
            raise UserError(f"task '{name}' cannot be read by Minari: {brief(error)}") from None
        self.version = str(minari.__version__)
        super().__init__(str(self.data.id), options)
        self._check_spaces()

    def make(self, evaluation: bool = False) -> gymnasium.Env[Any, Any]:
        """A new environment: the recorded one, or the one for evaluation."""
        recorded, scored = self.data.env_spec, self.data._eval_env_spec
        return opened(scored if evaluation and scored is not None else recorded, recorded.id, self.options)

    def heldout(self, index: int) -> Problem:
        return Problem(prompt_id(self.name), (), metadata={"evaluation": True})

    def environment(self, problem: Problem) -> Any:
        return GymEpisode(self.make(bool(problem.metadata.get("evaluation"))), self.name)

    def transitions(self) -> Arrays:
        """Every recorded step in order, actions in the environment's own units. `UserError` for data that are cut or not finite."""
        return self._transitions

    @cached_property
    def _transitions(self) -> Arrays:
        return joined([self._episode(episode) for episode in self.data.iterate_episodes()], self.name)

    def _episode(self, episode: Any) -> Arrays:
        """One episode: T steps and T + 1 observations. What terminated is terminal, even in the step of a time limit; a time
        limit, or the end of the recording, is not, and the observation after the last step is the last one recorded."""
        steps, seen = len(episode.rewards), np.asarray(episode.observations)
        sizes = {len(np.asarray(values)) for values in (episode.actions, episode.terminations)}
        if len(seen) != steps + 1 or sizes != {steps}:
            raise UserError(
                f"the data set '{self.name}' is damaged: episode {episode.id} has {len(seen)} observations and {steps} rewards"
            )
        taken = np.asarray(episode.actions)
        return Arrays(
            seen[:-1].astype(np.float32),
            taken.astype(np.int64) if self.discrete else taken.reshape(steps, -1).astype(np.float32),
            seen[1:].astype(np.float32),
            np.asarray(episode.rewards, dtype=np.float32),
            np.asarray(episode.terminations).astype(np.float32),
        )

    def describe(self) -> dict[str, Any]:
        """Provenance: the data set and its hash, and the environment."""
        source = {
            "package": "minari",
            "versions": {"minari": self.version},
            "name": self.name,
            "path": str(self.folder),
            "sha256": hashed(self.folder),
            "episodes": int(self.about["total_episodes"]),
            "steps": int(self.about["total_steps"]),
        }
        made = super().describe()
        return {
            **made,
            "source": source,
            "environment": self.data.env_spec.id,
            "requirements": self.about.get("requirements", []),
        }

    def _check_spaces(self) -> None:
        for what, data, mine in (
            ("observations", self.data.observation_space, self.observation),
            ("actions", self.data.action_space, self.actions),
        ):
            if (
                type(data) is not type(mine)
                or data.shape != mine.shape
                or getattr(data, "n", 0) != getattr(mine, "n", 0)
            ):
                raise UserError(
                    f"the data set '{self.name}' has {what} in {data}, and its environment {self.data.env_spec.id} in {mine}; "
                    "record it without changing the spaces"
                )


def joined(episodes: list[Arrays], name: str) -> Arrays:
    """The episodes one after another. `UserError` where a number is not finite."""
    whole = Arrays(*(np.concatenate(parts) for parts in zip(*(vars(episode).values() for episode in episodes))))
    for field, values in vars(whole).items():
        broken = ~np.isfinite(values.reshape(len(whole), -1)).all(1)
        if broken.any():
            raise UserError(
                f"the data set '{name}' has a {field} that is no finite number, first in step {int(broken.argmax())}"
            )
    return whole


def hashed(folder: Path) -> str:
    """SHA-256 over the names and contents of every file below `folder`."""
    digest = hashlib.sha256()
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest.update(json.dumps([file.relative_to(folder).as_posix(), sha256(file)]).encode())
    return digest.hexdigest()
