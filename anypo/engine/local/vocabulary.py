"""From hidden states to the next token: one pass over the vocabulary for log-probability, entropy and an exact draw.

The vocabulary is walked in spans of at most `SPAN` tokens, small enough to stay in cache. Each span leaves its maximum, its sum
of p z and the mass of pieces of `PIECE` tokens (p = exp(z - max of the span)); rescaled, the pieces are a two-level cumulative
distribution, so inversion needs one uniform number and looks inside a single piece. Every number of a row is computed by the same
operations in the same order whatever the other rows are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from anypo.engine.base import Sampling
from anypo.engine.device import together, widest
from anypo.engine.product import packed, product
from anypo.errors import UserError

SPAN, PIECE = 12288, 256
ROWS = 128
"""Rows handled at once, so that their logits stay near the processor."""

NOWHERE = -1e30
"""Stands for -inf: exp of it is 0, and 0 times it is 0."""


@dataclass
class Wish:
    """What one row wants: how to sample, its uniform number, a token forced on it (-1: none), top-k to report (0: none)."""

    sampling: Sampling
    uniform: float
    forced: int = -1
    top: int = 0


@dataclass
class Drawn:
    """Columns over the rows: the token; log-probability under the distribution sampled from (a forced token that truncation
    excludes gets that of the untruncated one; greedy rows get that of temperature 1); entropy before truncation; log of the
    kept mass (0 where a forced token lies outside); the ids kept [K], None where truncation left nothing out; reported top-k (ids,
    log-probabilities before truncation) or None."""

    token: np.ndarray
    logp: np.ndarray
    entropy: np.ndarray
    log_mass: np.ndarray
    kept: list[np.ndarray | None]
    top: list[tuple[np.ndarray, np.ndarray] | None]


@dataclass(frozen=True)
class _Read:
    """One pass over the vocabulary: scaled logits z [C, n, span], maxima per span [C, n] and in all [n]; masses relative to these:
    of pieces [n, pieces], of all that may be drawn [n], and the log of what there is [n]; the entropy [n] of the whole
    distribution; logits of the ids never drawn [n, never] (None: there are none)."""

    z: Tensor
    top: Tensor
    best: Tensor
    pieces: Tensor
    total: Tensor
    log_total: Tensor
    entropy: Tensor
    lost: Tensor | None


class Vocabulary:
    """Draws from softmax(head @ hidden), or from given logits when `head` is None. Keeps its buffers between calls.

    never: ids that are not drawn, because the tokenizer has no text for them. Leaving them out is a truncation like any other: their
    mass is missing in `log_mass`, and the entropy is that of the whole distribution.
    """

    def __init__(self, head: Tensor | None) -> None:
        self.head = head
        self.never: Tensor | None = None
        self._spans: dict[int, Tensor] = {}
        self._space: dict[str, Tensor] = {}

    def renew(self) -> None:
        """The head changed."""
        self._spans.clear()

    def draw(self, rows: Tensor, wishes: Sequence[Wish]) -> Drawn:
        """One token for every wish. `rows` [N', hidden] (or [N', vocabulary] logits), N' >= N = len(wishes); rows behind N
        are padding. Raises `UserError` when logits are not finite."""
        parts = []
        for start in range(0, len(wishes), ROWS):
            stop = min(start + ROWS, len(wishes))
            padded = min(rows.shape[0], start + ROWS) if stop == len(wishes) else stop
            parts.append(self._draw(rows[start:padded], wishes[start:stop]))
        if len(parts) == 1:
            return parts[0]
        return Drawn(
            np.concatenate([part.token for part in parts]),
            np.concatenate([part.logp for part in parts]),
            np.concatenate([part.entropy for part in parts]),
            np.concatenate([part.log_mass for part in parts]),
            [kept for part in parts for kept in part.kept],
            [top for part in parts for top in part.top],
        )

    def _draw(self, rows: Tensor, wishes: Sequence[Wish]) -> Drawn:
        together("the vocabulary", rows, self.head)
        n, device = len(wishes), rows.device
        heat = np.array([w.sampling.temperature or 1.0 for w in wishes])
        if any(w.sampling.heat for w in wishes):  # a first pass at temperature 1 says how uncertain each row is
            doubt = self._read(rows, n, None).entropy.cpu().numpy()
            heat = heat * [w.sampling.heat.factor(d) if w.sampling.heat else 1.0 for w, d in zip(wishes, doubt)]
        cool = None if np.all(heat == 1.0) else torch.from_numpy(1.0 / heat).to(device, torch.float32)[:, None]
        read = self._read(rows, n, cool)
        z, top, best, pieces, log_total, entropy = (
            read.z,
            read.top,
            read.best,
            read.pieces,
            read.log_total,
            read.entropy,
        )
        span, total = z.shape[2], read.total
        kept = total.log()
        cut = [i for i, w in enumerate(wishes) if w.sampling.temperature and truncates(w.sampling)]
        originals = None
        left: list[np.ndarray | None] = [None] * n
        if cut:
            where = torch.tensor(cut, device=device)
            originals = z[:, where].clone()
            pieces[where], ids = _truncate(z, where, best, total, [wishes[i].sampling for i in cut])
            kept = pieces.sum(1).log()
            whole = (rows.shape[1] if self.head is None else len(self.head)) - (
                0 if self.never is None else len(self.never)
            )
            for i, own in zip(cut, ids):
                left[i] = own if len(own) < whole else None

        uniform = torch.tensor([w.uniform for w in wishes], dtype=pieces.dtype, device=device)
        token = _invert(z, pieces, best, uniform)
        for i, wish in enumerate(wishes):
            if wish.sampling.temperature == 0.0:
                place = int((top[:, i] == best[i]).nonzero()[0])
                token[i] = place * span + int(z[place, i].argmax())
        forced = torch.tensor([w.forced for w in wishes], device=device)
        token = torch.where(forced >= 0, forced, token)
        chosen = z[token // span, torch.arange(n, device=device), token % span].to(pieces.dtype)
        logp = chosen - best - kept
        log_mass = kept - log_total
        if originals is not None:
            logp, log_mass = _excluded(logp, log_mass, originals, where, token, best, log_total)
        if self.never is not None and read.lost is not None:
            row, column = (token[:, None] == self.never).nonzero(
                as_tuple=True
            )  # only a forced token can be one of them
            logp[row] = read.lost[row, column] - best[row] - log_total[row]
        return Drawn(
            token.cpu().numpy(),
            logp.clamp(max=0.0).float().cpu().numpy(),
            entropy.float().cpu().numpy(),
            log_mass.clamp(max=0.0).float().cpu().numpy(),
            left,
            [self._top(z, i, wish.top, best, log_total, cut, originals) for i, wish in enumerate(wishes)],
        )

    def _read(self, rows: Tensor, n: int, cool: Tensor | None) -> _Read:
        """One pass over the vocabulary for the first n rows, logits scaled by `cool` [n, 1]. Raises `UserError` when they are not
        finite."""
        z, top, mass, moment, lost = self._pass(rows, n, cool)
        best, pieces, total, entropy = _summary(top, mass, moment)
        log_total = total.log()
        if lost is None:
            return _Read(z, top, best, pieces, total, log_total, entropy, None)
        lost = _wide(lost)
        log_kept, outside = log_total, lost - best[:, None]
        log_total = torch.logaddexp(log_kept, outside.logsumexp(1))
        share, outside = log_kept - log_total, outside - log_total[:, None]
        entropy = share.exp() * (entropy - share) - (outside.exp() * outside).sum(1)
        return _Read(z, top, best, pieces, total, log_total, entropy.clamp(min=0.0), lost)

    def _pass(self, rows: Tensor, n: int, cool: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]:
        """Scaled logits z [C, n, span]; per span maxima [C, n], piece masses [C, n, span/PIECE] and sums of p z [C, n]; and what z
        leaves out, scaled logits of the ids never drawn [n, never] (None: there are none)."""
        size = self.head.shape[0] if self.head is not None else rows.shape[1]
        span = min(SPAN, -(-size // PIECE) * PIECE)
        spans, height, device = -(-size // span), rows.shape[0], rows.device
        z = self._buffer("z", (spans, height, span), device)
        p = self._buffer("p", (n, span), device)
        top = torch.empty(spans, n, device=device)
        mass = torch.empty(spans, n, span // PIECE, device=device)
        moment = torch.empty(spans, n, device=device)
        lost: list[Tensor] = []
        for c in range(spans):
            low, high = c * span, min(size, (c + 1) * span)
            self._logits(rows, low, high, z[c])
            here = z[c, :n]
            if cool is not None:
                here.mul_(cool)
            if high - low < span:
                here[:, high - low :] = NOWHERE
            if self.never is not None:
                never = self.never if spans == 1 else self.never[(self.never >= low) & (self.never < high)] - low
                lost.append(here[:, never])
                here.index_fill_(1, never, NOWHERE)
            torch.amax(here, 1, out=top[c])
            torch.sub(here, top[c][:, None], out=p).exp_()
            torch.sum(p.view(n, -1, PIECE), 2, out=mass[c])
            torch.sum(p.mul_(here), 1, out=moment[c])
        return z[:, :n], top, mass, moment, torch.cat(lost, 1) if lost else None

    def _logits(self, rows: Tensor, low: int, high: int, out: Tensor) -> None:
        """Logits of the tokens low..high-1 into out[:, :high-low]."""
        if self.head is None:
            torch.clamp(rows[:, low:high], min=NOWHERE, out=out[:, : high - low])
            return
        weight = self._spans.get(low)
        if weight is None:
            weight = self._spans[low] = packed(self.head[low:high])
        if high - low == out.shape[1] and out.dtype == rows.dtype:
            product(rows, weight, out)
        else:
            out[:, : high - low] = product(rows, weight)

    def _buffer(self, name: str, shape: tuple[int, ...], device: torch.device) -> Tensor:
        size = math.prod(shape)
        space = self._space.get(name)
        if space is None or space.numel() < size or space.device != device:
            space = torch.empty(size, device=device)
            self._space[name] = space
        return space[:size].view(shape)

    def _top(
        self, z: Tensor, row: int, k: int, best: Tensor, log_total: Tensor, cut: list[int], originals: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        if not k:
            return None
        scores = originals[:, cut.index(row)] if originals is not None and row in cut else z[:, row]
        values, ids = scores.reshape(-1).topk(min(k, scores.numel()))
        return ids.cpu().numpy(), (_wide(values) - best[row] - log_total[row]).float().cpu().numpy()


def truncates(sampling: Sampling) -> bool:
    """Whether the request leaves tokens out."""
    return sampling.top_k > 0 or sampling.top_p < 1.0 or sampling.min_p > 0.0


def _truncate(
    z: Tensor, where: Tensor, best: Tensor, total: Tensor, samplings: list[Sampling]
) -> tuple[Tensor, list[np.ndarray]]:
    """Push what top-k, then top-p (of what is left), then min-p exclude out of rows `where` of z; piece masses that remain, and the
    ids that remain in every row, ascending, int32 [K].

    Each rule keeps the tokens at least as probable as a threshold, so equally probable tokens stay or go together.
    """
    size = z.shape[0] * z.shape[2]
    scores = z[:, where].transpose(0, 1).reshape(len(samplings), size)
    peak = best[where]
    limit = torch.full_like(peak, NOWHERE / 2)
    for i, sampling in enumerate(samplings):
        row = scores[i]
        if 0 < sampling.top_k < size:
            limit[i] = row.topk(sampling.top_k).values[-1]
        if sampling.top_p < 1.0:
            limit[i] = torch.maximum(limit[i], _nucleus(row, limit[i], peak[i], total[where[i]], sampling.top_p))
        if sampling.min_p > 0.0:
            limit[i] = torch.maximum(limit[i], peak[i] + float(np.log(sampling.min_p)))
    limit = torch.minimum(limit, peak)
    scores.masked_fill_(scores < limit[:, None], NOWHERE)
    z[:, where] = scores.view(len(samplings), -1, z.shape[2]).transpose(0, 1)
    row, ids = (scores > NOWHERE / 2).nonzero(as_tuple=True)
    left = np.split(ids.int().cpu().numpy(), row.bincount(minlength=len(samplings)).cumsum(0)[:-1].cpu().numpy())
    return _wide((scores - peak[:, None]).exp_().view(len(samplings), -1, PIECE).sum(2)), left


def _nucleus(row: Tensor, limit: Tensor, peak: Tensor, total: Tensor, top_p: float) -> Tensor:
    """The smallest score of the smallest set of most probable tokens (at least `limit`) holding top_p of their mass."""
    if float(limit) > NOWHERE / 2:
        left = _wide(row[row >= limit] - peak).exp()
        goal = top_p * left.sum()
        candidates = left.numel()
    else:
        goal, candidates = top_p * total, min(1024, row.numel())
    while True:
        values = row.topk(candidates).values
        before = _wide(values - peak).exp().cumsum(0).roll(1)
        before[0] = 0.0
        inside = int((before < goal).sum())
        if inside < candidates or candidates >= row.numel() or float(limit) > NOWHERE / 2:
            return values[inside - 1]
        candidates = min(16 * candidates, row.numel())


def _summary(top: Tensor, mass: Tensor, moment: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """From what `_pass` found per span: largest logit [n], piece masses over all spans [n, pieces], their sum [n], and the entropy
    [n] in nats. Raises `UserError` when the logits are not finite."""
    best = top.max(0).values
    scale = _wide(top - best).exp()
    pieces = (_wide(mass) * scale[:, :, None]).transpose(0, 1).reshape(len(best), -1)
    total = pieces.sum(1)
    if not bool(torch.isfinite(total).all()):
        raise UserError("the model's logits are not finite; the weights have diverged (lower the learning rate)")
    entropy = _wide(best) + total.log() - (_wide(moment) * scale).sum(0) / total
    return best, pieces, total, entropy.clamp(min=0.0)


def _invert(z: Tensor, pieces: Tensor, best: Tensor, uniform: Tensor) -> Tensor:
    """Tokens [n] by inversion of the cumulative distribution at uniform [n]; only tokens of positive mass are returned."""
    n = pieces.shape[0]
    heap = pieces.cumsum(1)
    whole = heap[:, -1]
    target = torch.minimum(uniform * whole, torch.nextafter(whole, torch.zeros_like(whole)))
    piece = torch.searchsorted(heap, target[:, None], right=True)[:, 0]
    mass = pieces.gather(1, piece[:, None])[:, 0]
    inside = ((target - (heap.gather(1, piece[:, None])[:, 0] - mass)) / mass).clamp(
        0.0, 1.0 - torch.finfo(mass.dtype).eps / 2
    )
    per_span = z.shape[2] // PIECE
    rows = torch.arange(n, device=z.device)
    window = z.unflatten(2, (per_span, PIECE))[piece // per_span, rows, piece % per_span]
    steps = _wide(window - best[:, None]).exp().cumsum(1)
    place = torch.searchsorted(steps, (inside * steps[:, -1])[:, None], right=True)[:, 0]
    return piece * PIECE + place.clamp(max=PIECE - 1)


def _excluded(
    logp: Tensor, log_mass: Tensor, originals: Tensor, where: Tensor, token: Tensor, best: Tensor, log_total: Tensor
) -> tuple[Tensor, Tensor]:
    """Give forced tokens outside the kept set their log-probability before truncation, and a log mass of 0."""
    rows = token[where]
    span = originals.shape[2]
    whole = originals[rows // span, torch.arange(len(where), device=where.device), rows % span]
    whole = _wide(whole) - best[where] - log_total[where]
    outside = logp[where] < NOWHERE / 2
    logp[where] = torch.where(outside, whole, logp[where])
    log_mass[where] = log_mass[where].masked_fill(outside, 0.0)
    return logp, log_mass


def _wide(x: Tensor) -> Tensor:
    """x in the widest type its device has."""
    return x.to(widest(x.device))
