import json
import os
import socket
import time

import psutil
import pytest

from anypo.errors import UserError
from anypo.run.disk.folder import RunFolder
from anypo.run.disk.lock import Lock, alive


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
