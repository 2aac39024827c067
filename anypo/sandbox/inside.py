"""Runs inside the walls, as a file of its own with the standard library only: takes a job, sets the limits of this process, runs
the program, then its tests, and says what came of it.

A program with tests runs in a process of its own, which never holds them and has no hand on the report. The tests run in another one,
in which nothing of the program ever runs: its names are `Far` there, a call is sent over, and what comes back is plain data or `Far`
again. So a program can neither read what is expected of it nor change what compares, whatever it does to its interpreter.

The report is one line of JSON: ``finished`` (the program ended by itself and without an error), ``passed`` (the tests did, too),
``error``, and ``variables`` of a traced program.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import ctypes
import importlib
import json
import math
import operator
import os
import resource
import sys
import types
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from typing import Any, NoReturn


def main() -> None:
    told, tests, said = (int(argument) for argument in sys.argv[1:4])
    with os.fdopen(told) as stream:
        job = json.load(stream)
    os.set_inheritable(said, False)
    report: dict[str, Any] = {"finished": False, "passed": False, "error": "", "variables": None}
    code = 0
    limit(job)
    os.write(said, b"\n")
    try:
        if job["tested"]:
            judge(job["program"], tests, said, report)
        else:
            os.close(tests)
            run(job["program"], job["traced"], report)
            report["finished"] = True
        report["passed"] = True
    except BaseException as error:
        code = leave(error, report)
        report["passed"] = report["finished"] and not job["tested"]  # a program may end by ``sys.exit()``
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
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # as where ``site`` is loaded


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


def judge(program: str, tests: int, said: int, report: dict[str, Any]) -> None:
    """Run the program in a process of its own and the tests in this one. Raises what either raises."""
    ctypes.CDLL(None).prctl(4, 0, 0, 0, 0)  # PR_SET_DUMPABLE: no other process opens this one's memory or files
    asked, answered = os.pipe(), os.pipe()
    if os.fork() == 0:
        for end in (tests, said, asked[1], answered[0]):
            os.close(end)
        answer(program, Line(asked[0], answered[1]))
    os.close(asked[0])
    os.close(answered[1])
    line = Line(answered[0], asked[1], trusting=False)
    (names,) = line.listen()
    report["finished"] = True
    with os.fdopen(tests) as stream:
        test(stream.read(), names)


def answer(program: str, line: Line) -> NoReturn:
    """The program's process: run it, hand over its names, and do what is asked until nobody asks."""
    with contextlib.suppress(BaseException):
        try:
            names = run(program, False, {})
        except BaseException as error:
            line.failed(error)
        else:
            line.send("value", {name: value for name, value in names.items() if not name.startswith("__")})
            line.listen()
    flush()
    os._exit(0)


def test(tests: str, names: dict[str, Any]) -> None:
    """Run the tests in the names of the program. What they call by the name of a builtin or a module of the standard library is that,
    unless they use no other name of the program (which may be the one that is tested): a program with an ``abs`` of its own does
    not choose how it is measured."""
    tree = ast.parse(tests)
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    known = {name for name in used if hasattr(builtins, name) or name in sys.stdlib_module_names}
    if used & names.keys() - known:
        names = {name: value for name, value in names.items() if name not in known}
        names |= {name: importlib.import_module(name) for name in known if not hasattr(builtins, name)}
    exec(compile(tree, "tests", "exec"), names)


