"""Who may see and do what."""

import http.client
import json

import pytest
from synthetic_run import make_run

from anypo.errors import UserError
from anypo.run.disk import requests
from anypo.run.disk.folder import RunFolder
from anypo.watch import Server
from anypo.watch.runs import identity


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("served") / "run", steps=2, samples=2)


@pytest.fixture(scope="module")
def server(run, serving):
    with serving(run.parent) as server:
        yield server


@pytest.fixture
def live(tmp_path, serving):
    """A server with control, and a run that this process holds as its own."""
    path = make_run(tmp_path / "run", steps=1, evaluate=False, samples=2, state="running")
    with RunFolder.open(path) as folder, serving(tmp_path, control=True) as server:
        yield server, folder


def ask(server, path, method="GET", body=None, token=True, **headers):
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=60)
    name = headers.pop("Host", f"127.0.0.1:{server.server_port}")
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", name)
    if token is not False:
        headers["X-Token"] = server.token if token is True else token
    if body is not None:
        headers["Content-Length"] = str(len(body))
    for key, value in headers.items():
        connection.putheader(key.replace("_", "-"), value)
    connection.endheaders(body.encode() if body else None)
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, text


EVERYTHING = ["/", "/api/runs", "/api/run/ID", "/api/run/ID/metrics", "/api/run/ID/rollouts", "/api/run/ID/answers"]
EVERYTHING += ["/api/run/ID/diagnosis", "/report/ID", "/nowhere"]


@pytest.mark.parametrize("path", EVERYTHING)
def test_nothing_is_shown_without_the_token(server, run, path):
    path = path.replace("ID", identity(run))
    for token in (False, "", "wrong", server.token[:-1], server.token + "x", "é"):
        status, _, text = ask(server, path, token=token)
        assert status == 403 and str(run) not in text and "reward" not in text
    assert ask(server, f"{path}?token=wrong", token=False)[0] == 403
    assert ask(server, path)[0] == (404 if path == "/nowhere" else 200)
    assert ask(server, f"{path}?token={server.token}", token=False)[0] == (404 if path == "/nowhere" else 200)


def test_every_server_has_its_own_token(server, run):
    with Server([run]) as other:
        assert other.token != server.token and len(other.token) >= 40
        assert other.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "", "192.168.0.7", "[::1]"]
)
def test_another_name_for_this_machine_is_refused(server, host):
    assert ask(server, "/api/runs", Host=host)[0] == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:9"])
def test_a_forwarded_port_is_not(server, host):
    assert ask(server, "/api/runs", Host=host)[0] == 200


def test_pages_lock_themselves_in(server, run):
    for path in ("/", "/api/runs", f"/report/{identity(run)}"):
        _, headers, _ = ask(server, path)
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cache-Control"] == "no-store" and headers["X-Frame-Options"] == "DENY"
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert not any(name.lower().startswith("access-control") for name in headers)
    first, second = ask(server, "/"), ask(server, "/")
    policy = first[1]["Content-Security-Policy"]
    assert "script-src 'nonce-" in policy and policy != second[1]["Content-Security-Policy"]
    assert policy.split("'nonce-")[1].split("'")[0] in first[2]
    assert "sandbox allow-scripts" in ask(server, f"/report/{identity(run)}")[1]["Content-Security-Policy"]


def test_the_page_asks_nothing_of_the_network(server):
    text = ask(server, "/")[2]
    assert text.count("<script") == 2 and "@import" not in text and "url(" not in text
    assert "src=" not in text.split("<script")[0] and server.token not in text


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/run/000000000000", 404),
        ("/api/run/../../etc/passwd", 404),
        ("/api/run/%2e%2e%2f", 404),
        ("/api/run/ID/config.yaml", 404),
        ("/api/run/ID/request", 404),
        ("/api/run/ID/metrics?after=-1", 400),
        ("/api/run/ID/metrics?after=1e3", 400),
        ("/api/run/ID/rollouts?step=abc", 400),
        ("/api/run/ID/rollouts?step=99", 409),
    ],
)
def test_what_is_not_there_is_one_sentence(server, run, path, status):
    found, _, text = ask(server, path.replace("ID", identity(run)))
    assert found == status and json.loads(text)["error"]


def test_numbers_come_as_they_were_recorded(server, run):
    found = json.loads(ask(server, f"/api/run/{identity(run)}/metrics?after=1&generation=0")[2])
    assert found["steps"] == [2] and found["values"]["reward/mean"] == [RunFolder(run).metrics()[1]["reward/mean"]]
    listed = json.loads(ask(server, "/api/runs")[2])["runs"]
    assert listed[0]["score"] == RunFolder(run).evaluations()[-1]["accuracy"]
    answers = json.loads(ask(server, f"/api/run/{identity(run)}/answers")[2])
    assert answers["total"] == 200 and answers["labels"] == ["Before", "After"]


def request(server, folder, action, **changes):
    origin = {"Origin": f"http://127.0.0.1:{server.server_port}"} | changes
    origin = {key: value for key, value in origin.items() if value is not None}
    body = json.dumps({"action": action})
    return ask(server, f"/api/run/{identity(folder.path)}/request", "POST", body, **origin)


def test_a_request_reaches_the_run(live):
    server, folder = live
    assert request(server, folder, "pause")[0] == 200 and requests.asked(folder.path, "pause")
    assert request(server, folder, "resume")[0] == 200 and not requests.asked(folder.path, "pause")
    assert request(server, folder, "stop")[0] == 200 and requests.take(folder.path, "stop")
    status, _, text = request(server, folder, "delete")
    assert status == 409 and "unknown action 'delete'" in text


@pytest.mark.parametrize("origin", [None, "null", "http://evil.example", "https://127.0.0.1", "http://127.0.0.1:1"])
def test_other_pages_cannot_ask(live, origin):
    server, folder = live
    assert request(server, folder, "stop", Origin=origin)[0] == 403
    assert not requests.asked(folder.path, "stop")


def test_a_request_needs_the_token_and_a_body(live):
    server, folder = live
    assert request(server, folder, "stop", token=False)[0] == 403
    origin = {"Origin": f"http://127.0.0.1:{server.server_port}"}
    path = f"/api/run/{identity(folder.path)}/request"
    for body in ("", "stop", "[]", "{}", "x" * 2000):
        assert ask(server, path, "POST", body, **origin)[0] == 400
    assert ask(server, "/api/runs", "POST", "{}", **origin)[0] == 404
    assert not requests.asked(folder.path, "stop")


def test_a_read_only_server_passes_nothing_on(tmp_path, serving):
    path = make_run(tmp_path / "run", steps=1, evaluate=False, samples=2, state="running")
    with RunFolder.open(path) as folder, serving(tmp_path) as server:
        status, _, text = request(server, folder, "stop")
        assert status == 403 and "--control" in text and not requests.asked(path, "stop")


def test_a_port_in_use_is_one_sentence(server, run):
    with pytest.raises(UserError, match=rf"port {server.server_port} is in use .*--port 0"):
        Server([run], server.server_port)
