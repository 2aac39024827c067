"""Blocks of memory: what the prefix tree finds, lends and takes back."""

import numpy as np
import pytest

from anypo.engine.local.blocks import BlockPool


def put(pool: BlockPool, tokens: np.ndarray) -> list[int]:
    """Blocks of a sequence that ended, which the tree alone has now."""
    blocks = [pool.take() for _ in range(-(-len(tokens) // pool.size))]
    pool.publish(tokens, blocks)
    pool.release(blocks)
    return blocks


def common(a: np.ndarray, b: np.ndarray) -> int:
    n = min(len(a), len(b))
    return next((i for i in range(n) if a[i] != b[i]), n)


@pytest.mark.parametrize("seed", range(6))
def test_the_longest_known_beginning_is_found_inside_blocks_too(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pool, known, held = BlockPool(400, 4), [], []
    for _ in range(60):
        tokens = rng.integers(0, 3 if seed % 2 else 300, int(rng.integers(0, 14)))
        if known and rng.random() < 0.5:  # goes on from one that is known, or leaves it
            old = known[int(rng.integers(len(known)))]
            tokens = np.concatenate([old[: int(rng.integers(len(old) + 1))], tokens])
        best = max((common(tokens, one) for one in known), default=0)
        found, length = pool.match(tokens)
        assert length == best and len(found) == -(-best // 4)
        if rng.random() < 0.3:
            held.append(found)
        else:
            pool.release(found)
        put(pool, tokens)
        known.append(tokens)
        lent = {block for blocks in held for block in blocks}
        assert pool.idle == pool.cached - len(lent) and pool.free + pool.cached == pool.count
    for blocks in held:
        pool.release(blocks)
    assert pool.idle == pool.cached
    pool.forget()
    assert pool.free == pool.count and pool.idle == pool.cached == 0 and pool.match(known[-1]) == ([], 0)


def test_when_memory_is_short_the_leaf_that_was_used_least_recently_goes() -> None:
    pool = BlockPool(6, 4)
    first, second = np.arange(10), np.arange(100, 109)
    put(pool, first), put(pool, second)
    assert pool.free == 0
    pool.release(pool.match(first)[0])
    taken = [pool.take() for _ in range(2)]
    assert None not in taken and pool.match(second)[1] == 4 and pool.match(first)[1] == 10
    assert pool.take() is None, "all are lent"


def test_a_block_is_taken_back_where_it_ends_and_nobody_else_has_it() -> None:
    pool, tokens = BlockPool(8, 4), np.arange(7)
    full, last = put(pool, tokens)
    found, length = pool.match(np.arange(9))
    assert (found, length) == ([full, last], 7)
    assert not pool.reclaim(last, 2), "its third token would be lost to others"
    assert not pool.reclaim(full, 4), "what is behind it hangs on it"
    pool.share((last,))
    assert not pool.reclaim(last, 3), "another sequence reads it"
    pool.release((last,))
    assert pool.reclaim(last, 3) and pool.match(tokens)[1] == 4
    own = pool.take()
    assert own is not None and pool.reclaim(own, 0), "nobody shares it"
