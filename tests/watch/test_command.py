"""The command: its address, its refusals, its end."""

import re
import signal
import subprocess
import sys
import urllib.request

import pytest
import typer
from synthetic_run import make_run
from typer.testing import CliRunner

from anypo.cli.runs import watch as command
from anypo.errors import UserError
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder


@pytest.fixture
def anypo():
    app = typer.Typer()
    command.register(app)
    app.command()(lambda: None)
    return lambda *words: CliRunner().invoke(app, ["watch", *map(str, words)])


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "runs" / "mine", steps=1, evaluate=False, samples=2, state="running")


def test_it_prints_its_address_and_ends_cleanly(run):
    start = [sys.executable, "-c", "from anypo.cli import main; main()", "watch", str(run.parent)]
    process = subprocess.Popen(start, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, address = process.stdout.readline(), process.stdout.readline().strip()
    assert said == f"watching 1 run in {run.parent} (read-only); Ctrl-C ends\n"
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/\?token=[\w-]{40,}", address)
    with urllib.request.urlopen(address, timeout=60) as answer:
        assert b"anypo watch" in answer.read()
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (0, "", "stopped watching; runs go on\n")


def test_it_refuses_what_is_not_there(anypo, tmp_path):
    error = anypo(tmp_path / "nowhere").exception
    assert isinstance(error, UserError) and "there is no folder" in str(error)


def test_it_passes_requests_on(anypo, run):
    with RunFolder.open(run):
        done = anypo(run, "--send", "pause")
        assert done.exit_code == 0 and "pauses after the current step" in done.output
        assert requests.asked(run, "pause")
        assert anypo(run, "--send", "resume").exit_code == 0 and not requests.asked(run, "pause")
        assert "unknown action 'halt'" in str(anypo(run, "--send", "halt").exception)
    assert "is not running (it is killed)" in str(anypo(run, "--send", "stop").exception)
    assert "--send stop needs the run" in str(anypo("--send", "stop").exception)


def test_the_address_is_handed_to_the_browser_in_a_private_file(tmp_path):
    door = command._door(tmp_path, "http://127.0.0.1:1/?token=abc")
    path = tmp_path / "watch.html"
    assert door == path.as_uri() and path.stat().st_mode & 0o077 == 0 and "token=abc" in path.read_text()
