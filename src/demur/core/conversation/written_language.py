"""The language that a prompt is written in, read off its letters and its commonest words.

1. A script that one language is mostly written in decides: kana is Japanese, Hangul is Korean.
2. In Latin and Cyrillic letters the commonest little words decide; a tie decides nothing.
It is a rule of thumb, and a fixed one: a slice by it is well defined even where the rule errs.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

# first and last character -> BCP 47 tag, or the name of letters that several languages share
_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x024F, "latin"),
    (0x0370, 0x03FF, "el"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "hy"),
    (0x0590, 0x05FF, "he"),
    (0x0600, 0x077F, "ar"),
    (0x0900, 0x097F, "hi"),
    (0x0980, 0x09FF, "bn"),
    (0x0A00, 0x0A7F, "pa"),
    (0x0A80, 0x0AFF, "gu"),
    (0x0B80, 0x0BFF, "ta"),
    (0x0C00, 0x0C7F, "te"),
    (0x0C80, 0x0CFF, "kn"),
    (0x0D00, 0x0D7F, "ml"),
    (0x0D80, 0x0DFF, "si"),
    (0x0E00, 0x0E7F, "th"),
    (0x0E80, 0x0EFF, "lo"),
    (0x1000, 0x109F, "my"),
    (0x10A0, 0x10FF, "ka"),
    (0x1100, 0x11FF, "ko"),
    (0x1200, 0x137F, "am"),
    (0x1780, 0x17FF, "km"),
    (0x3040, 0x30FF, "ja"),
    (0x3400, 0x9FFF, "zh"),
    (0xAC00, 0xD7A3, "ko"),
)
_WORDS: Mapping[str, str] = {
    "en": "the of and to in is you that it for on are with as this be at have or from what how "
    "can do i my me your a an please why which",
    "de": "der die das und ist nicht ein eine ich zu den von mit für auf wie was kann mir bitte im "
    "dem sich auch es wird mein meine",
    "fr": "le la les des et est un une je vous que qui dans pour pas sur avec ce cette comment du "
    "au mon ma il elle sont",
    "es": "el la los las y es un una que en de no por para con cómo qué mi me se lo del al puedo "
    "está como una más",
    "it": "il lo la gli e è un una che di non per con come mi sono della del si posso cosa le nel "
    "alla questo",
    "pt": "o a os as e é um uma que de não para com como em do da meu minha se eu por no na você "
    "posso",
    "nl": "de het een en is van ik niet dat op te voor met hoe wat mijn je zijn kan in er aan deze",
    "sv": "och att det är en ett som jag inte på för med hur vad min kan av den till om har",
    "pl": "i w nie na jest to się że z do jak co mój dla czy o po jestem mogę",
    "tr": "ve bir bu için ne nasıl ile da de mi çok ben var olan gibi değil",  # noqa: RUF001
    "ru": "и в не на что как я с это по для мне у о из за так можно",  # noqa: RUF001
    "uk": "і в не на що як я з це по для мені у про за та можна є",  # noqa: RUF001
}
_LETTERS = {
    "latin": ("en", "de", "fr", "es", "it", "pt", "nl", "sv", "pl", "tr"),
    "cyrillic": ("ru", "uk"),
}
_COMMON = {language: frozenset(words.split()) for language, words in _WORDS.items()}
_WORD = re.compile(r"[^\W\d_]+")
_READ = 2000  # characters: a language shows in fewer, and prompts may be very long


def written_language(text: str) -> str | None:
    """The BCP 47 tag of the language that a text is written in; None where it does not show."""
    head = text[:_READ]
    # most prompts need no look at single characters
    if head.isascii():
        return _by_words(head, "latin")
    scripts = Counter(_script(ord(c)) for c in head if c.isalpha())
    scripts.pop("", None)
    # Japanese mixes kana with Chinese characters: a tenth of kana decides.
    if scripts["ja"] * 10 >= max(scripts.total(), 1):
        return "ja"
    script = scripts.most_common(1)[0][0] if scripts.total() else "latin"
    return _by_words(head, script) if script in _LETTERS else script


def _by_words(text: str, letters: str) -> str | None:
    """The language whose commonest words occur most; None on a tie, also of none at all."""
    words = Counter(_WORD.findall(text.lower()))
    hits = {name: sum(words[w] for w in _COMMON[name] & words.keys()) for name in _LETTERS[letters]}
    first, second = sorted(hits.values(), reverse=True)[:2]
    return max(hits, key=lambda name: hits[name]) if first > second else None


def _script(code: int) -> str:
    return next((name for low, high, name in _SCRIPTS if low <= code <= high), "")
