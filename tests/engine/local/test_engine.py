"""The embedded engine against transformers, and against itself under other batching, memory and sharing."""

import numpy as np
import pytest
import torch
from asking import close, grid, prompts, reference, same
from local_models import CONFIGS, GPT2, SMALL, Endless, Letters, build
from transformers import MistralConfig, Qwen3Config

from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine
from anypo.engine.product import row_invariant
from anypo.errors import UserError

MODELS = {**CONFIGS, "gpt2": GPT2, "sliding": MistralConfig(**SMALL, sliding_window=16)}


@pytest.mark.parametrize("name", MODELS)
def test_greedy_tokens_and_logp_are_those_of_transformers(name):
    model = build(MODELS[name])
    engine = LocalEngine(model, Letters(), block=8, kv_tokens=2048)
    assert engine.fast == (name not in ("gpt2", "sliding")) and engine.exact
    rng = np.random.default_rng(1)
    requests = [
        Request(p, Sampling(max_new=int(rng.integers(1, 40)), temperature=0.0), (i,)) for i, p in enumerate(prompts(6))
    ]
    for request, done in zip(requests, engine.generate(requests)):
        wanted = model.generate(
            torch.tensor(request.tokens)[None],
            max_new_tokens=request.sampling.max_new,
            do_sample=False,
            eos_token_id=1,
            pad_token_id=0,
        )[0, len(request.tokens) :]
        assert done.tokens.tolist() == wanted.tolist()
        logp = reference(model, request, done)
        np.testing.assert_allclose(done.logp, logp.gather(1, torch.tensor(done.tokens)[:, None])[:, 0], atol=1e-4)
        np.testing.assert_allclose(done.entropy, -(logp.exp() * logp).sum(-1), atol=1e-4)
        assert done.finish == ("stop" if done.tokens[-1] == 1 else "length")


@pytest.mark.parametrize("name", ["llama", "qwen3", "gpt2"])
def test_sampled_logp_is_of_the_distribution_sampled_from(name):
    model = build(MODELS[name])
    requests = grid(max_new=20, temperature=0.7, top_p=0.8)
    for request, done in zip(requests, LocalEngine(model, Letters(), block=8).generate(requests)):
        with torch.no_grad():
            whole = torch.tensor(np.concatenate([request.tokens, done.tokens]))
            scaled = model(whole[None]).logits[0, len(request.tokens) - 1 : -1].double() / 0.7
        logp = scaled.log_softmax(-1).gather(1, torch.tensor(done.tokens)[:, None])[:, 0].numpy()
        np.testing.assert_allclose(done.logp + done.log_mass, logp, atol=1e-4)
        assert (np.exp(done.log_mass) >= 0.8 - 1e-5).all() and (done.log_mass < 0).any()


@pytest.mark.skipif(not row_invariant(), reason="this machine's matrix library is not row-invariant")
@pytest.mark.parametrize("name", ["llama", "qwen3", "mistral"])
def test_bits_do_not_depend_on_batching_memory_or_sharing(name):
    model = build(MODELS[name])
    requests = grid(max_new=40, temperature=0.9)
    first = LocalEngine(model, Letters(), block=8).generate(requests)
    order = np.random.default_rng(5).permutation(len(requests))
    shuffled = LocalEngine(model, Letters(), block=8).generate([requests[i] for i in order])
    assert all(same(first[i], done) for i, done in zip(order, shuffled))
    for request, done in zip(requests, first):
        assert same(done, LocalEngine(model, Letters(), block=8).generate([request])[0])
    cached = LocalEngine(model, Letters(), block=8)
    cached.generate([Request(np.concatenate([r.tokens, d.tokens]), r.sampling, (9,)) for r, d in zip(requests, first)])
    reused = cached.stats.reused
    assert all(map(same, first, cached.generate(requests)))
    assert cached.stats.reused - reused > 10 * len(requests) * 2 // 3  # prompts were shared, and found in memory
    tight = LocalEngine(model, Letters(), block=8, kv_tokens=128, max_rows=16)
    assert all(map(same, first, tight.generate(requests)))
    assert tight.stats.evictions > 0 and tight.backend.used() == 0
    few = LocalEngine(model, Letters(), block=8, max_running=2)
    assert all(map(same, first, few.generate(requests)))


