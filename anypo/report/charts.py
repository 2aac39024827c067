"""The catalogue of charts: which metrics are drawn together, and what they mean."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from anypo.report.curves import Curves
from anypo.run.beside.beside import ROOMS
from anypo.scoring.units import ACCURACY


@dataclass(frozen=True)
class Chart:
    """`series` are (metric, label) pairs; those a run did not record are left out, and a chart without any is not drawn.

    unit: how numbers are written: 'share' as per cent, 'seconds', or what follows the number. floor / ceiling: ends of the axis
    that are always shown. draw: 'lines', or 'stack' for parts of a whole. evaluations: the unit of the held-out evaluations that
    are drawn here, '' for none. alarm: worth a place only when it is not always zero.
    """

    title: str
    meaning: str
    series: tuple[tuple[str, str], ...]
    unit: str = ""
    floor: float | None = None
    ceiling: float | None = None
    draw: str = "lines"
    evaluations: str = ""
    alarm: bool = False


SECTIONS: tuple[tuple[str, str, tuple[Chart, ...]], ...] = (
    (
        "Is it learning?",
        "Look here first. The loss is not among these: a policy-gradient surrogate is near zero whether or not it learns.",
        (
            Chart(
                "Reward",
                "Mean over everything sampled in the step, before any filter. This is what the method maximises.",
                (("reward/mean", "reward"),),
            ),
            Chart(
                "Accuracy",
                "Share of right answers. Points: greedy answers to held-out problems with 95 % intervals. "
                "Line: sampled answers to training problems. Without labels in training: how often the pseudo-label is right.",
                (("accuracy/train", "training, sampled"), ("filter/pseudo_label_accuracy", "pseudo-labels")),
                unit="share",
                floor=0.0,
                ceiling=1.0,
                evaluations=ACCURACY,
            ),
            Chart(
                "Return",
                "Points: mean return of held-out episodes with 95 % intervals. Line: training episodes that ended in the step.",
                (("episode/return", "training, sampled"),),
                evaluations="return",
            ),
            Chart(
                "Gradient norm",
                "Length of the gradient before clipping. At zero nothing pulls at the weights; a sudden rise is instability.",
                (("update/grad_norm", "gradient norm"),),
                floor=0.0,
            ),
            Chart(
                "Distance from the base",
                "How far each room was from what the system's base would have done with the same data: a share, or 1 - cosine of "
                "the coefficients. At zero throughout, the method did nothing of its own.",
                tuple((f"base/{room}", room) for room in ROOMS),
                floor=0.0,
            ),
            Chart(
                "Live learning signal",
                "Share of trained tokens whose advantage is not zero. Groups that are all right or all wrong teach nothing.",
                (("credit/live_share", "live share"),),
                unit="share",
                floor=0.0,
                ceiling=1.0,
            ),
        ),
    ),
    (
        "Is it stable?",
        "Sudden jumps, collapses and runaway trends in these come before a run breaks.",
        (
            Chart(
                "KL divergence",
                "How far the policy is, in nats a token, from the reference it is tied to and from the policy that sampled. "
                "The second is near zero when data is fresh.",
                (
                    ("objective/kl_ref", "from the reference"),
                    ("objective/kl_behaviour", "from the sampler"),
                    ("policy/kl_behaviour", "from the sampler"),
                ),
            ),
            Chart(
                "Entropy",
                "Uncertainty of the next token while sampling, in nats. Falling slowly is normal; at zero, exploration is over.",
                (("policy/entropy", "entropy"),),
                unit="nats",
                floor=0.0,
            ),
            Chart(
                "Clip fraction",
                "Share of tokens whose importance ratio left the trust region, which cuts their gradient. "
                "Zero by construction when every batch is used once.",
                (("objective/clip_fraction", "clipped"),),
                unit="share",
                floor=0.0,
            ),
            Chart(
                "Answer length",
                "Mean number of sampled tokens.",
                (("rollout/length", "tokens"),),
                unit="tokens",
                floor=0.0,
            ),
            Chart(
                "Critic",
                "Share of the variance of returns that the critic predicts. Below zero it is worse than their mean.",
                (("critic/explained_variance", "explained variance"),),
                unit="share",
                floor=0.0,
            ),
            Chart(
                "Truncated and failed",
                "Share of rollouts cut off by the length limit, and of those whose verifier or environment broke.",
                (("rollout/truncated", "truncated"), ("rollout/failed", "failed")),
                unit="share",
                floor=0.0,
            ),
            Chart(
                "Learning rate",
                "The rate used, after the schedule and every rule that scales it.",
                (("update/lr", "learning rate"),),
                floor=0.0,
            ),
            Chart(
                "Skipped optimiser steps",
                "Share of optimiser steps left out because the loss or its gradient was not finite. Look into these.",
                (("update/skipped", "skipped"),),
                unit="share",
                floor=0.0,
                alarm=True,
            ),
        ),
    ),
    (
        "What does it cost?",
        "Wall-clock time, throughput and memory of this machine.",
        (
            Chart(
                "Time per room",
                "Seconds of each step, by the room that spent them.",
                tuple(
                    (f"time/{room}", room)
                    for room in ("control", "generate", "filter", "replay", "columns", "credit", "update", "other")
                ),
                unit="seconds",
                floor=0.0,
                draw="stack",
            ),
            Chart(
                "Sampling speed",
                "New tokens a second while generating.",
                (("rollout/tokens_per_second", "speed"),),
                unit="tokens/s",
                floor=0.0,
            ),
            Chart(
                "Tokens a step",
                "Generated, and used by the update. Filters and length limits make the difference.",
                (("tokens/generated", "generated"), ("tokens/trained", "trained")),
                floor=0.0,
            ),
            Chart(
                "Memory",
                "Resident memory of the process.",
                (("memory/peak_gb", "memory"),),
                unit="GiB",
                floor=0.0,
            ),
        ),
    ),
)

KNOWN = frozenset(chart.evaluations for _, _, charts in SECTIONS for chart in charts)
"""Units of evaluations that have a chart of their own."""

MEANINGS = {
    "update/loss": "The surrogate loss. Its value is near zero by construction and says nothing about progress.",
    "credit/advantage_abs": "Mean size of the advantages.",
    "rollout/degenerate": "Share of groups whose rewards are all equal.",
    "filter/agreement": "Mean share of a prompt's rollouts that gave its most frequent answer.",
    "filter/pseudo_reward_accuracy": "Share of rollouts whose pseudo-reward agrees with the verifier, which nothing is trained on.",
    "filter/kept_share": "Share of the generated groups that survived the filter.",
}
"""Explanations of metrics outside the catalogue, which are drawn under 'Every other metric'."""


def sections(curves: Curves, units: Collection[str] = ()) -> list[dict[str, Any]]:
    """The catalogue as plain data, without what the run did not record; other metrics follow in a folded section. `units`: those
    of the run's evaluations."""
    known = set(curves.values)
    out: list[dict[str, Any]] = []
    used = {"time/step"}
    for title, about, charts in SECTIONS:
        drawn = [chart for chart in charts if _present(chart, curves, units)]
        drawn += [_own(unit) for unit in sorted(set(units) - KNOWN)] if not out else []
        drawn += _by_source(known) if not out else []
        used |= {name for chart in drawn for name, _ in chart.series}
        if drawn:
            out.append({"title": title, "about": about, "charts": [_plain(c, known) for c in drawn], "folded": False})
    components = sorted(name for name in known if name.startswith("reward/") and name != "reward/mean")
    rest = sorted(known - used - set(components))
    extra = [_plain(Chart(name, MEANINGS.get(name, ""), ((name, name.split("/")[-1]),)), known) for name in rest]
    if len(components) > 1:
        meaning = "Mean of each named component, before weights."
        series = tuple((name, name.removeprefix("reward/")) for name in components)
        extra.insert(0, _plain(Chart("Reward components", meaning, series), known))
    if extra:
        out.append({"title": "Every other metric", "about": "", "charts": extra, "folded": True})
    return out


