"""One checkpointed store of what is known about every prompt, keyed by prompt identity and shared by all parts.

It stands on the run's shelf, so a control part can read what a credit part learned, and a resumed run continues with the same
beliefs. A table maps a prompt id (see `anypo.data.records.prompt_id`) to a number or a plain container.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from anypo.context import Context

VALUES = "value_model"
"""Where a model that tells from a prompt's tokens how likely success is lies on the run's shelf
(`anypo.credit.centres.generalist.ValueModel`), for parts that plan by it."""


REFERENCES = "references"
"""Where control and filter say which prompts of this step are rolled out only to see how hard they are (``prompts``), and how often
they were solved (``rates``), on the run's shelf."""


class PromptStore:
    """Named tables, each from prompt id to value."""

    def __init__(self, tables: dict[str, dict[int, Any]]) -> None:
        self.tables = tables

    def table(self, name: str) -> dict[int, Any]:
        """The table `name`, created empty on first use."""
        return self.tables.setdefault(name, {})

    def read(self, name: str, prompts: Tensor, default: float) -> Tensor:
        """The numbers stored for `prompts` [S], `default` where nothing is stored, float64 [S]."""
        table = self.table(name)
        return torch.tensor([table.get(prompt, default) for prompt in prompts.tolist()], dtype=torch.float64)

    def write(self, name: str, prompts: Iterable[int], values: Iterable[float]) -> None:
        """Store one number per prompt."""
        self.table(name).update({int(prompt): float(value) for prompt, value in zip(prompts, values)})

    def known(self, name: str, prompts: Tensor) -> Tensor:
        """Whether something is stored for each of `prompts`, bool [S]."""
        table = self.table(name)
        return torch.tensor([prompt in table for prompt in prompts.tolist()], dtype=torch.bool)


def prompt_store(context: Context) -> PromptStore:
    """The run's store."""
    return PromptStore(context.memory.shelf.get("prompt_store", dict))


def by_prompt(prompts: Tensor) -> tuple[list[int], Tensor]:
    """The distinct prompts of a batch and, for each of `prompts` [S], its index among them (int64 [S])."""
    distinct, index = torch.unique(prompts, return_inverse=True)
    return distinct.tolist(), index


def belief(store: PromptStore, prompts: Tensor) -> Tensor:
    """Mean of the tracked belief about each of `prompts`, float64 [S]; 1/2 for a prompt never seen."""
    a, b = store.read("beta/a", prompts, 0.5), store.read("beta/b", prompts, 0.5)
    return a / (a + b)
