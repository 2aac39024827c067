"""The stages of a run: what each of them runs in, and what one hands to the next. A plain run is one stage."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from anypo import tasks
from anypo.algorithm import Algorithm
from anypo.budget import PATIENCE, Budget, planned
from anypo.engine import device as devices
from anypo.engine.base import Limit
from anypo.errors import UserError, nearest
from anypo.filter.consensus import PSEUDO
from anypo.generate.base import Generate, World, check_suits
from anypo.outlook import Outlook
from anypo.policies.classes import Wanted
from anypo.policies.language.tiny import TinyConfig
from anypo.recipes import POLICY, SHELF, Leg, Stage
from anypo.roles import cast
from anypo.run.settings.config import RunConfig
from anypo.run.settings.length import met, passes
from anypo.run.settings.limits import MARGIN, check_prompts, fitting, longest
from anypo.run.trainer import Trainer
from anypo.tasks import Task
from anypo.tasks.mixture import sources_of
from anypo.tasks.unlabelled import Unlabelled, labelled
from anypo.update.sft import NO_WORKED, worked

WARM = "warm_start"
"""The entry of a checkpoint that was made inside the supervised warm start, in the place of a trainer's state."""


def weights_of(state: Mapping[str, Any]) -> Mapping[str, Any]:
    """The policy's weights in a checkpoint, of the warm start or later."""
    found = state[WARM]["policy"]["weights"] if WARM in state else state["weights"]["learners"]["policy"]
    assert isinstance(found, Mapping)
    return found


@dataclass
class Running:
    """A stage while it runs. before: steps of the run that came before it. rows: the metrics of its own steps so far. budget: how long
    it may go on, in the place of a number of steps."""

    leg: Leg
    world: World
    trainer: Trainer
    before: int = 0
    rows: list[Mapping[str, Any]] = field(default_factory=list)
    budget: Budget | None = None

    @property
    def step(self) -> int:
        """Steps of the run so far."""
        return self.before + self.trainer.number

    @property
    def over(self) -> bool:
        """Whether the stage has done what it was to do."""
        return self.trainer.number >= self.trainer.total or self.leg.stage.until.reached(self.rows)

    @property
    def planned(self) -> int:
        """Steps of the run once the stage has taken all of its own."""
        return self.before + self.trainer.total

    def plan(self) -> None:
        """Foresee how many steps the budget lasts, from what those so far have spent: schedules need a length. `UserError` where
        nothing is spent any more."""
        if self.budget is None or not self.rows:
            return
        self.trainer.total = max(self.trainer.total, self.trainer.number + 1)
        if share := self.budget.share(self.rows):
            self.trainer.total = planned(self.trainer.number, share)
        if len(self.rows) >= PATIENCE and not self.budget.share(self.rows[-PATIENCE:]):
            raise UserError(
                f"the last {PATIENCE} steps spent nothing of the budget ({self.budget}); say --steps N instead"
            )

    @property
    def scored(self) -> bool:
        """Whether what may end the stage wants a held-out score of this step."""
        every = self.leg.stage.until.evaluates
        return every > 0 and self.trainer.number % every == 0

    def unmeasured(self) -> str:
        """A sentence where what is to end the stage is a metric that its first step has not; '' where there is nothing to say."""
        name = self.leg.stage.until.watched
        if len(self.rows) != 1 or not name or name in self.rows[0] or self.leg.stage.until.evaluates:
            return ""
        known = [key for key, value in self.rows[0].items() if isinstance(value, (int, float))]
        return f"stage '{self.leg.stage.name}' ends by '{name}', which its first step has not.{nearest(name, known)}"


