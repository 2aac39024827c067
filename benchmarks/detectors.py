"""Precision and recall of every detector of `anypo diagnose`, over runs with planted pathologies and healthy ones.

    python -m benchmarks.detectors [--seeds 100-107] [--no-write]

Thresholds were chosen on seeds 0 to 2; the table is about other seeds. A run counts for a detector when it is healthy, when its
pathology was planted (a hit or a miss), or when another one was planted (a false alarm if it speaks up). Pathologies that follow
from the planted one by its nature (`Case.also`) count neither way. Results go to docs/diagnose.md.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from anypo.diagnose import DETECTORS, examine
from anypo.scoring import wilson
from benchmarks.planted import HEALTHY, PLANTED, Case, run

PAGE = Path(__file__).parent.parent / "docs/diagnose.md"
BEGIN, END = "<!-- detectors: begin -->", "<!-- detectors: end -->"
FLAGGED = ("warning", "severe")


@dataclass
class Count:
    """Runs by what the detector said about them; `blind`: planted or not, it could not measure."""

    hits: int = 0
    misses: int = 0
    alarms: int = 0
    quiet: int = 0
    blind: int = 0

    def row(self, name: str) -> str:
        said, planted = self.hits + self.alarms, self.hits + self.misses
        return (
            f"| {name} | {_share(self.hits, planted)} | {_share(self.hits, said)} | {planted} | "
            f"{self.alarms} of {self.alarms + self.quiet} | {self.blind} |"
        )


def _share(part: int, whole: int) -> str:
    """A share with its 95 % Wilson interval."""
    if not whole:
        return "–"
    low, high = wilson(part, whole)
    return f"{part / whole:.2f} ({low:.2f}–{high:.2f})"


def count(cases: Sequence[Case], seeds: Sequence[int]) -> tuple[dict[str, Count], list[str]]:
    """Counts of every detector over every case and seed, and a line for every mistake."""
    counts = {name: Count() for name in DETECTORS}
    mistakes = []
    for case in cases:
        for seed in seeds:
            for found in examine(run(case, seed)):
                name, flagged = found.detector.name, found.severity in FLAGGED
                planted = name in case.planted
                if found.severity == "not measured":
                    counts[name].blind += 1
                if name in case.also or (found.severity == "not measured" and not planted):
                    continue
                kind = ("hits" if flagged else "misses") if planted else ("alarms" if flagged else "quiet")
                setattr(counts[name], kind, getattr(counts[name], kind) + 1)
                if kind in ("misses", "alarms"):
                    score = "–" if found.score is None else f"{found.score:.3g}"
                    mistakes.append(
                        f"{kind[:-1].removesuffix('e')} {name} in '{case.name}', seed {seed}: score {score}"
                    )
    return counts, mistakes


def table(counts: dict[str, Count], mistakes: Sequence[str], seeds: Sequence[int]) -> str:
    """The result as Markdown."""
    total = Count(*(sum(getattr(each, key) for each in counts.values()) for key in vars(Count())))
    rows = [each.row(f"`{name}`") for name, each in counts.items()]
    lines = [
        f"{len(PLANTED)} planted and {len(HEALTHY)} healthy kinds of run, seeds {seeds[0]} to {seeds[-1]} each.",
        "",
        "| detector | recall | precision | planted runs | false alarms | not measured |",
        "| --- | --- | --- | ---: | ---: | ---: |",
        *rows,
        total.row("**all**"),
        "",
    ]
    kinds: dict[str, int] = {}
    for mistake in mistakes:
        kind = mistake.split(", seed")[0]
        kinds[kind] = kinds.get(kind, 0) + 1
    if kinds:
        lines += ["Every mistake, by kind of run:", "", *(f"- {kind} ({n} seeds)" for kind, n in kinds.items()), ""]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detectors", description=__doc__)
    parser.add_argument("--seeds", default="100-107", help="first-last")
    parser.add_argument("--no-write", action="store_true")
    options = parser.parse_args()
    first, last = map(int, options.seeds.split("-"))
    seeds = range(first, last + 1)
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    counts, mistakes = count([*PLANTED, *HEALTHY], seeds)
    text = table(counts, mistakes, seeds)
    print(text)
    if not options.no_write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
