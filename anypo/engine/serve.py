"""The embedded engine behind a small OpenAI-compatible server: completions by token ids, with token ids and log-probabilities
in the answer (those of the prompt, too, where they are asked for), and POST /update_weights_from_disk. Bound to loopback; for tests,
demonstrations and processes on one machine.

Every request carries the server's token (``Authorization: Bearer TOKEN``; `anypo.engine.remote` takes it from the variable
ANYPO_API_KEY) and names this machine as its host (see `anypo.loopback`). What is wrong with a request is said in a sentence.
"""

from __future__ import annotations

import json
import secrets
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from queue import Empty, Queue
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anypo.engine.base import Completion, Request, Sampler, Sampling
from anypo.engine.local.vocabulary import truncates
from anypo.engine.remote import KEY
from anypo.engine.remote.canary import scored
from anypo.errors import UserError, shown
from anypo.loopback import HOST, admitted, names_this_machine, own_page, size
from anypo.parts import first_reason

PATHS = ("/v1/models", "/v1/completions", "/update_weights_from_disk")
LARGEST = 16 * 2**20
"""Most bytes of a request."""


class Server:
    """Serves `sampler` on 127.0.0.1. Requests that arrive together are one call of the engine. `reload(path)` is called for
    weight updates; `decode` turns tokens into the answer's text. token: what requests must carry (default: a fresh one)."""

    def __init__(
        self,
        sampler: Sampler,
        decode: Callable[[np.ndarray], str],
        *,
        name: str = "policy",
        port: int = 0,
        reload: Callable[[str], None] | None = None,
        token: str = "",
    ) -> None:
        self.sampler, self.decode, self.name, self.reload = sampler, decode, name, reload
        self.token = token or secrets.token_urlsafe(32)
        about = getattr(getattr(sampler, "model", None), "config", None)
        self.vocabulary = int(getattr(about, "vocab_size", 2**31))
        self.context = int(getattr(about, "max_position_embeddings", 2**20))
        self.version: int | None = None  # of the weights, where whoever sent them said
        self.waiting: Queue[tuple[Request, Queue[Completion | Exception]]] = Queue()
        self.engine_lock = threading.Lock()
        handler = type("Handler", (_Handler,), {"server_side": self})
        self.http = _Http((HOST, port), handler)
        self.stopping = False
        self.threads = [threading.Thread(target=work, daemon=True) for work in (self.http.serve_forever, self._pump)]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.http.server_address[1]}/v1"

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
        while not self.stopping:
            try:
                result = answer.get(timeout=0.5)
            except Empty:
                continue
            if isinstance(result, Exception):
                raise result
            return result
        raise UserError("the server is stopping")

    def score(self, tokens: Sequence[int]) -> list[float]:
        """The model's log-probabilities of all tokens but the first, nats."""
        model = getattr(self.sampler, "model", None)
        if model is None:
            raise UserError("this server's engine has no model that could score a prompt")
        with self.engine_lock:
            return scored(model, np.array(tokens)).tolist()  # type: ignore[no-any-return]

    def update(self, path: str, version: int | None = None) -> None:
        """Load new weights between two engine calls."""
        if self.reload is None:
            raise UserError("this server was started without a way to load weights")
        with self.engine_lock:
            self.reload(path)
            self.version = version

    def _pump(self) -> None:
        while not self.stopping:
            try:
                batch = [self.waiting.get(timeout=0.05)]
            except Empty:
                continue
            while not self.waiting.empty():
                batch.append(self.waiting.get_nowait())
            for (_, answer), result in zip(batch, self._results([request for request, _ in batch])):
                answer.put(result)

    def _results(self, requests: Sequence[Request]) -> list[Any]:
        """A completion or an exception for every request; where all of them together fail, each is tried alone, so that nobody
        suffers for another's request."""
        try:
            with self.engine_lock:
                found = self.sampler.generate(requests)
                if self.version is None:
                    return list(found)
                return [replace(one, version=np.full(len(one.tokens), self.version)) for one in found]
        except Exception as error:
            return [error] if len(requests) == 1 else [self._results([request])[0] for request in requests]