class Stages:
    """What the stages of one run are made of: the tasks, and the policy they train."""

    def __init__(self, config: RunConfig) -> None:
        self.task = tasks.load(tasks.parse(config.task, config.task_options))
        self.said: list[str] | None = None
        self._plan(config)
        own = {stage.name: stage for stage in self.recipe.stages if stage.task}
        self._own = {name: tasks.load(tasks.parse(stage.task, stage.task_options)) for name, stage in own.items()}
        self._tasks = {stage.name: self._load(stage) for stage in self.recipe.stages}
        for stage in self.recipe.stages:
            check_suits(stage.algorithm, self._tasks[stage.name])
            if self.recipe.stages[1:] or stage.task:
                self._check_policy(stage)

    def _check_policy(self, stage: Stage) -> None:
        """Refuse now, not when its turn comes, a stage whose policy cannot act, or whose own environment is of another shape."""
        try:
            stage.algorithm.policy.check_acts(self.task)
        except UserError as error:
            raise UserError(f"stage '{stage.name}': {error}") from None
        own, run = self._tasks[stage.name], self.task
        shape = lambda task: getattr(getattr(task, "observation", None), "shape", None)
        if shape(own) != shape(run) or getattr(own, "actions", None) != getattr(run, "actions", None):
            raise UserError(
                f"stage '{stage.name}': the policy is made for the observations and actions of {run.name}, and {own.name} has others"
            )

    def _plan(self, config: RunConfig) -> None:
        """The configuration with the steps that follow from its passes over the data, and its stages."""
        if config.epochs:
            steps = passes(config.epochs, config.composition(), self.task, config.task_options)
            config = config.model_copy(update={"steps": steps})
        self.config, self.recipe = config, config.plan()
        self.legs = self.recipe.legs

    def _load(self, stage: Stage) -> Task:
        return _visible(self._own.get(stage.name, self.task), self.config.reward, stage.algorithm)

    def _fit(self, policy: Any, sampler: Any) -> None:
        """Once the tokenizer is known: drop or cut the prompts that are too long for any stage, where that is asked for, and plan anew
        for what is left. `said`: what this did."""
        if self.said is not None or self.config.overlong == "refuse" or not hasattr(policy, "chat"):
            return
        generators = [self.acting.generate, *(stage.algorithm.generate for stage in self.recipe.stages)]
        limit = min((limit_of(sampler, policy, generate) for generate in generators), key=lambda limit: limit.tokens)
        way = self.config.overlong
        self.task, self.said = fitting(self.task, policy, limit, way)
        for name, own in self._own.items():
            self._own[name], said = fitting(own, policy, limit, way)
            self.said += said
        self._plan(self.config)
        self._tasks = {stage.name: self._load(stage) for stage in self.recipe.stages}

    @property
    def acting(self) -> Algorithm:
        """How the policy acts when it is evaluated: as the last stage's."""
        return self.recipe.acting

    def open(self, number: int = 0) -> World:
        """The world of leg `number` with the policy as the run begins with it."""
        config, algorithm = self.config, self.legs[number].stage.algorithm
        place = devices.resolve(config.device)
        wanted = Wanted(self.task, config.model, config.seed, config.dtype, config.lora, place, config.chat_args)
        return self._world(number, algorithm.policy.open(wanted, config.begun_from))

    def _world(self, number: int, policy: Any) -> World:
        """A world around `policy`; it has the models of the last stage too, in whose way the policy acts when it is evaluated."""
        stage, seed = self.legs[number].stage, self.config.seed
        sampler = stage.algorithm.engine.sampler(policy)
        self._fit(policy, sampler)
        models = {entry.role: entry for entry in (*self.acting.models, *stage.algorithm.models)}
        return World(self._tasks[stage.name], policy, sampler, cast(tuple(models.values()), policy, sampler, seed))

    def check(self, world: World, heldout: int) -> list[str]:
        """Raise `UserError` where a prompt is longer than what samples or trains on it takes; what else is worth saying."""
        policy, sleepers = world.policy, [*(self.said or []), *self.sleepers()]
        if not hasattr(policy, "chat"):
            return sleepers
        limit = limit_of(world.sampler, policy, self.acting.generate)
        said = {
            check_prompts(own, policy, limit, min(heldout, own.n_heldout)) for own in sources_of(self.task).values()
        }
        for stage in self.recipe.stages:
            first, engine = stage is self.legs[0].stage, stage.algorithm.engine
            limit = limit_of(world.sampler if first else engine.sampler(policy), policy, stage.algorithm.generate)
            said |= {check_prompts(own, policy, limit) for own in sources_of(self._tasks[stage.name]).values()}
        return sleepers + sorted(said - {""})

    def unfit(self) -> list[str]:
        """The same as `check` says, as far as it can be known without the weights: of problems in memory, for a model that costs
        nothing to make; where no prompt could be too long whatever the tokenizer makes of it, not even that is made."""
        loaded = [own for task in (self.task, *self._tasks.values()) for own in sources_of(task).values()]
        if self.config.model != "tiny" or self.recipe.acting.policy.part != "given":
            return []
        if max(map(longest, loaded)) < TinyConfig().context // 2 - MARGIN:
            return []
        world = self.open()
        return [said for said in self.check(world, self.config.eval_size) if said not in self.sleepers()]

    @cached_property
    def warm(self) -> int:
        """Supervised steps before the first one: none where nobody asked for them and the task has no worked solutions. `UserError`
        where somebody did."""
        steps = self.config.sft_steps
        if not steps or worked(self.task, steps):
            return steps
        if "sft_steps" not in self.config.filled:
            raise UserError(NO_WORKED.format(self.task.name))
        return 0

    def length(self) -> list[str]:
        """How many steps a run has, or is expected to have, that was given no number of them, as a sentence."""
        config = self.config
        if config.epochs:
            each = met(self.recipe.acting)
            return [
                f"{config.epochs:g} passes over {len(self.task):,} problems, {each:,} in a step: {config.steps:,} steps"
            ]
        return (
            [f"the budget {config.budget} ends the run; planned at first: {config.steps:,} steps"]
            if config.budget
            else []
        )

    def sleepers(self) -> list[str]:
        """What cannot act in the run as it is planned, a sentence each."""
        out = []
        if self.warm < self.config.sft_steps:
            out.append(
                "there is no supervised warm start, for the task has no worked solutions; name their column with --task-set "
                "solution=COLUMN"
            )
        for stage in self.recipe.stages:
            task = self._tasks[stage.name]
            outlook = Outlook(stage.steps, len(task), task)
            among = f"stage '{stage.name}': " if self.recipe.stages[1:] else ""
            out += [f"{among}{said}" for said in stage.algorithm.sleepers(outlook)]
        return out

    def start(self, number: int, world: World, before: int = 0) -> Running:
        """Leg `number` before its first step. Every leg draws random numbers of its own; the first draws those of a plain run."""
        leg = self.legs[number]
        seed = zlib.crc32(f"{self.config.seed}:{number}".encode()) if number else self.config.seed
        trainer = Trainer(leg.stage.algorithm, world, seed, leg.stage.steps, self.config.beside)
        budget = Budget.parse(self.config.budget) if self.config.budget else None
        return Running(leg, world, trainer, before, budget=budget)

    def after(self, done: Running) -> Running | None:
        """The leg after one that is over, with what that one keeps; None after the last."""
        number = done.leg.number + 1
        if number == len(self.legs):
            return None
        kept = done.leg.stage.keeps
        world = self._world(number, done.world.policy) if POLICY in kept else self.open(number)
        for model in world.models.values():
            model.begin()
        following = self.start(number, world, done.step)
        for name in kept:
            hand_over(name, done.trainer, following.trainer)
        return following


