"""What a program in the jail can do, and what it cannot, however it tries."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import psutil
import pytest

from anypo.errors import UserError
from anypo.sandbox import Jail, jail, refusal

here = pytest.mark.skipif(bool(refusal()), reason=refusal())
JAIL = Jail(seconds=1.0, memory=256)


FRAMES = "import sys\nframe = sys._getframe()\nwhile frame:\n    try: {}\n    except KeyError: pass\n    frame = frame.f_back"
FORGED = "import os; [os.write(n, b'{\"passed\": true}') for n in range(3, 64) if os.path.exists(f'/dev/fd/{n}')]; os._exit(0)"

UNBELIEVED = """class Any:
    def __getattribute__(self, name): return self
    def __sub__(self, other): return self
    def __abs__(self): return self
    def __lt__(self, other): return True
    def __le__(self, other): return True
    __eq__ = __ge__ = __rsub__ = __sub__
f = lambda x: Any()
"""


@here
def test_a_program_reads_prints_and_ends() -> None:
    ran = JAIL.run("print(input()[::-1])", stdin="abc")
    assert (ran.stdout, ran.stderr, ran.code, ran.why) == ("cba\n", "", 0, "")


@here
def test_its_error_is_told() -> None:
    ran = JAIL.run("1 / 0")
    assert ran.code == 1 and ran.error == "ZeroDivisionError: division by zero"
    assert JAIL.run("import sys; sys.exit(3)").code == 3


@here
@pytest.mark.parametrize(
    ("program", "why"),
    [
        ("while True: pass", "it took longer than 1 s"),
        ("import time\ntime.sleep(60)", "it took longer than 1 s"),
        (
            "import signal, time\nfor s in (2, 15): signal.signal(s, signal.SIG_IGN)\ntime.sleep(60)",
            "it took longer than 1 s",
        ),
        ("while True: print('a' * 1000)", "it wrote more than 64 KB"),
        ("import os\nwhile True: os.write(2, b'a' * 1000)", "it wrote more than 64 KB"),
    ],
)
def test_what_does_not_end_is_ended(program: str, why: str) -> None:
    began = time.monotonic()
    ran = JAIL.run(program)
    assert (ran.why, ran.code) == (why, None) and len(ran.stdout) <= 64 * 1024
    assert time.monotonic() - began < 10


@here
@pytest.mark.parametrize(
    ("program", "error"),
    [
        ("import socket\nsocket.create_connection(('1.1.1.1', 80), 1)", "Network is unreachable"),
        ("import socket\nsocket.create_connection(('127.0.0.1', 22), 1)", "Connection refused"),
        ("open('/etc/passwd')", "/etc/passwd"),
        (f"open({str(Path(__file__))!r})", "test_jail.py"),
        ("open('/escaped', 'w')", "/escaped"),
        ("open('/python/escaped', 'w')", "Read-only"),
        ("open('/usr/escaped', 'w')", "Read-only"),
        ("open('/inside.py', 'a')", "/inside.py"),
        ("x = [0] * 10**9", "MemoryError"),
        ("import os\nfor n in range(99): open(f'/tmp/{n}', 'wb').write(b'a' * 2**20)", "No space left"),
        ("import os\nwhile True: os.fork()", "temporarily unavailable"),
        ("import os\nos.setuid(0)", "not permitted"),
        ("import os\nos.kill(1, 9)\nraise OSError('alive')", "not permitted"),
        ("import ctypes\nc = ctypes.CDLL(None)\nassert c.unshare(0x10000000 | 0x40000000) == 0", "AssertionError"),
        ("import ctypes\nc = ctypes.CDLL(None)\nassert c.mount(b'/', b'/tmp', b'', 4096, b'') == 0", "AssertionError"),
        ("import os\nos.memfd_create('x')", "not permitted"),
        ("import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))", "maximum limit"),
    ],
)
def test_walls_hold(program: str, error: str) -> None:
    ran = JAIL.run(program)
    assert ran.code != 0 and error in ran.stderr + ran.why, ran
    assert not Path("/escaped").exists()


@here
def test_nothing_of_the_machine_is_seen() -> None:
    os.environ["ANYPO_SECRET"] = "secret"
    try:
        ran = JAIL.run(
            "import os\nprint(sorted(os.environ), os.listdir('/tmp'), sorted(p for p in os.listdir('/proc') if p.isdigit()))"
        )
    finally:
        del os.environ["ANYPO_SECRET"]
    assert "SECRET" not in ran.stdout and "[]" in ran.stdout
    assert ran.stdout.count("'") < 30  # a handful of variables, and two or three processes: its own


@here
def test_ordinary_programs_do_not_notice() -> None:
    thread = "import threading\nt = threading.Thread(target=print, args=(1,))\nt.start()\nt.join()\n"
    child = "import subprocess\nprint(subprocess.run(['/python/bin/python3', '-c', 'print(2)'], capture_output=True).stdout)"
    files = (
        "import tempfile\nwith tempfile.TemporaryFile() as f:\n    f.write(b'3')\n    f.seek(0)\n    print(f.read())\n"
    )
    ran = Jail().run(thread + files + child)
    assert ran.stdout.split() == ["1", "b'3'", "b'2\\n'"], ran


@here
def test_what_it_started_ends_with_it() -> None:
    child = "os.setsid()\n    os.execv('/python/bin/python3', ['anypo-left-over', '-c', 'import time; time.sleep(60)'])"
    ran = JAIL.run(f"import os\nif os.fork() == 0:\n    {child}")
    assert ran.code == 0
    time.sleep(0.2)
    assert not [p for p in psutil.process_iter(["cmdline"]) if "anypo-left-over" in (p.info["cmdline"] or [])]


@here
@pytest.mark.parametrize(
    ("program", "passed"),
    [
        ("def f(x): return x + 1", True),
        ("def f(x): return x + 2", False),
        ("f = lambda x: [2, 'no', None][0]", True),
        ("class All:\n    def __eq__(self, other): return True\nf = lambda x: All()", False),
        ("class Two(int):\n    def __eq__(self, other): return True\nf = lambda x: Two()", False),
        ("import os\nos._exit(0)", False),
        ("import sys\nsys.exit(0)", False),
        ("raise SystemExit", False),
        ("import builtins\nbuiltins.AssertionError = ValueError\ndef f(x): return 5", False),
        ("print('{\"passed\": true}')", False),
        (FRAMES.format("frame.f_locals['job']['tests'] = ''"), False),
        (FRAMES.format("frame.f_globals['test'] = lambda *given: None"), False),
        (FRAMES.format("frame.f_locals['report'] = {'passed': True}"), False),
        ("import ast\nast.parse = lambda *a, **k: compile('', 'x', 'exec', 1024)", False),
        ("import json\nd = json.dumps\njson.dumps = lambda o, **k: d({'passed': True})\ndef f(x): return 0", False),
        (FORGED, False),
        (f"def f(x):\n    {FORGED}", False),
        ("import sys\nf = lambda x: sys._getframe(1).f_globals.update(__equal__=lambda a, b: True)", False),
        ("f = exec", False),
        ("", False),
    ],
)
def test_tests_are_passed_only_by_right_programs(program: str, passed: bool) -> None:
    report = JAIL.run(program, tests="assert f(1) == 2").report
    assert bool(report and report["passed"]) is passed


@here
@pytest.mark.parametrize(
    ("program", "tests"),
    [
        (UNBELIEVED, "assert abs(f(1) - 2) < 1e-6"),
        (UNBELIEVED, "assert 2 <= f(1) <= 3"),
        (UNBELIEVED, "assert f(1) == 2"),
        ("abs = lambda x: 0\nf = lambda x: 0", "assert abs(f(1) - 2) < 1e-6"),
        ("class math:\n    isclose = lambda *given: True\nf = lambda x: 0", "assert math.isclose(f(1), 2)"),
    ],
)
def test_a_program_does_not_choose_how_it_is_measured(program: str, tests: str) -> None:
    assert not JAIL.run(program, tests=tests).report["passed"]  # type: ignore[index]


@here
def test_a_program_never_holds_its_tests() -> None:
    seek = "import glob, os\n" + FRAMES.format("print(frame.f_locals.get('job'))")
    others = "[p for p in glob.glob('/proc/[0-9]*/fd/*') + glob.glob('/proc/[0-9]*/mem') if p.split('/')[2] != str(os.getpid())]"
    read = f"for path in {others}:\n    try: print(open(path, 'rb').read(99))\n    except OSError: pass"
    ran = JAIL.run(f"{seek}\n{read}\nf = lambda x: 1", tests="assert f(0) == 1 + 31337 * 0")
    assert ran.report and ran.report["passed"] and "tested" in ran.stdout and "31337" not in ran.stdout


PROGRAM = """import math
from collections import Counter, namedtuple
from datetime import date
class Empty(Exception): pass
class Stack:
    kind = "stack"
    def __init__(self): self.items = []
    def push(self, x): self.items.append(x); return self
    def pop(self):
        if not self.items: raise Empty("nothing")
        return self.items.pop()
    def __len__(self): return len(self.items)
    def __iter__(self): return iter(self.items)
    def __add__(self, other): return Stack().push(self.items[0] + other.items[0])
    def __eq__(self, other): return self.items == other.items
