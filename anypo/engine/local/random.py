"""Counter-based random numbers: a value depends on its seed and its counter only, never on what was drawn before it."""

from __future__ import annotations

import hashlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX1, _MIX2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)


def key(seed: tuple[int, ...]) -> int:
    """A 64-bit key of a seed tuple, the same in every process."""
    text = ",".join(str(int(part)) for part in seed)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(keys: np.ndarray, counters: np.ndarray) -> np.ndarray:
    """Uniform numbers in the open interval (0, 1) with 52 random bits, [N] float64, for keys [N] uint64 and counters [N].

    SplitMix64 (Steele, Lea, Flood 2014): its finaliser applied to key + counter * golden gamma, and once more.
    """
    state = keys.astype(np.uint64) + (counters.astype(np.uint64) + np.uint64(1)) * _GOLDEN
    return ((_mix(_mix(state) + _GOLDEN) >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX1
    x = (x ^ (x >> np.uint64(27))) * _MIX2
    return x ^ (x >> np.uint64(31))