def limit_of(sampler: Any, policy: Any, generate: Generate) -> Limit:
    """The longest prompt that `generate` may begin with."""
    own = Limit(policy.context - 1, f"the model's context is {policy.context:,}", "choose another model")
    found = sampler.longest(generate.max_new) if hasattr(sampler, "longest") and generate.part != "nothing" else None
    return min(own, found or own, key=lambda limit: limit.tokens)


def hand_over(name: str, old: Trainer, new: Trainer) -> None:
    """Give `new` what `old` knows under `name` (see `anypo.recipes.Stage.keeps`)."""
    if name == POLICY:
        return  # the very same object
    if name == SHELF:
        new.memory.shelf.load_state_dict(old.memory.shelf.state_dict())
        return
    if name in old.weights.references:
        new.weights.references[name].load_state_dict(old.weights.references[name].state_dict())
        return
    inside = lambda path: path == name or path.startswith(f"{name}.")
    states = {path: state for path, state in old.memory.state_dict().items() if inside(path)}
    new.memory.load_state_dict({path: state for path, state in states.items() if path in new.memory.states})
    for ours, theirs in (
        (old.weights.learners, new.weights.learners),
        (old.weights.optimisers, new.weights.optimisers),
    ):
        for path in filter(inside, ours.keys() & theirs.keys()):
            theirs[path].load_state_dict(ours[path].state_dict())


def _visible(task: Task, reward: str, algorithm: Algorithm) -> Task:
    """The task as training may see it: without its labels where the rewards are to do without them, or there are none; as it is
    where training looks at no reward."""
    if any("unrewarded" in part.provided() for _, part in algorithm.walk()):
        return task
    if not labelled(task) and not any(part.provided() & PSEUDO for _, part in algorithm.walk()):
        raise UserError(
            f"task '{task.name}' has no answers to verify; add --reward majority, confidence or judge, or name the "
            "column of answers with --task-set answer=COLUMN"
        )
    return task if reward == "verifier" and labelled(task) else Unlabelled(task)
