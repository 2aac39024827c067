"""How good is the gradient a method estimates? Bias, variance and signal of credit x objective, against the exact gradient."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor

from anypo import roles
from anypo.algorithm import Algorithm
from anypo.context import Context, Memory
from anypo.control.visits import Visits
from anypo.data.batch import Batch
from anypo.data.records import Group
from anypo.exact.bench import OLDEST, Scene, Setting, pack, scene, split
from anypo.exact.policy import LETTERS
from anypo.filter import Screen
from anypo.fits import POLICY
from anypo.generate.base import Independent, World
from anypo.plugins import chosen, plugin
from anypo.run.settings.presets import has_path
from anypo.tasks.base import Task
from anypo.update.gradient import by_gradient
from anypo.update.pulls import Pull
from anypo.update.weights import Weights

BLOCKS = 20
"""Groups of draws left out in turn by the jackknife."""

CRITIC_LR, CRITIC_WARMUP = 0.05, 200
"""Critics are first fitted for so many batches, at a learning rate that suits a table."""


@dataclass(frozen=True)
class Measurement:
    """One estimator in one setting. g: its ascent direction for one batch, G: the true gradient; `_se` are jackknife standard
    errors. Unmeasured rows carry a `reason` and nan.

    bias: |E g - G| / |G|, with the sampling noise of the mean removed; floor: the noise of the mean, below which no bias can
    be seen. angle_bias: what is left of it after the best rescaling of g, sqrt(1 - cos^2), and angle_floor: the
    smallest that can be seen; cosine: cos(E g, G); scale: <E g, G> / |G|^2. variance: tr Cov(g) / |G|^2. snr: |E g|^2 / tr Cov(g).
    alignment: E cos(g, G) of single batches. sign_direction: share of batches with <g, G> > 0. sign_parameters: share of
    single parameters with the right sign, over batches. ess: effective sample size of the weights put on the score functions, as a
    share of the decisions with an advantage. dead: share of batches without any gradient. drift: KL(sampler || current).
    pulled: the method also pulls towards something else than the reward (a reference, entropy, demonstrations), which counts as
    bias here.
    """

    system: str
    setting: Setting
    draws: int = 0
    bias: float = math.nan
    bias_se: float = math.nan
    floor: float = math.nan
    angle_bias: float = math.nan
    angle_bias_se: float = math.nan
    angle_floor: float = math.nan
    cosine: float = math.nan
    cosine_se: float = math.nan
    scale: float = math.nan
    scale_se: float = math.nan
    variance: float = math.nan
    variance_se: float = math.nan
    snr: float = math.nan
    snr_se: float = math.nan
    alignment: float = math.nan
    alignment_se: float = math.nan
    sign_direction: float = math.nan
    sign_direction_se: float = math.nan
    sign_parameters: float = math.nan
    sign_parameters_se: float = math.nan
    ess: float = math.nan
    ess_se: float = math.nan
    dead: float = math.nan
    drift: float = math.nan
    pulled: bool = False
    seconds: float = 0.0
    reason: str = ""

    def row(self) -> dict[str, Any]:
        """Flat and JSON-safe: the setting's fields beside the numbers, nan as None."""
        plain = asdict(self)
        setting = plain.pop("setting")
        values = {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in plain.items()}
        return {"system": self.system, **setting, **{k: v for k, v in values.items() if k != "system"}}


def measure(algorithm: Algorithm, setting: Setting, draws: int = 400, warmup: int = 16, seed: int = 1) -> Measurement:
    """Measure one algorithm in one setting over `draws` independent batches (the same batches for every algorithm that samples
    and filters plainly). A method that cannot be measured comes back with the reason."""
    began = time.perf_counter()
    place = scene(setting)
    try:
        estimator = Estimator(algorithm, place, seed)
        if estimator.reason:
            return Measurement(algorithm.name, setting, drift=place.drift, reason=estimator.reason)
        gradients, ess = estimator.run(draws, warmup)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Measurement(algorithm.name, setting, drift=place.drift, reason=reason[:300])
    if estimator.reason:
        return Measurement(algorithm.name, setting, drift=place.drift, reason=estimator.reason)
    numbers = summarise(gradients, ess, place.gradient)
    return Measurement(
        algorithm.name, setting, draws, drift=place.drift, pulled=pulled(algorithm),
        seconds=time.perf_counter() - began, **numbers,
    )  # fmt: skip


def pulled(algorithm: Algorithm) -> bool:
    """The loss differs from a surrogate of the reward: it reads a reference or differentiates the entropy."""
    return bool({"logp_ref", "entropy"} & algorithm.columns())


