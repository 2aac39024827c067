"""Who may speak to a server of this machine's own: whoever has its token and names the machine as it is named here.

Any page in the user's browser can send requests to 127.0.0.1, under a name of its own that was re-bound to it, or from its own
origin. Neither knows the token, and both say in their headers who they are.
"""

from __future__ import annotations

import hmac
import re
from email.message import Message

HOST = "127.0.0.1"
NAMES = frozenset({"127.0.0.1", "localhost"})
"""What this machine may be called in a Host header; any port, so that a forwarded one (ssh -L) works."""


def names_this_machine(headers: Message) -> bool:
    """Whether there is one Host header, and it names this machine."""
    hosts = headers.get_all("Host") or []
    return len(hosts) == 1 and re.sub(r":\d+$", "", hosts[0]) in NAMES


def own_page(headers: Message) -> bool:
    """Whether the request says that it comes from a page of this very server."""
    return headers.get("Origin") == f"http://{headers.get('Host')}"


def admitted(given: str, token: str) -> bool:
    """Whether the token given is the server's, in constant time."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def size(headers: Message, most: int) -> int | None:
    """Bytes of the body, None where the headers give no number up to `most`."""
    lengths = headers.get_all("Content-Length") or ["0"]
    plain = len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdecimal() and len(lengths[0]) < 16
    if not plain or headers.get("Transfer-Encoding") or int(lengths[0]) > most:
        return None
    return int(lengths[0])
