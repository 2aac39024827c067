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
        ("", False),
    ],
)
def test_tests_are_passed_only_by_right_programs(program: str, passed: bool) -> None:
    report = JAIL.run(program, tests="assert f(1) == 2").report
    assert bool(report and report["passed"]) is passed


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
