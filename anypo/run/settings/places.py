"""Files and folders that a run names, found again from anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from anypo.policies.loading import MODELS
from anypo.run.disk.names import CONFIG
from anypo.tasks.mixture import unfolded


def lasting(name: str, beside: Path | None = None) -> str:
    """The whole path of the file or folder that `name` means, looked for in the folder `beside` first and then from here; `name`
    itself where there is none (a system's, a task's, a hub's)."""
    plain = name.strip()
    if not plain or "\0" in plain or len(plain) > 4096:
        return name
    try:
        for folder in filter(None, (beside, Path())):
            place = folder / Path(plain).expanduser()
            if place.exists():
                return str(place.absolute())
    except (OSError, RuntimeError, ValueError):  # a name that no file system takes
        return name
    return name


def lasting_model(name: str, known: Mapping[str, Any], beside: Path | None = None) -> str:
    """The same of a model, which may be known by name; the folder of a run is that of the weights it left."""
    if name in known:
        return name
    place = Path(lasting(name, beside))
    run = (place / CONFIG).is_file() and (place / "model").is_dir()
    return str(place / "model") if run else str(place) if place.is_dir() else name


def lasting_task(name: str, beside: Path | None = None) -> str:
    """The same of a task: only what is spelled as a path, or is a folder of data, is one."""
    if "," in name and not Path(name).exists():
        return ",".join(lasting_task(piece.strip(), beside) for piece in name.split(","))
    if "*" in name and not Path(name).is_absolute():
        folder = next((place for place in (beside, Path()) if place is not None and any(place.glob(name))), None)
        return str(folder.absolute() / name) if folder is not None else name
    prefix, _, rest = name.rpartition("minari:")
    if not prefix and rest != name:
        return (
            f"minari:{lasting(rest, beside)}" if Path(rest).is_dir() or (beside and (beside / rest).is_dir()) else name
        )
    place = Path(lasting(name, beside))
    spelled = "/" in name or bool(Path(name).suffix)
    return str(place) if place.is_file() or (spelled and place.is_dir()) or _data(place) else name


def _data(place: Path) -> bool:
    """Whether a folder was written by the `datasets` library or holds a Minari data set."""
    return any((place / file).is_file() for file in ("dataset_dict.json", "state.json", "data/metadata.json"))


def placed_options(options: Mapping[str, Any], beside: Path | None = None) -> dict[str, Any]:
    """The options of a task with the paths in them whole, those of the sources of a mixture too."""
    out = dict(options)
    if isinstance(out.get("heldout"), str):
        out["heldout"] = lasting_task(out["heldout"], beside)
    if isinstance(out.get("of"), (list, tuple)):
        out["of"] = [_placed_source(source, beside) for source in out["of"]]
    return out


def _placed_source(source: Any, beside: Path | None) -> Any:
    if isinstance(source, str):
        return lasting_task(source, beside)
    if not isinstance(source, Mapping):
        return source
    task, options = source.get("task"), source.get("task_options")
    own: dict[str, Any] = {"task": lasting_task(task, beside)} if isinstance(task, str) else {}
    own |= {"task_options": placed_options(options, beside)} if isinstance(options, Mapping) else {}
    return {**source, **own}


def placed(settings: Mapping[str, Any], beside: Path | None = None) -> dict[str, Any]:
    """The settings of a run with the paths in them whole; a single logger or plugin is a list of one."""
    out = dict(settings)
    out["task"], out["task_options"] = unfolded(out.get("task"), out.get("task_options"))
    out = {key: value for key, value in out.items() if value is not None or key in settings}
    ways = {
        "model": lambda name: lasting_model(name, MODELS, beside),
        "task": lambda name: lasting_task(name, beside),
        "init": lambda name: lasting(name, beside),
    }
    for key, way in ways.items():
        if isinstance(out.get(key), str):
            out[key] = way(out[key])
    if isinstance(options := out.get("task_options"), Mapping):
        out["task_options"] = placed_options(options, beside)
    for key in ("loggers", "plugins"):
        if isinstance(out.get(key), str):
            out[key] = [out[key]]
    if isinstance(out.get("plugins"), (list, tuple)):
        out["plugins"] = [
            lasting(str(name), beside) if str(name).endswith(".py") else str(name) for name in out["plugins"]
        ]
    return out


__all__ = ["lasting", "lasting_model", "lasting_task", "placed"]