@pytest.mark.skipif(not row_invariant(), reason="this machine's matrix library is not row-invariant")
def test_long_sequences_beside_short_ones_change_no_bits():
    model, rng = build(MODELS["llama"]), np.random.default_rng(3)
    lengths = (3, 61, 9, 100, 30, 64, 5)  # of 1 to 30 blocks: rows of two tiers, in any order
    requests = [Request(rng.integers(2, 61, n), Sampling(max_new=20, temperature=1.0), (n,)) for n in lengths]
    together = LocalEngine(model, Letters(), block=4).generate(requests)
    for request, done in zip(requests, together):
        assert same(done, LocalEngine(model, Letters(), block=4).generate([request])[0])
        with torch.no_grad():
            logp = reference(model, request, done)
        np.testing.assert_allclose(done.logp, logp.gather(1, torch.tensor(done.tokens)[:, None])[:, 0], atol=1e-4)


def test_the_general_path_agrees_with_the_fast_one():
    model = build("qwen3")
    requests = grid(max_new=30, temperature=0.9)
    fast = LocalEngine(model, Letters(), block=8).generate(requests)
    for kv_tokens in (4096, 100):
        general = LocalEngine(model, Letters(), fast=False, kv_tokens=kv_tokens)
        assert all(map(close, fast, general.generate(requests))) and not general.fast
        assert general.backend.used() == 0 and (general.stats.evictions > 0) == (kv_tokens == 100)


def test_blocks_larger_and_smaller_than_the_text():
    model = build("llama")
    requests = grid(max_new=25)
    outputs = [LocalEngine(model, Letters(), block=block, kv_tokens=4096).generate(requests) for block in (4, 16, 128)]
    assert all(map(close, outputs[0], outputs[1])) and all(map(close, outputs[0], outputs[2]))


def test_heads_and_groups_of_every_shape():
    for heads, kv, dim in ((3, 1, 16), (6, 6, 4), (9, 3, 8), (8, 2, 6)):
        shape = {**SMALL, "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": dim}
        model = build(Qwen3Config(**shape))
        for request in grid(2, 2, max_new=12, temperature=0.0):
            done = LocalEngine(model, Letters(), block=8).generate([request])[0]
            logp = reference(model, request, done)
            np.testing.assert_allclose(done.logp, logp.gather(1, torch.tensor(done.tokens)[:, None])[:, 0], atol=1e-4)
            assert (done.tokens == logp.argmax(-1).numpy()).all()


def test_a_group_runs_its_prompt_once():
    model, prompt = build("llama"), prompts(1, 37, 38)[0]
    engine = LocalEngine(model, Endless(), block=8)
    done = engine.generate([Request(prompt, Sampling(max_new=1), (i,)) for i in range(16)])
    assert engine.stats.computed == len(prompt) and engine.stats.sampled == 16
    assert len({int(c.tokens[0]) for c in done}) > 4


def test_weights_that_change_empty_the_prefix_cache():
    model, version = build("llama"), [3]
    engine = LocalEngine(model, Letters(), lambda: version[0], block=8)
    requests = grid(2, 1, max_new=10)
    before = engine.generate(requests)
    assert engine.backend.pool.cached > 0
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.add_(
            0.5 * torch.randn(32, 48, generator=torch.Generator().manual_seed(1))
        )
    for stamp in (3, 4):  # noticed by itself, and by its version
        version[0] = stamp
        after = engine.generate(requests)
        fresh = LocalEngine(model, Letters(), stamp, block=8).generate(requests)
        assert all(map(close, after, fresh)) and all((c.version == stamp).all() for c in after)
        assert not all(map(close, after, before))


def test_training_sees_the_same_parameters_and_mode():
    model = build("qwen2").train()
    engine = LocalEngine(model, Letters())
    engine.generate(grid(1, 1, max_new=3))
    assert model.training and all(p.requires_grad for p in model.parameters())
    model(torch.arange(9)[None], labels=torch.arange(9)[None]).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_lora_adapters_are_sampled_from():
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False, lora_dropout=0.5)
    model = get_peft_model(build("llama"), config).train()
    engine = LocalEngine(model, Letters(), block=8)
    requests = grid(2, 2, max_new=10, temperature=0.0)
    done = engine.generate(requests)
    assert engine.fast and model.training
    model.eval()
    for request, completion in zip(requests, done):
        logp = reference(model, request, completion)
        np.testing.assert_allclose(completion.logp, logp.max(-1).values, atol=1e-4)


