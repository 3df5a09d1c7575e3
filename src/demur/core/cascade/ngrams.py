"""The front model's features of a text: hashed n-grams of words and of characters, whole and by
stretches.

1. A text is its lower-case words, each a run of letters, digits and underscores.
2. Two kinds of n-grams: 1 to 2 words in a row; 3 to 5 characters within a word and its two edges.
3. An n-gram is known by a 32-bit digest. No text can be read off a front's file.
4. A stretch is 8 words in a row; stretches overlap by half, so that any 5 words in a row lie within
   one, whatever is written around them. Of 400 harmful prompts with 40 harmless words around them a
   front that reads whole texts only answered 202, this one none; with 10 words, 50 and 2
   (bench/distil.py).
"""

from __future__ import annotations

import re
import zlib
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise

import numpy as np

from demur.base.arrays import Doubles, Ints

# of the digests of word n-grams and of character n-grams
NgramCounts = tuple[Counter[int], Counter[int]]

STRETCH, STEP = 8, 4  # words of a stretch, and from one to the next
CHARACTERS = (3, 4, 5)  # of a character n-gram
_WORD = re.compile(r"\w+")
# starts of a digest: each kind of term has digests of its own
_WORDS, _CHARACTERS, _SINGLE = 1, 2, 3
_CACHED = 20_000  # words whose character n-grams are kept; traffic repeats its words


def words_of(text: str) -> list[str]:
    """The words of a text, lower case, in order."""
    return _WORD.findall(text.lower())


def word_key(word: str) -> int:
    """The digest of a whole word, for the range of known words."""
    return _key(word, _SINGLE)


def overlapping_stretches(words: Sequence[str]) -> list[Sequence[str]]:
    """Overlapping stretches that hold every word; none where the text itself is no longer than
    one.
    """
    if len(words) <= STRETCH:
        return []
    # the last stretch ends with the text, and may overlap the one before by more than half
    starts = [*range(0, len(words) - STRETCH, STEP), len(words) - STRETCH]
    return [words[at : at + STRETCH] for at in starts]


def counts_of(words: Sequence[str]) -> NgramCounts:
    """Count each n-gram of these words, by kind."""
    pairs = [f"{a} {b}" for a, b in pairwise(words)]
    of_words = Counter(_key(term, _WORDS) for term in (*words, *pairs))
    of_characters: Counter[int] = Counter()
    for word in words:
        of_characters.update(_character_keys(word))
    return of_words, of_characters


def tfidf_features(
    counts: NgramCounts, place: Mapping[int, int], idf_F: Doubles
) -> tuple[Ints, Doubles]:
    """TF-IDF features of a text: their columns and values, of length 1 for each kind of n-gram.

    place: digest -> column, of the n-grams that were fitted. Others take no part.
    """
    columns, values = [], []
    for count in counts:
        known = {at: n for key, n in count.items() if (at := place.get(key)) is not None}
        at_K = np.fromiter(known, dtype=np.int64, count=len(known))
        tf_K = np.fromiter(known.values(), dtype=np.float64, count=len(known))
        # sublinear term frequency times idf, each kind scaled to length 1: long texts weigh no more
        value_K = (1.0 + np.log(tf_K)) * idf_F[at_K]
        length = float(np.sqrt(value_K @ value_K))
        columns.append(at_K)
        values.append(value_K / length if length else value_K)
    return np.concatenate(columns), np.concatenate(values)


@lru_cache(maxsize=_CACHED)
def _character_keys(word: str) -> tuple[int, ...]:
    padded = f" {word} "
    return tuple(
        _key(padded[at : at + n], _CHARACTERS)
        for n in CHARACTERS
        for at in range(len(padded) - n + 1)
    )


def _key(term: str, kind: int) -> int:
    return zlib.crc32(term.encode("utf-8", "surrogatepass"), kind)
