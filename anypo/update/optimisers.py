"""The optimisers: torch's, and those of bitsandbytes where it is installed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, MutableMapping
from itertools import chain
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import nn

from anypo.errors import UserError
from anypo.policies.language.quantised import lacking
from anypo.update.base import Optimiser
from anypo.update.precision import exact


class AdamW(Optimiser, name="adamw"):
    """AdamW with decoupled weight decay (Loshchilov & Hutter, arXiv:1711.05101), fused where torch can."""

    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    eps: float = Field(1e-8, gt=0.0)
    weight_decay: float = Field(0.0, ge=0.0)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            list(parameters),
            lr=self.lr,
            betas=(self.beta1, self.beta2),
            eps=self.eps,
            weight_decay=self.weight_decay,
            fused=True,
        )


class SGD(Optimiser, name="sgd"):
    """Plain stochastic gradient descent with optional momentum."""

    momentum: float = Field(0.0, ge=0.0, lt=1.0)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.SGD(list(parameters), lr=self.lr, momentum=self.momentum)


class Adafactor(Optimiser, name="adafactor"):
    """Adafactor (Shazeer & Stern, arXiv:1804.04235): second moments of matrices by their rows and columns only.

    A step is `lr` (at most 1 / sqrt(step)) times the root mean square of the parameter, at least 1e-3: `lr` is relative to the size of
    the weights, and so larger than AdamW's. decay: second moments of step t decay by 1 - t^decay.
    """

    decay: float = Field(-0.8, lt=0.0)
    clip: float = Field(1.0, gt=0.0, description="largest root mean square of an update before the learning rate")
    weight_decay: float = Field(0.0, ge=0.0)

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        return torch.optim.Adafactor(
            list(parameters), lr=self.lr, beta2_decay=self.decay, d=self.clip, weight_decay=self.weight_decay
        )


class Muon(AdamW, name="muon"):
    """Muon for the matrices inside the network, AdamW for embeddings, the head and vectors, as its author says (Jordan et al. 2024,
    kellerjordan.github.io/posts/muon).

    The momentum of a matrix is made orthogonal before it is applied. adjust: ``adamw`` scales the step so that its root mean square is
    that of AdamW (Liu et al., arXiv:2502.16982), and one `lr` serves both; ``original`` by sqrt(max(1, rows / columns)).
    """

    momentum: float = Field(0.95, ge=0.0, lt=1.0)
    adjust: Literal["adamw", "original"] = "adamw"

    def refuse(self, algorithm: Any) -> str | None:
        if algorithm.policy.part == "given":
            return None
        return (
            f"it steps the matrices inside of a language model, and policy={algorithm.policy.part} has none; take adamw"
        )

    def over(
        self, parameters: Iterable[nn.Parameter], matrices: Collection[nn.Parameter] = ()
    ) -> torch.optim.Optimizer:
        found, inside = list(parameters), {id(parameter) for parameter in matrices}
        chosen = [id(parameter) in inside for parameter in found]

        def build(stepped: list[nn.Parameter]) -> torch.optim.Optimizer:
            hidden = [parameter for parameter, own in zip(stepped, chosen) if own]
            others = [parameter for parameter, own in zip(stepped, chosen) if not own]
            return Together([*([self._muon(hidden)] if hidden else []), *([self.build(others)] if others else [])])

        return exact(found, build)

    def _muon(self, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        way = "match_rms_adamw" if self.adjust == "adamw" else "original"
        return torch.optim.Muon(
            parameters, lr=self.lr, weight_decay=self.weight_decay, momentum=self.momentum, adjust_lr_fn=way
        )


class _BitsAndBytes(Optimiser):
    """An optimiser of bitsandbytes. kind: its class there."""

    kind: ClassVar[str]
    weight_decay: float = Field(0.0, ge=0.0)

    def refuse(self, algorithm: Any) -> str | None:
        return lacking() or None

    def build(self, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
        if (reason := self.refuse(None)) is not None:
            raise UserError(f"update.optimiser ({self.part}): {reason}")
        from bitsandbytes import optim

        found: torch.optim.Optimizer = getattr(optim, self.kind)(
            list(parameters), lr=self.lr, weight_decay=self.weight_decay, **self._more()
        )
        return found

    def _more(self) -> dict[str, Any]:
        return {}


class AdamW8bit(_BitsAndBytes, name="adamw_8bit"):
    """AdamW whose two moments are kept in 8 bits, in blocks (Dettmers et al., arXiv:2110.02861); those of parameters with fewer than
    4,096 numbers in 32. By bitsandbytes."""

    kind = "AdamW8bit"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.999, ge=0.0, lt=1.0)
    eps: float = Field(1e-8, gt=0.0)

    def _more(self) -> dict[str, Any]:
        return {"betas": (self.beta1, self.beta2), "eps": self.eps}


class Lion(_BitsAndBytes, name="lion"):
    """Lion (Chen et al., arXiv:2302.06675): the sign of a momentum, so every weight moves by `lr`, which is to be three to ten times
    smaller than AdamW's. By bitsandbytes."""

    kind = "Lion"
    beta1: float = Field(0.9, ge=0.0, lt=1.0)
    beta2: float = Field(0.99, ge=0.0, lt=1.0)

    def _more(self) -> dict[str, Any]:
        return {"betas": (self.beta1, self.beta2)}


class Lion8bit(Lion, name="lion_8bit"):
    """Lion with its momentum kept in 8 bits. By bitsandbytes."""

    kind = "Lion8bit"


class States(MutableMapping[Any, Any]):
    """What several optimisers know of their parameters, each kept by the one that steps it: the states make an entry where they
    are asked for one, so that of a foreign parameter none may be asked."""

    def __init__(self, inner: list[torch.optim.Optimizer]) -> None:
        self.states = [one.state for one in inner]
        self.owners = {p: one.state for one in inner for group in one.param_groups for p in group["params"]}

    def __contains__(self, parameter: object) -> bool:
        return parameter in self.owners and parameter in self.owners[parameter]

    def __getitem__(self, parameter: Any) -> Any:
        return self.owners[parameter][parameter]

    def __setitem__(self, parameter: Any, known: Any) -> None:
        self.owners[parameter][parameter] = known

    def __delitem__(self, parameter: Any) -> None:
        del self.owners[parameter][parameter]

    def __iter__(self) -> Iterator[Any]:
        return chain.from_iterable(self.states)

    def __len__(self) -> int:
        return sum(map(len, self.states))


class Together(torch.optim.Optimizer):
    """Several optimisers over different parameters, stepped as one."""

    def __init__(self, inner: list[torch.optim.Optimizer]) -> None:
        self.inner = inner
        super().__init__([p for one in inner for group in one.param_groups for p in group["params"]], {})
        self._join()

    def _join(self) -> None:
        self.param_groups = [group for one in self.inner for group in one.param_groups]
        self.state = States(self.inner)  # type: ignore[assignment]

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        if closure is not None:
            raise ValueError("optimisers together take no closure")
        for one in self.inner:
            one.step()

    def state_dict(self) -> dict[str, Any]:
        return {"inner": [one.state_dict() for one in self.inner]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for one, saved in zip(self.inner, state["inner"], strict=True):
            one.load_state_dict(saved)
        self._join()


__all__ = ["SGD", "Adafactor", "AdamW", "AdamW8bit", "Lion", "Lion8bit", "Muon", "Together"]