class Estimator:
    """One algorithm at the end of a scene's path: turns batches into parameter gradients, through the weights that train."""

    def __init__(self, algorithm: Algorithm, place: Scene, seed: int) -> None:
        s = place.setting
        wanted = {
            "control.prompts": s.prompts,
            "control.samples": s.group,
            "generate.max_new": s.horizon,
            "credit.optimiser.lr": CRITIC_LR,
            "engine.reuse_logp": "always" if s.old == "sampler" else "never",
            "update.epochs": 1,
            "update.minibatches_per_epoch": 1,
            "update.reference.keep": OLDEST + 1,
            "filter.signals.0.answer": "whole",  # answers are words here, not numbers
            "objective.view.template": "{prompt} ={solution}",  # which is all the policy can read
            "generate.tags": list(LETTERS[: s.vocabulary - 1]),  # and a mode is chosen by the first letter
        }
        plain = {path: value for path, value in wanted.items() if has_path(algorithm, path)}
        self.algorithm = Algorithm.from_dict(algorithm.set(plain).dump()).check()
        self.place, self.seed = place, seed
        self.policy = place.policy()
        with torch.no_grad():  # a reference policy is the one the path began with
            self.policy.weight.copy_(place.weights[0])
        models = roles.cast(self.algorithm.models, self.policy, place.sampler(seed), seed)
        self.weights = Weights(self.algorithm, self.policy, seed, exact_sampler=s.noise == 0.0, models=models)
        self.reference = self.weights.reference
        if hasattr(self.reference, "add"):  # but one that remembers versions has seen the whole path
            self.reference.kept.clear()
            for behind in range(s.staleness, -1, -1):
                self.reference.add(place.policy(behind))
        self._arrive()
        self.memory = Memory(self.algorithm)
        self.sampler = place.sampler(seed)
        self.logp = self.policy.log_table().detach()
        live = self.weights.names.live[POLICY]
        distils = bool(live) and not {"logp", "entropy"} & live.keys()
        self.reason = (
            f"it differentiates {', '.join(sorted(live))}, no estimate of the reward's gradient" if distils else ""
        )

    def _arrive(self) -> None:
        """Put the policy at the end of the path."""
        with torch.no_grad():
            self.policy.weight.copy_(self.place.weights[-1])
        self.policy.version = len(self.place.weights) - 1
        self.weights.reference = self.reference

    def run(self, draws: int, warmup: int) -> tuple[Tensor, Tensor]:
        """Gradients [draws, D] and effective sample sizes [draws].

        The first `warmup` batches train what the parts remember (trackers, critics, multipliers) while the policy stays where it is;
        every measured batch then meets that same state.
        """
        if len(self.weights.learners) > 1:
            warmup = max(warmup, CRITIC_WARMUP)
        batches = self._batches(draws + warmup)
        for number in range(warmup):
            context = self.context(number)
            batch = next(batches)(context)
            if len(batch) == 0:
                continue
            self.algorithm.update.apply(self.algorithm.credit.assign(batch, context), self.weights, context)
            self._arrive()
        saved = self.memory.state_dict()
        shape = (draws, *self.logp.shape)
        on_logp, on_entropy = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape[:-1], dtype=torch.float64)
        ess = torch.full((draws,), math.nan, dtype=torch.float64)
        for number in range(draws):
            self.memory.load_state_dict(saved)
            context = self.context(warmup, number)
            batch = next(batches)(context)
            if len(batch) == 0:
                continue
            batch = self.algorithm.credit.assign(batch, context)
            pull = by_gradient(self.algorithm).pull(batch, self.weights, self.current, context)
            self.add(pull, on_logp[number], on_entropy[number])
            ess[number] = effective_share(pull)
        self._unmeasured(on_logp, on_entropy)
        return self.parameters(on_logp, on_entropy), ess

    def _unmeasured(self, on_logp: Tensor, on_entropy: Tensor) -> None:
        if not bool(torch.isfinite(on_logp).all() & torch.isfinite(on_entropy).all()):
            self.reason = "the gradient is not finite on some batches"
        elif not bool(on_logp.any() or on_entropy.any()):
            self.reason = "no batch gave any gradient on the policy"

    def context(self, step: int, draw: int = 0) -> Context:
        """The context of one batch; randomness differs by draw."""
        return Context(step, 10 * (step + 1), self.seed + 7919 * draw, self.memory)

    @property
    def current(self) -> bool:
        """The ``_old`` columns are those of the current weights."""
        return self.place.setting.old == "trainer"

    # -- sampling -------------------------------------------------------------------------------------------------------------

    def _batches(self, count: int) -> Iterator[Callable[[Context], Batch]]:
        """`count` batches with the columns filled, each as a function of the context of its step."""
        plain = Screen(), Independent(max_new=self.place.setting.horizon)
        if (self.algorithm.filter, self.algorithm.generate) == plain and self._uniform():
            s, big = self.place.setting, _shared(self.place.setting, count, self.seed)
            alone = len(self.weights.learners) == 1  # with the policy still, its columns are the same for all batches
            for batch in split(self.weights.fill(big) if alone else big, s.prompts * s.group, s.prompts):
                yield lambda context, batch=batch: batch if alone else self.weights.fill(batch)  # type: ignore[misc]
            return
        visits = Visits()
        for number in range(count):
            yield lambda context, number=number: self._collect(number, visits, context)  # type: ignore[misc]

    def _uniform(self) -> bool:
        return self.algorithm.control.part == "uniform"

    def _collect(self, number: int, visits: Visits, context: Context) -> Batch:
        """A batch through the algorithm's own control, generator and filter."""
        algorithm, task = self.algorithm, self.place.task
        world = World(cast(Task, task), self.policy, self.sampler)
        kept: list[Group] = []
        own = Context(number, context.total, self.seed, self.memory, hooks=context.hooks)
        for _ in range(algorithm.filter.rounds):
            wanted = algorithm.generate.wants(algorithm.control.prompts, algorithm.control.prompts - len(kept), own)
            asks = visits.stamp(algorithm.control.choose(len(task), wanted, own) if wanted else [], world.problem)
            kept += algorithm.filter.screen(algorithm.generate.rollout(asks, world, own), own)
            if len(kept) >= algorithm.control.prompts:
                break
        kept = kept[: algorithm.control.prompts] if algorithm.filter.rounds > 1 else kept
        batch = pack([kept], self.policy)
        return self.weights.fill(batch) if len(batch) else batch

    # -- from coefficients to parameters ----------------------------------------------------------------------------------------

    def add(self, pull: Pull, on_logp: Tensor, on_entropy: Tensor) -> None:
        """Collect - rate x d loss / d column by (prompt, state, token)."""
        state, token = pull.batch["state"], pull.batch["token"]
        for name, gradient in pull.gradients.items():
            ascent = -pull.rate * gradient.double()
            if name == "logp":
                on_logp.view(-1).index_add_(0, state * self.logp.shape[-1] + token, ascent)
            elif name == "entropy":
                on_entropy.view(-1).index_add_(0, state, ascent)

    def parameters(self, on_logp: Tensor, on_entropy: Tensor) -> Tensor:
        """Parameter gradients [draws, D] of the collected coefficients: one batched backward pass through the logits."""
        p = self.logp.exp()
        own_entropy = -(p * self.logp).sum(-1, keepdim=True)
        to_logits = on_logp - p * on_logp.sum(-1, keepdim=True)
        to_logits -= on_entropy[..., None] * p * (self.logp + own_entropy)
        parameters = list(self.policy.parameters())
        found = torch.autograd.grad(self.policy.logits(), parameters, to_logits, is_grads_batched=True)
        return torch.cat([g.reshape(len(on_logp), -1) for g in found], 1)


