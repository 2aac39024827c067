"""From last hidden states to logits: the output embedding, and what a model does to its products.

    logits = limit tanh(z / limit)      with z = scale (W h + b); no limit: logits = z

Scale and limit stand in the configuration under other names in every family: `final_logit_softcapping` (Gemma 2 and later),
`logits_soft_cap` (RecurrentGemma), `logits_scaling` (Granite, divides), `logit_scale` (Cohere), `lm_head_multiplier` (Falcon-H1).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

LIMITS = ("final_logit_softcapping", "logits_soft_cap", "final_logit_softcap", "logit_softcap")
FACTORS = ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)

LOUD = 100.0
"""Largest product of the states an output is tried on: a cap of 30 bends it, a cap of 1000 still shows."""


@dataclass(frozen=True)
class Output:
    """What turns hidden states [N, hidden] into logits [N, vocabulary]."""

    linear: nn.Linear
    factor: float = 1.0
    divisor: float = 1.0
    limit: float | None = None

    @property
    def plain(self) -> bool:
        """Whether the output embedding is all of it."""
        return self.factor == self.divisor == 1.0 and self.limit is None

    def __call__(self, hidden: Tensor) -> Tensor:
        z: Tensor = self.linear(hidden)
        z = z if self.factor == 1.0 else z * self.factor
        z = z if self.divisor == 1.0 else z / self.divisor
        return z if self.limit is None else torch.tanh(z / self.limit) * self.limit

    @staticmethod
    @torch.no_grad()
    def of(model: Any) -> Output | None:
        """The output of a transformers causal LM (or of the one inside a peft model); None where the logits are anything else than
        its configuration says.

        Tried on one short pass whose last hidden states are made so large that a cap bends the logits, in the model's own type.
        """
        causal = model.get_base_model() if hasattr(model, "get_base_model") else model
        linear, body = causal.get_output_embeddings(), causal.base_model
        if type(linear) is not nn.Linear or body is causal:
            return None
        output = Output(linear, *_configured(causal.config))
        seen: list[Tensor] = []

        def louder(module: Any, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            loud = inputs[0] * (LOUD / nn.functional.linear(inputs[0], linear.weight).abs().max().clamp(min=1e-6))
            seen.extend((inputs[0], loud))
            return (loud, *inputs[1:])

        ids = torch.arange(1, 5, device=linear.weight.device)[None] % causal.get_input_embeddings().num_embeddings
        hook = linear.register_forward_pre_hook(louder)
        try:
            logits = causal(input_ids=ids).logits.float()
            states = body(input_ids=ids).last_hidden_state
        except Exception:  # the guard says what is wrong with a model that does not run
            return None
        finally:
            hook.remove()
        if len(seen) != 2 or seen[1].shape[:-1] != logits.shape[:-1] or seen[0].shape != states.shape:
            return None
        near = 4 * torch.finfo(linear.weight.dtype).eps if linear.weight.dtype.itemsize < 4 else 1e-5
        same = torch.allclose(output(seen[1]).float(), logits, rtol=near, atol=near * LOUD)
        same = same and torch.allclose(
            states.float(), seen[0].float(), rtol=near, atol=near * float(states.abs().max())
        )
        return output if same else None


def linear(causal: Any) -> bool:
    """Whether the logits are the output embedding applied to the last hidden state, and nothing else."""
    output = Output.of(causal)
    return output is not None and output.plain


def _configured(config: Any) -> tuple[float, float, float | None]:
    """Factor, divisor and limit."""
    text = config.get_text_config()
    factor = divisor = 1.0
    for name in FACTORS:
        factor *= _number(getattr(text, name, None)) or 1.0
    for name in DIVISORS:
        divisor *= _number(getattr(text, name, None)) or 1.0
    limits = [number for name in LIMITS if (number := _number(getattr(text, name, None)))]
    return factor, divisor, limits[0] if limits else None


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None
