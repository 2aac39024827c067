"""The contract of an engine, run against whatever can sample: the same suite for the embedded engine, for the in-repo server
speaking the OpenAI protocol, and, where the variable ANYPO_VLLM names a Python that has vllm, for a real vLLM server."""

from __future__ import annotations

import dataclasses
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests

from anypo.engine.base import Request, Sampling
from anypo.engine.config import Local, Remote
from anypo.engine.remote import RemoteEngine, stable_seed
from anypo.engine.serve import Server
from anypo.errors import UserError

policies = pytest.importorskip("anypo.policies")


@pytest.fixture(scope="module")
def policy():
    return policies.load("tiny", seed=5)


@pytest.fixture(scope="module")
def vllm(policy, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a vLLM server with the policy's weights."""
    command = os.environ.get("ANYPO_VLLM")
    if not command:
        pytest.skip("ANYPO_VLLM does not name a Python that has vllm")
    folder = tmp_path_factory.mktemp("vllm")
    policy.save(folder / "policy")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--host", "127.0.0.1", "--port", str(port), "--served-model-name", "policy", "--dtype", "float32"]
    options += ["--max-model-len", "512", "--enforce-eager", "--logprobs-mode", "processed_logprobs"]
    log = folder / "log"
    with log.open("w") as out:
        server = subprocess.Popen(
            [command, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "policy"), *options],
            stdout=out,
            stderr=out,
            env=os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1"},  # GiB; the default is half of the machine's memory
        )
    try:
        wait_for(f"http://127.0.0.1:{port}/health", server, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        server.terminate()
        server.wait(timeout=60)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path, patience: float = 300.0) -> None:
    """Return when `address` answers; fail with the end of the log when the server is gone or too slow."""
    until = time.monotonic() + patience
    while time.monotonic() < until and server.poll() is None:
        try:
            requests.get(address, timeout=2).raise_for_status()
            return
        except requests.RequestException:
            time.sleep(1.0)
    pytest.fail(f"vllm did not start:\n{log.read_text()[-3000:]}")


@pytest.fixture(params=["local", "server", "vllm"])
def engine(request: pytest.FixtureRequest, policy) -> Iterator[object]:
    if request.param == "vllm":
        remote = RemoteEngine(request.getfixturevalue("vllm"), "policy", processed=True)
        yield remote
        remote.close()
        return
    local = Local().sampler(policy)
    if request.param == "local":
        yield local
        return
    with Server(local, policy.decode) as server:
        remote = RemoteEngine(server.url, "policy", token=server.token, processed=True)
        yield remote
        remote.close()


def ask(policy, text: str, sample: int = 0, **sampling: object) -> Request:
    settings = {"max_new": 12, "temperature": 1.0} | sampling
    return Request(policy.encode([{"role": "user", "content": text}]), Sampling(**settings), (7, sample))


def test_results_come_in_the_order_of_the_requests(engine, policy) -> None:
    wanted = [3, 9, 1, 12, 5]
    done = engine.generate([ask(policy, "1 + 2 =", i, max_new=n) for i, n in enumerate(wanted)])
    assert all(len(c.tokens) <= n for c, n in zip(done, wanted))
    assert [len(c.tokens) == n for c, n in zip(done, wanted) if c.finish == "length"] == [True] * sum(
        c.finish == "length" for c in done
    )


def test_arrays_agree_and_log_probabilities_are_those_of_the_model(engine, policy) -> None:
    requests_ = [ask(policy, f"{i} + 4 =", i) for i in range(4)]
    for request, done in zip(requests_, engine.generate(requests_)):
        assert len(done.tokens) == len(done.logp) == len(done.version) == len(done.log_mass)
        assert (done.logp <= 1e-6).all()
        expected = reference(policy, request.tokens, done.tokens)
        np.testing.assert_allclose(done.logp + done.log_mass, expected, atol=1e-4)  # <pad> is never drawn


def test_greedy_is_deterministic_and_equal_for_equal_prompts(engine, policy) -> None:
    a, b = engine.generate([ask(policy, "2 + 2 =", i, temperature=0.0) for i in range(2)])
    assert a.tokens.tolist() == b.tokens.tolist()


