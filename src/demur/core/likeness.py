"""Which texts are near copies of one another, and what hangs together through them. Pure and exact."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain

# Jaccard likeness >= 0.8 between word sets of 4 to 60 words. Kept as a ratio of integers: no rounding decides.
LIKE_NUMERATOR, LIKE_DENOMINATOR = 4, 5
SHORTEST, LONGEST = 4, 60


def near_copies(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Index pairs that link all folded texts whose word sets have a Jaccard likeness of at least 0.8.

    Texts with the same word set are linked through the first of them, so that the pairs connect near copies without
    listing every one. Texts of fewer than 4 or more than 60 different words are like nothing. Exact, by prefix
    filtering: two such sets share one of their few rarest words (Bayardo, Ma and Srikant 2007).
    """
    first: dict[frozenset[str], int] = {}
    for n, text in enumerate(texts):
        words = frozenset(text.split())
        if SHORTEST <= len(words) <= LONGEST and first.setdefault(words, n) != n:
            yield first[words], n
    for left, right in _like(sorted(first, key=len)):
        yield first[left], first[right]


def components(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` items the smallest index it is connected to. Union-find with path halving."""
    parent = list(range(count))

    def root(n: int) -> int:
        while parent[n] != n:
            parent[n] = parent[parent[n]]
            n = parent[n]
        return n

    for a, b in links:
        low, high = sorted((root(a), root(b)))
        parent[high] = low
    return [root(n) for n in range(count)]


def _like(shortest_first: Sequence[frozenset[str]]) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Pairs of different word sets that are alike; `shortest_first` is sorted by size."""
    frequency = Counter(chain.from_iterable(shortest_first))
    having: dict[str, list[frozenset[str]]] = defaultdict(list)
    for words in shortest_first:
        common_needed = -(-LIKE_NUMERATOR * len(words) // LIKE_DENOMINATOR)
        rarest = sorted(words, key=lambda word: (frequency[word], word))[: len(words) - common_needed + 1]
        candidates = {other for word in rarest for other in having[word] if len(other) >= common_needed}
        for other in candidates:
            common = len(words & other)
            if LIKE_DENOMINATOR * common >= LIKE_NUMERATOR * (len(words) + len(other) - common):
                yield other, words
        for word in rarest:
            having[word].append(words)
