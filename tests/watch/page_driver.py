"""A headless Chromium that stays open, driven over its debugging pipe: addresses, scripts, sizes, pictures."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import select
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from browser import CHROMIUM, FLAGS

PATIENCE = 60.0
"""Seconds after which a page that does not do what is expected of it fails the test (a limit, not a measurement)."""

LOST = ("net::ERR_CONNECTION", "net::ERR_SOCKET_NOT_CONNECTED")
"""What a page says that is left open and outlives its test's server."""


class Browser:
    """One page. Use it in a ``with`` statement. `said`: errors and exceptions in the page's console."""

    def __init__(self) -> None:
        assert CHROMIUM is not None
        self.said: list[str] = []
        self._count, self._buffer = 0, b""
        self._place = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, self._out = os.pipe()
        self._in, theirs_out = os.pipe()
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 50) for fd in (theirs_in, theirs_out)]
        flags = [
            flag for flag in FLAGS if flag != "--dump-dom" and "virtual-time" not in flag and "logging" not in flag
        ]
        command = [CHROMIUM, *flags, "--remote-debugging-pipe", f"--user-data-dir={self._place.name}", "about:blank"]
        quiet = (os.POSIX_SPAWN_OPEN, 2, os.devnull, os.O_WRONLY, 0)
        joined = [(os.POSIX_SPAWN_DUP2, high[0], 3), (os.POSIX_SPAWN_DUP2, high[1], 4), quiet]
        self._pid = os.posix_spawn(CHROMIUM, command, os.environ, file_actions=joined, setpgroup=0)
        for fd in (theirs_in, theirs_out, *high):
            os.close(fd)
        target = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    _session = ""

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *error: object) -> None:
        os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        os.close(self._in), os.close(self._out)
        self._place.cleanup()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        self._count += 1
        message: dict[str, Any] = {"id": self._count, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            found = self._read()
            if found.get("id") == self._count:
                if "error" in found:
                    raise AssertionError(f"{method}: {found['error']}")
                return found["result"]

    def _read(self) -> dict[str, Any]:
        limit = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            if not select.select([self._in], [], [], max(0.0, limit - time.monotonic()))[0]:
                raise AssertionError("the browser does not answer")
            self._buffer += os.read(self._in, 1 << 20)
        line, _, self._buffer = self._buffer.partition(b"\0")
        found = json.loads(line)
        if found.get("method") == "Runtime.exceptionThrown":
            self.said.append(json.dumps(found["params"]["exceptionDetails"])[:600])
        if found.get("method") == "Log.entryAdded" and found["params"]["entry"]["level"] == "error":
            text = found["params"]["entry"]["text"]
            if not any(lost in text for lost in LOST):
                self.said.append(text)
        return found

    def size(self, width: int, height: int = 900, dark: bool = False) -> None:
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}],
        )

    def go(self, address: str) -> None:
        """Open an address afresh and wait until its document is loaded."""
        for url in ("about:blank", address):  # an address that differs in its fragment only would not be loaded again
            self.call("Page.navigate", url=url)
            self.until(f"document.readyState === 'complete' && location.href.startsWith({url.partition('#')[0]!r})")

    def ask(self, script: str) -> Any:
        """The value of a JavaScript expression (or the promise of one)."""
        found = self.call(
            "Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script: str) -> None:
        """Wait until the expression is true."""
        limit = time.monotonic() + PATIENCE
        while not self.ask(f"Boolean({script})"):
            if time.monotonic() > limit:
                raise AssertionError(
                    f"never true: {script}; console: {self.said}; {self.ask('document.body.innerText')[:500]}"
                )
            time.sleep(0.05)

    def picture(self, path: Path, whole: bool = False) -> None:
        """The page as a PNG."""
        found = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(found["data"]))
