"""A server in a role: any OpenAI-compatible chat endpoint."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any
from urllib.parse import urldefrag

import requests

from anypo.engine.base import Sampling
from anypo.engine.remote import RETRY, authorise, post, stable_seed
from anypo.errors import UserError
from anypo.roles.base import Messages, Model


class Server(Model):
    """``http://host:port/v1#NAME``: POST /chat/completions for the model NAME; without it, the one that GET /models lists first."""

    able = frozenset({"ask"})
    concurrency = 16
    timeout = 600.0

    @cached_property
    def session(self) -> requests.Session:
        session = requests.Session()
        adapter = requests.adapters.HTTPAdapter(max_retries=RETRY, pool_maxsize=self.concurrency)
        session.mount("http://", adapter)
        session.mount("https://", adapter)
        authorise(session)
        return session

    @property
    def url(self) -> str:
        return urldefrag(self.spec).url.rstrip("/")

    @cached_property
    def name(self) -> str:
        """The name it is served under."""
        if named := urldefrag(self.spec).fragment:
            return named
        try:
            listed = self.session.get(f"{self.url}/models", timeout=self.timeout).json()
            return str(listed["data"][0]["id"])
        except (requests.RequestException, ValueError, KeyError, IndexError, TypeError):
            raise UserError(
                f"the {self.role}: {self.url}/models names no model; is the server running? Or name one: {self.spec}#NAME"
            ) from None

    def ask(self, prompts: Sequence[Messages], sampling: Sampling, seed: tuple[int, ...]) -> list[str]:
        if not prompts:
            return []
        bodies = [self._body(said, sampling, (*seed, n)) for n, said in enumerate(prompts)]
        with ThreadPoolExecutor(self.concurrency) as pool:
            return list(pool.map(self._answer, bodies))

    def _body(self, said: Messages, sampling: Sampling, seed: tuple[int, ...]) -> dict[str, Any]:
        return {
            "model": self.name,
            "messages": [dict(message) for message in said],
            "max_tokens": sampling.max_new,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": stable_seed(seed),
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
        }

    def _answer(self, body: dict[str, Any]) -> str:
        answer = post(self.session, f"{self.url}/chat/completions", body, self.timeout)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (KeyError, IndexError, TypeError):
            raise UserError(f"the {self.role}: the answer of {self.url}/chat/completions holds no message") from None

    def describe(self) -> dict[str, Any]:
        return {"model": self.url, "served as": self.name}
