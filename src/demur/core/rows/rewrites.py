"""Rewrites of prompts by rule: case, typos, punctuation, paraphrase, tense, padding, wrappers.

A rewrite does not change what ought to happen to a prompt. Pure and seeded: one text under one seed
is always rewritten alike, whatever was rewritten before.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from random import Random

from demur.base.errors import ConfigError
from demur.core.example import Example, Message, RewriteName
from demur.core.rows.splitting import uniform_hash
from demur.core.rows.wrappers import begun, program, role

_TYPO_EVERY = 12  # words of four letters or more per typo, about
_END = ".!?"

_ORDER = r"(?:please )?(?=(?:write|give|make|tell|explain|describe|list|show|create|find|help)\b)"
_PHRASES = (
    (
        r"^how (?:do|can|could|should) (?:i|you|we) ",
        ("what is the best way to ", "could you explain how to "),
    ),
    (r"^how to ", ("what is the best way to ", "what are the steps to ")),
    (r"^what is ", ("could you say what this is: ", "tell me, what is ")),
    (r"^(?:can|could|would) you (?:please )?", ("please ", "i would like you to ")),
    (rf"^{_ORDER}", ("could you ", "i need you to ")),
    (r"\bi am\b", ("i'm",)),
    (r"\bi'm\b", ("i am",)),
    (r"\bdo not\b", ("don't",)),
    (r"\bdon't\b", ("do not",)),
    (r"\bcannot\b", ("can't",)),
    (r"\bcan't\b", ("cannot",)),
)
_FRAMES = (
    "I have a question. {}",
    "Please answer this: {}",
    "{} Thanks in advance.",
    "Quick one: {}",
)

_PAST = {
    "am": "was",
    "are": "were",
    "can": "could",
    "do": "did",
    "does": "did",
    "has": "had",
    "have": "had",
    "is": "was",
    "may": "might",
    "will": "would",
}
_PAST_FRAME = "Some years ago people asked this: {}"

_SCRIPTS = (  # first and last character
    ("a", "z"),
    ("A", "Z"),
    ("\N{GREEK CAPITAL LETTER ALPHA}", "\N{GREEK SMALL LETTER OMEGA}"),
    ("\N{CYRILLIC CAPITAL LETTER A}", "\N{CYRILLIC SMALL LETTER YA}"),
    ("\N{HEBREW LETTER ALEF}", "\N{HEBREW LETTER TAV}"),
    ("\N{ARABIC LETTER ALEF}", "\N{ARABIC LETTER YEH}"),
    ("\N{DEVANAGARI LETTER A}", "\N{DEVANAGARI LETTER HA}"),
    ("\N{HIRAGANA LETTER SMALL A}", "\N{HIRAGANA LETTER N}"),
    ("\N{HANGUL SYLLABLE GA}", "\N{HANGUL SYLLABLE GIH}"),
    ("\u4e00", "\u4fff"),  # the first 512 Chinese characters
    ("0", "9"),
    ("!", "/"),
    ("\N{GRINNING FACE}", "\N{PERSON WITH FOLDED HANDS}"),
)
_FILLERS = (
    "the",
    "a",
    "of",
    "and",
    "to",
    "please",
    "very",
    "well",
    "now",
    "hello",
    "yes",
    "no",
    "okay",
    "text",
)
_LEAST, _MOST = 20, 400  # characters of padding


def rewrite(name: RewriteName, text: str, seed: int = 0) -> str:
    """Rewrite a text. Raises ConfigError on an unknown rewrite."""
    if name not in REWRITES:
        raise ConfigError(f"unknown rewrite {name!r}", f"known: {', '.join(REWRITES)}")
    digest = sha256(f"{seed}\n{name}\n{text}".encode()).digest()
    return REWRITES[name](text, Random(int.from_bytes(digest[:8], "big")))


def rewrite_prompt(
    name: RewriteName, prompt: tuple[Message, ...], seed: int = 0
) -> tuple[Message, ...]:
    """Rewrite the user's last message of a conversation."""
    *before, last = prompt
    return (*before, replace(last, content=rewrite(name, last.content, seed)))


def rewritten_rows(
    examples: Sequence[Example], names: Sequence[RewriteName], share: float, seed: int
) -> list[Example]:
    """Make further rows to learn from: `share` as many as there are, rewritten, as many refusals as
    others.

    names: taken in turn. Which rows are drawn depends on the seed and their ids alone. Raises
    ConfigError on an unknown rewrite.
    """
    made = []
    for expected in ("refuse", "respond"):
        rows = sorted(
            (e for e in examples if e.expected == expected),
            key=lambda e: uniform_hash(seed, f"rewrite:{e.id}"),
        )
        for n, row in enumerate(rows[: round(share * len(examples) / 2)]):
            name = names[n % len(names)]
            prompt = rewrite_prompt(name, row.prompt, seed)
            made.append(
                replace(
                    row,
                    id=f"{row.id}~{name}",
                    messages=(*prompt, *row.messages[len(prompt) :]),
                    traits=(*row.traits, ("rewrite", name)),
                )
            )
    return made


