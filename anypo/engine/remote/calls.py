"""Calls to a server over HTTP: who may, what comes back, and one sentence for everything that does not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import requests
from urllib3.util.retry import Retry

from anypo.errors import UserError

KEY = "ANYPO_API_KEY"
"""Environment variable with the token that a server wants, if it wants one."""

RETRY = Retry(total=4, backoff_factor=0.5, status_forcelist=(429, 500, 502, 503, 504), allowed_methods=None)


@dataclass
class Line:
    """The way to one server. url: base address of its OpenAI paths, mostly with ``/v1`` at its end. served: the name under which the
    newest weights are served."""

    url: str
    served: str
    session: requests.Session
    timeout: float

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def ask(self, name: str, body: dict[str, Any]) -> dict[str, Any]:
        """POST to one of the OpenAI paths, such as ``completions`` (see `post`)."""
        return post(self.session, f"{self.url}/{name}", body, self.timeout)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """POST to a path below the root (see `post`)."""
        return post(self.session, f"{self.root}{path}", body or {}, self.timeout)

    def paths(self) -> frozenset[str]:
        """The paths that the server says it has, none where it does not say."""
        try:
            return frozenset(
                self.session.get(f"{self.root}/openapi.json", timeout=min(30.0, self.timeout)).json()["paths"]
            )
        except (requests.RequestException, ValueError, LookupError, TypeError):
            return frozenset()


def authorise(session: requests.Session, token: str = "") -> None:
    """Let every request of `session` carry the token, or the one of `KEY`, if there is one."""
    if token := token or os.environ.get(KEY, ""):
        session.headers["Authorization"] = f"Bearer {token}"


def post(session: requests.Session, address: str, body: dict[str, Any], timeout: float) -> dict[str, Any]:
    """The server's answer, as a mapping (empty when it is none). Raises `UserError` when there is none or it refuses."""
    try:
        answer = session.post(address, json=body, timeout=timeout)
    except requests.RequestException as error:
        raise UserError(f"no answer from the server at {address}: {type(error).__name__}; is it running?") from None
    if answer.status_code >= 400:
        raise UserError(
            f"the server at {address} refused with {answer.status_code}: {' '.join(answer.text.split())[:300]}"
        )
    try:
        return dict(answer.json())
    except ValueError:
        return {}


def stable_seed(key: Sequence[int]) -> int:
    """A 63-bit seed from a request's key (the same request samples the same tokens on a deterministic server)."""
    return int(np.random.SeedSequence([abs(int(s)) for s in key]).generate_state(1, np.uint64)[0]) >> 1


def named(name: str) -> int:
    """The id in ``token_id:N``."""
    return int(name.split(":", 1)[1])
