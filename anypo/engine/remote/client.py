"""Sampling from a server: any OpenAI-compatible completions endpoint that returns token ids and log-probabilities
(vLLM, SGLang, the embedded engine behind `anypo.engine.serve`).

The server holds a copy of the weights, so its log-probabilities are never provably the trainer's (`exact` is False): the
trainer computes its own, and a `Correction` part can weigh the difference. After every policy update the weights are
published again (`anypo.engine.remote.dialects`), and what the server then says of a fixed sequence is compared with the trainer's own
numbers (`anypo.engine.remote.canary`). Every token carries the version that sampled it: the server's own word where it has one.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import requests
from requests.adapters import HTTPAdapter

from anypo.data.kept import Kept
from anypo.engine.base import Completion, Limit, Request, Sampling, Tally
from anypo.engine.remote.calls import RETRY, Line, authorise, named, stable_seed
from anypo.engine.remote.canary import Canary
from anypo.engine.remote.dialects import Dialect, dialect
from anypo.errors import UserError

NONE = -9000.0
"""What is reported of tokens without probability lies below."""


class RemoteEngine:
    """An `anypo.engine.base.Sampler` over HTTP.

    url: base address, e.g. ``http://127.0.0.1:8000/v1``. model: the name it is served under. sync: how new weights reach the
    server, ``none`` (they do not), ``disk`` (saved to a folder that it can read, too, and loaded as servers of its kind do) or
    ``lora`` (adapter saved, then POST /v1/load_lora_adapter). processed: the server reports log-probabilities after temperature
    and truncation (vLLM: ``--logprobs-mode processed_logprobs``); without it anything but temperature 1 is refused, because
    ratios would compare different distributions. token: what the server wants to see, by default that of the variable ANYPO_API_KEY.
    """

    exact = False

    def __init__(
        self,
        url: str,
        model: str,
        policy: Any = None,
        *,
        sync: str = "none",
        processed: bool = False,
        concurrency: int = 64,
        timeout: float = 600.0,
        token: str = "",
    ) -> None:
        self.url, self.model, self.policy, self.sync = url.rstrip("/"), model, policy, sync
        self.processed, self.timeout = processed, timeout
        self.version = policy.version if policy is not None else 0
        self.tally, self.canary = Tally(), Canary()
        self.dialect: Dialect | None = None
        self.session = requests.Session()
        authorise(self.session, token)
        self.session.mount("http://", HTTPAdapter(max_retries=RETRY, pool_maxsize=concurrency))
        self.session.mount("https://", HTTPAdapter(max_retries=RETRY, pool_maxsize=concurrency))
        self.line = Line(self.url, model, self.session, timeout)
        self.pool = ThreadPoolExecutor(concurrency)
        self.folder = Path(tempfile.mkdtemp(prefix="anypo-weights-"))
        self.cleared = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)  # however the run ends

    def generate(self, requests: Sequence[Request]) -> list[Completion]:
        """Continue every request; results in order. Raises `UserError` when the server cannot be used."""
        self._publish()
        found = list(self.pool.map(self._complete, requests))
        self.tally.drawn += sum(len(completion.tokens) for completion in found)
        return found

    def longest(self, max_new: int) -> Limit | None:
        """The longest prompt that the server takes, where it says so (``max_model_len`` of GET /models, as vLLM does)."""
        try:
            served = self.session.get(f"{self.url}/models", timeout=10.0).json()["data"]
            found = [entry["max_model_len"] for entry in served if entry.get("id") == self.model] or [
                entry["max_model_len"] for entry in served
            ]
            most = int(found[0]) - 1
        except (requests.RequestException, ValueError, LookupError, TypeError, AttributeError):
            return None
        return Limit(most, f"the server at {self.url} takes {most:,}", "serve the model with a longer context")

    def close(self) -> None:
        """Give threads, connections and published weights back."""
        self.pool.shutdown(wait=False, cancel_futures=True)
        self.session.close()
        self.cleared()

    # -- one request ----------------------------------------------------------------------------------------------------

    def _complete(self, request: Request) -> Completion:
        sampling = request.sampling
        if not self.processed and (sampling.temperature not in (0.0, 1.0) or _truncates(sampling)):
            raise UserError(
                f"the server at {self.url} reports log-probabilities before temperature and truncation, so only temperature 1 "
                "without top-p/top-k/min-p compares like with like; serve processed log-probabilities and set engine.processed=true"
            )
        body = {
            "model": self.line.served,
            "prompt": [int(token) for token in request.tokens],
            "max_tokens": sampling.max_new,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "logprobs": max(1, sampling.top_k),
            "seed": stable_seed(request.seed),
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "include_stop_str_in_output": True,
            **({"top_k": sampling.top_k} if sampling.top_k else {}),
            **({"min_p": sampling.min_p} if sampling.min_p else {}),
            **({"stop": list(sampling.stop)} if sampling.stop else {}),
            **({"stop_token_ids": sorted(ends)} if (ends := getattr(self.policy, "ends", ())) else {}),
        }
        return self._read(self.line.ask("completions", body), sampling)

    def _read(self, answer: dict[str, Any], sampling: Sampling) -> Completion:
        try:
            choice = answer["choices"][0]
            tokens = _token_ids(choice)
            logp = np.array(choice["logprobs"]["token_logprobs"], dtype=np.float32)[: len(tokens)]
        except (KeyError, IndexError, TypeError, ValueError):
            raise UserError(
                f"the server at {self.url} does not return token ids with log-probabilities; it must honour "
                "'return_token_ids' or 'return_tokens_as_token_ids' and 'logprobs'"
            ) from None
        if len(tokens) != len(logp) or not np.isfinite(logp).all():
            raise UserError(
                f"the server at {self.url} returned {len(tokens)} tokens but {len(logp)} finite log-probabilities"
            )
        finish = "length" if choice.get("finish_reason") == "length" else "stop"
        unknown = np.full(len(tokens), np.nan, dtype=np.float32)
        versions, mass = self._versions(choice, len(tokens)), np.zeros(len(tokens), np.float32)
        return Completion(tokens, logp, unknown, mass, versions, finish, self._kept(choice, len(tokens), sampling))

    def _kept(self, choice: dict[str, Any], length: int, sampling: Sampling) -> Kept | None:
        """What truncation left at each of `length` decisions: as the server says (``kept``, this library's own), or the tokens with
        some probability among the `top_k` likeliest, which are all that it may leave (vLLM writes -9999 for none)."""
        if not _truncates(sampling) or not sampling.temperature:
            return None
        if "kept" in choice:
            return None if choice["kept"] is None else Kept.of([np.array(ids) for ids in choice["kept"]])
        likely = choice["logprobs"].get("top_logprobs") or ()
        sets = [[named(name) for name, value in row.items() if value > NONE] for row in likely[:length]]
        if not sampling.top_k or len(sets) < length:
            raise UserError(
                f"the server at {self.url} does not say which tokens top-p and min-p left, and without these a rollout cannot be "
                "trained on; add generate.top_k (at most 20 on vLLM, unless it is started with more --max-logprobs), whose tokens "
                "come with the answer, or leave truncation off"
            )
        return Kept.of([np.array(ids) for ids in sets])

    def _versions(self, choice: dict[str, Any], length: int) -> np.ndarray:
        """The version that sampled each of `length` tokens: those that the server names (``weight_versions``, of [version, first
        token, token behind the last]), else the one that was published last."""
        versions = np.full(length, self.version)
        for version, begin, end in choice.get("weight_versions") or ():
            versions[int(begin) : int(end)] = int(version)
        return versions

    # -- weights ----------------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        """Bring the server to the policy's version, if it is told how, and see whether it is there."""
        if self.policy is None:
            return
        if self.dialect is None:
            self.dialect = dialect(self.line)
            send = None if self.sync == "none" else lambda: self._send(self.policy.version)
            self.canary.connect(self.line, self.dialect, self.policy, send)
        if self.sync != "none" and self.policy.version != self.version:
            self._send(self.policy.version)
            self.canary.check(self.line, self.dialect, self.policy, self.version)

    def _send(self, version: int) -> None:
        """Write the policy's weights and have the server load them as `version`."""
        target = self.folder / f"v{version}"
        self.policy.save(target, untied=True)
        if self.sync == "lora":
            name = f"{self.model}-v{version}"
            self.line.ask("load_lora_adapter", {"lora_name": name, "lora_path": str(target / "adapter")})
            self.line.served = name
        else:
            assert self.dialect is not None
            self.dialect.load(self.line, str(target), version)
        if self.version != version:
            shutil.rmtree(self.folder / f"v{self.version}", ignore_errors=True)
        self.version = version


def _truncates(sampling: Sampling) -> bool:
    return sampling.top_p < 1.0 or sampling.top_k > 0 or sampling.min_p > 0.0


def _token_ids(choice: dict[str, Any]) -> np.ndarray:
    """Token ids from ``token_ids`` (vLLM's return_token_ids) or from ``token_id:N`` names."""
    if choice.get("token_ids") is not None:
        return np.array(choice["token_ids"], dtype=np.int32)
    return np.array([named(name) for name in choice["logprobs"]["tokens"]], dtype=np.int32)