def _case(text: str, random: Random) -> str:
    """Another case: lower, upper or title; swapped where that changes nothing."""
    change = random.choice((str.lower, str.upper, str.title))
    return change(text) if change(text) != text else text.swapcase()


def _typos(text: str, random: Random) -> str:
    """Swapped, dropped or doubled letters inside words; never the first letter, never in short
    words.
    """
    words = list(re.finditer(r"[^\W\d_]{4,}", text))
    chosen = sorted(random.sample(range(len(words)), k=-(-len(words) // _TYPO_EVERY)), reverse=True)
    for n in chosen:  # from the end, so that earlier places stay where they are
        at = words[n].start() + random.randrange(1, len(words[n].group()) - 1)
        one, two = text[at], text[at + 1]
        wrong = random.choice((*((two + one,) if one != two else ()), two, one + one + two))
        text = text[:at] + wrong + text[at + 2 :]
    return text


def _punctuation(text: str, random: Random) -> str:
    """Other punctuation: inner marks dropped, another ending, or both."""
    bare = text.rstrip().rstrip(_END)
    inner = re.sub(r"[,;:](?=\s)", "", bare)
    return random.choice((inner, bare + "...", bare + "!!", inner + " ??"))


def _paraphrase(text: str, random: Random) -> str:
    """Other openings and contractions; a frame around texts to which no rule applies."""
    start = text[:1].lower() + text[1:]
    for pattern, others in _PHRASES:
        said = re.sub(pattern, random.choice(others), start, count=1, flags=re.IGNORECASE)
        if said != start:
            return said[:1].upper() + said[1:]
    return random.choice(_FRAMES).format(text)


def _tense(text: str, random: Random) -> str:  # noqa: ARG001 - nothing random about it
    """Auxiliary verbs in the past; a frame that puts the whole in the past where there is none."""

    def past(found: re.Match[str]) -> str:
        word = _PAST[found.group().lower()]
        return word.capitalize() if found.group()[0].isupper() else word

    moved = re.sub(rf"\b(?:{'|'.join(_PAST)})\b(?!['\u2019])", past, text, flags=re.IGNORECASE)
    return moved if moved != text else _PAST_FRAME.format(text)


def _padding(text: str, random: Random) -> str:
    """In front of the text, behind it or both: a letter, a word or letters at random, again and
    again.
    """
    unit = random.choice((_letter, _letter, _made_up, _filler, _at_random))(random)
    # Lengths evenly over their logarithm: short paddings and long ones alike.
    length = _LEAST * (_MOST / _LEAST) ** random.random()
    parts: list[str] = []
    while sum(map(len, parts)) < length:
        parts.append(unit())
    padding = "".join(parts).strip()
    return random.choice(("{0}\n{1}", "{1}\n{0}", "{0}\n{1}\n{0}")).format(padding, text)


def _letter(random: Random) -> Callable[[], str]:
    """One character of one script, with or without a space, repeated."""
    one = _drawn(random.choice(_SCRIPTS), random) + random.choice(("", " "))
    return lambda: one


def _made_up(random: Random) -> Callable[[], str]:
    """One made-up word of one script, repeated."""
    script = random.choice(_SCRIPTS)
    word = "".join(_drawn(script, random) for _ in range(random.randint(2, 8))) + " "
    return lambda: word


def _filler(random: Random) -> Callable[[], str]:
    """One to four English filler words, repeated."""
    words = " ".join(random.choices(_FILLERS, k=random.randint(1, 4))) + " "
    return lambda: words


def _at_random(random: Random) -> Callable[[], str]:
    """New made-up words of one script, again and again."""
    script = random.choice(_SCRIPTS)
    return lambda: "".join(_drawn(script, random) for _ in range(random.randint(1, 9))) + " "


def _drawn(script: tuple[str, str], random: Random) -> str:
    """A random character of a script."""
    first, last = map(ord, script)
    return chr(random.randint(first, last))


REWRITES: dict[RewriteName, Callable[[str, Random], str]] = {
    "case": _case,
    "typos": _typos,
    "punctuation": _punctuation,
    "paraphrase": _paraphrase,
    "tense": _tense,
    "padding": _padding,
    "program": program,
    "role": role,
    "begun": begun,
}