def test_stop_strings_end_the_text_and_stay():
    model = build("llama")
    requests = grid(max_new=40)
    whole = LocalEngine(model, Endless(), block=8).generate(requests)
    stopped = LocalEngine(model, Endless(), block=8).generate(grid(max_new=40, stop=("b", "zq")))
    ends = 0
    for long, short in zip(whole, stopped):
        n = len(short.tokens)
        assert np.array_equal(long.tokens[:n], short.tokens)
        text = Letters().decode(short.tokens)
        assert "b" not in text[:-1] and "zq" not in text[:-1]
        assert (short.finish == "stop") == (text.endswith(("b", "zq"))) and (short.finish == "stop" or n == 40)
        ends += short.finish == "stop"
    assert ends > 5


def test_the_context_ends_a_text():
    model = build("llama")
    done = LocalEngine(model, Endless()).generate([Request(np.full(120, 5), Sampling(max_new=50), (0,))])[0]
    assert len(done.tokens) == 8 and done.finish == "length"


def test_a_continued_prefix_goes_on_as_if_it_had_not_stopped():
    model = build("llama")
    (request,) = grid(1, 1, max_new=30)
    (whole,) = LocalEngine(model, Endless(), block=8).generate([request])
    rest = Request(np.concatenate([request.tokens, whole.tokens[:11]]), Sampling(max_new=19), request.seed)
    (tail,) = LocalEngine(model, Endless(), block=8).generate([rest])
    assert np.array_equal(tail.tokens, whole.tokens[11:])
    np.testing.assert_allclose(tail.logp, whole.logp[11:], atol=1e-5)


def test_bfloat16_runs_and_is_not_called_exact():
    model = build("llama").to(torch.bfloat16)
    engine = LocalEngine(model, Endless(), block=8)
    done = engine.generate(grid(2, 2, max_new=8))
    assert not engine.exact and engine.fast and all(np.isfinite(c.logp).all() and len(c.tokens) == 8 for c in done)


@pytest.mark.parametrize(
    ("tokens", "sampling", "said"),
    [
        ([], Sampling(), "no tokens"),
        ([3] * 128, Sampling(), "context is 128"),
        ([3] * 20, Sampling(max_new=100), "kv_tokens=64"),
        ([3], Sampling(max_new=0), "max_new"),
        ([3, 61], Sampling(), "vocabulary"),
        ([3], Sampling(top_p=0.0), "top_p"),
        ([3], Sampling(temperature=-1.0), "temperature"),
    ],
)
def test_requests_that_cannot_run_are_refused(tokens, sampling, said):
    engine = LocalEngine(build("llama"), Letters(), block=8, kv_tokens=64)
    good = Request(np.array([3, 4]), Sampling(max_new=2), (0,))
    with pytest.raises(UserError, match=said):
        engine.generate([good, Request(np.array(tokens, dtype=np.int64), sampling, (0,))])
    assert not engine.busy and engine.backend.used() == 0
    assert len(engine.generate([good])) == 1


def test_weights_that_are_not_finite_are_refused_and_leave_nothing_behind():
    model = build("llama")
    engine = LocalEngine(model, Letters(), block=8)
    saved = model.model.norm.weight.detach().clone()
    with torch.no_grad():
        model.model.norm.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="not finite"):
        engine.generate(grid(2, 2))
    with torch.no_grad():
        model.model.norm.weight.copy_(saved)
    requests = grid(2, 2, max_new=5)
    assert engine.backend.used() == 0 and all(
        map(same, engine.generate(requests), LocalEngine(model, Letters(), block=8).generate(requests))
    )


@pytest.mark.parametrize("cut", [30, 21, 13, 1])
def test_what_goes_on_from_an_ended_text_computes_only_its_last_token(cut):
    engine = LocalEngine(build("llama"), Endless(), block=8)
    (request,) = grid(1, 1, max_new=30)
    (whole,) = engine.generate([request])
    begun = np.concatenate([request.tokens, whole.tokens[:cut]])
    other = begun.copy()
    other[-1] = 2 + (begun[-1] + 1) % 50  # goes on otherwise inside a block that is known
    for seed, (count, tokens) in enumerate(((1, begun), (3, begun), (1, other), (1, begun), (2, other))):
        before = engine.stats.computed
        following = [Request(tokens, Sampling(max_new=9), (7, seed, i)) for i in range(count)]
        done = engine.generate(following)
        assert engine.stats.computed - before == 1 + count * 8
        assert all(map(close, done, LocalEngine(build("llama"), Endless(), block=8).generate(following)))
    assert engine.backend.used() == 0 and close(engine.generate([request])[0], whole)
