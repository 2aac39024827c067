"""reasoning-gym behind one small interface: settings checked, items reproducible, scores from the dataset's own scorer.

The functions here run in worker processes (see `anypo.tasks.text.reasoning`): several generators print, read the global random
state or depend on Python's hash seed, and several scorers evaluate the answer.
"""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import json
import random
import sys
import typing
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from anypo.data.records import prompt_id
from anypo.errors import UserError, shown, unknown
from anypo.parts import first_reason
from anypo.tasks.text.options import from_text
from anypo.tasks.text.sat import ensure_pycosat

BLOCK = 4096
"""Candidates per dataset object: some datasets make all their items at once, one refuses more than 20 000."""

MOST = 10**9
"""The largest number in a configuration: a dataset asked for 10^80 terms would never end."""

TRIES = 200
"""Candidates tried for one problem: with half of all questions on either side, more only helps where there are few."""

LITERAL_ANSWERS = frozenset({"binary_matrix", "n_queens", "spiral_matrix", "string_insertion"})
"""Datasets whose scorer applies `eval` to the answer where it expects a Python literal; they get `ast.literal_eval`."""

TEXT_SCORED = frozenset({"game_of_life_halting"})
"""Datasets compared as text, because their own scorer calls every answer right that is not empty."""

FRAGILE = frozenset({"boxnet", "game_of_life", "prime_factorization"})
"""Datasets whose scorer raises on an answer it cannot read: for them such an answer is wrong, not a failure."""


def names() -> list[str]:
    """Every dataset of the installed reasoning-gym."""
    return sorted(_datasets())


def config_fields(dataset: str) -> list[str]:
    """The settings of `dataset` a user may choose (seed and size belong to the task)."""
    return [field.name for field in dataclasses.fields(_config_class(dataset)) if field.name not in ("seed", "size")]


def check(dataset: str, config: Mapping[str, Any]) -> None:
    """Refuse settings the dataset does not take, with the nearest spelling or the reason (`UserError`)."""
    _build(dataset, dict(config), seed=0, size=1)


def side(question: str) -> int:
    """0: a training question; 1: a held-out question. Decided by the text alone, whatever the seeds of a run."""
    return prompt_id("side:" + question) & 1


def find(
    dataset: str, config: Mapping[str, Any], seed: int, heldout: int, start: int, stride: int
) -> tuple[dict[str, Any], int]:
    """The first candidate of the wanted side among start, start + stride, ..., and its number.

    Candidate c is the item the dataset makes from the seed `seed` + c. Raises LookupError after `TRIES` candidates.
    """
    for candidate in range(start, start + stride * TRIES, stride):
        item = candidate_item(dataset, config, seed, candidate)
        if side(item["question"]) == heldout:
            return item, candidate
    raise LookupError(f"no {'held-out' if heldout else 'training'} question among {TRIES} generated ones")


def candidate_item(dataset: str, config: Mapping[str, Any], seed: int, candidate: int) -> dict[str, Any]:
    """The item (question, answer, metadata) number `candidate` of the stream that begins at `seed`."""
    block, offset = divmod(candidate, BLOCK)
    made = built(dataset, json.dumps(config, sort_keys=True, default=str), seed + block * BLOCK, BLOCK)
    before = random.getstate()
    random.seed(seed + candidate)  # a few generators draw from the global state
    try:
        return dict(made[offset])
    finally:
        random.setstate(before)


def score(dataset: str, config: Mapping[str, Any], answer: str, item: Mapping[str, Any]) -> float:
    """The dataset's own score of `answer` to `item` (with the exceptions named above)."""
    made = built(dataset, json.dumps(config, sort_keys=True, default=str), 0, 1)
    if dataset in TEXT_SCORED:
        return float(answer.strip() == str(item["answer"]))
    try:
        return float(made.score_answer(answer, dict(item)))
    except (ValueError, TypeError, KeyError, AttributeError):
        if dataset in FRAGILE:
            return 0.0
        raise


@functools.lru_cache(maxsize=16)
def built(dataset: str, config: str, seed: int, size: int) -> Any:
    """The dataset object for a configuration given as JSON."""
    return _build(dataset, json.loads(config), seed, size)


def _build(dataset: str, config: dict[str, Any], seed: int, size: int) -> Any:
    values = _typed(dataset, config)
    for field, value in values.items():
        several = value if isinstance(value, (list, tuple)) else [value]
        if any(isinstance(one, int) and abs(one) > MOST for one in several):
            raise UserError(f"task '{dataset}': {field} is at most {MOST:,}, not {shown(value)}")
    made, settings = _datasets()[dataset]
    if dataset in LITERAL_ANSWERS:
        vars(sys.modules[made.__module__])["eval"] = ast.literal_eval
    try:
        return made(config=settings(**values, seed=seed, size=size))
    except Exception as error:  # validation by assert, and whatever a constructor makes of a value it did not expect
        reason = str(error) or type(error).__name__
        raise UserError(f"task '{dataset}' does not take these settings: {reason}") from None


def _typed(dataset: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """`config` with every value converted to the type its field declares."""
    known = config_fields(dataset)
    types = typing.get_type_hints(_config_class(dataset))
    values: dict[str, Any] = {}
    for field, value in config.items():
        if field not in known:
            raise unknown(f"field of task '{dataset}'", field, known)
        if types[field] not in (str, str | None):
            value = from_text(value)
        try:
            values[field] = _adapter(types[field]).validate_python(value)
        except ValidationError as error:
            reason = first_reason(error)  # of a value by itself: it names no field
            raise UserError(f"task '{dataset}': field '{field}' = {shown(value)}: {reason}") from None
        except (PydanticSchemaGenerationError, PydanticUserError):
            values[field] = value
    return values


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    try:
        return TypeAdapter(kind, config=ConfigDict(arbitrary_types_allowed=True))
    except PydanticUserError:  # types that carry a configuration of their own
        return TypeAdapter(kind)


def _config_class(dataset: str) -> Any:
    return _datasets()[dataset][1]


def _datasets() -> dict[str, Any]:
    ensure_pycosat()
    _put_off("cellpylib")
    import reasoning_gym  # noqa: F401  (fills the registry; takes about a second)
    from reasoning_gym.factory import DATASETS

    return DATASETS  # type: ignore[no-any-return]


def _put_off(package: str) -> None:
    """Let the next import of `package` wait until something of it is used: two datasets need this one, which would bring along
    matplotlib, as slow to import as all of reasoning-gym."""
    if package in sys.modules:
        return
    stand_in = ModuleType(package)

    def used(name: str) -> Any:
        if sys.modules.get(package) is stand_in:
            del sys.modules[package]
        return getattr(importlib.import_module(package), name)

    stand_in.__getattr__ = used  # type: ignore[method-assign]
    sys.modules[package] = stand_in
