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
        _twins(board),
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


def _twins(board: Board) -> Iterator[str]:
    """Methods that differ in nothing these settings let them show, such as two trust regions around a ratio of one."""
    alike: dict[tuple[float, ...], list[str]] = {}
    for row in board.rows:
        if len(row.runs) > 1:
            alike.setdefault(tuple(row.runs), []).append(row.label)
    for labels in alike.values():
        if len(labels) > 1:
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