@lru_cache(maxsize=4)
def _shared(setting: Setting, count: int, seed: int) -> Batch:
    """The batches all plainly sampling methods share in a setting, packed as one."""
    place = scene(setting)
    return pack(place.draw(count, seed), place.policy())


def effective_share(pull: Pull) -> float:
    """Kish's effective sample size (sum w)^2 / (n sum w^2) of the weights w = - (d loss / d logp) / advantage over the n
    decisions with an advantage; nan without any. Clipped decisions have weight 0, dominant ones lower it."""
    batch = pull.batch
    if "advantage" not in batch.rows or "logp" not in pull.gradients:
        return math.nan
    advantage, slope = batch["advantage"].double(), pull.gradients["logp"].double()
    live = (advantage != 0) & (batch.weight > 0)
    weight = -slope[live] / advantage[live]
    square = float((weight**2).sum())
    return float(weight.sum()) ** 2 / (len(weight) * square) if square > 0 else math.nan


# -- statistics ---------------------------------------------------------------------------------------------------------------


def summarise(gradients: Tensor, ess: Tensor, target: Tensor) -> dict[str, Any]:
    """The numbers of a `Measurement` from gradients [n, D], effective sample sizes [n] and the true gradient [D]."""
    n = len(gradients)
    inner = gradients @ target
    norms = gradients.norm(dim=1)
    alive = norms > 0
    cosines = torch.where(alive, inner / (norms.clamp(min=1e-300) * target.norm()), torch.zeros_like(inner))
    pointed = target != 0
    same = (torch.sign(gradients[:, pointed]) == torch.sign(target[pointed])).double().mean(1)
    blocks = torch.arange(n) * min(BLOCKS, n) // n
    sums = torch.zeros(int(blocks.max()) + 1, gradients.shape[1], dtype=torch.float64).index_add_(0, blocks, gradients)
    squares = torch.zeros(len(sums), dtype=torch.float64).index_add_(0, blocks, norms**2)
    sizes = torch.bincount(blocks).double()
    numbers: dict[str, Any] = _jackknife(lambda s, q, m: _moments(s, q, m, target), sums, squares, sizes)
    for name, values in (
        ("alignment", cosines),
        ("sign_direction", (inner > 0).double()),
        ("sign_parameters", same),
        ("ess", ess[torch.isfinite(ess)]),
    ):
        numbers[name] = float(values.mean()) if len(values) else math.nan
        numbers[f"{name}_se"] = float(values.std() / math.sqrt(len(values))) if len(values) > 1 else math.nan
    numbers["dead"] = float((~alive).double().mean())
    return numbers


