"""Runs inside the walls, as a file of its own with the standard library only: takes a job, sets the limits of this process, runs
the program, then its tests in the same names, and says what came of it.

The report is one line of JSON: ``finished`` (the program ended by itself and without an error), ``passed`` (the tests did, too),
``error``, and ``variables`` of a traced program. It is written where the program has no business, after tests that it has not seen
before it ended.
"""

from __future__ import annotations

import ast
import contextlib
import json
import math
import os
import resource
import sys
import types
from typing import Any


def main() -> None:
    told, said = int(sys.argv[1]), int(sys.argv[2])
    with os.fdopen(told) as stream:
        job = json.load(stream)
    os.set_inheritable(said, False)
    report: dict[str, Any] = {"finished": False, "passed": False, "error": "", "variables": None}
    code = 0
    limit(job)
    os.write(said, b"\n")
    try:
        names = run(job["program"], job["traced"], report)
        report["finished"] = True
        if job["tests"]:
            test(job["tests"], names)
        report["passed"] = True
    except BaseException as error:
        code = leave(error, report)
    flush()
    os.write(said, json.dumps(report).encode())
    os._exit(code)


def limit(job: dict[str, Any]) -> None:
    """Memory, processor time, files and processes of this process, never to be raised again."""
    memory = job["memory"] * 2**20
    seconds = math.ceil(job["seconds"]) + 1
    for what, value in (
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, min(memory, 64 * 2**20)),
        (resource.RLIMIT_NPROC, job["processes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_CORE, 0),
    ):
        resource.setrlimit(what, (value, value))
    if (
        os.geteuid() == 0 and os.getpid() < 100
    ):  # root of the machine, not of a user namespace: be a user nobody else is
        nobody = 1_000_000 + int.from_bytes(os.urandom(3))
        with contextlib.suppress(PermissionError):
            os.setgroups([])
            os.setgid(nobody)
            os.setuid(nobody)
    sys.argv = ["program.py"]


def run(program: str, traced: bool, report: dict[str, Any]) -> dict[str, Any]:
    """The names of the program after it ran as the main module."""
    main = types.ModuleType("__main__")
    sys.modules["__main__"] = main
    code = compile(program, "program.py", "exec")
    left: dict[str, Any] = {}

    def watch(frame: types.FrameType, event: str, argument: Any) -> Any:
        if frame.f_code.co_filename != "program.py":
            return None
        if event == "return" and frame.f_code.co_name != "<module>":
            left.clear()
            left.update(frame.f_locals)
        return watch

    if traced:
        sys.settrace(watch)
    try:
        exec(code, main.__dict__)
    finally:
        sys.settrace(None)
        if traced:
            report["variables"] = plain(main.__dict__) or plain(left)
    return main.__dict__


def plain(names: dict[str, Any]) -> dict[str, Any]:
    """The variables that JSON can hold, without modules and functions."""
    out = {}
    for name, value in list(names.items()):
        if name.startswith("_"):
            continue
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError):
            continue
        if len(text) < 1000:
            out[name] = json.loads(text)
    return out


def test(tests: str, names: dict[str, Any]) -> None:
    """Run the tests; what they compare must be equal and of a plain type, so that an object that calls itself equal to all is not."""
    tree = ast.fix_missing_locations(Strict().visit(ast.parse(tests)))
    exec(compile(tree, "tests", "exec"), {**names, "__equal__": equal})


class Strict(ast.NodeTransformer):
    """Turns ``a == b`` of the tests into `equal(a, b)`."""

    def visit_Compare(self, node: ast.Compare) -> ast.expr:
        self.generic_visit(node)
        if len(node.ops) == 1 and isinstance(node.ops[0], ast.Eq):
            return ast.Call(ast.Name("__equal__", ast.Load()), [node.left, node.comparators[0]], [])
        return node


PLAIN = (bool, int, float, complex, str, bytes, type(None))


def equal(a: Any, b: Any) -> bool:
    """Equality of plain values, element by element; of other objects only where both are of one class."""
    if type(a) in PLAIN and type(b) in PLAIN:
        return a == b
    if type(a) is not type(b):
        return False
    if type(a) in (list, tuple):
        return len(a) == len(b) and all(equal(x, y) for x, y in zip(a, b))
    if type(a) is dict:
        return a.keys() == b.keys() and all(equal(a[key], b[key]) for key in b)
    return bool(a == b)


def leave(error: BaseException, report: dict[str, Any]) -> int:
    """The exit code after an error, which is written as Python would."""
    if isinstance(error, SystemExit):
        report["finished"] = error.code in (None, 0)
        report["error"] = "the program left before its tests were run"
        if isinstance(error.code, int) or error.code is None:
            return (error.code or 0) & 255
        print(error.code, file=sys.stderr)
        return 1
    report["error"] = f"{type(error).__name__}: {error}"[:500]
    print(report["error"], file=sys.stderr)
    return 1


def flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()


if __name__ == "__main__":
    main()
