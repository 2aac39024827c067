"""Every reasoning-gym dataset as a task: endless generated problems, scored by the dataset's own scorer.

Train and held-out problems come from disjoint seeds, and the text of a question decides on which side it may appear
(`generators.side`), so no question is ever on both, in one run or in a chain of runs with different seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from anypo.data.records import prompt_id
from anypo.errors import UserError, unknown
from anypo.tasks.base import Problem
from anypo.tasks.pool import Outcome, Pool
from anypo.tasks.text import generators
from anypo.tasks.text.extract import INSTRUCTIONS, ExtractName, write
from anypo.tasks.text.hints import steps
from anypo.tasks.text.onestep import OneStepTask, conversation, fill, identify
from anypo.tasks.text.options import TaskOptions, choose_verifier, read
from anypo.tasks.text.rewards import complete
from anypo.tasks.text.scoring import Scorer, prepare
from anypo.tasks.text.verifiers import Verifier, versions
from anypo.tasks.worker import reason

GENERATION_LIMIT = 120.0
"""Seconds one problem may take to generate."""

HELDOUT_SEEDS = 2**30
"""Training seeds lie below, held-out seeds at and above; both are counted upwards from a hash of the task's seed."""

INLINE = frozenset({"basic_arithmetic", "chain_sum", "count_bits", "gcd", "lcm", "products"})
"""Datasets whose generator and scorer are quick, quiet and reproducible anywhere: they need no worker process."""


@dataclass(frozen=True)
class Preset:
    """How this library poses a dataset where it differs from the dataset's own defaults. `plain`: the compact question."""

    config: Mapping[str, Any] = field(default_factory=dict)
    extract: str | None = None
    graded: bool = True
    plain: str = "{question}"


