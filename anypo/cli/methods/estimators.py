"""`anypo estimators`: bias, variance and signal of every method's gradient estimate, against the exact gradient."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from anypo.exact.estimators import Measurement


def register(app: typer.Typer) -> None:
    app.command()(estimators)


def estimators(
    systems: Annotated[str, typer.Option("--systems", "-s", help="comma-separated names (default: every system)")] = "",
    family: Annotated[
        str, typer.Option(help="only the systems of this family: baselines, objectives, credits, ...")
    ] = "",
    staleness: Annotated[
        str, typer.Option(help="updates between sampler and trainer, comma-separated, 0 to 64")
    ] = "0,16",
    group: Annotated[str, typer.Option(help="rollouts per prompt, comma-separated")] = "8",
    reward: Annotated[str, typer.Option(help="binary, graded, sparse; comma-separated")] = "binary",
    versions: Annotated[str, typer.Option(help="who samples stale batches: single, mixed or partial")] = "single",
    noise: Annotated[
        float, typer.Option(metavar="N", min=0.0, help="standard deviation of the sampler's logit error")
    ] = 0.0,
    old: Annotated[
        str, typer.Option(help="logp_old is the sampler's (several updates per batch) or the trainer's (asynchronous)")
    ] = "sampler",
    draws: Annotated[int, typer.Option(metavar="N", min=40, help="independent batches per number")] = 400,
    seed: Annotated[int, typer.Option(metavar="N", min=0)] = 1,
    jobs: Annotated[int, typer.Option("--jobs", "-j", metavar="N", min=1)] = 1,
    csv: Annotated[Path | None, typer.Option(help="write every number to this CSV file")] = None,
    plot: Annotated[Path | None, typer.Option(help="write a self-contained HTML plot")] = None,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    """Measure every method as a gradient estimator on a policy whose true gradient is known.

    bias: |E g - G| / |G|; angle bias: what a better learning rate could not repair; snr: |E g|^2 / tr Cov g per batch;
    align: mean cosine of one batch with the true gradient; sign: share of batches that point uphill; ess: effective share of the
    decisions. docs/estimators.md has the method and its caveats.
    """
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from anypo.exact.estimators import sweep
    from anypo.exact.report import save_csv, save_plot
    from anypo.plugins import discover
    from anypo.run.record.console import new_console
    from anypo.systems import find, methods

    discover()
    names = [find(name.strip(), "method").name for name in systems.split(",")] if systems else sorted(methods("tokens"))
    if family:
        names = _of_family(names, family)
    settings = _settings(staleness, group, reward, versions, noise, old)
    if plot is not None and plot.suffix != ".html":
        raise _bad("--plot writes HTML", f"give a name that ends in .html, not '{plot}'")
    console = new_console(stderr=as_json)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    found: list[Measurement] = []
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("measuring", total=len(names) * len(settings))
        for measurement in sweep(names, settings, draws, jobs, seed):
            found.append(measurement)
            progress.update(task, advance=1, description=f"measuring {measurement.system}")
    if csv is not None:
        save_csv(found, csv)
    if plot is not None:
        save_plot(found, plot)
    if as_json:
        print(json.dumps([m.row() for m in found], indent=1))
        return
    for setting in settings:
        _table([m for m in found if m.setting == setting], console)
    for path in (csv, plot):
        if path is not None:
            console.print(f"written {path}", style="dim", highlight=False)


def _bad(what: str, do: str) -> Exception:
    from anypo.errors import UserError

    return UserError(f"{what}; {do}")


def _of_family(names: list[str], family: str) -> list[str]:
    """Those of `names` that belong to the family; `UserError` when there is no such family, or none of it."""
    from anypo.errors import unknown
    from anypo.systems import methods

    known = methods()
    families = {system.family for system in known.values()}
    if family not in families:
        raise unknown("family", family, families)
    chosen = [name for name in names if known[name].family == family]
    if not chosen:
        raise _bad(f"none of --systems is of the family '{family}'", "leave one of the two options out")
    return chosen


def _settings(staleness: str, group: str, reward: str, versions: str, noise: float, old: str) -> list[Any]:
    """Every combination, checked."""
    from typing import get_args

    from anypo.errors import unknown
    from anypo.exact.bench import OLDEST, Setting
    from anypo.exact.sampler import Versions
    from anypo.exact.task import Reward

    lags, sizes = _integers(staleness, "--staleness", 0, OLDEST), _integers(group, "--group", 1, 4096)
    rewards = [word.strip() for word in reward.split(",")]
    for option, words, known in (
        ("--reward", rewards, get_args(Reward)),
        ("--versions", [versions], get_args(Versions)),
        ("--old", [old], ("sampler", "trainer")),
    ):
        for word in words:
            if word not in known:
                raise unknown(f"{option} value", word, known)
    return [
        Setting(staleness=lag, group=size, reward=kind, versions=versions, noise=noise, old=old)  # type: ignore[arg-type]
        for kind in rewards
        for size in sizes
        for lag in lags
    ]


def _integers(text: str, option: str, low: int, high: int) -> list[int]:
    try:
        values = [int(word) for word in text.split(",")]
    except ValueError:
        raise _bad(f"{option} takes whole numbers separated by commas", f"not '{text}'") from None
    for value in values:
        if not low <= value <= high:
            raise _bad(f"{option} {value} is out of range", f"use {low} to {high}")
    return values


def _table(measurements: list[Measurement], console: Any) -> None:
    from rich.table import Table

    first = measurements[0]
    s = first.setting
    extra = f", versions {s.versions}" if s.versions != "single" else ""
    extra += f", noise {s.noise:g}" if s.noise else ""
    title = (
        f"reward {s.reward}, group {s.group}, staleness {s.staleness} (KL {first.drift:.3g} nats), old = {s.old}{extra}"
    )
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1, 0, 0))
    for name in ("system", "bias", "angle bias", "scale", "variance", "snr", "align", "sign", "/param", "ess", "dead"):
        table.add_column(name, justify="left" if name == "system" else "right", no_wrap=True)
    for m in sorted(measurements, key=lambda m: -m.alignment if not m.reason else 0.0):
        if not m.reason:
            table.add_row(
                m.system + ("*" if m.pulled else ""), _pm(m.bias, m.bias_se, m.floor),
                _pm(m.angle_bias, m.angle_bias_se, m.angle_floor), _pm(m.scale, m.scale_se), _pm(m.variance, m.variance_se),
                _pm(m.snr, m.snr_se), _pm(m.alignment, m.alignment_se), f"{m.sign_direction:.0%}",
                f"{m.sign_parameters:.0%}", _pm(m.ess, m.ess_se), f"{m.dead:.0%}",
            )  # fmt: skip
    console.print(table)
    if any(m.pulled for m in measurements):
        console.print("* also pulls towards a reference or towards entropy, which counts as bias", style="dim")
    for m in measurements:
        if m.reason:
            console.print(f"[bold]{m.system}[/] not measured: {m.reason}", style="dim", highlight=False)
    console.print()


def _pm(value: float, error: float, floor: float = -math.inf) -> str:
    """A number with the standard error of its last digits in parentheses; `<x` below the noise floor x."""
    if value != value:
        return "–"
    if value < floor:
        return f"<{floor:.2g}"
    if not error > 0:
        return f"{value:.3g}"
    digits = max(0, min(4, 1 - math.floor(math.log10(error))))
    return f"{value:.{digits}f}({error * 10**digits:.0f})"
