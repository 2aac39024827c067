import json
import os
import signal
import socket
import subprocess
import sys
import time

import psutil
import pytest

from anypo.errors import UserError
from anypo.run.disk import lock as module
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.lock import Lock, alive, boot, name, ticks


def owner(**changes):
    process = psutil.Process()
    return {
        "pid": process.pid,
        "started": process.create_time(),
        "host": socket.gethostname(),
        "since": "then",
    } | changes


def test_a_run_in_use_is_refused_and_free_again_afterwards(tmp_path):
    with RunFolder.create(tmp_path / "run", {}):
        with pytest.raises(UserError, match=rf"is in use by process {os.getpid()} since .*Z; wait for it or stop it"):
            RunFolder.open(tmp_path / "run")
        RunFolder.read(tmp_path / "run")  # looking is always possible
    with RunFolder.open(tmp_path / "run"):
        pass


def test_another_process_is_refused(tmp_path):
    with RunFolder.create(tmp_path / "run", {}):
        child = os.fork()
        if child == 0:
            try:
                RunFolder.open(tmp_path / "run")
            except UserError:
                os._exit(9)
            finally:
                os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9


def test_the_lock_is_released_when_creating_or_opening_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(RunFolder, "_begin_session", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        RunFolder.create(tmp_path / "run", {})
    monkeypatch.undo()
    with RunFolder.create(tmp_path / "run", {}):  # a folder with nothing but a free lock is as good as empty
        pass


@pytest.mark.parametrize("left", [owner(pid=2**22 + 5), owner(started=1.0), None])
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, left):
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / ".lock").write_text(json.dumps(left) if left else '{"pid": 1, "sta')
    assert RunFolder.read(tmp_path / "run").status()["state"] == "killed"
    with RunFolder.open(tmp_path / "run") as folder:
        assert folder.status()["state"] == "running"


def test_a_process_on_another_machine_counts_as_alive(tmp_path):
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / ".lock").write_text(json.dumps(owner(host="elsewhere", pid=2**22 + 5)))
    with pytest.raises(UserError, match=r"on elsewhere since then; if it is gone, delete .*\.lock"):
        RunFolder.open(tmp_path / "run")


def test_a_zombie_is_dead():
    child = os.fork()
    if child == 0:
        os._exit(0)
    started = psutil.Process(child).create_time()
    while psutil.Process(child).status() != psutil.STATUS_ZOMBIE:
        time.sleep(0.001)
    assert not alive(owner(pid=child, started=started))
    os.waitpid(child, 0)
    assert alive(owner())


def take(path, go) -> int:
    while not go.exists():
        pass
    try:
        Lock(path).acquire()
    except UserError:
        return 9
    except BaseException:
        return 1
    time.sleep(0.5)  # still alive while the others try
    return 0


def test_of_many_takers_at_once_one_wins(tmp_path):
    path, go = tmp_path / ".lock", tmp_path / "go"
    path.write_text(json.dumps(owner(pid=2**22 + 5)))  # stale: all of them may try to take it over
    children = []
    for _ in range(6):
        child = os.fork()
        if child == 0:
            os._exit(take(path, go))
        children.append(child)
    go.touch()
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children)
    assert codes == [0, 9, 9, 9, 9, 9]


def test_setting_the_clock_lets_nobody_in(tmp_path, monkeypatch):
    with RunFolder.create(tmp_path / "run", {}):
        real = psutil.Process.create_time
        monkeypatch.setattr(
            psutil.Process, "create_time", lambda self: real(self) + 5
        )  # the boot time moved with the clock
        assert RunFolder.read(tmp_path / "run").status()["state"] == "running"
        with pytest.raises(UserError, match="is in use by process"):
            RunFolder.open(tmp_path / "run")


@pytest.mark.skipif(not boot(), reason="this system has no boot id")
def test_a_process_is_named_by_the_boot_and_its_ticks(monkeypatch):
    assert alive(name()) and ticks(os.getpid()) == name()["ticks"] > 0
    assert not alive(name() | {"ticks": name()["ticks"] + 1}) and not alive(name() | {"boot": "another"})
    assert ticks(2**22 + 5) is None
    odd = lambda path: "7 (a) b ( c) S " + " ".join(map(str, range(4, 53)))
    monkeypatch.setattr(module, "_read", odd)
    assert ticks(7) == 22  # fields are counted from the last parenthesis


@pytest.mark.parametrize(
    "left", [b"\xff\xfe\x00", b'{"pid": "one", "started": 1, "host": "h", "since": "s"}', b"[1]", b"{" * 9000]
)
def test_a_lock_that_cannot_be_read_is_none(tmp_path, left):
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / ".lock").write_bytes(left)
    assert RunFolder.read(tmp_path / "run").status()["state"] == "killed"
    RunFolder.open(tmp_path / "run").close()


def test_a_folder_in_the_place_of_the_lock_is_named(tmp_path):
    RunFolder.create(tmp_path / "run", {}).close()
    (tmp_path / "run" / ".lock").unlink()
    (tmp_path / "run" / ".lock").mkdir()
    assert RunFolder.read(tmp_path / "run").status()["state"] == "killed"
    with pytest.raises(UserError, match=r"\.lock: there is a folder in its place"):
        RunFolder.open(tmp_path / "run")


@pytest.mark.parametrize("boots", ["same", "another"])
def test_another_name_of_this_machine_is_asked_by_the_file_lock(tmp_path, boots):
    """A restarted container has another host name, but the kernel knows whether the file is still locked."""
    path = tmp_path / ".lock"
    other = name() | {"host": "pod-1", "boot": boot() if boots == "same" else "another"}
    path.write_text(json.dumps(other))
    assert Lock(path).held() == (boots == "another")
    if boots == "another":
        with pytest.raises(UserError, match="on pod-1 since"):
            Lock(path).acquire()
        return
    lock = Lock(path)
    lock.acquire()
    path.write_text(json.dumps(other))  # held, by somebody whose processes cannot be seen
    assert Lock(path).held()
    with pytest.raises(UserError, match="on pod-1 since"):
        Lock(path).acquire()
    lock.release()


HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from anypo.run.disk.lock import Lock
Lock(Path(sys.argv[1])).acquire()
if os.fork() == 0:
    time.sleep(60)
child = subprocess.Popen(["sleep", "60"], close_fds=False)
print(child.pid, flush=True)
time.sleep(60)
"""


def test_what_a_killed_process_started_does_not_go_on_holding_its_lock(tmp_path):
    path = tmp_path / ".lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert holder.stdout is not None and holder.stdout.readline()
    try:
        assert Lock(path).held()
        holder.kill()
        holder.wait()
        lock = Lock(path)
        assert not lock.held()
        lock.acquire()
        lock.release()
    finally:
        os.killpg(holder.pid, signal.SIGKILL)