PRESETS: dict[str, Preset] = {
    "basic_arithmetic": Preset(extract="last_integer", graded=False, plain="{expression} ="),
    "chain_sum": Preset(
        {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
        extract="last_integer",
        graded=False,
        plain="{expression} =",
    ),
    "products": Preset(
        {"min_terms": 2, "max_terms": 2, "min_digits": 1, "max_digits": 2},
        extract="last_integer",
        graded=False,
        plain="{expression} =",
    ),
    "gcd": Preset(extract="last_integer", graded=False),
    "lcm": Preset(extract="last_integer", graded=False),
    "count_bits": Preset(extract="last_integer", graded=False),
}

SOLVED_IN_METADATA = {
    "graph_color": "possible_answer",
    "propositional_logic": "example_answer",
    "rubiks_cube": "example_correct_answer",
}
"""Datasets without one answer, and where their items carry an example of a right one."""


class ReasoningGymVerifier(Verifier, name="reasoning_gym"):
    """The scorer that the dataset brings along, applied to the extracted answer; most give partial credit."""

    extract: ExtractName = "tags"
    dataset: str
    config: dict[str, Any] = Field(default_factory=dict)

    def score(self, found: str, problem: Problem) -> float:
        return generators.score(self.dataset, self.config, found, problem.metadata["item"])

    def isolated(self) -> bool:
        return self.dataset not in INLINE

    def prepare(self) -> None:
        generators.built(self.dataset, json.dumps(self.config, sort_keys=True, default=str), 0, 1)

    def identity(self) -> dict[str, Any]:
        scorer = "text comparison" if self.dataset in generators.TEXT_SCORED else "the dataset's own"
        return self.dump() | {"scorer": scorer, "versions": versions("reasoning-gym")}


class ReasoningOptions(TaskOptions):
    """Options of a reasoning-gym task, beside the settings of the dataset itself.

    size: training problems (generated when asked for). heldout: most held-out problems, all different. style: 'chat' asks the
    dataset's question followed by `instruction`; 'plain' the compact form, for models that know no instructions.
    template: replaces both; it may use {question}, {instruction} and whatever the dataset keeps about its items.
    """

    seed: int = Field(0, ge=0)
    size: int = Field(10_000, ge=1, le=100_000_000)
    heldout: int = Field(256, ge=1, le=1_000_000)
    style: Literal["chat", "plain"] = "chat"
    template: str | None = None
    instruction: str | None = None
    extract: ExtractName | None = None
    verifier: Any = None
    graded: bool | None = None


def parse(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """`options` checked against the dataset (`UserError`); returns them with the task's presets filled in."""
    known = generators.names()
    if name not in known:
        raise unknown("task", name, known, "A file needs the ending .jsonl, .parquet or .csv.")
    fields = generators.config_fields(name)
    given, config = _split(options, fields)
    checked = read(ReasoningOptions, name, given, also=fields)
    config = {**PRESETS.get(name, Preset()).config, **config}
    generators.check(name, config)
    _verifier(name, config, checked)
    return {"name": name, **given, **config}


def load(name: str, options: Mapping[str, Any]) -> OneStepTask:
    """The task; makes one problem of either side, so that what cannot work is refused here."""
    given, config = _split(parse(name, options), generators.config_fields(name))
    checked = read(ReasoningOptions, name, {key: value for key, value in given.items() if key != "name"})
    preset = PRESETS.get(name, Preset())
    verifier = _verifier(name, config, checked)
    graded = checked.graded if checked.graded is not None else preset.graded
    components = complete(checked.rewards, verifier, graded)
    pool = Pool(checked.workers, (_prepare, (components, name, config)), checked.memory)
    scorer = Scorer(components, checked.timeout, pool)
    if scorer.isolated:
        pool.check()
    source = ReasoningSource(name, config, checked, verifier.extract, pool)
    source.train(0)
    source.first_heldout()
    return OneStepTask(name, source, scorer)


class ReasoningSource:
    """Problems of one dataset, generated when asked for and kept (`Source`)."""

    def __init__(
        self, dataset: str, config: Mapping[str, Any], options: ReasoningOptions, extract: str, pool: Pool
    ) -> None:
        self.dataset, self.config, self.options, self.extract, self.pool = dataset, config, options, extract, pool
        self._train: dict[int, Problem] = {}
        self._heldout: list[Problem] = []
        self._seen: set[int] = set()
        self._next = 0
        self._exhausted = False

    def __len__(self) -> int:
        return self.options.size

    @property
    def n_heldout(self) -> int:
        """Different held-out problems: as many as wanted, or all that turn up before 200 draws in a row bring no new one."""
        self._extend(self.options.heldout)
        return len(self._heldout)

    def train(self, index: int) -> Problem:
        if index not in self._train:
            item, _ = self._find(0, index, stride=len(self))
            if len(self._train) >= 65536:
                self._train.clear()
            self._train[index] = self._problem(item)
        return self._train[index]

    def heldout(self, index: int) -> Problem:
        self._extend(index + 1)
        return self._heldout[index]

    def first_heldout(self) -> Problem:
        """The first held-out problem (there is always one)."""
        return self.heldout(0)

    def seeds(self) -> tuple[int, int]:
        """First generator seeds of the training and of the held-out stream."""
        base = prompt_id(f"seed:{self.options.seed}") % 2**29
        return base, HELDOUT_SEEDS + base

    def describe(self) -> dict[str, Any]:
        train, heldout = self.seeds()
        generator = {
            "package": "reasoning-gym",
            "versions": versions("reasoning-gym"),
            "dataset": self.dataset,
            "config": dict(self.config),
        }
        canonical = json.dumps(generator, sort_keys=True, default=str)
        return generator | {
            "sha256": hashlib.sha256(canonical.encode()).hexdigest(),
            "seed": self.options.seed,
            "seeds": {"train": train, "heldout": heldout},
            "size": self.options.size,
            "heldout": self.options.heldout,
            "split": "by a hash of the question; held-out questions are all different",
            "style": self.options.style,
            "template": self._template(),
            "instruction": self._instruction(),
            "system": self.options.system,
        }

    def _extend(self, wanted: int) -> None:
        """Generate held-out problems until there are `wanted`, or no new question turns up."""
        fruitless = 0
        while len(self._heldout) < wanted and not self._exhausted:
            item, candidate = self._find(1, self._next, stride=1)
            fruitless += candidate + 1 - self._next
            self._next = candidate + 1
            identity = prompt_id(item["question"])
            if identity not in self._seen:
                self._seen.add(identity)
                self._heldout.append(self._problem(item))
                fruitless = 0
            self._exhausted = fruitless >= generators.TRIES

    def _find(self, heldout: int, start: int, stride: int) -> tuple[dict[str, Any], int]:
        call = (self.dataset, self.config, self.seeds()[heldout], heldout, start, stride)
        if self.dataset in INLINE:
            try:
                outcome = Outcome(value=generators.find(*call))
            except LookupError as error:
                outcome = Outcome(failed=reason(error))
        else:
            outcome = self.pool.run(generators.find, [call], GENERATION_LIMIT)[0]
        if outcome.failed:
            raise UserError(
                f"task '{self.dataset}' cannot make a problem with these settings ({outcome.failed}); "
                "settings that allow more different questions may help"
            )
        item, candidate = outcome.value
        return item, candidate

    def _problem(self, item: dict[str, Any]) -> Problem:
        values = {"instruction": self._instruction(), **item["metadata"], "question": item["question"]}
        content = fill(self._template(), values, self.dataset).strip()
        answer = _text(item["answer"])
        example = answer or _text(item["metadata"].get(SOLVED_IN_METADATA.get(self.dataset, "")))
        messages = conversation(content, self.options.system)
        return Problem(
            prompt=identify(messages),
            messages=messages,
            answer=answer,
            solution=write(self.extract, example) if example else "",
            metadata={"dataset": self.dataset, "item": item},
            hints=steps(str(item["metadata"].get("expression", ""))),
        )

    def _template(self) -> str:
        if self.options.template is not None:
            return self.options.template
        if self.options.style == "plain":
            return PRESETS.get(self.dataset, Preset()).plain
        return "{question}\n{instruction}"

    def _instruction(self) -> str:
        given = self.options.instruction
        return given if given is not None else INSTRUCTIONS[self.extract]


def _verifier(name: str, config: Mapping[str, Any], options: ReasoningOptions) -> Verifier:
    preset = PRESETS.get(name, Preset()).extract
    default = preset or ("tags" if options.style == "chat" else "whole")
    own = ReasoningGymVerifier.make({"extract": default, "dataset": name, "config": dict(config)})
    return choose_verifier(options.verifier, own, options.extract)


def _split(options: Mapping[str, Any], fields: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The task's own options and the dataset's settings."""
    given = {key: value for key, value in options.items() if key not in fields}
    return given, {key: value for key, value in options.items() if key in fields}


def _prepare(components: Any, dataset: str, config: Mapping[str, Any]) -> None:
    prepare(components)
    generators.built(dataset, json.dumps(config, sort_keys=True, default=str), 0, 1)


def _text(answer: Any) -> str:
    """An answer as text: nothing is empty, structures are JSON."""
    if answer is None or isinstance(answer, str):
        return answer or ""
    return json.dumps(answer)
