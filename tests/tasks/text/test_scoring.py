"""Nothing a verifier does ends the run: limits, crashes, threads, and what is recorded."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from anypo import tasks
from anypo.errors import UserError
from anypo.tasks.base import Problem
from anypo.tasks.pool import Outcome, Pool
from anypo.tasks.text import scoring
from anypo.tasks.text.rewards import Format, Length, PythonReward, complete
from anypo.tasks.text.scoring import Scorer
from anypo.tasks.text.verifiers import Exact, MathVerify, Numeric, Python, Regex, Verifier

HERE = os.path.dirname(os.path.dirname(__file__))


def problem(answer: str = "") -> Problem:
    return Problem(0, ({"role": "user", "content": "?"},), answer=answer)


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(HERE)
    yield


def scorer(verifier: Verifier, timeout: float = 5.0, workers: int = 1) -> Scorer:
    components = complete((), verifier)
    return Scorer(components, timeout, Pool(workers, (scoring.prepare, (components,))))


def test_a_bad_verifier_costs_its_own_rollout_only() -> None:
    moods = ["fine", "raise", "sleep", "c loop", "die", "exit", "nan", "text", "noise", "fine"]
    bad = scorer(Python(function="user_verifiers:moody"), timeout=0.5, workers=2)
    began = time.monotonic()
    replies = bad.score([problem()] * len(moods), moods)
    assert time.monotonic() - began < 20
    reasons = {mood: reply.failed for mood, reply in zip(moods, replies)}
    assert reasons["fine"] == reasons["noise"] == ""
    assert re.fullmatch(r"verifier: RuntimeError: no mood \(.*user_verifiers\.py, line \d+\)", reasons["raise"])
    assert reasons["sleep"] == reasons["c loop"] == "verifier: took longer than 0.5 s"
    assert "SIGABRT" in reasons["die"] and "SystemExit" in reasons["exit"]
    assert "is nan" in reasons["nan"] and "ValueError" in reasons["text"]
    for mood, reply in zip(moods, replies):
        assert reply.done and reply.rewards == {"correct": 1.0 if mood in ("fine", "noise") else 0.0}
    assert bad.score([problem()], ["fine"])[0].rewards == {"correct": 1.0}
    bad.pool.close()


def test_catastrophic_regular_expressions_are_stopped() -> None:
    regex = scorer(Regex(pattern="(a+)+b"), timeout=0.5)
    replies = regex.score([problem()] * 3, ["aab", "a" * 40, "aab"])
    assert [reply.rewards["correct"] for reply in replies] == [1.0, 0.0, 1.0]
    assert "took longer" in replies[1].failed
    regex.pool.close()


def test_math_verify_in_threads() -> None:
    """Its own time limits need the main thread; ours do not."""
    judge = scorer(MathVerify())
    results: dict[int, list[float]] = {}

    def run(value: int) -> None:
        replies = judge.score([problem(str(value))] * 3, [f"${value}$", f"\\boxed{{{value}}}", "$-1$"])
        results[value] = [reply.rewards["correct"] if not reply.failed else -1.0 for reply in replies]

    threads = [threading.Thread(target=run, args=(value,)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == {value: [1.0, 1.0, 0.0] for value in range(4)}
    judge.pool.close()


def test_built_in_verifiers_need_no_process_and_record_failures_too() -> None:
    inline = scorer(Numeric())
    replies = inline.score([problem("3"), problem("three")], ["3", "3"])
    assert [reply.rewards for reply in replies] == [{"correct": 1.0}, {"correct": 0.0}]
    assert not replies[0].failed and "'three' is not a number" in replies[1].failed
    assert not inline.isolated and not inline.pool._idle


def test_symbolic_answers_of_numeric_are_judged_in_a_worker_and_numbers_here() -> None:
    judge = scorer(Numeric())
    problems = [problem("3"), problem(r"3\sqrt{2}"), problem("4"), problem("[2,5)")]
    replies = judge.score(problems, ["3", r"\boxed{\sqrt{18}}", "5", r"$[2,5]$"])
    assert [reply.rewards["correct"] for reply in replies] == [1.0, 1.0, 0.0, 0.0]
    assert not any(reply.failed for reply in replies) and judge.pool._idle
    judge.pool.close()


def test_replies_keep_the_order_and_several_components() -> None:
    components = complete((Format(pattern=r"\d+", weight=0.5), Length(weight=0.1)), Exact())
    judge = Scorer(components, pool=Pool(2))
    assert judge.weights == {"correct": 1.0, "format": 0.5, "length": 0.1} and judge.outcome == "correct"
    problems = [problem(str(index)) for index in range(20)]
    texts = [str(index) if index % 2 else "x" for index in range(20)]
    replies = judge.score(problems, texts, list(range(20)), 20)
    for index, reply in enumerate(replies):
        right = float(index % 2)
        assert reply.rewards == {"correct": right, "format": right, "length": -index / 20}
    with pytest.raises(UserError, match="'length' needs token counts"):
        judge.score(problems, texts)
    judge.pool.close()


def test_python_components_and_their_refusals() -> None:
    components = complete((PythonReward(function="user_verifiers:ends_with", label="ending"),), Exact())
    judge = Scorer(components, pool=Pool(prepare=(scoring.prepare, (components,))))
    assert judge.score([problem("b")], ["ab"])[0].rewards == {"correct": 0.0, "ending": 1.0}
    judge.pool.close()
    for function in ("user_verifiers:missing", "no_such_module:f", "user_verifiers:NOT_CALLABLE"):
        with pytest.raises(UserError, match="could not start"):
            scorer(Python(function=function)).pool.check()
    with pytest.raises(UserError, match="two rewards are named 'format'"):
        Scorer(complete((Format(), Format(pattern="x")), Exact()))


def test_step_all_batches_and_keeps_the_order() -> None:
    task, game = tasks.load("chain_sum"), tasks.load("guess_number")
    problems = [task.train(0), game.train(0), task.train(1)]
    environments = [task.environment(problems[0]), game.environment(problems[1]), task.environment(problems[2])]
    replies = tasks.step_all(environments, [p.answer for p in problems], [1, 1, 1], 16)
    assert [reply.rewards for reply in replies] == [{"correct": 1.0}] * 3
    assert tasks.step_all([], [], [], 16) == []


def test_an_orphaned_worker_ends_by_itself() -> None:
    """The parent is killed while a verification hangs in C: the kernel's alarm ends the worker."""
    script = (
        "import sys; from anypo.tasks import worker; from anypo.tasks.pool import Outcome, Pool, Worker\n"
        "child = Worker(); child.submit(bool, (), 60.0); child.receive()\n"
        "child.submit(eval, ('9**9**9',), -4.0)\n"
        "print(child.process.pid, flush=True); import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    pid = int(re.findall(r"\d+", done.stdout)[0])
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        if not stat.exists() or stat.read_text().split()[2] == "Z":
            return
        time.sleep(0.1)
    os.kill(pid, signal.SIGKILL)
    pytest.fail("the worker outlived its alarm")


def test_an_interrupted_batch_leaves_no_stale_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    from anypo.tasks import pool as module

    judge = scorer(Python(function="user_verifiers:moody"))
    judge.pool.check()

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "wait", interrupt)
        with pytest.raises(KeyboardInterrupt):
            judge.score([problem()], ["raise"])
    assert judge.score([problem()], ["fine"])[0].failed == ""
    judge.pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="limits of the Linux kernel")
