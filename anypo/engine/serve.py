"""The embedded engine behind a small OpenAI-compatible server: completions by token ids, with token ids and log-probabilities
in the answer, and POST /update_weights_from_disk. Bound to loopback; for tests, demonstrations and processes on one machine.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Empty, Queue
from typing import Any

import numpy as np

from anypo.engine.base import Completion, Request, Sampler, Sampling
from anypo.errors import UserError


class Server:
    """Serves `sampler` on 127.0.0.1. Requests that arrive together are one call of the engine. `reload(path)` is called for
    weight updates; `decode` turns tokens into the answer's text."""

    def __init__(
        self,
        sampler: Sampler,
        decode: Callable[[np.ndarray], str],
        *,
        name: str = "policy",
        port: int = 0,
        reload: Callable[[str], None] | None = None,
    ) -> None:
        self.sampler, self.decode, self.name, self.reload = sampler, decode, name, reload
        self.waiting: Queue[tuple[Request, Queue[Completion | Exception]]] = Queue()
        self.engine_lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_side": self})
        self.http = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self.stopping = False
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.http.serve_forever, self._pump)]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http.server_address[1]}/v1"

    def __enter__(self) -> Server:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping = True
        self.http.shutdown()
        self.http.server_close()
        for thread in self.threads:
            thread.join(timeout=5)

    def complete(self, request: Request) -> Completion:
        """Hand one request to the engine thread and wait for its completion."""
        answer: Queue[Completion | Exception] = Queue()
        self.waiting.put((request, answer))
        result = answer.get()
        if isinstance(result, Exception):
            raise result
        return result

    def update(self, path: str) -> None:
        """Load new weights between two engine calls."""
        if self.reload is None:
            raise UserError("this server was started without a way to load weights")
        with self.engine_lock:
            self.reload(path)

    def _pump(self) -> None:
        while not self.stopping:
            try:
                batch = [self.waiting.get(timeout=0.05)]
            except Empty:
                continue
            while not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            try:
                with self.engine_lock:
                    results: list[Any] = self.sampler.generate([request for request, _ in batch])
            except Exception as error:
                results = [error] * len(batch)
            for (_, answer), result in zip(batch, results):
                answer.put(result)


class _Handler(BaseHTTPRequestHandler):
    server_side: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        if self.path == "/v1/models":
            self._answer(200, {"object": "list", "data": [{"id": self.server_side.name, "object": "model"}]})
        else:
            self._answer(404, {"error": {"message": f"no such address: {self.path}"}})

    def do_POST(self) -> None:
        try:
            body = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}")
            if self.path == "/v1/completions":
                self._answer(200, self._completion(body))
            elif self.path == "/update_weights_from_disk":
                self.server_side.update(str(body["model_path"]))
                self._answer(200, {"success": True})
            else:
                self._answer(404, {"error": {"message": f"no such address: {self.path}"}})
        except (UserError, KeyError, TypeError, ValueError) as error:
            self._answer(400, {"error": {"message": f"{type(error).__name__}: {error}"}})

    def _completion(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["model"] != self.server_side.name:
            raise UserError(f"no model '{body['model']}' here, only '{self.server_side.name}'")
        sampling = Sampling(
            max_new=int(body.get("max_tokens", 16)),
            temperature=float(body.get("temperature", 1.0)),
            top_p=float(body.get("top_p", 1.0)),
            top_k=int(body.get("top_k", 0)),
            min_p=float(body.get("min_p", 0.0)),
            stop=tuple(body.get("stop", ())),
        )
        prompt = np.array(body["prompt"], dtype=np.int32)
        done = self.server_side.complete(Request(prompt, sampling, (int(body.get("seed", 0)),)))
        tokens = [int(token) for token in done.tokens]
        return {
            "object": "text_completion",
            "model": self.server_side.name,
            "choices": [
                {
                    "index": 0,
                    "text": self.server_side.decode(done.tokens),
                    "finish_reason": done.finish,
                    "token_ids": tokens,
                    "logprobs": {
                        "tokens": [f"token_id:{token}" for token in tokens],
                        "token_logprobs": [float(value) for value in done.logp],
                    },
                }
            ],
            "usage": {"prompt_tokens": len(prompt), "completion_tokens": len(tokens)},
        }

    def _answer(self, code: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the caller has its own display."""
