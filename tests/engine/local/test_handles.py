"""Handles: what branches, prunes, pauses and forces must equal going straight through, and leave no memory behind."""

import dataclasses

import numpy as np
import pytest
import torch
from asking import close, grid, prompts, reference, same
from local_models import GPT2, Endless, Letters, build
from transformers import Qwen3Config

from anypo.engine.base import Request, Sampling
from anypo.engine.local import LocalEngine
from anypo.errors import UserError

KINDS = ["llama", "qwen3", GPT2]


def engine_of(kind, **options) -> LocalEngine:
    return LocalEngine(build(kind), Endless(), block=8, **options)


def one(max_new: int = 30, seed: int = 0) -> Request:
    return grid(1, 1, seed=seed, max_new=max_new)[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("at", [0, 1, 7, 12, None])
def test_a_fork_is_what_a_request_with_that_prefix_and_seed_would_be(kind, at):
    engine = engine_of(kind)
    parent = engine.submit(one())
    while len(parent) < 12:
        engine.step()
    children = parent.fork(3, at)
    engine.run()
    kept = 12 if at is None else at
    (straight,) = engine_of(kind).generate([one()])
    assert close(parent.completion(), straight)
    for serial, child in enumerate(children):
        assert child.parent is parent and child.fork_position == kept
        done = child.completion()
        assert np.array_equal(done.tokens[:kept], straight.tokens[:kept]) and len(done.tokens) == 30
        assert np.array_equal(done.logp[:kept], parent.completion().logp[:kept])
        prefix = np.concatenate([one().tokens, straight.tokens[:kept]])
        rest = Request(prefix, Sampling(max_new=30 - kept), (*one().seed, kept, serial))
        (fresh,) = engine_of(kind).generate([rest])
        assert np.array_equal(fresh.tokens, done.tokens[kept:])
        np.testing.assert_allclose(fresh.logp, done.logp[kept:], atol=1e-5)
    assert len({tuple(child.tokens) for child in children}) == 3
    assert engine.backend.used() == 0


def test_forks_share_what_they_have_in_common():
    engine = engine_of("llama")
    parent = engine.submit(one(40))
    while len(parent) < 30:
        engine.step()
    before = engine.stats.computed
    children = parent.fork(8)
    parent.cancel()
    engine.run()
    assert engine.stats.computed - before <= 8 * 10
    assert all(child.finish == "length" for child in children) and parent.finish == "cancelled"


def test_a_fork_of_a_finished_handle_is_computed_again():
    engine = engine_of("llama")
    parent = engine.submit(one())
    engine.run()
    (child,) = parent.fork(1, 10, sampling=Sampling(max_new=15, temperature=0.0))
    engine.run()
    logp = reference(engine.model, one(), child.completion())
    assert len(child) == 15 and (child.tokens[10:] == logp.argmax(-1).numpy()[10:]).all()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("keep_kv", [True, False])
def test_paused_and_resumed_equals_straight_through(kind, keep_kv):
    (straight,) = engine_of(kind).generate([one()])
    engine = engine_of(kind)
    handle, other = engine.submit(one()), engine.submit(one(60, seed=1))
    for _ in range(9):
        engine.step()
    handle.pause()
    length = len(handle)
    for _ in range(20):
        engine.step()
    assert len(handle) == length == 9 and len(other) == 29 and handle.state == "paused"
    handle.resume(keep_kv)
    engine.run()
    assert close(handle.completion(), straight)


@pytest.mark.parametrize("keep_kv", [True, False])
def test_resuming_after_a_weight_update(keep_kv):
    version = [0]
    model = build("llama")
    engine = LocalEngine(model, Endless(), lambda: version[0], block=8)
    handle = engine.submit(one())
    for _ in range(10):
        engine.step()
    handle.pause()
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    version[0] = 1
    handle.resume(keep_kv)
    engine.run()
    done = handle.completion()
    assert done.version.tolist() == [0] * 10 + [1] * 20
    logp = reference(model, one(), done).gather(1, torch.tensor(done.tokens)[:, None])[:, 0].numpy()
    error = np.abs(done.logp - logp)[10:]
    assert error.max() < 1e-4 if not keep_kv else error.max() > 1e-3  # kept keys and values are of the old weights
    mixed, _ = engine.backend.pool.match(handle.context)
    engine.backend.pool.release(mixed)
    assert bool(mixed) == (not keep_kv)  # and are not offered to others


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("max_rows", [512, 8])
def test_forced_tokens_are_scored_not_sampled(kind, max_rows):
    engine = engine_of(kind, max_rows=max_rows)
    forced = prompts(1, 20, 21, seed=7)[0]
    handle, late = engine.submit(one(40)), engine.submit(one(40, seed=3))
    handle.force(forced)
    for _ in range(5 if max_rows == 512 else 15):
        engine.step()
    late.force(forced[:3])
    engine.run()
    assert np.array_equal(handle.tokens[:20], forced) and len(handle) == 40
    assert any(np.array_equal(late.tokens[i : i + 3], forced[:3]) for i in range(30))
    for request, item in ((one(40), handle), (one(40, seed=3), late)):
        done = item.completion()
        logp = reference(engine.model, request, done)
        np.testing.assert_allclose(done.logp, logp.gather(1, torch.tensor(done.tokens)[:, None])[:, 0], atol=1e-4)
        np.testing.assert_allclose(done.entropy, -(logp.exp() * logp).sum(-1), atol=1e-4)
    (fresh,) = engine_of(kind).generate(
        [Request(np.concatenate([one().tokens, forced]), Sampling(max_new=20), one().seed)]
    )
    assert np.array_equal(fresh.tokens, handle.tokens[20:])


def test_forced_tokens_end_like_sampled_ones():
    engine = LocalEngine(build("llama"), Letters(), block=8)
    ended, cut = engine.submit(one()), engine.submit(one(5))
    ended.force([4, 5, 1, 6])
    cut.force(range(10, 20))
    engine.run()
    assert ended.tokens.tolist() == [4, 5, 1] and ended.finish == "stop"
    assert cut.tokens.tolist() == [10, 11, 12, 13, 14] and cut.finish == "length"
    with pytest.raises(UserError, match="ended"):
        ended.force([3])


@pytest.mark.parametrize("kind", KINDS)
def test_the_observer_hears_every_token(kind):
    engine = engine_of(kind)
    heard = []
    handle = engine.submit(one(), lambda h, event: heard.append((h, event)), top=4, hidden=True)
    engine.generate(grid(3, 2, seed=4, max_new=10))
    engine.run()
    done = handle.completion()
    assert all(h is handle for h, _ in heard) and [e.position for _, e in heard] == list(range(30))
    for column in ("token", "logp", "entropy", "log_mass", "version"):
        name = "tokens" if column == "token" else column
        assert np.allclose([getattr(e, column) for _, e in heard], getattr(done, name))
    assert [e.finish for _, e in heard] == [""] * 29 + ["length"]
    values, ids = reference(engine.model, one(), done).topk(4)
    assert (np.stack([e.top[0] for _, e in heard]) == ids.numpy()).all()
    np.testing.assert_allclose(np.stack([e.top[1] for _, e in heard]), values, atol=1e-4)
    if engine.fast:
        with torch.no_grad():
            whole = torch.tensor(np.concatenate([one().tokens, done.tokens]))[None]
            hidden = engine.model.model(whole).last_hidden_state[0, len(one().tokens) - 1 : -1]
        np.testing.assert_allclose(np.stack([e.hidden for _, e in heard]), hidden, atol=1e-4)


def test_an_observer_can_branch_prune_stop_and_pause():
    engine = engine_of("llama")
    born, done = [], {}

    def observe(handle, event):
        if event.position == 5 and handle.parent is None:
            born.extend(handle.fork(2, 3))
        if handle.parent is not None and event.position == 8:
            (handle.cancel if handle is born[0] else handle.stop)()
        if handle.parent is None and event.position == 10:
            handle.pause()
        done[id(handle)] = event.position

    root = engine.submit(one(), observe)
    engine.run()
    assert root.state == "paused" and len(root) == 11 and done[id(root)] == 10
    assert [(child.finish, len(child)) for child in born] == [("cancelled", 9), ("stop", 9)]
    root.observer = None
    root.resume()
    engine.run()
    assert close(root.completion(), engine_of("llama").generate([one()])[0]) and engine.backend.used() == 0


def test_an_observer_that_fails_leaves_the_engine_usable():
    engine = engine_of("llama")

    def fail(handle, event):
        raise RuntimeError("mine")

    bystander = engine.submit(one(seed=6))
    broken = engine.submit(one(), fail)
    with pytest.raises(RuntimeError, match="mine"):
        engine.run()
    broken.cancel()
    engine.run()
    assert close(bystander.completion(), engine_of("llama").generate([one(seed=6)])[0])
    assert engine.backend.used() == 0


def test_a_tree_search_needs_nothing_else():
    """Best-first search over segments of four tokens by total log-probability, with look-ahead by greedy continuations."""
    engine = engine_of("qwen3")

    def pause_at(length):
        return lambda handle, event: handle.pause() if len(handle) == length and not event.finish else None

    frontier = [engine.submit(one(24), pause_at(4))]
    engine.run()
    for depth in range(2, 6):
        leaves = [child for node in frontier for child in node.fork(3, observer=pause_at(4 * depth))]
        engine.run()
        looks = [
            leaf.fork(
                1,
                sampling=dataclasses.replace(leaf.sampling, temperature=0.0, max_new=len(leaf) + 2),
                observer=lambda *_: None,
            )[0]
            for leaf in leaves
        ]
        engine.run()
        assert all(len(look) == len(leaf) + 2 and look.done for look, leaf in zip(looks, leaves))
        value = [look.completion().logp.sum() for look in looks]
        best = np.argsort(value)[-2:]
        for i, leaf in enumerate(leaves):
            if i not in best:
                leaf.cancel()
        for node in frontier:
            node.cancel()
        frontier = [leaves[i] for i in best]
    for node in frontier:
        done = node.completion()
        logp = reference(engine.model, one(), done).gather(1, torch.tensor(done.tokens)[:, None])[:, 0]
        np.testing.assert_allclose(done.logp, logp, atol=1e-4)
        node.cancel()
    assert engine.backend.used() == 0 and not engine.busy


def test_waiting_members_of_a_group_may_leave_before_their_prompt_is_done():
    engine = engine_of("llama", max_rows=8)
    prompt = prompts(1, 37, 38)[0]
    handles = [engine.submit(Request(prompt, Sampling(max_new=6), (i,))) for i in range(5)]
    engine.step()
    handles[0].cancel()  # it was running the prompt for all
    handles[1].pause()
    handles[4].cancel()
    engine.run()
    handles[1].resume()
    engine.run()
    for i in (1, 2, 3):
        (alone,) = engine_of("llama").generate([Request(prompt, Sampling(max_new=6), (i,))])
        assert same(handles[i].completion(), alone)
    assert [h.finish for h in handles] == ["cancelled", "length", "length", "length", "cancelled"]


@pytest.mark.timeout(200)
@pytest.mark.parametrize(("kv_tokens", "requests"), [(600, 5000), (160, 5000)])
def test_soak_ends_without_a_leaked_block(kv_tokens, requests):
    tiny = Qwen3Config(
        vocab_size=19,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=64,
    )
    version = [0]
    engine = LocalEngine(
        build(tiny), Letters(), lambda: version[0], block=4, kv_tokens=kv_tokens, max_running=64, max_rows=128
    )
    rng = np.random.default_rng(11)
    bank = [rng.integers(2, 19, rng.integers(1, 20)) for _ in range(40)]
    live, made, ended = [], 0, 0
    while made < requests or live:
        while made < requests and len(live) < 100:
            prompt = bank[rng.integers(len(bank))]
            group = int(rng.integers(1, 5))
            sampling = Sampling(max_new=int(rng.integers(1, 12)))
            live += [engine.submit(Request(prompt, sampling, (made, k))) for k in range(group)]
            made += group
        engine.step()
        version[0] += rng.random() < 0.02
        for handle in live:
            dice = rng.random()
            if handle.done:
                continue
            if dice < 0.01 and len(handle) and made < requests:
                live = live + handle.fork(2, int(rng.integers(len(handle) + (len(handle) < handle.sampling.max_new))))
                made += 2
            elif dice < 0.03:
                handle.pause()
            elif dice < 0.04:
                handle.cancel()
            elif dice < 0.05:
                handle.force(rng.integers(2, 19, 2))
            elif handle.state == "paused" and (dice < 0.3 or made >= requests):
                handle.resume(keep_kv=dice < 0.2)
        ended += sum(handle.done for handle in live)
        live = [handle for handle in live if not handle.done]
    pool = engine.backend.pool
    assert ended == made >= requests and not engine.busy and engine.stats.evictions > 0
    assert engine.backend.used() == 0 and pool.free + pool.cached == pool.count
    pool.forget()
    assert pool.free == pool.count and not any(pool._owners)
    assert not engine.scheduler.running and not engine.scheduler._groups and not engine.scheduler._idle
    assert not engine.scheduler.parked


def test_watched_requests_are_those_of_generate_until_they_are_given_up():
    requests = grid(3, 1, max_new=12)
    straight = engine_of("llama").generate(requests)
    engine, heard = engine_of("llama"), []

    def watch(news):
        heard.extend(news)
        return [seen.place for seen in news if seen.place == 1 and seen.length == 5]

    found = engine.watched(requests, watch, 3)
    for place, (whole, part) in enumerate(zip(straight, found)):
        assert part.finish == ("cancelled" if place == 1 else whole.finish)
        n = 5 if place == 1 else len(whole.tokens)
        assert np.array_equal(part.tokens, whole.tokens[:n]) and np.array_equal(part.logp, whole.logp[:n])
        own = [seen for seen in heard if seen.place == place]
        assert [seen.token for seen in own] == part.tokens.tolist()
        assert [seen.length for seen in own if seen.hidden is not None] == [4]
    assert engine.backend.used() == 0
    assert engine.watched([], watch) == []


def test_a_stop_string_may_begin_in_what_was_said_before():
    (whole,) = engine_of("llama").generate([one()])
    text = Endless().decode(whole.tokens)
    at = next(k for k in range(3, 28) if text.index(text[k : k + 2]) == k)
    stop = Sampling(max_new=30, stop=(text[at : at + 2],))
    request = dataclasses.replace(one(), sampling=stop)
    (ended,) = engine_of("llama").generate([request])
    assert ended.finish == "stop" and len(ended.tokens) == at + 2
    said = np.concatenate([one().tokens, whole.tokens[: at + 1]])
    rest = dataclasses.replace(stop, max_new=29 - at)
    (same_end,) = engine_of("llama").generate([Request(said, rest, one().seed, begun=at + 1)])
    (no_end,) = engine_of("llama").generate([Request(said, rest, one().seed)])
    assert same_end.finish == "stop" and same_end.tokens.tolist() == [int(whole.tokens[at + 1])]
    assert len(no_end.tokens) > 1
