"""What a finished run gives back."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from anypo.run.settings.config import RunConfig
from anypo.scoring import Evaluation
from anypo.scoring.units import amount
from anypo.tasks.environments import is_environment


@dataclass(frozen=True, repr=False)
class Result:
    """What a finished run gives back. base: how it stood to its system's base, in a sentence."""

    path: Path
    config: RunConfig
    before: Evaluation | None
    after: Evaluation | None
    metrics: Mapping[str, float]
    seconds: float
    base: str = ""

    def summary(self) -> dict[str, Any]:
        """The numbers, as plain data."""
        return {
            "run": str(self.path),
            "report": str(self.path / "report.html"),
            "before": self.before.summary() if self.before else None,
            "after": self.after.summary() if self.after else None,
            "last_step": dict(self.metrics),
            "seconds": self.seconds,
            "base": self.base,
        }

    def __repr__(self) -> str:
        return "\n".join(f"{name:<8} {value}" for name, value in self._lines())

    def _repr_html_(self) -> str:
        """A table for notebooks, the report a link."""
        left = "text-align:left;vertical-align:top"
        shown = lambda name, value: f'<a href="{value}">{value}</a>' if name == "report" else value
        rows = (
            f'<tr><th style="{left}">{name}</th><td style="{left};overflow-wrap:anywhere">{shown(name, escape(value))}</td></tr>'
            for name, value in self._lines()
        )
        return f"<table>{''.join(rows)}</table>"

    def _lines(self) -> list[tuple[str, str]]:
        """What came of the run, in at most ten lines."""
        config, after = self.config, self.after or self.before
        rows = [("run", str(self.path)), ("method", config.system), ("model", config.model), ("task", config.task)]
        rows += [("steps", f"{self.metrics.get('step', 0):g} of {config.steps}, {self.seconds:.0f} s")]
        for name, found in (("before", self.before), ("after", self.after)):
            if found is not None:
                interval = f"{amount(found.low, found.unit)} to {amount(found.high, found.unit)}"
                rows.append((name, f"{amount(found.score, found.unit)} {found.unit} (95 %: {interval}, n = {found.n})"))
        if after is None and "reward/mean" in self.metrics:
            rows.append(("reward", f"{self.metrics['reward/mean']:.3f} in the last step"))
        return [*rows, ("report", str(self.path / "report.html"))]

    def suggestions(self) -> list[str]:
        """Commands worth trying next."""
        acts, system = is_environment(self.config.task), self.config.system
        first, second, what = ("ppo", "mdpo", "length") if acts else ("rloo", "dapo", "text")
        newest = f'"select step, reward, {what} from rollouts order by step desc limit 5"'
        if self.config.composition().generate.part == "nothing" and not self.config.recipe:  # so there are no rollouts
            newest = '"select step, update_loss from metrics order by step desc limit 5"'
        again = shlex.join(["anypo", "train", str(self.path), "--system", first if system != first else second])
        query = f"anypo rollouts {shlex.quote(str(self.path))} {newest}"
        return [query] if self.config.objects else [again, query]  # objects are in no other process
