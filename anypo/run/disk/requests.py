"""Asking a run, from another process, to pause, go on, save or stop: one empty file a request in ``<run>/requests``.

    pause        the run waits between two steps for as long as the file is there
    checkpoint   the run saves its state after the current step and removes the file
    stop         the run saves its state after the current step, removes the file and ends, as after Ctrl-C

A file appears and disappears in one step, so nobody reads half a request, and asking twice is asking once. What was asked of
one session means nothing to the next: requests are cleared when a session begins and when it ends.
"""

from __future__ import annotations

import shlex
from contextlib import suppress
from pathlib import Path

from anypo.errors import UserError, unknown
from anypo.files import writing

PAUSE, RESUME, CHECKPOINT, STOP = ACTIONS = ("pause", "resume", "checkpoint", "stop")

LIVE = ("running", "paused")
"""States of a run that has a process which can be asked."""

PLACE = "requests"


def ask(run: Path, state: str, action: str) -> None:
    """Ask the process that executes the run, which is in `state`; it answers between two steps, never within one.

    Raises `UserError` when the action is unknown, the run has no process, or the folder cannot be written.
    """
    if action not in ACTIONS:
        raise unknown("action", action, ACTIONS)
    if state not in LIVE:
        hint = "" if state == "finished" else f"; go on with: anypo resume {shlex.quote(str(run))}"
        raise UserError(f"{run} is not running (it is {state}), so nobody can {action} it{hint}")
    place = run / PLACE
    with writing(place):
        if action == RESUME:
            (place / PAUSE).unlink(missing_ok=True)
        else:
            place.mkdir(exist_ok=True)
            (place / action).touch()


def asked(run: Path, action: str) -> bool:
    """Whether the request is there."""
    return (run / PLACE / action).exists()


def take(run: Path, action: str) -> bool:
    """Whether the request is there, and remove it: the caller carries it out."""
    try:
        (run / PLACE / action).unlink()
    except OSError:  # not there, or not ours to remove: a request that would be carried out for ever
        return False
    return True


def clear(run: Path) -> None:
    """Forget every request."""
    for action in (PAUSE, CHECKPOINT, STOP):
        take(run, action)
    with suppress(OSError):  # not there, or it holds something else
        (run / PLACE).rmdir()
