"""Runs on disk as plain data for the page. Nothing here raises for a broken run: it becomes a sentence."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

import yaml

from anypo.errors import UserError
from anypo.report import sample
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.names import CONFIG, METRICS
from anypo.scoring.units import ACCURACY
from anypo.watch.feed import Feed, newest, tail
from anypo.watch.findings import findings

DEPTH = 3
"""How many folders below a given one a run may lie."""

GROUPS, TOKENS = 12, 12_000
"""Most groups and tokens of a step that are shown."""


class Unknown(UserError):
    """What was asked for is not there."""


def find(places: Sequence[Path]) -> Iterator[Path]:
    """Run folders: a given folder that is one, and those below the others. Each once."""
    seen: set[Path] = set()
    for place in places:
        for path in _below(place, DEPTH):
            if path.resolve() not in seen:
                seen.add(path.resolve())
                yield path


def _below(place: Path, depth: int) -> Iterator[Path]:
    if (place / CONFIG).is_file():
        yield place
        return
    with suppress(OSError):  # gone, or not ours to read
        for entry in sorted(os.scandir(place), key=lambda entry: entry.name):
            if depth and entry.is_dir(follow_symlinks=False) and not entry.name.startswith("."):
                yield from _below(Path(entry.path), depth - 1)


def identity(path: Path) -> str:
    """The name of a run in addresses: says nothing about where it lies, and only found runs have one."""
    return hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]


class Runs:
    """The runs below some folders. Safe to use from several threads."""

    def __init__(self, places: Sequence[Path]) -> None:
        self.places = tuple(places)
        self._feeds: dict[Path, Feed] = {}
        self._diagnoses: dict[Path, tuple[Any, dict[str, Any]]] = {}
        self._lock = Lock()

    def listing(self) -> dict[str, Any]:
        """Every run in a few words, the youngest first, and sentences about folders where there is none."""
        paths = list(find(self.places))
        missing = [f"There is no folder {place}." for place in self.places if not place.is_dir()]
        with self._lock:
            self._feeds = {path: feed for path, feed in self._feeds.items() if path in paths}
        runs = sorted((self._summary(path) for path in paths), key=lambda run: str(run["began"]), reverse=True)
        return {"runs": runs, "notes": missing}

    def path(self, name: str) -> Path:
        """The run of that identity. Raises `Unknown` when it is not (or no longer) there."""
        for path in find(self.places):
            if identity(path) == name:
                return path
        raise Unknown("there is no such run (any more)")

    def metrics(self, name: str, after: int, generation: int | None) -> dict[str, Any]:
        """See `Feed.after`."""
        feed = self._feed(self.path(name))
        with self._lock:
            return feed.after(after, generation)

    def detail(self, name: str) -> dict[str, Any]:
        """Status, evaluations, steps with rollouts, configuration and provenance of a run."""
        path = self.path(name)
        folder, problems = RunFolder(path), []
        found: dict[str, Any] = {"id": name, "path": str(path)}
        readers = {
            "status": folder.status,
            "evaluations": folder.evaluations,
            "rollouts": folder.rollout_steps,
            "checkpoints": folder.checkpoints,
            "manifest": folder.manifest,
            "config": lambda: yaml.safe_dump(folder.config(), sort_keys=False, allow_unicode=True),
        }
        for key, read in readers.items():
            try:
                found[key] = read()
            except (UserError, OSError) as error:
                found[key] = None
                problems.append(_sentence(error))
        manifest = found["manifest"] or {}
        found["command"], found["supplied"] = manifest.get("command", ""), manifest.get("supplied") or {}
        found["manifest"] = json.dumps(manifest, indent=2, ensure_ascii=False) if manifest else ""
        return found | {"problems": problems}

    def rollouts(self, name: str, step: int | None) -> dict[str, Any]:
        """Rollouts of a step (default: the newest) in whole groups, those with the most different rewards first."""
        folder = RunFolder(self.path(name))
        steps = folder.rollout_steps()
        if not steps:
            return {"step": None, "rollouts": []}
        chosen = steps[-1] if step is None else step
        return {"step": chosen, "rollouts": sample.of_step(folder, chosen, TOKENS, GROUPS)}

    def answers(self, name: str) -> dict[str, Any]:
        """Held-out answers of the first and the last evaluation side by side; empty with fewer than two evaluations."""
        folder = RunFolder(self.path(name))
        entries = folder.evaluations()
        labels = [str(entry["label"]) for entry in entries]
        if len(labels) < 2 or entries[0]["unit"] != ACCURACY:  # of amounts there is no right or wrong
            return {}
        outcome = str(folder.manifest().get("task", {}).get("outcome", ""))
        found = sample.answers(folder, labels[0], labels[-1], outcome)
        return found | {"labels": [labels[0].capitalize(), labels[-1].capitalize()]} if found else {}

    def diagnosis(self, name: str) -> dict[str, Any]:
        """What `anypo diagnose` finds in the run; looked for again only after something has changed."""
        path = self.path(name)
        feed = self._feed(path)
        moment = (feed.generation, len(feed.steps), RunFolder(path).status()["state"])
        known = self._diagnoses.get(path)
        if known is None or known[0] != moment:
            known = self._diagnoses[path] = (moment, findings(path))
        return known[1]

    def ask(self, name: str, action: str) -> None:
        """See `RunFolder.ask`."""
        RunFolder(self.path(name)).ask(action)

    def _feed(self, path: Path) -> Feed:
        with self._lock:
            feed = self._feeds.setdefault(path, Feed(path / METRICS))
            feed.refresh()
            return feed

    def _summary(self, path: Path) -> dict[str, Any]:
        (records, damaged), folder = tail(path / METRICS), RunFolder(path)
        feed = self._feed(path) if path in self._feeds else None  # followed only where somebody looks at its curves
        summary: dict[str, Any] = {
            "id": identity(path),
            "name": path.resolve().name,
            "path": str(path),
            "state": "unreadable",
            "reason": "",
            "began": "",
            "done": records[-1]["step"] if records else 0,
            "generation": feed.generation if feed else 0,
            "reward": newest(records[-20:], "reward/mean"),
            "score": None,
            "unit": "",
            "evaluations": 0,
            "pausing": requests.asked(path, requests.PAUSE),
            "problem": feed.problem() if feed else f"{METRICS} has lines that are not JSON objects." if damaged else "",
        }
        try:
            config, status = folder.config(), folder.status()
            sessions = status["sessions"]
            evaluations = folder.evaluations()
            summary |= {key: config.get(key) for key in ("system", "model", "task", "steps", "seed")}
            summary |= {"state": str(status["state"]), "reason": str(status["reason"])}
            summary |= {"began": str(sessions[0].get("began", "")) if sessions else "", "evaluations": len(evaluations)}
            summary |= {key: evaluations[-1][key] for key in ("score", "unit")} if evaluations else {}
        except (UserError, OSError, TypeError, AttributeError, KeyError) as error:
            summary["problem"] = _sentence(error)
        return summary


def _sentence(error: Exception) -> str:
    return str(error) if isinstance(error, UserError) else f"a file of the run cannot be read ({error})"
