"""A run checked before it begins: everything that no weights are needed for."""

from __future__ import annotations

from pathlib import Path

from anypo.engine import device as devices
from anypo.errors import UserError
from anypo.policies.loading import check as check_model
from anypo.recipes import SCORE
from anypo.run.record.loggers import check_loggers
from anypo.run.settings.config import RunConfig
from anypo.run.settings.presets import said, unfitted
from anypo.run.stages import Stages
from anypo.systems import SYSTEMS


def check(config: RunConfig) -> None:
    """Raise `UserError` for names and options that are wrong: plugins, tasks, loggers, device, model. Nothing is loaded."""
    config.load_plugins()
    config.parse_tasks()
    check_loggers(config.loggers)
    devices.resolve(config.device)
    if config.until.evaluates and not config.eval_size:
        raise UserError(f"--until ends the run by '{SCORE}', and an evaluation of no problems (--eval-size 0) has none")
    if config.keep_best and not (config.eval_every and config.eval_size):
        raise UserError("--keep-best compares evaluations during training: say how often with --eval-every N")
    if config.init and not Path(config.begun_from).is_dir():
        raise UserError(f"--init {config.init}: there is no run with a trained model in it")
    if config.composition().policy.part == "given":
        check_model(config.model)


def head(config: RunConfig, warm: int) -> list[str]:
    """What is said at the head of a run about what it is made of. warm: the steps of its warm start."""
    filled = {name: value for name, value in config.filled.items() if name != "sft_steps" or warm}
    told = said(filled, config.model or config.task)
    known = SYSTEMS.get(config.system)
    fitted = any("." in path and not path.startswith("task_options.") for path in config.filled)
    written_out = not config.recipe and not fitted
    published = known.algorithm() if written_out and known is not None and known.kind == "method" else None
    unlike = unfitted(config.composition(), published, config.model) if published is not None else ""
    return [sentence for sentence in (told, unlike) if sentence]


def rehearse(config: RunConfig) -> list[str]:
    """Check all of `config` but the weights, the task's problems included; what is worth saying about it."""
    check(config)
    stages = Stages(config)
    return [*head(config, stages.warm), *stages.length(), *stages.sleepers(), *stages.unfit()]


__all__ = ["check", "head", "rehearse"]
