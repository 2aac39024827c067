"""What a reader of a leaderboard must know: ties, runs too few for the difference, failures, unequal conditions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from anypo.compare import stats
from anypo.compare.effects import missing
from anypo.scoring.units import ACCURACY, amount, difference

if TYPE_CHECKING:
    from anypo.compare.board import Board

Records = Sequence[Mapping[str, Any]]
Strata = Mapping[str, Sequence[Sequence[float]]]

COVERAGE = {2: "49 %", 3: "75 %", 4: "87 %", 5: "90 %"}
"""Simulated coverage of the nominal 95 % interval of the interquartile mean, for normal scores."""


def notes(board: Board, records: Records, strata: Strata, failures: Mapping[str, str]) -> list[str]:
    """Sentences, the most important first."""
    sources = (
        _failed(failures, records),
        _power(board, strata),
        _ties(board),
        _inert(board, records),
        _twins(board, records),
        _few_runs(board),
        _ends_of_the_scale(board),
        _unequal(board, records),
        _design(records),
    )
    return [sentence for source in sources for sentence in source]


def _failed(failures: Mapping[str, str], records: Records) -> Iterator[str]:
    if failures:
        names = "; ".join(list(failures)[:4]) + ("; ..." if len(failures) > 4 else "")
        yield f"{len(failures)} of {len(failures) + len(records)} cells failed and are left out: {names}."


def _power(board: Board, strata: Strata) -> Iterator[str]:
    """What difference these runs can show, and how many the leading difference would need."""
    runs = min(len(row.runs) for row in board.rows)
    spread = stats.pooled_spread([stratum for label in strata for stratum in strata[label]])
    least = stats.detectable(spread, runs)
    if not math.isnan(least) and len(board.rows) > 1:
        yield (
            f"With {runs} runs a method, a difference of two methods is seen with 80 % power when it is at least "
            f"{difference(least, board.unit)} (standard deviation between runs: {difference(spread, board.unit)})."
        )
    best = next((row for row in board.rows if row.label != board.base), None)
    if best is None or runs < 2:
        return
    base = next(row for row in board.rows if row.label == board.base)
    needed = stats.runs_needed(best.runs, base.runs)
    if needed is not None and needed > runs:
        gap = difference(sum(best.runs) / len(best.runs) - sum(base.runs) / len(base.runs), board.unit, sign="+")
        more = f"more than {needed:,}" if needed >= stats.MOST_RUNS else f"about {needed:,}"
        yield (
            f"{best.label} differs from {board.base} by {gap} on average; to see a difference of that size with "
            f"80 % power takes {more} runs a method, and there are {runs}."
        )


def _ties(board: Board) -> Iterator[str]:
    if len(board.tied) > 1:
        yield f"First place is open between {len(board.tied)} methods whose intervals overlap: {', '.join(board.tied)}."


def _bases(records: Records) -> dict[str, tuple[str, int]]:
    """Of every label that did in every step of every run what its base would have done with the same data: the base's name, and the
    number of steps."""
    own: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        own.setdefault(record["label"], []).append(record.get("base") or {})
    always = lambda found: bool(found.get("learned")) and found["same"] == found["steps"]
    return {
        label: (str(found[0]["name"]), sum(one["steps"] for one in found))
        for label, found in own.items()
        if all(map(always, found))
    }


def _inert(board: Board, records: Records) -> Iterator[str]:
    """Methods that these settings gave no chance to differ from their base, such as a trust region around a ratio of one."""
    by_base: dict[str, list[tuple[str, int]]] = {}
    for label, (base, steps) in _bases(records).items():
        by_base.setdefault(base, []).append((label, steps))
    for base, found in by_base.items():
        labels, steps = [label for label, _ in found], sum(count for _, count in found)
        rows = f", and so the row {base} again" if base in {row.label for row in board.rows} else ""
        yield (
            f"{' and '.join(labels)} computed what {base} would have in every one of {steps:,} steps{rows}: at these settings "
            "the method does nothing of its own."
        )


def _twins(board: Board, records: Records) -> Iterator[str]:
    """Methods whose runs cannot be told apart, where it is not known already that they are one base."""
    alike: dict[tuple[float, ...], list[str]] = {}
    known = _bases(records)
    for row in board.rows:
        if len(row.runs) > 1:
            alike.setdefault(tuple(row.runs), []).append(row.label)
    for labels in alike.values():
        if len(labels) > 1 and len({known.get(label, (label,))[0] for label in labels}) > 1:
            yield (
                f"{' and '.join(labels)} ended at exactly the same {board.unit} in every run: at these settings they are probably "
                "the same computation (trust regions act only where rollouts are older than the weights)."
            )


def _few_runs(board: Board) -> Iterator[str]:
    runs = min(len(row.runs) for row in board.rows)
    if runs == 1:
        yield "One run a method says nothing about the difference of two methods; use --seeds 5 or more."
    elif runs in COVERAGE:
        yield (
            f"With {runs} runs the bootstrap interval is too narrow: nominally 95 %, it holds the truth {COVERAGE[runs]} of the "
            "time when runs are normally distributed."
        )


def _ends_of_the_scale(board: Board) -> Iterator[str]:
    best = board.rows[0].score.value
    if best <= board.start:
        yield f"No method ended above the start ({amount(board.start, board.unit)}): compare at another budget or learning rate."
    elif board.unit == ACCURACY and best > 0.98:
        yield "The best accuracy is at the top of the scale: a harder task would tell the methods apart better."


def _unequal(board: Board, records: Records) -> Iterator[str]:
    counts = {len(row.runs) for row in board.rows}
    if len(counts) > 1:
        least = min(board.rows, key=lambda row: len(row.runs))
        yield f"The methods have unequal numbers of runs ({min(counts)} to {max(counts)}; the fewest: {least.label})."
    over = max(board.rows, key=lambda row: row.spent[board.budget.measure])
    share = over.spent[board.budget.measure] / board.budget.amount - 1
    if share > 0.05:
        yield f"A run ends with the step that exceeds the budget: {over.label} spent {100 * share:.0f} % more than allowed."
    codes = {
        (code.get("commit") or code.get("version"), code.get("modified")) for r in records if (code := r.get("code"))
    }
    if len({commit for commit, _ in codes}) > 1:
        yield f"The cells were run with {len({commit for commit, _ in codes})} different versions of the code."


def _design(records: Records) -> Iterator[str]:
    varied = [dict(r["factors"]) for r in records]
    if varied and all(varied) and (gaps := missing(varied)):
        yield f"The factorial design has no run of {', '.join(gaps[:3])}, so its effects are not estimated."
