"""The matrix of families: which way each is sampled from and trained, and how far that is from plain transformers.

`python tests/engine/matrix.py` writes the table of docs/architectures.md (a minute or two).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import families
import numpy as np
import torch
from local_models import Endless

from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine
from anypo.engine.training import Sample, TrainingForward
from anypo.errors import Note, UserError

DOCS = Path(__file__).parents[2] / "docs" / "architectures.md"
START = "<!-- written by tests/engine/matrix.py -->\n"
MODES = {"plain": (torch.float32, False), "LoRA": (torch.float32, True), "bf16": (torch.bfloat16, False)}
CHECKPOINTED = "checkpointed"
COLUMNS = (*MODES, CHECKPOINTED)
COLD = 20.0
"""The temperature makes the largest logit this, so that what is nearly right shows."""


@dataclass(frozen=True)
class Cell:
    """One family in one mode: the ways taken, gaps of sampler and trainer in nats (largest in float32, mean of the worst sequence in
    bfloat16), or the sentence that refuses it."""

    sampling: str = ""
    training: str = ""
    sampler_gap: float = 0.0
    trainer_gap: float = 0.0
    refused: str = ""


def measure(name: str, mode: str) -> Cell:
    """Sampled answers of unequal prompts, two of them forks of one, scored again by trainer and by plain passes; for
    `CHECKPOINTED` see `recomputed`."""
    if mode == CHECKPOINTED:
        return recomputed(name)
    dtype, lora = MODES[mode]
    try:
        model = families.build(name, dtype, lora)
    except ValueError as error:
        return Cell(refused=f"peft: {' '.join(str(error).split())[:90]}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        try:
            forward = TrainingForward(model)
            engine = LocalEngine(model, Endless())
        except UserError as error:
            return Cell(refused=" ".join(str(error).split()))
    rng = np.random.default_rng(0)
    prompts = [rng.integers(3, families.TOKENS, n) for n in (3, 17, 8)]
    with torch.no_grad():
        logits = model(input_ids=torch.from_numpy(prompts[1])[None]).logits.float()
    heat = min(1.0, float((logits - logits.mean(-1, keepdim=True)).abs().max()) / COLD)
    sampling = Sampling(max_new=6, temperature=heat)
    requests = [Request(p, sampling, (0, i)) for i, p in enumerate([*prompts, prompts[1]])]
    done = engine.generate(requests)
    tokens = [np.concatenate([request.tokens, c.tokens]) for request, c in zip(requests, done)]
    samples = [Sample(t, np.arange(len(r.tokens), len(t)), heat) for t, r in zip(tokens, requests)]
    with torch.no_grad():
        trained = forward.statistics(samples)["logp"].split([len(s.actions) for s in samples])
        wanted = [_plain(model, sample) for sample in samples]
    sampled = [torch.from_numpy(c.logp) for c in done]
    return Cell(engine.path, forward.path, _gap(sampled, wanted, dtype), _gap(trained, wanted, dtype))


def recomputed(name: str) -> Cell:
    """Log-probabilities and gradients with activation checkpointing, in a model whose configuration asks for dropout wherever it can,
    beside plain passes in evaluation mode: the larger gap, that of gradients as a share of the largest."""
    model = families.build(name, dropout=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Note)
        try:
            forward = TrainingForward(model, checkpointing=True)
        except UserError as error:
            return Cell(refused=" ".join(str(error).split()))
    rng = np.random.default_rng(0)
    samples = [Sample(rng.integers(3, families.TOKENS, n), np.arange(2, n), 1.0) for n in (12, 7, 9)]
    wanted = torch.cat([_plain(model, sample, use_cache=False) for sample in samples])
    weights = torch.randn(len(wanted), generator=torch.Generator().manual_seed(1))
    (weights * wanted).sum().backward()
    plain = _gradients(model)
    forward.backward(samples, {"logp": weights}, budget=20)
    again = _gradients(model)
    assert again.keys() == plain.keys()
    largest = max(float(gradient.abs().max()) for gradient in plain.values())
    apart = max(float((again[key] - gradient).abs().max()) for key, gradient in plain.items()) / largest
    found = forward.statistics(samples)["logp"]  # gradients are on, so the layers are wrapped
    return Cell(training=forward.path, trainer_gap=max(float((found - wanted).detach().abs().max()), apart))


def _gradients(model: Any) -> dict[str, torch.Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def bound(mode: str) -> float:
    """The largest gap of a right way, as the guard has it."""
    return 1.0 if mode == "bf16" else 1e-3


def _plain(model: Any, sample: Sample, **options: Any) -> torch.Tensor:
    logits = model(input_ids=torch.from_numpy(sample.tokens)[None], **options).logits[0].float()
    table = (logits / sample.temperature).log_softmax(-1)
    return table[sample.actions - 1].gather(1, torch.from_numpy(sample.tokens[sample.actions])[:, None])[:, 0]


def _gap(found: Any, wanted: Any, dtype: torch.dtype) -> float:
    apart = [(a - b).abs() for a, b in zip(found, wanted)]
    return max(float(x.mean() if dtype == torch.bfloat16 else x.max()) for x in apart)


def row(name: str, cells: dict[str, Cell]) -> str:
    """A line of the table."""
    plain = cells["plain"]
    if plain.refused:
        return f"| `{name}` | refused | refused | {plain.refused} | | | |"
    gaps = (
        f"refused: {c.refused}" if c.refused else f"{max(c.sampler_gap, c.trainer_gap):.0e}" for c in cells.values()
    )
    return f"| `{name}` | {plain.sampling} | {plain.training} | {' | '.join(gaps)} |"


def ways(name: str) -> tuple[str, str]:
    """What docs/architectures.md says of a family: how it is sampled from and trained."""
    line = next(line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{name}` |"))
    sampling, training = (cell.strip() for cell in line.split("|")[2:4])
    return sampling, training


def main() -> None:
    torch.set_num_threads(1)
    head = (
        "| family | sampling | training | gap | gap with LoRA | gap in bf16 | gap with checkpointing |\n"
        "| --- | --- | --- | --- | --- | --- | --- |\n"
    )
    lines = [row(name, {mode: measure(name, mode) for mode in COLUMNS}) for name in families.FAMILIES]
    before = DOCS.read_text().split(START)[0]
    DOCS.write_text(before + START + "\n" + head + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