def test_memory_and_files_have_limits() -> None:
    bad = scorer(Python(function="user_verifiers:moody"))
    memory, file, fine = bad.score([problem()] * 3, ["memory", "file", "fine"])
    assert "--task-set memory" in memory.failed and "File too large" in file.failed
    assert fine.rewards == {"correct": 1.0}
    bad.pool.close()


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux")
@pytest.mark.parametrize("mood", ["daemon", "die after daemon"])
def test_no_process_outlives_the_pool(tmp_path: Path, mood: str) -> None:
    pids = tmp_path / "pids"
    bad = scorer(Python(function="user_verifiers:moody"))
    bad.score([Problem(0, ({"role": "user", "content": "?"},), answer="", metadata={"pids": str(pids)})], [mood])
    bad.pool.close()
    until = time.monotonic() + 10
    running = [int(pid) for pid in pids.read_text().split()]
    assert running
    while any(map(alive, running)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(alive, running))


def alive(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_repeated_timeouts_are_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    pool = Pool()
    for late in (7, 0, 9, 20):
        for _ in range(late):
            pool._count(Outcome(failed="took longer than 5 s"), 5.0)
        if not late:
            pool._count(Outcome(value=1.0), 5.0)
    said = capsys.readouterr().err
    assert said.count("in a row took longer than 5 s") == 1 and "--task-set timeout" in said


def test_an_enormous_answer_is_read_from_its_end() -> None:
    judge, text = MathVerify(), "x " * 5_000_000 + "so it is $\\frac{1}{2}$"
    began = time.monotonic()
    assert judge.verify(problem("0.5"), text) == 1.0
    assert time.monotonic() - began < 60
