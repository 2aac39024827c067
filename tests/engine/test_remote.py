"""The contract of an engine, run against whatever can sample: the same suite for the embedded engine, for the in-repo server
speaking the OpenAI protocol, and, where the variable ANYPO_VLLM names a Python that has vllm, for a real vLLM server."""

from __future__ import annotations

import copy
import dataclasses
import gc
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import requests
import torch

from anypo.engine.base import Request, Sampling
from anypo.engine.config import Local, Remote
from anypo.engine.remote import RemoteEngine, stable_seed
from anypo.engine.remote.calls import Line
from anypo.engine.remote.dialects import dialect
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
    policy.save(folder / "policy", untied=True)
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
            env=os.environ
            | {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_SERVER_DEV_MODE": "1",
            },  # GiB; the default is half of the machine's memory
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
    ids = torch.tensor(np.concatenate([prompt, tokens]).astype(np.int64))[None]
    with torch.no_grad():
        logp = policy.model(ids).logits[0].float().log_softmax(-1)
    return logp[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None])[:, 0].numpy()


# -- what only a server can do wrong ----------------------------------------------------------------------------------------


class Copy:
    """A server's own copy of a policy: it has what was loaded, and not what is trained. stale: it says that it
    loads, and keeps the weights it has."""

    def __init__(self, policy, stale: bool = False) -> None:
        self.policy, self.stale, self.loaded = copy.deepcopy(policy), stale, []
        self.sampler = Local().sampler(self.policy)

    def load(self, path: str) -> None:
        self.loaded.append(path)
        fresh = policies.load(path)
        with torch.no_grad():
            for own, new in zip(self.policy.model.parameters(), fresh.model.parameters()):
                own.copy_(own if self.stale else new)
        self.policy.version += 1  # what is kept in memory is of other weights


def moved(policy, by: float = 0.01) -> None:
    """Another version of the policy."""
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter.add_(by * torch.randn_like(parameter))
    policy.version += 1


def test_the_server_follows_the_policy() -> None:
    live = policies.load("tiny", seed=6)
    own = Copy(live)
    with Server(own.sampler, live.decode, reload=own.load) as server:
        remote = RemoteEngine(server.url, "policy", live, token=server.token, sync="disk")
        assert set(remote.generate([ask(live, "1 + 1 =")])[0].version) == {0} and not own.loaded
        for version in (1, 2):
            moved(live)
            (done,) = remote.generate([ask(live, "1 + 1 =")])
            assert set(done.version) == {version} and own.loaded[-1].endswith(f"v{version}")
            np.testing.assert_allclose(done.logp, reference(live, ask(live, "1 + 1 =").tokens, done.tokens), atol=1e-4)
        assert len(own.loaded) == 2 and server.version == 2
        remote.close()


def test_a_server_that_keeps_old_weights_is_found_out() -> None:
    live = policies.load("tiny", seed=6)
    own = Copy(live, stale=True)
    with Server(own.sampler, live.decode, reload=own.load) as server:
        remote = RemoteEngine(server.url, "policy", live, token=server.token, sync="disk")
        remote.generate([ask(live, "1 + 1 =")])
        moved(live, 0.002)
        with pytest.raises(
            UserError, match=r"took version 1 of the weights and does not serve it: a fixed text is off by"
        ):
            remote.generate([ask(live, "1 + 1 =")])
        remote.close()


def test_a_server_with_other_weights_is_given_the_policys_or_refused() -> None:
    live, own = policies.load("tiny", seed=6), Copy(policies.load("tiny", seed=7))
    with Server(own.sampler, live.decode, reload=own.load) as server:
        fixed = RemoteEngine(server.url, "policy", live, token=server.token, sync="none")
        with pytest.raises(UserError, match=r"does not serve the model that is trained: .* nats a token"):
            fixed.generate([ask(live, "1 + 1 =")])
        assert not own.loaded
        remote = RemoteEngine(server.url, "policy", live, token=server.token, sync="disk")
        assert set(remote.generate([ask(live, "1 + 1 =")])[0].version) == {0} and len(own.loaded) == 1
        fixed.close(), remote.close()


def test_an_output_embedding_gets_weights_of_its_own(tmp_path) -> None:
    from transformers import AutoModelForCausalLM

    live = policies.load("tiny", seed=6)
    assert live.model.config.tie_word_embeddings
    live.save(tmp_path / "untied", untied=True)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "untied", dtype=torch.float32)
    assert again.get_output_embeddings().weight is not again.get_input_embeddings().weight
    ids = torch.tensor([[3, 1, 4, 1, 5]])
    torch.testing.assert_close(again(ids).logits, live.model(ids).logits, rtol=0, atol=0)
    assert "head" in " ".join(file.name for file in (tmp_path / "untied").iterdir())


