"""Which stored texts are most like a new one, by the words that they share."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence


def words_of(text: str) -> list[str]:
    """The words and numbers of a text in lower case."""
    return re.findall(r"\w+", text.lower())


def bm25(query: str, documents: Sequence[str], k: float = 1.2, b: float = 0.75) -> list[float]:
    """Okapi BM25 of every document for a query (Robertson & Zaragoza 2009, doi:10.1561/1500000019): the sum over the query's different
    words w of log(1 + (N - n_w + 1/2) / (n_w + 1/2)) f (k + 1) / (f + k (1 - b + b L / mean L)), with f how often the document has w,
    L its length, and n_w in how many of the N documents w is. 0 without a common word."""
    counts = [Counter(words_of(text)) for text in documents]
    lengths = [sum(count.values()) for count in counts]
    mean = sum(lengths) / max(1, len(lengths)) or 1.0
    found = [0.0] * len(counts)
    for word in sorted(set(words_of(query))):
        inside = sum(word in count for count in counts)
        weight = math.log(1.0 + (len(counts) - inside + 0.5) / (inside + 0.5))
        for n, count in enumerate(counts):
            f = count[word]
            found[n] += weight * f * (k + 1) / (f + k * (1 - b + b * lengths[n] / mean))
    return found


def nearest(query: str, documents: Sequence[str], count: int) -> list[int]:
    """The places of the `count` documents with the largest BM25, the largest first; of equals the later one."""
    scores = bm25(query, documents)
    return sorted(range(len(scores)), key=lambda n: (-scores[n], -n))[:count]


__all__ = ["bm25", "nearest", "words_of"]
