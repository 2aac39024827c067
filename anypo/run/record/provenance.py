"""Who supplied what: everything needed to say where a run's numbers come from, as plain data."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

import anypo
from anypo import plugins
from anypo.data.digest import sha256
from anypo.engine import device
from anypo.errors import shown
from anypo.run.disk.lock import now
from anypo.systems import SYSTEMS
from anypo.tasks.live import posed

PACKAGES = (
    "torch", "transformers", "tokenizers", "safetensors", "peft", "numpy", "reasoning-gym", "math-verify", "gymnasium", "minari",
)  # fmt: skip
"""Packages whose version can change a result."""


def manifest(
    config: Mapping[str, Any], policy: Any, task: Any, models: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The provenance of a run about to start: code, method, models, data, verifiers, seeds, versions, machine, command.

    `policy` holds the weights the run starts from, hashed here, as are those of `models`, the other models by role;
    `task.describe()` names data, verifiers and their hashes.
    """
    code, model, others = describe_code(), describe_model(config, policy), describe_models(models or {})
    added = plugins.describe(config.get("plugins") or ())
    about = {"name": task.name, "outcome": task.outcome, "weights": dict(task.weights), "problems": len(task)}
    about |= {"first_problems": first_problems(task)}
    data = {**about, **task.describe()}
    system = SYSTEMS.get(str(config.get("system")))
    paper = system.paper if system is not None else ""
    return {
        "created": now(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "seed": config.get("seed"),
        "supplied": {
            "code": f"anypo {code['version']}" + (f" at commit {code['commit'][:12]}" if code["commit"] else ""),
            "method": f"{config.get('system')}" + (f" ({paper})" if paper else ""),
            "initial weights": ", ".join(
                dict.fromkeys(str(model[key]) for key in ("source", "weights") if key in model)
            ),
            **{role: str(about["model"]) for role, about in others.items()},
            "problems and answers": brief(data.get("source", task.name)),
            "rewards": "; ".join(brief(reward) for reward in data.get("rewards", ())) or task.outcome,
            **({"plugins": "; ".join(_extension(found) for found in added)} if added else {}),
        },
        "code": code,
        "plugins": added,
        "model": model,
        **({"models": others} if others else {}),
        "task": data,
        "versions": {"python": platform.python_version()} | {name: version(name) for name in PACKAGES},
        "machine": describe_machine(),
        "device": describe_device(str(config.get("device", "auto")), getattr(policy, "device", torch.device("cpu"))),
    }


SEEN = 8
"""Problems of either side that the manifest knows by their content."""


def first_problems(task: Any) -> str:
    """SHA-256 over the questions and answers of the first training and held-out problems."""
    digest = hashlib.sha256()
    for side, size in ((task.train, len(task)), (task.heldout, task.n_heldout)):
        for problem in (posed(task, side, index) for index in range(min(size, SEEN))):
            digest.update(f"{problem.prompt}={problem.answer!r};".encode(errors="replace"))
    return digest.hexdigest()


def changes(recorded: Mapping[str, Any], present: Mapping[str, Any]) -> str:
    """What the policy is asked, and in which words, that is no longer as a manifest recorded it, as one clause; '' where nothing
    is. Only what both manifests know is compared."""
    sides = [(name, _part(recorded, name), _part(present, name)) for name in ("task", "model")]
    found = [f"the {name}'s {said}" for name, before, now in sides for said in _differing(before, now)]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return ", ".join(found[:SHOWN]) + more


SHOWN = 4
"""Changes that a sentence names."""


def _part(manifest: Mapping[str, Any], name: str) -> Any:
    found = manifest.get(name)
    if not isinstance(found, Mapping):
        return {}
    if name == "model":
        found = {key: found[key] for key in KEPT if key in found}
    return json.loads(json.dumps(found, default=str))


KEPT = ("chat", "context", "base")
"""What a manifest knows about a model that decides what it reads, and that checkpoints stand on."""


def _differing(before: Any, now: Any, place: str = "") -> list[str]:
    """Every leaf that differs, with its two values; digests are cut."""
    if isinstance(before, dict) and isinstance(now, dict):
        inside = lambda key: f"{place}.{key}" if place else key
        return [said for key in before if key in now for said in _differing(before[key], now[key], inside(key))]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        pairs = enumerate(zip(before, now))
        return [said for number, (old, new) in pairs for said in _differing(old, new, f"{place}.{number}")]
    if before == now:
        return []
    said = [
        str(value)[:12] if re.fullmatch("[0-9a-f]{64}", str(value)) else shown(value, 60) for value in (before, now)
    ]
    return [f"{place.replace('_', ' ')} ({said[0]}, now {said[1]})"]


def brief(value: Any) -> str:
    """A description in a line: who made it, in which version, which part of it."""
    if not isinstance(value, Mapping):
        return str(value)
    package = value.get("package")
    maker = f"{package} {dict(value.get('versions') or {}).get(package, '')}".strip() if package else ""
    digest = f"sha256 {str(value['sha256'])[:12]}" if "path" in value and "sha256" in value else ""
    named = [value[key] for key in ("name", "path", "dataset", "part") if key in value]
    verifier = f"judged by {brief(value['verifier'])}" if "verifier" in value else ""
    pieces = [maker, *(str(name) for name in dict.fromkeys(named)), digest, verifier]
    return ", ".join(piece for piece in pieces if piece) or json.dumps(dict(value), default=str)


def _extension(plugin: Mapping[str, Any]) -> str:
    return " ".join(filter(None, (plugin["name"], plugin["version"], f"(sha256 {plugin['sha256'][:12]})")))


def describe_code() -> dict[str, Any]:
    """anypo's version and, in a git checkout, its commit and whether files differ from it."""
    home = Path(anypo.__file__).parent
    tracked = (
        git(home, "ls-files", "--error-unmatch", "__init__.py") is not None
    )  # not just inside someone else's checkout
    changes = git(home, "status", "--porcelain", "--", str(home)) if tracked else None
    return {
        "version": anypo.__version__,
        "commit": (git(home, "rev-parse", "HEAD") if tracked else None) or "",
        "modified": None if changes is None else bool(changes),
    }


def describe_model(config: Mapping[str, Any], policy: Any) -> dict[str, Any]:
    """What the weights are, where they came from, and their SHA-256; that of the base where adapters are trained, which is in no
    checkpoint."""
    source = f"final weights of {config['init']}" if config.get("init") else str(config.get("model"))
    extra = policy.describe() if hasattr(policy, "describe") else {}
    parameters = list(policy.parameters())
    base = policy.base() if hasattr(policy, "base") else {}
    return {
        "source": source,
        **extra,
        **({"base": sha256(base)} if base else {}),
        "dtype": config.get("dtype"),
        "lora": config.get("lora"),
        "trainable_parameters": sum(p.numel() for p in parameters),
        "sha256": sha256(policy.state_dict()),
    }


def describe_models(models: Mapping[str, Any]) -> dict[str, Any]:
    """Every role's model: its own description, and the SHA-256 of weights that were loaded for it."""
    hashed = {role: {"sha256": sha256(own)} for role, model in models.items() if (own := model.weights())}
    return {role: model.describe() | hashed.get(role, {}) for role, model in models.items()}


def describe_machine() -> dict[str, Any]:
    """What the run executes on; no names of people or hosts."""
    return {
        "system": f"{platform.system()} {platform.release()}",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerator": device.label(device.resolve()) if device.resolve().type != "cpu" else "",
    }


def describe_device(asked: str, used: torch.device) -> dict[str, str]:
    """Where the weights are: what was asked for, what it came to, and what the hardware calls itself."""
    return {"asked": asked, "used": str(used), "name": device.label(used)}


def version(package: str) -> str:
    """The installed version of a package, empty when it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def git(folder: Path, *arguments: str) -> str | None:
    """What a git command prints in `folder`, or None when it fails (no git, no checkout)."""
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
