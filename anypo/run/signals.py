"""Signals that end a run: Ctrl-C, and what schedulers, containers and closed terminals send."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from anypo.errors import Killed

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
PATIENT = "stopping after this step (once more to stop at once)"


class Stopping:
    """Whether a run has been asked to stop. `code`: the exit code of what asked (128 + the signal's number), 0 before.

    Inside `finishing` the first signal only asks, and the run stops where it can be taken up again; a second one, and every one
    outside, raises `KeyboardInterrupt` at once, or `Killed` for signals other than Ctrl-C's.
    """

    def __init__(self, note: Callable[[str], object]) -> None:
        self.note = note
        self.code = 0
        self.patient = False

    def ask(self, number: int = signal.SIGINT) -> None:
        """Stop when there is something to go on from."""
        self.code = self.code or 128 + number

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Listen to the signals inside. One that the process was started to ignore (``nohup``) goes on being ignored; in another
        thread than the main one, whoever owns that handles them."""
        before = {}
        for number in SIGNALS:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                with suppress(ValueError):
                    before[number] = signal.signal(number, self._handle)
        try:
            yield
        finally:
            for number, previous in before.items():
                signal.signal(number, previous if previous is not None else signal.SIG_DFL)

    @contextmanager
    def finishing(self, patient: bool = True) -> Iterator[None]:
        """What is worth finishing; with ``patient=False`` what is not, inside of something that is."""
        before, self.patient = self.patient, patient
        try:
            yield
        finally:
            self.patient = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.code or not self.patient:
            self.ask(number)
            raise KeyboardInterrupt if number == signal.SIGINT else Killed(number)
        self.ask(number)
        self.note(PATIENT)