class _Http(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A connection that broke is the other side's business."""


class Asked(BaseModel):
    """The body of POST /v1/completions, as far as it is heeded."""

    model_config = ConfigDict(frozen=True, strict=True)

    model: str
    prompt: list[Annotated[int, Field(ge=0, lt=2**31)]] = Field(min_length=1)
    max_tokens: int = Field(16, ge=1)
    temperature: float = Field(1.0, ge=0.0, le=1e6)
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    top_k: int = Field(0, ge=0, lt=2**31)
    min_p: float = Field(0.0, ge=0.0, lt=1.0)
    stop: list[Annotated[str, Field(min_length=1)]] | str = []
    seed: int = Field(0, ge=0, lt=2**64)
    prompt_logprobs: int | None = Field(None, ge=0, le=0)

    def request(self, vocabulary: int, context: int) -> Request:
        """What the engine is asked. `UserError` for tokens that the model has not and lengths that it cannot hold."""
        if max(self.prompt) >= vocabulary:
            raise UserError(f"token {max(self.prompt)} is not one of the model's {vocabulary}")
        if len(self.prompt) + self.max_tokens > context:
            raise UserError(
                f"a prompt of {len(self.prompt)} tokens and max_tokens={self.max_tokens} do not fit into {context} tokens"
            )
        stop = (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)
        sampling = Sampling(
            max_new=self.max_tokens,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            stop=stop,
        )
        return Request(np.array(self.prompt, dtype=np.int32), sampling, (self.seed,))


def asked(body: bytes, name: str, vocabulary: int, context: int) -> tuple[Request, bool]:
    """What the body of a request asks the model `name` for, and whether it wants to know of its prompt, too. `UserError` says what is
    wrong with it."""
    plain = _mapping(body)
    try:
        found = Asked(**{key: plain[key] for key in Asked.model_fields.keys() & plain.keys()})
    except ValidationError as error:
        raise UserError(first_reason(error)) from None
    if found.model != name:
        raise UserError(f"no model {shown(found.model)} here, only '{name}'")
    return found.request(vocabulary, context), found.prompt_logprobs is not None


class Refused(Exception):
    """An answer other than 200."""

    def __init__(self, status: HTTPStatus, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    server_side: Server
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "anypo", ""
    timeout = 60  # seconds for a request to arrive: nobody holds a thread for ever

    def do_GET(self) -> None:
        self._serve(self._get)

    def do_POST(self) -> None:
        self._serve(self._post)

    def _serve(self, work: Callable[[bytes], dict[str, Any]]) -> None:
        """Read the body, whoever sent it, then admit, work and answer: every refusal is a sentence."""
        length = size(self.headers, LARGEST)
        self.close_connection = self.close_connection or length is None
        try:
            body = self.rfile.read(length or 0)
            self._admit()
            if length is None:
                raise Refused(HTTPStatus.BAD_REQUEST, f"the body needs a Content-Length of at most {LARGEST} bytes")
            self._answer(HTTPStatus.OK, work(body))
        except Refused as refused:
            self._answer(refused.status, _said(refused))
        except UserError as error:
            self._answer(HTTPStatus.BAD_REQUEST, _said(error))
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception as error:  # the engine's own failures: whoever asked is told, and the server goes on
            self._answer(HTTPStatus.INTERNAL_SERVER_ERROR, _said(f"{type(error).__name__}: {error}"))

    def _admit(self) -> None:
        if not names_this_machine(self.headers):
            raise Refused(HTTPStatus.FORBIDDEN, "this server answers to 127.0.0.1 and localhost only")
        if self.headers.get("Origin") is not None and not own_page(self.headers):
            raise Refused(HTTPStatus.FORBIDDEN, "this server takes no requests from pages of other origins")
        if not admitted(self.headers.get("Authorization", "").removeprefix("Bearer "), self.server_side.token):
            raise Refused(HTTPStatus.UNAUTHORIZED, f"the token is missing or wrong; set {KEY} to this server's token")

    def _get(self, body: bytes) -> dict[str, Any]:
        if self.path == "/openapi.json":
            return {
                "openapi": "3.1.0",
                "info": {"title": "anypo", "version": "1"},
                "paths": {path: {} for path in PATHS},
            }
        if self.path != "/v1/models":
            raise self._nowhere()
        own = {"id": self.server_side.name, "object": "model", "max_model_len": self.server_side.context}
        return {"object": "list", "data": [own]}

    def _post(self, body: bytes) -> dict[str, Any]:
        if self.path == "/v1/completions":
            return self._completion(body)
        if self.path == "/update_weights_from_disk":
            told = _mapping(body)
            path, version = told.get("model_path"), told.get("weight_version")
            if not isinstance(path, str):
                raise UserError("'model_path' must be the path of a folder")
            if version is not None and not (isinstance(version, str) and version.isdecimal() and len(version) < 16):
                raise UserError("'weight_version' must be a number, written as a text")
            self.server_side.update(path, None if version is None else int(version))
            return {"success": True}
        raise self._nowhere()

    def _nowhere(self) -> Refused:
        return Refused(HTTPStatus.NOT_FOUND, f"no such address: {shown(self.path)}")

    def _completion(self, body: bytes) -> dict[str, Any]:
        side = self.server_side
        request, of_prompt = asked(body, side.name, side.vocabulary, side.context)
        prompt = request.tokens.tolist() if of_prompt else []
        rows = zip(prompt[1:], side.score(prompt)) if prompt else ()
        done = self.server_side.complete(request)
        tokens = [int(token) for token in done.tokens]
        # ids without text are left out of every draw; of the whole distribution they are a part, as the trainer sees it
        logp = done.logp if truncates(request.sampling) else done.logp + done.log_mass
        return {
            "object": "text_completion",
            "model": self.server_side.name,
            "choices": [
                {
                    "index": 0,
                    "text": self.server_side.decode(done.tokens),
                    "finish_reason": done.finish,
                    "token_ids": tokens,
                    "prompt_logprobs": [None, *({str(t): {"logprob": logp}} for t, logp in rows)] if prompt else None,
                    "weight_versions": _runs(done.version) if self.server_side.version is not None else None,
                    "kept": None if done.kept is None else [ids.tolist() for ids in done.kept],
                    "logprobs": {
                        "tokens": [f"token_id:{token}" for token in tokens],
                        "token_logprobs": [min(0.0, float(value)) for value in logp],
                    },
                }
            ],
            "usage": {"prompt_tokens": len(request.tokens), "completion_tokens": len(tokens)},
        }

    def _answer(self, status: HTTPStatus, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Silence: the caller has its own display."""


def _runs(versions: np.ndarray) -> list[list[int]]:
    """Which version sampled which tokens: [version, first token, token behind the last] of every stretch."""
    edges = [0, *(np.flatnonzero(np.diff(versions)) + 1).tolist(), len(versions)]
    return [[int(versions[begin]), begin, end] for begin, end in pairwise(edges) if end > begin]


def _said(sentence: object) -> dict[str, Any]:
    return {"error": {"message": " ".join(str(sentence).split())[:500]}}


def _mapping(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body."""
    try:
        value = json.loads(body or b"{}")
    except (ValueError, RecursionError):
        raise UserError("the body is not JSON that can be read") from None
    if not isinstance(value, dict):
        raise UserError("the body must be a JSON object")
    return value