def _moments(total: Tensor, squares: float, n: float, target: Tensor) -> dict[str, float]:
    """Bias, variance and signal from the sum of the gradients, the sum of their squared norms and their number."""
    mean, size = total / n, float(target @ target)
    spread = max(0.0, (squares - n * float(mean @ mean)) / (n - 1))  # tr Cov
    signal = float(mean @ mean) - spread / n  # |E g|^2 without the noise of the mean
    error = float((mean - target) @ (mean - target)) - spread / n
    along = float(mean @ target)
    cosine = along / math.sqrt(signal * size) if signal > 0 else 0.0
    cosine = max(-1.0, min(1.0, cosine))
    return {
        "bias": math.sqrt(max(0.0, error) / size),
        "floor": math.sqrt(spread / n / size),
        "angle_bias": math.sqrt(max(0.0, 1.0 - cosine**2)),
        "angle_floor": math.sqrt(min(1.0, spread / n / signal)) if signal > 0 else 1.0,
        "cosine": cosine,
        "scale": along / size,
        "variance": spread / size,
        "snr": max(0.0, signal) / spread if spread > 0 else math.inf,
    }


def _jackknife(
    statistics: Callable[[Tensor, float, float], dict[str, float]], sums: Tensor, squares: Tensor, sizes: Tensor
) -> dict[str, float]:
    """Statistics of all blocks, and their standard errors (`_se`) from leaving out one block at a time."""
    total, square, n = sums.sum(0), float(squares.sum()), float(sizes.sum())
    out = statistics(total, square, n)
    if len(sizes) > 2:
        left = [statistics(total - sums[b], square - float(squares[b]), n - float(sizes[b])) for b in range(len(sizes))]
        for name in [key for key in out if not key.endswith("floor")]:
            values = torch.tensor([entry[name] for entry in left], dtype=torch.float64)
            out[f"{name}_se"] = math.sqrt((len(left) - 1) * float(((values - values.mean()) ** 2).mean()))
    return out


def sweep(
    systems: Sequence[str], settings: Sequence[Setting], draws: int, jobs: int = 1, seed: int = 1
) -> Iterator[Measurement]:
    """Every system in every setting, in that order within each setting, as they are done."""
    from concurrent.futures import ProcessPoolExecutor
    from multiprocessing import get_context

    _single_threaded()  # tensors are tiny: threads would only wait for each other
    work = [(name, setting, draws, seed) for setting in settings for name in systems]
    if jobs <= 1:
        yield from (_one(item) for item in work)
        return
    with ProcessPoolExecutor(jobs, get_context("spawn"), _begin, (chosen(),)) as pool:
        yield from pool.map(_one, work, chunksize=1)


def _begin(plugins: Sequence[str]) -> None:
    """What a process needs before its first measurement."""
    _single_threaded()
    for name in plugins:
        plugin(name)


def _single_threaded() -> None:
    torch.set_num_threads(1)


def _one(item: tuple[str, Setting, int, int]) -> Measurement:
    from anypo.systems import find

    name, setting, draws, seed = item
    return measure(find(name).algorithm(), setting, draws, seed=seed)


__all__ = ["Estimator", "Measurement", "measure", "summarise", "sweep"]
