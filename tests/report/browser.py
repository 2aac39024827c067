"""Headless Chromium for the tests of the report; `CHROMIUM` is None where there is none."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--enable-logging=stderr",
    "--virtual-time-budget=3000",
    "--dump-dom",
]

FRAME = """<body style="margin:0"><pre id="out"></pre>
<script>addEventListener("message", event => { document.getElementById("out").textContent = event.data; });</script>
<iframe src="page.html" style="width:WIDTHpx;height:3000px;border:0"></iframe>"""


def examine(page: str, script: str, width: int = 1280) -> tuple[Any, list[str]]:
    """What the JavaScript expression `script` gives in the page at that width, and what the console said meanwhile."""
    assert CHROMIUM is not None
    probe = f"<script>setTimeout(() => parent.postMessage(JSON.stringify({script}), '*'), 100)</script></body>"
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "page.html").write_text(page.replace("</body>", probe), encoding="utf-8")
        frame = Path(place) / "frame.html"
        frame.write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
        command = [CHROMIUM, *FLAGS, f"--user-data-dir={place}/profile", "--window-size=1400,3000", frame.as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    found = re.search(r'<pre id="out">(.*?)</pre>', done.stdout, re.S)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    if not found or not found[1]:
        raise AssertionError(f"the page did not answer: {said}")
    return json.loads(html.unescape(found[1])), said
