"""anypo: any policy, any policy optimisation.

    import anypo
    anypo.train(system="grpo", model="smollm2-135m", task="chain_sum", set={"objective.trust.high": 0.28})

Everything the command line does is one of the calls below; importing the package is cheap, the work is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from anypo.algorithm import Algorithm
    from anypo.plugins import plugin
    from anypo.recipes import Recipe, Stage
    from anypo.run.evaluation import evaluate
    from anypo.run.result import Result
    from anypo.run.session import resume, train
    from anypo.systems import SYSTEMS, find

__version__ = "0.1.0"

_HOME = {
    "Algorithm": "anypo.algorithm",
    "Result": "anypo.run.result",
    "Recipe": "anypo.recipes",
    "SYSTEMS": "anypo.systems",
    "Stage": "anypo.recipes",
    "evaluate": "anypo.run.evaluation",
    "find": "anypo.systems",
    "plugin": "anypo.plugins",
    "resume": "anypo.run.session",
    "train": "anypo.run.session",
}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        import importlib

        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'anypo' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*_HOME, "__version__"])


__all__ = ["SYSTEMS", "Algorithm", "Recipe", "Result", "Stage", "evaluate", "find", "plugin", "resume", "train"]
