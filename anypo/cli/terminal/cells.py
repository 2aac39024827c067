"""The live display of a comparison: one bar over all cells, one for each that runs."""

from __future__ import annotations

import threading
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from anypo.compare.plan import Cell
from anypo.compare.run import Watcher, name
from anypo.errors import Killed
from anypo.scoring.units import amount


class Display(Watcher):
    """Bars on a terminal, a line for every finished cell elsewhere."""

    def __init__(self, console: Console) -> None:
        self.console, self.lock = console, threading.RLock()
        self.bars = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[said]}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.total, self.done = 0, 0
        self.whole: TaskID | None = None
        self.running: dict[str, TaskID] = {}
        self.warm: TaskID | None = None

    def __enter__(self) -> Display:
        self.bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.bars.stop()
        if kind in (KeyboardInterrupt, Killed):
            self.console.print(f"{self.done} of {self.total} runs are finished and kept; the same command goes on")

    def begin(self, total: int, done: int) -> None:
        with self.lock:
            self.total, self.done = total, done
            if self.whole is not None:
                self.bars.remove_task(self.whole)
            self.whole = self.bars.add_task("all runs", total=total, completed=done, said=f"{done} of {total}")
            if done and not self.console.is_terminal:
                self.console.print(f"{done} of {total} runs are already finished")

    def preparing(self, task: str, done: int, total: int) -> None:
        with self.lock:
            if self.warm is None:
                self.warm = self.bars.add_task(f"warm start for {task}", total=total, said="")
                if not self.console.is_terminal:
                    self.console.print(f"warm start for {task} ...", highlight=False)
            self.bars.update(self.warm, completed=done, said=f"step {done} of {total}")
            if done == total:
                self.bars.remove_task(self.warm)
                self.warm = None

    def progress(self, cell: Cell, share: float, score: float, unit: str) -> None:
        with self.lock:
            key = name(cell)
            if key not in self.running:
                self.running[key] = self.bars.add_task(f"  {key}", total=1.0, said="")
            self.bars.update(self.running[key], completed=share, said=amount(score, unit))

    def finished(self, cell: Cell, failure: str) -> None:
        with self.lock:
            self.done += 1
            if self.whole is not None:
                self.bars.update(self.whole, completed=self.done, said=f"{self.done} of {self.total}")
            task = self.running.pop(name(cell), None)
            if task is not None:
                self.bars.remove_task(task)
            if failure:
                self.console.print(f"[red]failed[/] {name(cell)}: {failure}", highlight=False, soft_wrap=True)
            elif not self.console.is_terminal:
                self.console.print(f"{self.done} of {self.total}: {name(cell)}", highlight=False, soft_wrap=True)
