"""The guard: whatever is quicker than one plain pass of transformers must give what that pass gives.

Paged memory, caches, left padding, packed trees and heads applied to chosen states are claims about code that others wrote.
Before a model is sampled from or trained, a few short sequences go through the path and through transformers one at a time, and
the log-probabilities are compared at a temperature so low that small differences of the logits show. A path that differs is
refused in a sentence and the next slower one is tried; a model that no path computes rightly is refused.

A verdict holds for a kind of model (class, configuration, modules, type, device) and is kept for the process.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from anypo.errors import UserError, note

Path = TypeVar("Path")

PROMPTS, NEW = (2, 9), 2
"""Lengths of the prompts, and tokens that follow each."""

LOUD = 20.0
"""The temperature makes the largest logit (from their mean) at least this: positions, caches and padding that are wrong are then
wrong by nats also in a model that was never trained."""

BOUND, BOUND_REDUCED = 1e-3, 1.0
"""Largest gap in nats: of any token in float32 or float64, and of a sequence's mean in reduced precision, where a token of a right
path may be off by some tenths at this temperature."""


@dataclass(frozen=True)
class Reference:
    """sequences: token ids [L]; the last two begin with the same prompt. prompts: how many tokens of each are its prompt.
    logp: log-probabilities of all tokens but the first, [L - 1] each, at `temperature`. table: those of the whole vocabulary in the
    second sequence, [L, vocabulary]. bound: largest gap of a right path. telling: whether the logits differ at all."""

    sequences: tuple[np.ndarray, ...]
    prompts: tuple[int, ...]
    logp: tuple[Tensor, ...]
    table: Tensor
    temperature: float
    bound: float
    telling: bool

    @staticmethod
    @torch.no_grad()
    def of(model: Any) -> Reference:
        """Plain passes of `model`, each over one sequence without padding or memory. Raises `UserError` where there is none."""
        short, long = PROMPTS
        ids = _ordinary(model, short + long + 3 * NEW)
        cuts = np.split(ids, np.cumsum([short + NEW, long, NEW]))
        sequences = (cuts[0], np.concatenate(cuts[1:3]), np.concatenate([cuts[1], cuts[3]]))
        logits = [plain(model, sequences[:1])[0], *plain(model, sequences[1:])]
        spread = float(max((z - z.mean(-1, keepdim=True)).abs().max() for z in logits))
        temperature = min(1.0, spread / LOUD) if spread > 0 else 1.0
        tables = [(z / temperature).log_softmax(-1) for z in logits]
        logp = tuple(
            table[:-1].gather(1, torch.from_numpy(ids[1:, None]).to(table.device))[:, 0]
            for table, ids in zip(tables, sequences)
        )
        wide = all(p.dtype.itemsize >= 4 for p in model.parameters() if p.is_floating_point())
        wide = wide and not torch.is_autocast_enabled(logits[0].device.type)
        telling = bool(np.isfinite(spread) and spread > 1e-6)
        bound = BOUND if wide else BOUND_REDUCED
        return Reference(sequences, (short, long, long), logp, tables[1], temperature, bound, telling)

    def gap(self, found: Sequence[Tensor]) -> float:
        """How far log-probabilities of the last tokens of every sequence are from the plain ones, in nats."""
        apart = [(a - b[-len(a) :].to(a.device)).abs() for a, b in zip(found, self.logp)]
        worst = max(float(x.max() if self.bound == BOUND else x.mean()) for x in apart)
        return worst if np.isfinite(worst) else float("inf")

    def ahead(self, model: Any) -> float:
        """How far predictions within a prompt move when tokens follow it, in nats: 0 where nothing looks ahead."""
        start = self.prompts[1]
        alone = (plain(model, [self.sequences[1][:start]])[0] / self.temperature).log_softmax(-1)
        apart = (alone - self.table[:start]).abs()
        return float(apart.max() if self.bound == BOUND else apart.mean())


@torch.no_grad()
def plain(model: Any, sequences: Sequence[np.ndarray]) -> Tensor:
    """Logits [S, L, vocabulary] of one plain pass over sequences of one length, float32 or wider. Raises `UserError` for a model that
    does not continue texts."""
    ids = torch.from_numpy(np.stack(sequences)).to(next(model.parameters()).device)
    try:
        logits: Tensor = model(input_ids=ids).logits
    except Exception as error:
        narrow = next(model.parameters()).dtype.itemsize < 4
        raise UserError(
            f"{kind(model)} cannot be a policy: a plain pass of transformers over tokens alone fails ({reason(error)}); "
            + ("try --dtype float32, or " if narrow else "")
            + "choose another causal language model"
        ) from None
    if logits.shape[:2] != ids.shape:
        raise UserError(
            f"{kind(model)} cannot be a policy: it gives {tuple(logits.shape)} numbers for {tuple(ids.shape)} tokens; "
            "choose a causal language model"
        )
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def reference(model: Any) -> Reference:
    """Plain passes of `model` as it is now; those of the last model asked for are kept until its weights change."""
    weights = sum(p._version + p.data_ptr() for p in model.parameters())
    if not _LAST or _LAST[0]() is not model or _LAST[1] != weights:
        _LAST[:] = [weakref.ref(model), weights, Reference.of(model)]
    return _LAST[2]  # type: ignore[no-any-return]


_LAST: list[Any] = []
_CHOSEN: dict[tuple[Any, ...], str] = {}


def choose(
    what: str,
    model: Any,
    paths: Mapping[str, Callable[[], Path]],
    gap: Callable[[Path, Reference], float],
    check: Callable[[Reference], None] | None = None,
) -> tuple[str, Path]:
    """The first of `paths` (name and maker, the fastest first) that agrees with plain passes of `model`, and its name.

    what: what the paths do ("sampling"). A path that cannot be opened or run counts as one that differs. `UserError` when none is
    left, and whatever `check` raises of the reference.
    """
    key = (what, *paths, *_fingerprint(model))
    if key in _CHOSEN:
        return _CHOSEN[key], paths[_CHOSEN[key]]()
    known = reference(model)
    if check is not None and known.telling:
        check(known)
    refused: list[str] = []
    for name, make in paths.items():
        try:
            path = make()
        except UserError:
            raise
        except Exception as error:
            refused.append(f"{name} it cannot be opened ({reason(error)})")
            continue
        trouble = _trouble(path, gap, known)
        if not trouble or not known.telling:
            if known.telling:
                _CHOSEN[key] = name
            if refused:
                note(f"{what} of {kind(model)} goes {name}: " + "; ".join(refused))
            return name, path
        refused.append(f"{name} it {trouble}")
    raise UserError(f"{kind(model)} cannot be a policy, no way of running it is right: {'; '.join(refused)}")


def _trouble(path: Path, gap: Callable[[Path, Reference], float], known: Reference) -> str:
    """What is wrong with a path, or nothing."""
    try:
        found = gap(path, known)
    except Exception as error:
        return f"cannot run ({reason(error)})"
    return "" if found <= known.bound else f"differs from a plain pass of transformers by {found:.2g} nats"


def kind(model: Any) -> str:
    """The class of the model, and that it has adapters."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    return type(base).__name__ + (" with adapters" if base is not model else "")


def reason(error: Exception) -> str:
    """An exception in a few words."""
    text = " ".join(str(error).split())
    return (
        f"{type(error).__name__}: {text if len(text) <= 160 else text[:160] + '...'}" if text else type(error).__name__
    )


def _ordinary(model: Any, count: int) -> np.ndarray:
    """Token ids [count] that no configuration gives a meaning to, where there are enough of them."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    size = base.get_input_embeddings().num_embeddings
    special: set[int] = set()
    for config in (base.config, base.config.get_text_config()):
        for name, value in config.to_dict().items():
            if "token" in name:
                special |= {v for v in (value if isinstance(value, list) else [value]) if isinstance(v, int)}
    ordinary = np.array([i for i in range(2, min(size, 4096)) if i not in special] or [0], dtype=np.int64)
    return ordinary[(np.arange(count) * 31 + 7) % len(ordinary)]


def _fingerprint(model: Any) -> tuple[Any, ...]:
    """What a verdict depends on, the weights' values left out."""
    first = next(model.parameters())
    types = {p.dtype for p in model.parameters()} | {torch.is_autocast_enabled(first.device.type)}
    modules = hash(tuple(type(module) for module in model.modules()))
    return type(model), repr(model.config), modules, frozenset(types), first.device.type