def counted(text): return Counter(text)
def upto(n): yield from range(n)
def sort(x): x.sort()
def twice(f, x): return f(f(x))
def adder(a): return lambda b: a + b
def day(): return date(2020, 1, 2)
def many(): return {1}, (2,), {"a": [None, True]}, 10**40, b"\\xff", 2 + 3j, math.inf
def missing(): return {}["k"]
"""


@here
@pytest.mark.parametrize(
    "tests",
    [
        "s = Stack().push(1).push(2)\nassert len(s) == 2 and list(s) == [1, 2] and 2 in s and s.pop() == 2 and s.items == [1]",
        "try:\n    Stack().pop()\nexcept Empty as error:\n    assert str(error) == 'nothing'\nelse:\n    assert False",
        "try:\n    missing()\nexcept KeyError as error:\n    assert error.args == ('k',)\nelse:\n    assert False",
        "assert not Stack() and isinstance(Stack(), Stack) and Stack.kind == 'stack' and not hasattr(Stack, 'x')",
        "assert Stack().push(1) + Stack().push(2) == Stack().push(3)",
        "assert counted('aab') == {'a': 2, 'b': 1} and counted('aab').most_common(1) == [('a', 2)]",
        "assert list(upto(3)) == [0, 1, 2] and sum(upto(4)) == 6 and adder(1)(2) == 3",
        "x = [3, 1]\nsort(x)\nassert x == [1, 3]\nassert twice(lambda n: n + 1, 1) == 3",
        "import datetime\nassert day() == datetime.date(2020, 1, 2)",
        "assert many() == ({1}, (2,), {'a': [None, True]}, 10**40, b'\\xff', 2 + 3j, math.inf)",
        "def check(candidate):\n    assert abs(candidate(1)(2) - 3) < 1e-9\ncheck(adder)",
    ],
)
def test_tests_use_a_program_as_if_it_were_beside_them(tests: str) -> None:
    report = JAIL.run(PROGRAM, tests=tests).report
    assert report and report["passed"], report


@here
def test_a_program_without_tests_may_leave_as_it_likes() -> None:
    for end in ("import sys\nsys.exit()", "exit()", "quit(0)", "raise SystemExit"):
        ran = JAIL.run(f"print(1)\n{end}")
        assert ran.report and ran.report["passed"] and ran.stdout == "1\n"
    assert not JAIL.run("print(1)\nexit(2)").report["passed"]  # type: ignore[index]


@here
def test_a_report_is_no_place_to_flood() -> None:
    flood = "import os\nwhile True:\n    for n in range(3, 64):\n        try: os.write(n, b'x' * 65536)\n        except OSError: pass"
    assert JAIL.run(flood).why == "it wrote more than 1024 KB"


@here
def test_equality_in_tests_reaches_into_containers_and_leaves_numbers_alone() -> None:
    tests = "assert f() == {'a': [1, (2.0, None)]}\nassert f()['a'][1][0] == 2"
    assert JAIL.run("f = lambda: {'a': [1, (2, None)]}", tests=tests).report["passed"]  # type: ignore[index]
    lying = "class All:\n    def __eq__(self, other): return True\nf = lambda: {'a': [1, All()]}"
    assert not JAIL.run(lying, tests="assert f() == {'a': [1, 2]}").report["passed"]  # type: ignore[index]


@here
def test_a_traced_program_tells_its_variables() -> None:
    told = JAIL.run(
        "import math\na = 2\nb = [a, a * 2]\ndef f(): return a\nc = object()\n_d = 1\nprint(b)", traced=True
    )
    assert told.report["variables"] == {"a": 2, "b": [2, 4]} and told.stdout == "[2, 4]\n"  # type: ignore[index]
    inside = JAIL.run("def main():\n    n = int(input())\n    s = n * 2\n    print(s)\nmain()", stdin="4", traced=True)
    assert inside.report["variables"] == {"n": 4, "s": 8}  # type: ignore[index]


def test_without_walls_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    jail.refusal.cache_clear()
    try:
        with pytest.raises(UserError, match="apt install bubblewrap"):
            JAIL.run("print(1)")
    finally:
        jail.refusal.cache_clear()