class Line:
    """Talks with its like in another process. One asks and the other answers, and may ask back before it does. Plain data goes over
    as itself; everything else stays where it is, and is `Far` on the other side. trusting: do all that is asked; otherwise nothing but
    calls of what was handed over to be called."""

    def __init__(self, read: int, write: int, trusting: bool = True) -> None:
        self._read, self._write, self._trusting = os.fdopen(read, encoding="ascii"), write, trusting
        self._mine: list[Any] = []
        self._places: dict[int, int] = {}
        self._theirs: dict[int, Any] = {}
        self._errors: dict[int, int] = {}

    def ask(self, verb: str, *what: Any) -> list[Any]:
        self.send(verb, *what)
        return self.listen()

    def send(self, verb: str, *what: Any) -> None:
        left = (json.dumps([verb, *(self._pack(w) for w in what)]) + "\n").encode("ascii")
        while left:
            left = left[os.write(self._write, left) :]

    def failed(self, error: BaseException) -> None:
        self.send(
            "error", type(error), str(error.args[0] if isinstance(error, KeyError) and error.args else error)[:500]
        )

    def listen(self) -> list[Any]:
        """What the other side answers; until it does, do what it asks. Raises what it raised, EOFError where it ended."""
        while text := self._read.readline():
            verb, *packed = json.loads(text)
            what = [self._unpack(p) for p in packed]
            if verb == "value":
                return what
            if verb == "error":
                raise _error(*what)
            try:
                found = self._do(verb, *what)
                self.send("value", *found)
            except BaseException as error:
                self.failed(error)
        raise EOFError("the program ended before its tests did")

    def _do(self, verb: str, what: Any, *more: Any) -> tuple[Any, ...]:
        if not self._trusting and not (verb == "call" and any(what is mine for mine in self._mine)):
            raise PermissionError("a test's object can be called and nothing else")
        if verb == "call":
            arguments, named = more
            return what(*arguments, **named), [a for a in (*arguments, *named.values()) if type(a) in CHANGEABLE]
        if verb == "get":
            return (getattr(what, *more),)
        if verb == "set":
            setattr(what, *more)
            return (None,)
        name, *rest = more
        if name in REFLECTED:
            return (REFLECTED[name](rest[0], what),)
        return ((SPECIAL.get(name) or getattr(operator, name))(what, *rest),)

    def _pack(self, value: Any) -> Any:
        """As JSON: what is plain as itself, other values as a mapping from their kind."""
        kind = type(value)
        if value is None or kind in (bool, str, float) or (kind is int and abs(value) < 2**63):
            return value
        if kind in LISTS:
            return {kind.__name__: [self._pack(v) for v in value]}
        if kind in MAPPINGS:
            return {MAPPINGS[kind].__name__: [[self._pack(k), self._pack(v)] for k, v in value.items()]}
        if kind in PARTS:
            return {"made": ["builtins", kind.__name__, PARTS[kind](value)]}
        if (kind.__module__, kind.__name__) in VALUES:
            made = value.__reduce_ex__(2)[1] if kind.__module__ == "datetime" else [str(value)]
            return {"made": [kind.__module__, kind.__name__, [self._pack(m) for m in made]]}
        if kind is Far and object.__getattribute__(value, "line") is self:
            return {"yours": object.__getattribute__(value, "place")}
        if id(value) in self._errors:
            return {"yours": self._errors[id(value)]}
        if (known := _standard(value)) is not None:
            return {"known": known}
        if (place := self._places.setdefault(id(value), len(self._mine))) == len(self._mine):
            self._mine.append(value)
        if isinstance(value, type) and issubclass(value, BaseException):
            return {"mine": [place, value.__name__, next(c for c in value.__mro__ if _standard(c)).__name__]}
        return {"mine": [place]}

    def _unpack(self, packed: Any) -> Any:
        if not isinstance(packed, dict):
            return packed
        ((kind, what),) = packed.items()
        if kind == "yours":
            return self._mine[what]
        if kind == "mine":
            place, *error = what
            if place not in self._theirs:
                self._theirs[place] = type(error[0], (_builtin_error(error[1]),), {}) if error else Far(self, place)
                if error:  # what is raised must be a class of this process
                    self._errors[id(self._theirs[place])] = place
            return self._theirs[place]
        if kind == "known":
            module, name = what
            found = importlib.import_module(module) if module.split(".")[0] in sys.stdlib_module_names else None
            return found if not name or _standard(found := getattr(builtins, name)) else None
        if kind == "made":
            module, name, parts = what
            parts = [self._unpack(p) for p in parts]
            if name in ("bytes", "bytearray"):
                return getattr(builtins, name)(parts[0], "latin-1")
            if name == "int":
                return int(parts[0], 16)
            if (module, name) in VALUES or name in ("complex", "range"):
                return getattr(importlib.import_module(module), name)(*parts)
        made = {c.__name__: c for c in (*LISTS, *MAPPINGS.values())}[kind]
        if kind in ("dict", "Counter", "OrderedDict"):
            return made({self._unpack(k): self._unpack(v) for k, v in what})
        return made(self._unpack(w) for w in what)


LISTS = (list, tuple, set, frozenset, deque)
MAPPINGS: dict[type, type] = {dict: dict, Counter: Counter, OrderedDict: OrderedDict, defaultdict: dict}
CHANGEABLE = (list, set, deque, *MAPPINGS)
VALUES = {("datetime", kind) for kind in ("date", "time", "datetime", "timedelta", "timezone")}
VALUES |= {("decimal", "Decimal"), ("fractions", "Fraction")}
"""What goes over as itself: containers of it, mappings (and as what), those that a call may change, and values of the library."""

