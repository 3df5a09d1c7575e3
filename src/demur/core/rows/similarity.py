"""Near copies: pairs of texts with similar word sets, and the connected components that they form.
Pure and exact.

1. A text is the set of its different words; similar means a Jaccard similarity of 0.8 or more.
2. Two similar sets share many words, so at least one of each other's few rarest (prefix filtering,
   Bayardo, Ma and Srikant 2007): only texts that share such a word are compared.
3. What pairs connect, union-find makes into components.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence
from itertools import chain
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

# Jaccard similarity >= 0.8 between word sets of 4 to 60 words. Kept as a ratio of integers: no
# rounding decides.
LIKE_NUMERATOR, LIKE_DENOMINATOR = 4, 5
SHORTEST, LONGEST = 4, 60
# Thai, Lao, Burmese, Khmer, Kana and Han: scripts that put no space between words.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+)"
)


def near_copies(texts: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Find index pairs that link all folded texts whose word sets have a Jaccard similarity of at
    least 0.8.

    Texts with the same word set are linked through the first of them, so that the pairs connect
    near copies without listing every one. Texts of fewer than 4 or more than 60 different words are
    never similar. Exact, by prefix filtering.
    """
    first: dict[frozenset[str], int] = {}
    for n, text in enumerate(texts):
        words = word_set(text)
        if words is not None and first.setdefault(words, n) != n:
            yield first[words], n
    for left, right in _like(sorted(first, key=len)):
        yield first[left], first[right]


def word_set(folded: str) -> frozenset[str] | None:
    """The different words of a folded text; None if they are too few or too many to compare.

    Where a script puts no space between words, every two characters that stand together count as
    one.
    """
    return bounded_word_set(chain.from_iterable(map(_words_within, folded.split())))


def bounded_word_set(words: Iterable[str]) -> frozenset[str] | None:
    """The different words; None if they are fewer than SHORTEST or more than LONGEST."""
    different = frozenset(words)
    return different if SHORTEST <= len(different) <= LONGEST else None


def _words_within(spaced: str) -> Iterator[str]:
    for part in filter(None, _UNSPACED.split(spaced)):
        if len(part) > 1 and _UNSPACED.fullmatch(part):
            yield from (part[at : at + 2] for at in range(len(part) - 1))
        else:
            yield part


def similar_to_any(
    known: Collection[frozenset[T]], asked: Collection[frozenset[T]]
) -> set[frozenset[T]]:
    """Find those of the asked sets that are equal or similar to a known one, by the measure of
    near_copies.

    Both hold word sets, or sets of words' digests, of 4 to 60 elements. Exact, by the same prefix
    filtering.
    """
    frequency = Counter(chain.from_iterable(chain(known, asked)))
    having: dict[T, list[frozenset[T]]] = defaultdict(list)
    for words in dict.fromkeys(asked):
        for word in _rarest(words, frequency):
            having[word].append(words)
    found: set[frozenset[T]] = set()
    for words in known:
        candidates = {other for word in _rarest(words, frequency) for other in having.get(word, ())}
        found.update(other for other in candidates - found if _are_alike(words, other))
    return found


def components(count: int, links: Iterable[tuple[int, int]]) -> list[int]:
    """For each of `count` items the smallest index of its connected component. Union-find with path
    halving.
    """
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


def _like(
    shortest_first: Sequence[frozenset[str]],
) -> Iterator[tuple[frozenset[str], frozenset[str]]]:
    """Find pairs of different similar word sets; `shortest_first` is sorted by size."""
    frequency = Counter(chain.from_iterable(shortest_first))
    having: dict[str, list[frozenset[str]]] = defaultdict(list)
    for words in shortest_first:
        rarest = _rarest(words, frequency)
        common_needed = _common_needed(words)
        candidates = {
            other for word in rarest for other in having[word] if len(other) >= common_needed
        }
        for other in candidates:
            if _are_alike(words, other):
                yield other, words
        for word in rarest:
            having[word].append(words)


def _common_needed(words: frozenset[T]) -> int:
    """The least number of elements that a set shares with any similar one: 0.8 of its own, rounded
    up.
    """
    return -(-LIKE_NUMERATOR * len(words) // LIKE_DENOMINATOR)


def _rarest(words: frozenset[T], frequency: Counter[T]) -> list[T]:
    """The rarest elements of a set: so many that every similar set has one of them among its own
    rarest.
    """

    def rarity(word: T) -> tuple[int, str]:
        return frequency[word], str(word)

    return sorted(words, key=rarity)[: len(words) - _common_needed(words) + 1]


def _are_alike(a: frozenset[T], b: frozenset[T]) -> bool:
    # Jaccard: common / union >= 4 / 5, cross-multiplied into integers
    common = len(a & b)
    return LIKE_DENOMINATOR * common >= LIKE_NUMERATOR * (len(a) + len(b) - common)
