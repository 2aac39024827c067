"""Prefix trees, cuts and tree attention, against sets of prefixes and dense attention."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from anypo.engine.training.attention import attend, plan
from anypo.engine.training.packing import micro_batches, pack, padded_batches

SEQUENCES = st.lists(st.lists(st.integers(0, 2), max_size=7), min_size=1, max_size=9)


def arrays(sequences):
    return [np.array(sequence, dtype=np.int64) for sequence in sequences]


def prefixes(sequences):
    return {tuple(sequence[:n]) for sequence in sequences for n in range(1, len(sequence) + 1)}


@given(SEQUENCES)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_the_tree_holds_every_distinct_prefix_once(sequences):
    tree = pack(arrays(sequences))
    assert len(tree) == len(prefixes(sequences))
    for sequence, path in zip(sequences, tree.paths):
        assert tree.tokens[path].tolist() == list(sequence)
        assert tree.depth[path].tolist() == list(range(len(sequence)))
        for token in path:  # ancestors-or-self by subtree interval are the path up to the token
            above = [u for u in range(len(tree)) if u <= token < tree.end[u]]
            assert above == path[: tree.depth[token] + 1].tolist()
            assert tree.ancestors(token).tolist() == above[:-1]


@given(SEQUENCES, st.integers(1, 12))
@settings(max_examples=200, deadline=None, derandomize=True)
def test_cuts_cover_everything_once_within_the_budget(sequences, budget):
    pieces = micro_batches(arrays(sequences), budget)
    assert sorted(i for piece in pieces for i in piece) == list(range(len(sequences)))
    for piece in pieces:
        assert len(pack([arrays(sequences)[i] for i in piece])) <= budget or len(piece) == 1
    padded = padded_batches([len(sequence) for sequence in sequences], budget)
    assert sorted(i for piece in padded for i in piece) == list(range(len(sequences)))
    for piece in padded:
        assert max(len(sequences[i]) for i in piece) * len(piece) <= budget or len(piece) == 1


def test_groups_stay_together():
    rng = np.random.default_rng(0)
    groups = [rng.integers(0, 99, 40) for _ in range(4)]
    sequences = [np.concatenate([groups[i % 4], rng.integers(0, 99, 10)]) for i in range(16)]  # members interleaved
    pieces = micro_batches(sequences, 80)
    assert len(pieces) == 4
    assert sorted(sorted({i % 4 for i in piece}) for piece in pieces) == [[0], [1], [2], [3]]


@pytest.mark.exact("prefix-grouper")
def test_tree_attention_is_attention_along_each_path():
    rng = np.random.default_rng(0)
    header = rng.integers(0, 9, 30)
    sequences = [
        np.concatenate([header[:n], rng.integers(0, 2, m)])
        for n, m in [(30, 9), (30, 5), (30, 0), (12, 20), (0, 7)] * 3
    ]
    tree = pack(sequences)
    torch.manual_seed(0)
    q, k, v = (torch.randn(len(tree), heads, 8, dtype=torch.float64, requires_grad=True) for heads in (4, 2, 2))
    upstream = torch.randn(len(tree), 32, dtype=torch.float64)
    wanted = torch.zeros(len(tree), 32, dtype=torch.float64)
    for path in map(torch.as_tensor, tree.paths):
        one = [t[path].transpose(0, 1)[None] for t in (q, k, v)]
        out = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)[0].transpose(0, 1).flatten(1)
        wanted = wanted.index_copy(0, path, out)
    gradients = torch.autograd.grad((wanted * upstream).sum(), (q, k, v))
    for block in (1, 5, 32, 1000, None):
        cut = plan(tree, torch.float64, block=block)
        found = attend(q, k, v, cut)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)
        for ours, theirs in zip(torch.autograd.grad((found * upstream).sum(), (q, k, v)), gradients):
            torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-12)


def test_blocks_gather_little_more_than_the_tree_itself():
    rng = np.random.default_rng(0)
    prompt = rng.integers(0, 9, 600)
    tree = pack([np.concatenate([prompt, rng.integers(0, 9, 200)]) for _ in range(8)])
    gathered = sum(bucket.keys.numel() for bucket in plan(tree, torch.float32).buckets)
    assert gathered < 7 * len(tree)
