"""The local web server behind `anypo watch`: loopback only, a token for everything, read-only unless asked.

    GET  /?token=T                                the page
    GET  /api/runs                                every run in a few words
    GET  /api/run/ID                              status, evaluations, configuration, provenance
    GET  /api/run/ID/metrics?after=STEP           what came after that step (`&generation=N`: see `anypo.watch.feed`)
    GET  /api/run/ID/rollouts?step=STEP           the rollouts of a step (default: the newest)
    GET  /api/run/ID/answers                      held-out answers, first and last evaluation
    GET  /api/run/ID/diagnosis                    findings
    GET  /report/ID?token=T                       the run's report
    POST /api/run/ID/request  {"action": "pause"} pause, resume, checkpoint or stop (only with `control`)

A request must name this machine in its Host header (a page elsewhere whose name was re-bound to 127.0.0.1 does not), carry
the token (in the address or in the header ``X-Token``) and, when it changes something, come from this page's own origin.
No cookie is used: cookies do not tell the ports of one machine apart, a token in a header does.
"""

from __future__ import annotations

import errno
import json
import re
import secrets
import socketserver
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from anypo.errors import UserError
from anypo.files import strict
from anypo.loopback import HOST, admitted, names_this_machine, own_page, size
from anypo.report import page as report
from anypo.run.disk.folder import RunFolder
from anypo.watch.page import page
from anypo.watch.runs import Runs, Unknown

LONGEST, MOST = 1000, 100_000
"""Most bytes of a request's body that are considered, and that are read."""

ALWAYS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
PAGE_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'unsafe-inline'; connect-src 'self'; img-src data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
REPORT_POLICY = (
    "sandbox allow-scripts; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "frame-ancestors 'none'"
)
"""The report runs in an origin of its own: whatever is in it cannot use this server."""


class Server(ThreadingHTTPServer):
    """Serves the runs below `places` until it is shut down. Raises `UserError` when the port cannot be used."""

    daemon_threads = True

    def __init__(self, places: Sequence[Path], port: int = 0, control: bool = False) -> None:
        self.runs, self.control = Runs(places), control
        self.token = secrets.token_urlsafe(32)
        try:
            super().__init__((HOST, port), Handler)
        except (OSError, OverflowError) as error:
            raise UserError(_refusal(port, getattr(error, "errno", None))) from None

    def server_bind(self) -> None:  # the base class asks the network for this machine's name, which can take seconds
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = HOST, int(self.server_address[1])

    @property
    def address(self) -> str:
        """What to open in a browser."""
        return f"http://{HOST}:{self.server_port}/?token={self.token}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is the browser's business: nothing is printed over the terminal."""


def _refusal(port: int, number: int | None) -> str:
    if number == errno.EADDRINUSE:
        return f"port {port} is in use by another program; choose another with --port, or --port 0 for a free one"
    return f"port {port} cannot be used; choose one from 1024 to 65535, or --port 0 for a free one"


class Refused(Exception):
    """An answer other than 200: `status` and a sentence."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Handler(BaseHTTPRequestHandler):
    """One request."""

    server: Server
    server_version, sys_version = "anypo", ""
    timeout = 30
    body = b""

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self.body = self._read()
        self._answer(self._post)

    def _answer(self, work: Callable[[str, Mapping[str, str]], None]) -> None:
        url = urlsplit(self.path)
        query = {name: values[-1] for name, values in parse_qs(url.query).items()}
        try:
            self._admit(query)
            work(url.path, query)
        except Refused as refused:
            self._json({"error": str(refused)}, refused.status)
        except Unknown as error:
            self._json({"error": str(error)}, HTTPStatus.NOT_FOUND)
        except UserError as error:
            self._json({"error": str(error)}, HTTPStatus.CONFLICT)
        except ConnectionError:
            pass
        except Exception as error:  # one broken run must not take the page away from the others
            self._json({"error": f"{type(error).__name__}: {error}"}, HTTPStatus.INTERNAL_SERVER_ERROR)

    def _admit(self, query: Mapping[str, str]) -> None:
        if not names_this_machine(self.headers):
            raise Refused(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost only")
        given = self.headers.get("X-Token") or query.get("token", "")
        if not admitted(given, self.server.token):
            raise Refused(
                HTTPStatus.FORBIDDEN, "open the whole address that 'anypo watch' printed: its token is missing here"
            )

    def _get(self, path: str, query: Mapping[str, str]) -> None:
        if path == "/":
            nonce = secrets.token_urlsafe(16)
            self._send(page(self.server.control, nonce), "text/html", PAGE_POLICY.format(nonce=nonce))
        elif path == "/api/runs":
            self._json(self.server.runs.listing())
        elif match := re.fullmatch(r"/report/(\w+)", path):
            self._send(report(RunFolder(self.server.runs.path(match[1]))), "text/html", REPORT_POLICY)
        elif match := re.fullmatch(r"/api/run/(\w+)(?:/(\w+))?", path):
            self._json(self._run(match[1], match[2] or "", query))
        else:
            raise Refused(HTTPStatus.NOT_FOUND, f"there is nothing at {path}")

    def _run(self, name: str, what: str, query: Mapping[str, str]) -> dict[str, Any]:
        runs = self.server.runs
        if what == "":
            return runs.detail(name)
        if what == "metrics":
            return runs.metrics(name, _whole(query, "after") or 0, _whole(query, "generation"))
        if what == "rollouts":
            return runs.rollouts(name, _whole(query, "step"))
        if what in ("answers", "diagnosis"):
            return runs.answers(name) if what == "answers" else runs.diagnosis(name)
        raise Refused(HTTPStatus.NOT_FOUND, f"a run has no {what}")

    def _post(self, path: str, query: Mapping[str, str]) -> None:
        if not own_page(self.headers):
            raise Refused(HTTPStatus.FORBIDDEN, "requests are taken from this server's own page only")
        match = re.fullmatch(r"/api/run/(\w+)/request", path)
        if match is None:
            raise Refused(HTTPStatus.NOT_FOUND, f"nothing can be asked at {path}")
        if not self.server.control:
            raise Refused(HTTPStatus.FORBIDDEN, "this page is read-only; start it with --control to control runs")
        self.server.runs.ask(match[1], self._action())
        self._json({"done": True})

    def _action(self) -> str:
        try:
            return str(json.loads(self.body)["action"])
        except (ValueError, TypeError, KeyError):
            raise Refused(HTTPStatus.BAD_REQUEST, 'the body must be JSON like {"action": "pause"}') from None

    def _read(self) -> bytes:
        """The body, empty when it is too long to be a request. It is read before anything is answered: a connection that is
        closed with something unread is reset, and the answer lost."""
        length = size(self.headers, 10**8) or 0
        body = self.rfile.read(min(length, MOST))
        return body if length <= LONGEST else b""

    def _json(self, value: Mapping[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        text = json.dumps(strict(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        self._send(text, "application/json", "default-src 'none'; frame-ancestors 'none'", status)

    def _send(self, text: str, kind: str, policy: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode("utf-8", errors="replace")
        self.send_response(status)
        for name, value in {**ALWAYS, "Content-Security-Policy": policy}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the terminal belongs to the user."""


def _whole(query: Mapping[str, str], name: str) -> int | None:
    """A whole number of the address, None when it is absent."""
    text = query.get(name)
    if text is None:
        return None
    if not text.isdecimal() or len(text) > 15:
        raise Refused(HTTPStatus.BAD_REQUEST, f"{name} must be a whole number, not '{text[:20]}'")
    return int(text)