def test_the_same_key_samples_the_same_tokens_whatever_else_is_asked(engine, policy) -> None:
    alone = engine.generate([ask(policy, "5 + 6 =", 3)])[0]
    crowd = engine.generate([ask(policy, f"{i} + 1 =", i) for i in range(6)] + [ask(policy, "5 + 6 =", 3)])[-1]
    assert alone.tokens.tolist() == crowd.tokens.tolist()


def reference(policy, prompt: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Log-probabilities by one plain forward pass of the model."""
    import torch

    ids = torch.tensor(np.concatenate([prompt, tokens]).astype(np.int64))[None]
    with torch.no_grad():
        logp = policy.model(ids).logits[0].float().log_softmax(-1)
    return logp[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()


# -- what only a server can do wrong ----------------------------------------------------------------------------------------


def test_the_server_follows_the_policy(policy, tmp_path) -> None:
    loaded: list[str] = []
    live = policies.load("tiny", seed=6)
    with Server(Local().sampler(live), live.decode, reload=loaded.append) as server:
        remote = RemoteEngine(server.url, "policy", live, token=server.token, sync="disk")
        assert set(remote.generate([ask(live, "1 + 1 =")])[0].version) == {0}
        live.version = 3
        assert set(remote.generate([ask(live, "1 + 1 =")])[0].version) == {3}
        assert len(loaded) == 1 and loaded[0].endswith("v3")
        remote.close()


def test_a_server_says_which_tokens_truncation_left(policy) -> None:
    local = Local().sampler(policy)
    asked = [ask(policy, "1 + 2 =", i, top_p=0.7, temperature=1.5) for i in range(3)]
    with Server(local, policy.decode) as server:
        remote = RemoteEngine(server.url, "policy", token=server.token, processed=True)
        for done, request in zip(remote.generate(asked), asked):
            (wanted,) = local.generate([dataclasses.replace(request, seed=(stable_seed(request.seed),))])
            assert done.tokens.tolist() == wanted.tokens.tolist() and done.kept is not None
            assert [ids.tolist() for ids in done.kept] == [ids.tolist() for ids in wanted.kept]
        remote.close()


def test_what_top_k_left_is_read_from_the_likeliest_tokens_and_top_p_alone_is_refused() -> None:
    remote = RemoteEngine("http://127.0.0.1:9/v1", "policy", processed=True)
    row = {"token_id:4": -0.2, "token_id:9": -1.7, "token_id:2": -9999.0}
    logprobs = {"tokens": ["token_id:9"], "token_logprobs": [-1.7], "top_logprobs": [row]}
    answer = {"choices": [{"finish_reason": "stop", "logprobs": logprobs}]}
    done = remote._read(answer, Sampling(top_k=3, top_p=0.9))
    assert done.kept is not None and [ids.tolist() for ids in done.kept] == [[4, 9]]
    assert remote._read(answer, Sampling()).kept is None
    with pytest.raises(UserError, match=r"add generate\.top_k"):
        remote._read(answer, Sampling(top_p=0.9))
    remote.close()


def test_unprocessed_log_probabilities_refuse_other_temperatures(policy) -> None:
    with Server(Local().sampler(policy), policy.decode) as server:
        remote = RemoteEngine(server.url, "policy", token=server.token)
        with pytest.raises(UserError, match="temperature 1"):
            remote.generate([ask(policy, "1 + 1 =", temperature=0.7)])
        remote.close()


def test_an_absent_server_is_named() -> None:
    remote = RemoteEngine("http://127.0.0.1:9/v1", "policy", timeout=1.0)
    remote.session.mount("http://", requests.adapters.HTTPAdapter(max_retries=0))
    with pytest.raises(UserError, match="is it running"):
        remote.generate([Request(np.array([1, 2]), Sampling(max_new=2), (0,))])
    remote.close()


def test_a_server_without_token_ids_is_refused() -> None:
    remote = RemoteEngine("http://127.0.0.1:9/v1", "policy")
    with pytest.raises(UserError, match="token ids"):
        remote._read(
            {"choices": [{"text": "four", "logprobs": {"tokens": ["four"], "token_logprobs": [-0.1]}}]}, Sampling()
        )
    remote.close()


def test_wrong_model_name_is_reported(policy) -> None:
    with Server(Local().sampler(policy), policy.decode, name="other") as server:
        remote = RemoteEngine(server.url, "policy", token=server.token)
        with pytest.raises(UserError, match="no model 'policy' here"):
            remote.generate([ask(policy, "1 + 1 =")])
        remote.close()


def test_the_part_builds_the_engine() -> None:
    built = Remote(url="http://127.0.0.1:9/v1", model="m", sync="none").sampler(None)
    assert built.model == "m" and not built.exact
    built.close()


# -- what others may try on the server ---------------------------------------------------------------------------------------


def sent(
    server: Server, body: bytes = b"", path: str = "/v1/completions", length: str = "", **headers: str
) -> tuple[int, str]:
    """Status and text of a request written by hand."""
    lines = {
        "Host": f"127.0.0.1:{server.http.server_port}",
        "Authorization": f"Bearer {server.token}",
        "Content-Length": length or str(len(body)),
        "Connection": "close",
        **headers,
    }
    head = "\r\n".join([f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in lines.items() if value)])
    with socket.create_connection(("127.0.0.1", server.http.server_port), timeout=20) as line:
        line.sendall(head.encode() + b"\r\n\r\n" + body)
        answer = b"".join(iter(lambda: line.recv(65536), b"")).decode()
    return int(answer.split()[1]), answer.partition("\r\n\r\n")[2]


@pytest.fixture(scope="module")
def loaded() -> list[str]:
    return []


@pytest.fixture(scope="module")
def open_server(policy, loaded) -> Iterator[Server]:
    with Server(Local().sampler(policy), policy.decode, reload=loaded.append) as server:
        yield server


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.com"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://evil.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Authorization": ""}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer \xff\xe4"}, 401),
    ],
)
def test_only_who_has_the_token_may_load_weights(open_server, loaded, headers, status, capfd) -> None:
    body = b'{"model_path": "/etc"}'
    assert sent(open_server, body, "/update_weights_from_disk", **headers)[0] == status
    assert not loaded and not capfd.readouterr().err


WRONG = [
    b"", b"{", b"[]", b"nonsense", b"[" * 100_000, b'{"a":' * 100_000, b"\xff\xfe",
    *(b'{"model": "policy", "prompt": %s}' % prompt for prompt in
     (b"[]", b"[-1]", b"[99999999]", b"[1%s]" % (b"0" * 30), b"[1%s]" % (b"0" * 6000), b'["a"]', b"1", b"null", b"[[1]]",
      b"[1.5]", b"[true]")),
    *(b'{"model": "policy", "prompt": [1], %s}' % more for more in
      (b'"max_tokens": -1', b'"max_tokens": 0', b'"max_tokens": 1000000000', b'"max_tokens": "5"', b'"temperature": -1',
       b'"temperature": NaN', b'"temperature": Infinity', b'"top_p": 0', b'"top_k": -1', b'"min_p": 2', b'"stop": [1]',
       b'"stop": [""]', b'"seed": -1', b'"seed": []')),
]  # fmt: skip


@pytest.mark.parametrize("body", WRONG, ids=range(len(WRONG)))
def test_a_wrong_request_is_refused_in_a_sentence(open_server, body, capfd) -> None:
    status, text = sent(open_server, body)
    assert status == 400 and len(text) < 700 and '"message": "' in text
    assert not capfd.readouterr().err


@pytest.mark.parametrize("length", ["-1", "x", "99999999999", "1, 1", "9" * 5000])
def test_a_wrong_length_holds_no_thread(open_server, length) -> None:
    assert sent(open_server, length=length)[0] == 400


def test_one_that_fails_takes_no_other_with_it() -> None:
    class Picky:
        exact = False

        def generate(self, requests):
            if any(request.tokens[0] == 1 for request in requests):
                raise RuntimeError("one of them")
            return [request.tokens[0] for request in requests]

    server = Server(Picky(), str)
    asked = [Request(np.array([token]), Sampling(), (0,)) for token in (0, 1, 2)]
    assert [str(result) for result in server._results(asked)] == ["0", "one of them", "2"]
    server.http.server_close()
