"""A live page for running and finished runs: one local process, nothing from or to anywhere else."""

from __future__ import annotations

from anypo.watch.server import Server

__all__ = ["Server"]
