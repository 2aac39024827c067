"""Models with weights of their own, and the policy in another role: they speak and they score."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anypo.data.batch import Batch
from anypo.engine.base import Request, Sampler, Sampling
from anypo.engine.config import Local
from anypo.errors import UserError, nearest
from anypo.policies.base import fits
from anypo.roles.base import Messages, Model


class Speaker(Model):
    """The policy as it is at this moment, in another role (``self``)."""

    able = frozenset({"ask", "fill"})

    def __init__(self, role: str, spec: str, policy: Any, sampler: Sampler, seed: int) -> None:
        super().__init__(role, spec)
        self.trained, self.engine, self.seed = policy, sampler, seed

    @property
    def policy(self) -> Any:
        """What encodes, decodes and scores."""
        return self.trained

    @property
    def sampler(self) -> Sampler:
        """The engine that samples from it."""
        return self.engine

    def ask(self, prompts: Sequence[Messages], sampling: Sampling, seed: tuple[int, ...]) -> list[str]:
        try:
            encoded = [self.policy.encode(said) for said in prompts]
        except UserError as error:  # longer than its context, or refused by its chat template
            raise UserError(f"the {self.role} ({self.spec}): {error} with --model-as {self.role}=PATH") from None
        requests = [Request(tokens, sampling, (*seed, n)) for n, tokens in enumerate(encoded)]
        return [self.policy.decode(completion.tokens) for completion in self.sampler.generate(requests)]

    def fits(self, prompt: Messages, sampling: Sampling) -> bool:
        return fits(self.policy, prompt, sampling.max_new)

    def fill(self, batch: Batch, names: Collection[str], grad: bool = False) -> dict[str, Tensor]:
        return {name: column.detach() for name, column in self.policy.fill(batch, names, grad=False).items()}

    def describe(self) -> dict[str, Any]:
        return {"model": self.spec, "weights": "the policy's own"}


class Initial(Speaker):
    """The policy as it was when training began (``frozen``)."""

    _copy: Any = None

    @property
    def policy(self) -> Any:
        if self._copy is None:
            self.begin()
        return self._copy

    @cached_property
    def sampler(self) -> Sampler:  # type: ignore[override]
        return Local().sampler(self.policy)

    def begin(self) -> None:
        self._copy = self.trained.frozen()
        self.__dict__.pop("sampler", None)

    def describe(self) -> dict[str, Any]:
        return {"model": self.spec, "weights": "the policy's, as it was when training began"}

    def state_dict(self) -> dict[str, Any]:
        """The copy's weights."""
        return dict(self.policy.state_dict())

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.policy.load_state_dict(state)


class Weights(Speaker):
    """Other weights: a run folder, a model's name, a folder or a hub id. Loaded on the policy's device when first needed."""

    @classmethod
    def check(cls, role: str, spec: str) -> None:
        folder = Path(spec).expanduser()
        if (folder / "config.yaml").is_file() and not (folder / "model").is_dir():
            raise UserError(f"the {role} is the run {spec}, which has no final weights (no folder 'model' in it)")
        if folder.exists() or folder.is_absolute() or spec.startswith((".", "~")) or spec.count("/") > 1:
            if not folder.is_dir():
                raise UserError(f"the {role} is to be {spec}, and there is no such folder")
            return
        from anypo.policies import MODELS  # loads model libraries

        meant = nearest(spec, ("self", "frozen", *MODELS)) if "/" not in spec and spec not in MODELS else ""
        if "Did you mean" in meant:
            raise UserError(f"the {role} is to be '{spec}', which is no model.{meant}")

    @cached_property
    def policy(self) -> Any:  # type: ignore[override]
        from anypo import policies

        folder = Path(self.spec).expanduser()
        source = str(folder / "model") if (folder / "config.yaml").is_file() else self.spec
        device = next((str(p.device) for p in self.trained.parameters()), "cpu")
        loaded = policies.load(source, seed=self.seed, device=device)
        loaded.model.requires_grad_(False)
        if mine := getattr(self.trained, "chat", None):
            loaded.chat = loaded.chat.reading(mine.arguments)
        return loaded

    @cached_property
    def sampler(self) -> Sampler:  # type: ignore[override]
        return Local().sampler(self.policy)

    def fill(self, batch: Batch, names: Collection[str], grad: bool = False) -> dict[str, Tensor]:
        """As `Speaker.fill`. Raises `UserError` when its tokens are not the policy's: a column would score other text."""
        if self._strange:
            raise UserError(
                f"the {self.role} ({self.spec}) has another vocabulary than the policy, so it cannot score the policy's tokens; "
                "choose one with the same tokenizer"
            )
        with torch.no_grad():
            return super().fill(batch, names)

    @cached_property
    def _strange(self) -> bool:
        mine = getattr(self.trained, "tokenizer", None)
        return mine is None or mine.get_vocab() != self.policy.tokenizer.get_vocab()

    def describe(self) -> dict[str, Any]:
        return {"model": self.spec, **self.policy.describe()}

    def weights(self) -> Mapping[str, Any]:
        return dict(self.policy.state_dict())
