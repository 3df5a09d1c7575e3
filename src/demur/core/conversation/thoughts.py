"""Splitting a reasoning model's thought from its answer.

Models mark thoughts by tags (<think> and its kin), by channels (analysis, final), or only close a
tag that their chat template opened. A thought is no answer: it weighs declining and answering
alike, so a judge that reads it errs.
"""

from __future__ import annotations

import re

_NAMES = r"(?:seed:)?(?:think|thinking|thoughts?|reasoning|scratchpad)"
# (what opens a thought at the head of a text, what closes it)
_MARKS = (
    (re.compile(rf"\s*<{_NAMES}>", re.I), re.compile(rf"(?<!`)</{_NAMES}>", re.I)),
    (re.compile(r"\s*\[THINK\]"), re.compile(r"(?<!`)\[/THINK\]")),
    (re.compile(r"\s*◁think▷"), re.compile(r"◁/think▷")),
    (re.compile(r"\s*<\|begin_of_thought\|>"), re.compile(r"<\|end_of_thought\|>")),
)
_INVISIBLE = "\ufeff\u200b\u2060"
_CHANNEL = re.compile(r"\s*<\|channel\|>\s*(?:analysis|commentary)")
_FINAL = re.compile(r"<\|channel\|>\s*final\s*<\|message\|>")
# The same with its special tokens left out, as servers print it that do not know the format.
_BARE_FINAL = re.compile(r"\A\s*analysis.*assistantfinal", re.S)
_SOLUTION = re.compile(r"\A\s*(?:<answer>|<\|begin_of_solution\|>)(.*)\Z", re.S)
_SOLVED = re.compile(r"(?:</answer>|<\|end_of_solution\|>|<\|return\|>|<\|end\|>)\s*\Z")


def split_thought(text: str) -> tuple[str, str]:
    """Split a text into (thought, answer). Without a thought the answer is the text itself; after a
    thought without an end it is empty.

    Thoughts are looked for at the head only, so that an answer may speak of such tags. A closing
    tag that nothing opened ends a thought that began with the text.
    """
    if final := list(_FINAL.finditer(text)):
        return text[: final[-1].start()].strip(), _solved(text[final[-1].end() :])
    if _CHANNEL.match(text):
        return text.strip(), ""
    if bare := _BARE_FINAL.match(text):
        return bare[0].strip(), _solved(text[bare.end() :])
    # tags: those opened at the head, then a closing tag that the chat template had opened; the last
    # one, because a thought may quote earlier ones
    thoughts, rest = _headed(text.lstrip(_INVISIBLE))
    for _, close in _MARKS:
        if ends := list(close.finditer(rest)):
            thoughts, rest = [*thoughts, rest[: ends[-1].start()]], rest[ends[-1].end() :]
    if not thoughts:
        return "", text
    return "\n".join(t.strip() for t in thoughts).strip(), _solved(rest)


def answer_of(text: str) -> str:
    """The text without its thought."""
    return split_thought(text)[1]


def _headed(text: str) -> tuple[list[str], str]:
    """Thoughts that open at the head, one after the other, and what follows them."""
    thoughts: list[str] = []
    while True:
        opened = next(((m, close) for mark, close in _MARKS if (m := mark.match(text))), None)
        if opened is None:
            return thoughts, text
        start, close = opened
        end = close.search(text, start.end())
        thoughts.append(text[start.end() : end.start() if end else len(text)])
        if end is None:
            return thoughts, ""
        text = text[end.end() :]


def _solved(text: str) -> str:
    """An answer without the tags that some formats put around it."""
    inner = _SOLUTION.match(text)
    return _SOLVED.sub("", inner[1] if inner else text).strip()
