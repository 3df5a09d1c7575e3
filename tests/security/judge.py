"""Whether an attempt has succeeded, and with what."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from demur.core.decision import Decision, decide
from demur.store.policies.policy_file import policy_digest
from tests.security.attempt import KEYS, Attempt, Turns
from tests.security.site import Answer, Site, messages

# keys under which a number would be a score
SHOWN = ("scores", "margin", "logprobs", "top_logprobs")


Look = Callable[[Site, Attempt], Iterator[str]]  # what is wrong with what the model read


def verdict(site: Site, attempt: Attempt, look: Look | None = None) -> str | None:
    """What an attempt achieved; None: nothing. look: where the model is not in this process."""
    site.read.clear()
    answer = site.send(attempt)
    return "; ".join(_achieved(site, attempt, answer, look or _what_was_read)) or None


def _achieved(site: Site, attempt: Attempt, answer: Answer, look: Look) -> Iterator[str]:
    if answer.status not in attempt.ends:
        yield f"status {answer.status}, expected {attempt.ends}: {answer.text[:200]}"
        return
    everything = f"{answer.text} {answer.headers}"
    if any(key in everything for key in KEYS):
        yield "a key in the answer"
    if answer.status != 200:
        yield from _in_a_refusal(site, attempt, answer)
        return
    notes = list(_notes(answer))
    for numbers in notes:
        yield from _scores_in(numbers)
    yield from look(site, attempt)
    yield from _decision(site, attempt, notes[0], everything)


def _in_a_refusal(site: Site, attempt: Attempt, answer: Answer) -> Iterator[str]:
    if site.read and not attempt.declared:
        yield "the model was run for a request that was refused"
    if attempt.method == "HEAD":
        return
    error = json.loads(answer.text).get("error", {})
    if set(error) != {"message", "type", "param", "code"}:
        yield f"no error object: {answer.text[:200]}"
    elif attempt.codes and error["code"] not in attempt.codes:
        yield f"code {error['code']}, expected {attempt.codes}"


def _notes(answer: Answer) -> Iterator[Any]:
    """The JSON values of an answer, streamed or not."""
    if not answer.text.startswith("data: "):
        yield json.loads(answer.text)
        return
    for event in answer.text.split("\n\n"):
        data = event.removeprefix("data: ")
        if data and data != "[DONE]":
            yield json.loads(data)


def _scores_in(value: Any) -> Iterator[str]:
    """Keys and numbers that would show a score: an answer to a caller has whole numbers only."""
    match value:
        case dict():
            yield from (
                f"{key} = {value[key]} shown" for key in SHOWN if value.get(key) is not None
            )
            for item in value.values():
                yield from _scores_in(item)
        case list():
            for item in value:
                yield from _scores_in(item)
        case float():
            yield f"the number {value} shown"


def _what_was_read(site: Site, attempt: Attempt) -> Iterator[str]:
    """The prompt must be the conversation letter by letter, with special ids where the template
    puts them only.
    """
    if attempt.declared:
        yield from _declared_was_read(site, attempt)
        return
    turns = attempt.reads or ()
    prefills = [row for rows in site.read for row in rows if len(row) > 1]
    if not prefills:
        yield "nothing was read"
    for ids in prefills:
        if (read := _decoded(site, ids)) != _rendered(site, turns):
            yield f"read {read!r}, expected {_rendered(site, turns)!r}"
        yield from _special_ids(site, ids, turns)
    yield from _written(site, len(prefills))


def _declared_was_read(site: Site, attempt: Attempt) -> Iterator[str]:
    """Each declared prompt must be read letter by letter, and nothing else before the conversation
    is.
    """
    prefills = [row for rows in site.read for row in rows if len(row) > 1]
    expected = {_rendered(site, turns): turns for turns in (*attempt.declared, attempt.reads or ())}
    read = {_decoded(site, ids): ids for ids in prefills}
    yield from (
        f"read {text!r}, expected one of {list(expected)}" for text in read if text not in expected
    )
    yield from (f"{text!r} was not read" for text in list(expected)[:-1] if text not in read)
    for text, ids in read.items():
        yield from _special_ids(site, ids, expected.get(text, ()))
    yield from _written(site, len(prefills))


def _decoded(site: Site, ids: Sequence[int]) -> str:
    tokenizer = site.oracle.tokenizer
    return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _rendered(site: Site, turns: Turns) -> str:
    """A conversation as the template writes it."""
    respond = site.oracle.encoder.tokens[0]
    text = ""
    for role, said in turns:
        text += (
            f"<|im_start|>{role}\n"
            + (respond + said.strip() if role == "assistant" else said)
            + "<|im_end|>\n"
        )
    return text + "<|im_start|>assistant\n"


def _special_ids(site: Site, ids: Sequence[int], turns: Turns) -> Iterator[str]:
    tokenizer = site.oracle.tokenizer
    past = sum(role == "assistant" for role, _ in turns)
    counts = {"<|im_start|>": len(turns) + 1, "<|im_end|>": len(turns), "<|end|>": 0}
    for token, count in {**counts, site.oracle.encoder.tokens[0]: past}.items():
        if ids.count(tokenizer.convert_tokens_to_ids(token)) != count:
            yield (
                f"{token} read {ids.count(tokenizer.convert_tokens_to_ids(token))} times, "
                f"expected {count}"
            )
    if set(ids) & set(site.oracle.encoder.token_ids[1:]):
        yield "a refusal token was read"


def _written(site: Site, prompts: int) -> Iterator[str]:
    written = [row for rows in site.read for row in rows if len(row) == 1]
    if sum(row[0] in site.oracle.encoder.token_ids for row in written) > prompts:
        yield "a control token was written after the first position"


def decided(site: Site, attempt: Attempt) -> Decision:
    """What must come of an attempt: the first refusal of what it declares, else the decision on its
    conversation.
    """
    policy = site.policies[attempt.key or ""]
    prompts = [messages(turns) for turns in (*attempt.declared, attempt.reads or ())]
    decisions = [decide(policy, site.oracle.logp([prompt])[0]) for prompt in prompts]
    return next((d for d in decisions if d.refuses), decisions[-1])


def _decision(site: Site, attempt: Attempt, note: Any, everything: str) -> Iterator[str]:
    """It must be that of the tenant's own policy, made apart on the text; the score behind it must
    not show.
    """
    assert attempt.key is not None
    policy = site.policies[attempt.key]
    logp_C = site.oracle.logp([messages(attempt.reads or ())])[0]
    wanted = decided(site, attempt)
    category = wanted.choice if wanted.refuses else None
    found = note["demur"]
    if (found["policy"], found["policy_hash"]) != (policy.name, policy_digest(policy)) or found[
        "overridden"
    ]:
        yield f"decided under {found}"
    if (found["decision"], found["category"]) != ("refuse" if category else "respond", category):
        yield f"decided {found['decision']} {found['category']}, expected {category}"
    for number in (*logp_C, *np.exp(logp_C), *np.exp(logp_C - np.logaddexp.reduce(logp_C))):
        if math.isfinite(number) and f"{abs(float(number)):.5f}"[1:] in everything:
            yield f"the score {number} shown"