PARTS: dict[type, Callable[[Any], list[Any]]] = {
    int: lambda value: [hex(value)],
    bytes: lambda value: [value.decode("latin-1")],
    bytearray: lambda value: [value.decode("latin-1")],
    complex: lambda value: [value.real, value.imag],
    range: lambda value: [value.start, value.stop, value.step],
}
"""How builtin values that JSON does not know are made of those that it does."""


def _standard(value: Any) -> list[str] | None:
    """The module and name of a module of the standard library or a builtin class; None for others. Functions are none of them: a
    program whose ``f`` is ``exec`` would have its own answers run beside the tests."""
    if isinstance(value, types.ModuleType):
        name = value.__name__
        return [name, ""] if name.split(".")[0] in sys.stdlib_module_names and sys.modules.get(name) is value else None
    name = value.__name__ if isinstance(value, type) else str(value) if value is NotImplemented or value is ... else ""
    return ["builtins", name] if name and getattr(builtins, name, None) is value else None


def _builtin_error(name: str) -> type[BaseException]:
    found = getattr(builtins, name, Exception)
    return found if isinstance(found, type) and issubclass(found, BaseException) else Exception


def _error(kind: Any, message: str) -> BaseException:
    """An error of the other side, as one that can be raised here."""
    try:
        return kind(message)  # type: ignore[no-any-return]
    except Exception:
        return RuntimeError(message)


class Far:
    """An object of the other process. It compares with others of that process only: one that calls itself equal to everything, or less
    than it, is not believed."""

    __slots__ = ("line", "place")

    def __init__(self, line: Line, place: int) -> None:
        object.__setattr__(self, "line", line)
        object.__setattr__(self, "place", place)

    def __getattribute__(self, name: str) -> Any:
        if name == "__class__":
            return Far
        return object.__getattribute__(self, "line").ask("get", self, name)[0]

    def __setattr__(self, name: str, value: Any) -> None:
        object.__getattribute__(self, "line").ask("set", self, name, value)

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        value, changed = object.__getattribute__(self, "line").ask("call", self, list(arguments), named)
        for old, new in zip([a for a in (*arguments, *named.values()) if type(a) in CHANGEABLE], changed):
            _become(old, new)
        return value


def _become(old: Any, new: Any) -> None:
    """Give `old` what `new` holds, where a call has changed it."""
    if old == new and not (isinstance(old, dict) and list(old) != list(new)):
        return
    old.clear()
    old.extend(new) if isinstance(old, (list, deque)) else old.update(new)


def _special(name: str) -> Callable[..., Any]:
    def do(self: Far, *others: Any) -> Any:
        if name in COMPARED and type(others[0]) is not Far:
            return name == "__ne__" if name in ("__eq__", "__ne__") else NotImplemented
        return object.__getattribute__(self, "line").ask("special", self, name, *others)[0]

    return do


ARITHMETIC = (
    "add",
    "sub",
    "mul",
    "matmul",
    "truediv",
    "floordiv",
    "mod",
    "pow",
    "lshift",
    "rshift",
    "and",
    "or",
    "xor",
)
REFLECTED = {f"__r{name}__": getattr(operator, f"__{name}__") for name in ARITHMETIC}
COMPARED = ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__")
SPECIAL: dict[str, Callable[..., Any]] = {
    **{f"__{f.__name__}__": f for f in (len, iter, next, bool, str, repr, int, float, round, reversed, hash)},
    "__instancecheck__": lambda kind, value: isinstance(value, kind),
    "__enter__": lambda value: type(value).__enter__(value),
    "__exit__": lambda value, *error: type(value).__exit__(value, None, None, None),
}
for _name in (
    *(f"__{name}__" for name in (*ARITHMETIC, "neg", "pos", "abs", "invert", "index", "contains")),
    *("__getitem__", "__setitem__", "__delitem__", *COMPARED, *REFLECTED, *SPECIAL),
):
    setattr(Far, _name, _special(_name))


def leave(error: BaseException, report: dict[str, Any]) -> int:
    """The exit code after an error, which is written as Python would."""
    if isinstance(error, SystemExit):
        report["finished"] = error.code in (None, 0)
        if report["finished"]:
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
