"""The live terminal display of a training run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Table
from rich.text import Text

from anypo.run.record.console import new_console
from anypo.run.record.observer import Observer
from anypo.scoring import Evaluation
from anypo.scoring.mixture import OF_SOURCE
from anypo.scoring.units import amount

BARS = "▁▂▃▄▅▆▇█"
PSEUDO_LABELS = "filter/pseudo_label_accuracy"


def sparkline(values: list[float], width: int = 40) -> str:
    """The last `width` finite values as a line of block characters, scaled to their own range."""
    shown = [v for v in values if v == v][-width:]
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    span = (high - low) or 1.0
    return "".join(BARS[round((v - low) / span * (len(BARS) - 1))] for v in shown)


class Clock(ProgressColumn):
    """How much is done, how long it has taken, and how long the rest will, as far as each is known."""

    def render(self, task: Task) -> Text:
        done = f"{int(task.completed)}/{int(task.total)}  " if task.total else ""
        left = f"  ETA {duration(task.time_remaining)}" if task.total and task.time_remaining is not None else ""
        return Text(f"{done}{duration(task.elapsed or 0)}{left}")


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    hours, rest = divmod(round(seconds), 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}"


class Display(Observer):
    """Progress bar, headline numbers and a sparkline of the reward; plain lines where there is no terminal."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.rewards: list[float] = []
        self.metrics: Mapping[str, float] = {}
        self.progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=30),
            Clock(),
            console=console,
        )
        self.task = self.progress.add_task("starting", total=None)
        self.live = Live(self.render(), console=console, refresh_per_second=4, get_renderable=self.render)
        self.total, self.done, self.began_at, self.began = 0, 0, 0, time.monotonic()

    @property
    def lively(self) -> bool:
        """Whether what is shown can be drawn over: in a terminal or a notebook."""
        return self.console.is_terminal or self.console.is_jupyter

    def __enter__(self) -> Display:
        if self.lively:
            self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.lively:
            self.live.stop()

    def render(self) -> RenderableType:
        lines: list[RenderableType] = [Text(self.title, style="dim"), self.progress]
        if self.metrics:
            lines.append(self.numbers())
            lines.append(Text.assemble(("reward ", "dim"), (sparkline(self.rewards), "green")))
        return Group(*lines)

    def numbers(self) -> Table:
        """The step's headline numbers, aligned."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=True, header_style="dim")
        shown = {
            "step": ("step", "{:.0f}"),
            "reward": ("reward/mean", "{:.3f}"),
            **({"right": ("accuracy/train", "{:.1%}")} if "accuracy/train" in self.metrics else {}),
            **({"labels right": (PSEUDO_LABELS, "{:.1%}")} if PSEUDO_LABELS in self.metrics else {}),
            "live signal": ("credit/live_share", "{:.0%}"),
            "grad norm": ("update/grad_norm", "{:.2f}"),
            "entropy": ("policy/entropy", "{:.2f}"),
            "length": ("rollout/length", "{:.1f}"),
            "tokens/s": ("rollout/tokens_per_second", "{:.0f}"),
            "s/step": ("time/step", "{:.1f}"),
        }
        for name in shown:
            table.add_column(name, justify="right")
        table.add_row(*(form.format(self.metrics[key]) if key in self.metrics else "–" for key, form in shown.values()))
        return table

    def phase(self, name: str, total: int) -> None:
        self.progress.reset(self.task, description=name, total=total or None)
        self.total, self.done, self.began_at, self.began = total, 0, -1, time.monotonic()
        if not self.lively:
            self.console.print(f"{name} ...", highlight=False)

    def plan(self, total: int) -> None:
        self.total = total
        self.progress.update(self.task, total=total or None)

    def left(self) -> str:
        """How long the rest of the phase takes, where enough of it is done to say so."""
        done, step = self.done - self.began_at, int(self.metrics.get("step", 0))
        if not self.total or done < 1 or step >= self.total:
            return ""
        seconds = (time.monotonic() - self.began) / done * (self.total - step)
        return f"  ETA {duration(seconds)}"

    def advance(self, done: int) -> None:
        self.began_at = done if self.began_at < 0 else self.began_at  # a resumed run begins where it stopped
        self.done = done
        self.progress.update(self.task, completed=done)

    def step(self, metrics: Mapping[str, float]) -> None:
        self.metrics = metrics
        self.rewards.append(metrics.get("reward/mean", float("nan")))
        self.advance(int(metrics["step"]))
        if not self.lively:
            right = f"  right {metrics['accuracy/train']:6.1%}" if "accuracy/train" in metrics else ""
            labels = f"  labels right {metrics[PSEUDO_LABELS]:6.1%}" if PSEUDO_LABELS in metrics else ""
            word, name = ("reward", "reward/mean") if "reward/mean" in metrics else ("loss", "update/loss")
            said = f"{word} {metrics.get(name, float('nan')):.3f}"  # a run without rollouts has no rewards
            self.console.print(
                f"step {int(metrics['step']):4d}{(self.total and f' of {self.total}') or ''}  {said}"
                f"{right}{labels}"
                f"  tokens/s {metrics.get('rollout/tokens_per_second', 0.0):7.0f}  {metrics['time/step']:.1f} s{self.left()}",
                highlight=False,
            )

    def evaluation(self, label: str, result: Evaluation) -> None:
        self.console.print(
            f"held-out {result.unit} {label}: [bold]{amount(result.score, result.unit)}[/]"
            f"  (95 % interval {amount(result.low, result.unit)} to {amount(result.high, result.unit)}, n = {result.n})",
            highlight=False,
        )
        of_sources = {
            name.removeprefix(OF_SOURCE): v for name, v in result.details.items() if name.startswith(OF_SOURCE)
        }
        if of_sources:
            said = ", ".join(f"{name} {amount(value, result.unit)}" for name, value in of_sources.items())
            self.console.print(f"  of these: {said}", highlight=False, markup=False)

    def note(self, message: str) -> None:
        self.console.print(message, highlight=False, markup=False)


@contextmanager
def shown(observer: Observer | None, title: str) -> Iterator[Observer]:
    """Whoever is told of a run that was begun from Python: `observer`, or else a display in a terminal or a notebook, and nobody where
    there is neither."""
    console = new_console() if observer is None else None
    if console is None or not (console.is_terminal or console.is_jupyter):
        yield observer or Observer()
        return
    with Display(console, title) as display:
        yield display
