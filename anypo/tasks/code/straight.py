"""Running small programs safely, and grading predictions of what they do.

The language is straight-line Python: assignments and expressions over numbers, strings, booleans, lists and dicts with
arithmetic, comparison, indexing, and `print`. Nothing else is executed: no calls, no loops, no attributes, no imports.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Mapping
from typing import Any

_BINARY: dict[type, Any] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
}  # fmt: skip
_COMPARE: dict[type, Any] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}  # fmt: skip
_UNARY: dict[type, Any] = {ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_}
MOST_STATEMENTS, LARGEST, MOST_ITEMS = 200, 10**12, 10_000


class Unsupported(Exception):
    """Something outside the language, or a run-time error in it."""


def trace(program: str, inputs: Mapping[str, Any] | None = None) -> tuple[Any, dict[str, Any]] | None:
    """The last printed value (None without one) and the final variables, or None when the program cannot be run or holds
    values that JSON cannot."""
    try:
        tree = ast.parse(program.strip())
        state = dict(inputs or {})
        output = _run(tree.body, state)
        json.dumps([output, state], allow_nan=False)
        return output, state
    except (Unsupported, SyntaxError, ValueError, TypeError, RecursionError, MemoryError):
        return None


def _run(body: list[ast.stmt], state: dict[str, Any]) -> Any:
    output = None
    if len(body) > MOST_STATEMENTS:
        raise Unsupported
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target = statement.targets[0]
            if not isinstance(target, ast.Name):
                raise Unsupported
            state[target.id] = _bounded(evaluate(statement.value, state))
        elif isinstance(statement, ast.AugAssign) and isinstance(statement.target, ast.Name):
            old = evaluate(ast.Name(statement.target.id), state)
            state[statement.target.id] = _bounded(_binary(statement.op, old, evaluate(statement.value, state)))
        elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
            output = _printed(statement.value, state)
        else:
            raise Unsupported
    return output


def _bounded(value: Any) -> Any:
    """`value`, unless it holds too much: a list of itself twice doubles with every line."""
    open_, seen = [value], 0
    while open_:
        one = open_.pop()
        seen += len(one) if isinstance(one, str) else 1
        if isinstance(one, (list, dict)):
            open_ += one if isinstance(one, list) else [*one.keys(), *one.values()]
        if seen + len(open_) > MOST_ITEMS:
            raise Unsupported
    return value


def _printed(call: ast.Call, state: Mapping[str, Any]) -> Any:
    if not (isinstance(call.func, ast.Name) and call.func.id == "print" and len(call.args) == 1 and not call.keywords):
        raise Unsupported
    return _bounded(evaluate(call.args[0], state))


def evaluate(node: ast.expr, state: Mapping[str, Any]) -> Any:
    """The value of an expression of the language; `Unsupported` otherwise."""
    if isinstance(node, ast.Constant) and (node.value is None or isinstance(node.value, (int, float, str, bool))):
        return node.value
    if isinstance(node, ast.Name) and node.id in state:
        return state[node.id]
    if isinstance(node, ast.BinOp):
        return _binary(node.op, evaluate(node.left, state), evaluate(node.right, state))
    if isinstance(node, ast.UnaryOp) and type(node.op) in _UNARY:
        return _UNARY[type(node.op)](evaluate(node.operand, state))
    if isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in _COMPARE:
        return _COMPARE[type(node.ops[0])](evaluate(node.left, state), evaluate(node.comparators[0], state))
    if isinstance(node, ast.List):
        return [evaluate(item, state) for item in node.elts]
    if isinstance(node, ast.Dict) and all(key is not None for key in node.keys):
        return {evaluate(k, state): evaluate(v, state) for k, v in zip(node.keys, node.values) if k is not None}
    if isinstance(node, ast.Subscript):
        return _item(evaluate(node.value, state), evaluate(node.slice, state))
    raise Unsupported


def _item(box: Any, key: Any) -> Any:
    try:
        return box[key]
    except (KeyError, IndexError, TypeError):
        raise Unsupported from None


def _binary(op: ast.operator, a: Any, b: Any) -> Any:
    """Arithmetic on numbers and joining of texts and lists, bounded in size."""
    if type(op) not in _BINARY:
        raise Unsupported
    numbers = isinstance(a, (int, float)) and isinstance(b, (int, float))
    joined = isinstance(op, ast.Add) and type(a) is type(b) and isinstance(a, (str, list)) and len(a) + len(b) < 10_000
    if not (numbers or joined):
        raise Unsupported
    try:
        value = _BINARY[type(op)](a, b)
    except (ZeroDivisionError, OverflowError):
        raise Unsupported from None
    if isinstance(value, (int, float)) and not abs(value) < LARGEST:
        raise Unsupported
    return value


def grade_prediction(reply: str, output: Any, variables: Mapping[str, Any], format_score: float = 0.1) -> float:
    """Reward of a predicted execution (CodeRL+): 0 when the last line is not JSON with ``final_output`` and ``variables``,
    else `format_score` + (1 - `format_score`) * right items / (1 + number of variables). A missing variable is wrong, further
    ones are ignored."""
    lines = reply.strip().splitlines()
    try:
        said = json.loads(lines[-1]) if lines else None
    except ValueError:
        return 0.0
    if not isinstance(said, dict) or "final_output" not in said or not isinstance(said.get("variables"), dict):
        return 0.0
    values = said["variables"]
    right = int(same(said["final_output"], output))
    right += sum(name in values and same(values[name], value) for name, value in variables.items())
    return format_score + (1 - format_score) * right / (1 + len(variables))


_ALIASES: dict[Any, Any] = {"None": None, "null": None, "True": 1, "true": 1, "False": 0, "false": 0}


def same(a: Any, b: Any) -> bool:
    """Equality up to spellings of None, True and False, 1e-9 between numbers, element by element in lists and dicts,
    else of the texts."""
    a, b = (_ALIASES[x] if isinstance(x, str) and x in _ALIASES else x for x in (a, b))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)):
        return math.isclose(a, b, rel_tol=0.0, abs_tol=1e-9)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return str(a) == str(b)