def test_a_real_server_follows_the_policy_token_by_token(vllm) -> None:
    """vLLM: after every update each token's log-probability is its version's to 1e-4, a prompt that it kept included."""
    live = policies.load("tiny", seed=5)
    remote = RemoteEngine(vllm, "policy", live, sync="disk", processed=True)
    asked = [ask(live, f"{i} + 4 =" * 40, i) for i in range(3)]
    for version in range(3):
        if version:
            moved(live)
        for request, done in zip(asked, remote.generate(asked)):
            assert set(done.version) == {version}
            np.testing.assert_allclose(done.logp, reference(live, request.tokens, done.tokens), atol=1e-4)
    assert remote.dialect is not None and remote.dialect.name == "vllm" and remote.canary.first < 1e-4
    with pytest.raises(UserError, match="does not serve it"):  # a server that loads nothing
        remote.dialect = dataclasses.replace(remote.dialect, load=lambda *_: None)
        moved(live)
        remote.generate(asked)
    remote.policy = None
    remote.close()


class Heard:
    """A line to a server that says it has `paths`, and what was sent over it."""

    def __init__(self, paths: set[str], answers: dict[str, dict] | None = None) -> None:
        self.said, self.answers, self.url, self.served = frozenset(paths), answers or {}, "http://there/v1", "policy"
        self.sent: list[tuple[str, dict]] = []

    def paths(self) -> frozenset[str]:
        return self.said

    def ask(self, name: str, body: dict) -> dict:
        return self.post(f"/v1/{name}", body)

    def post(self, path: str, body: dict | None = None) -> dict:
        self.sent.append((path, body or {}))
        if path == "/collective_rpc" and "fails" in self.answers:
            raise UserError("no room")
        return self.answers.get(path, {})


VLLM = {"/v1/completions", "/collective_rpc", "/reset_prefix_cache", "/pause", "/resume"}


def test_vllm_is_paused_loaded_rid_of_what_it_kept_and_always_resumed() -> None:
    line = Heard(VLLM)
    kind = dialect(line)
    kind.load(line, "/w/v3", 3)
    told = [path.partition("?")[0] for path, _ in line.sent]
    assert kind.name == "vllm" and told == ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"]
    assert line.sent[1][1] == {"method": "reload_weights", "kwargs": {"weights_path": "/w/v3"}}
    broken = Heard(VLLM, {"fails": {}})
    with pytest.raises(UserError, match="no room"):
        kind.load(broken, "/w/v3", 3)
    assert broken.sent[-1][0] == "/resume"


def test_sglang_is_asked_in_its_own_words() -> None:
    rows = [[None, 5, None], [-0.5, 6, None], [-1.5, 7, None]]
    line = Heard(
        {"/generate", "/update_weights_from_disk"}, {"/generate": {"meta_info": {"input_token_logprobs": rows}}}
    )
    kind = dialect(line)
    assert kind.name == "sglang" and kind.score(line, [5, 6, 7]).tolist() == [-0.5, -1.5]
    assert line.sent[0][1]["input_ids"] == [5, 6, 7] and line.sent[0][1]["logprob_start_len"] == 0
    kind.load(line, "/w/v3", 3)
    assert line.sent[1] == ("/update_weights_from_disk", {"model_path": "/w/v3", "weight_version": "3"})


def test_a_server_that_takes_no_weights_says_how_it_would() -> None:
    line = Heard({"/v1/completions"})
    with pytest.raises(UserError, match=r"no way to take new weights; start vLLM with VLLM_SERVER_DEV_MODE=1"):
        dialect(line).load(line, "/w/v3", 3)


def test_published_weights_are_cleared_away_however_a_run_ends() -> None:
    remote = RemoteEngine("http://127.0.0.1:9/v1", "policy")
    folder = remote.folder
    assert folder.is_dir()
    del remote
    gc.collect()
    assert not folder.exists()


def test_the_openai_paths_are_below_the_address_whatever_it_ends_with(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr("anypo.engine.remote.calls.post", lambda session, address, body, timeout: asked.append(address))
    for url in ("http://there:8000/v1", "http://there/engines/own"):
        line = Line(url, "policy", requests.Session(), 1.0)
        line.ask("completions", {}), line.post("/pause")
    assert asked == [
        "http://there:8000/v1/completions", "http://there:8000/pause",
        "http://there/engines/own/completions", "http://there/engines/own/pause",
    ]  # fmt: skip


def test_the_versions_that_a_server_names_are_the_tokens_own() -> None:
    remote = RemoteEngine("http://127.0.0.1:9/v1", "policy")
    assert remote._versions({"weight_versions": [[10, 0, 2], [11, 2, 5]]}, 5).tolist() == [10, 10, 11, 11, 11]
    assert remote._versions({}, 2).tolist() == [0, 0]
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