def _by_source(known: Collection[str]) -> list[Chart]:
    """Charts of what every source of a mixture gave, one line each."""
    names = sorted({name.split("/")[1] for name in known if name.startswith("source/")})
    series = lambda what: tuple((f"source/{name}/{what}", name) for name in names)
    every = (
        Chart(
            "Right, by source",
            "Share of right answers to each source's training problems.",
            series("right"),
            "share",
            0.0,
            1.0,
        ),
        Chart("Reward, by source", "Mean reward of the rollouts of each source.", series("reward")),
        Chart(
            "Share, by source", "How much of the step's rollouts each source had.", series("share"), "share", 0.0, 1.0
        ),
    )
    return [chart for chart in every if {name for name, _ in chart.series} & set(known)]


def missing(curves: Curves, units: Collection[str] = ()) -> list[str]:
    """Titles of catalogue charts the run has no data for; of those of another unit than its own nothing is missed."""
    every = [chart for _, _, charts in SECTIONS for chart in charts if not chart.alarm]
    expected = {"", *(units or (ACCURACY,))}
    return [c.title for c in every if c.evaluations in expected and not _present(c, curves, units)]


def _own(unit: str) -> Chart:
    """A chart of evaluations in a unit that the catalogue does not know."""
    return Chart(unit.capitalize(), "Held-out evaluations with 95 % intervals.", (), evaluations=unit)


def _present(chart: Chart, curves: Curves, units: Collection[str]) -> bool:
    columns = [curves.values[name] for name, _ in chart.series if name in curves.values]
    if chart.alarm:
        return any(value for column in columns for value in column)
    return bool(columns) or chart.evaluations in units


def _plain(chart: Chart, known: set[str]) -> dict[str, Any]:
    return {
        "title": chart.title,
        "meaning": chart.meaning,
        "series": [{"name": name, "label": label} for name, label in chart.series if name in known],
        "unit": chart.unit,
        "floor": chart.floor,
        "ceiling": chart.ceiling,
        "draw": chart.draw,
        "evaluations": chart.evaluations,
    }
