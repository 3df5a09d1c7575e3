"""Declared text: what a request carries beside its conversation, in its tools and in the schema of
its answer.

It reaches the model, or begins the answer, and was written by the client like any message. So it is
decided about: `declared_prompts` turns it into prompts that are scored beside the conversation, and
one refusal refuses the request.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from demur.base.schemas.limits import walk
from demur.base.schemas.pattern_text import BadPattern, read_pattern
from demur.core.example import Message
from demur.core.policy import Policy
from demur.core.ports import Prompt
from demur.core.serving import ServeRequest

MOST_ALONE = 6  # texts that are prompts of their own
SHORTEST = 24  # characters of such a text: names of fields say nothing alone
# The words of JSON Schema and of function declarations: the only keys and values that are no text
# of the client's.
_VOCABULARY = """
$comment $defs $id $ref $schema additionalItems additionalProperties allOf anyOf array arguments
boolean const contains contentEncoding contentMediaType date date-time default definitions
dependentRequired dependentSchemas deprecated description duration else email enum examples
exclusiveMaximum exclusiveMinimum false format function hostname if integer ipv4 ipv6 items json
maxContains maxItems maxLength maxProperties maximum minContains minItems minLength minProperties
minimum multipleOf name not null number object oneOf parameters pattern patternProperties
prefixItems properties propertyNames readOnly regex required strict string then time title true type
unevaluatedItems unevaluatedProperties uniqueItems uri uri-reference uuid writeOnly
"""
_WORDS = frozenset(_VOCABULARY.split())


def declared_texts(ask: ServeRequest) -> tuple[str, ...]:
    """Collect every text of the tools and the schema, once each, in their order; of a pattern, the
    text that it spells.
    """
    return tuple(
        dict.fromkeys(
            text for part in (ask.tools, ask.json_schema) for text in _texts(part) if text.strip()
        )
    )


def declared_prompts(ask: ServeRequest) -> tuple[Prompt, ...]:
    """The prompts that are scored beside the conversation; none where nothing is declared.

    The conversation with all declared text behind what the user said last; then the longest texts,
    each alone, as a user's message of its own, so that none is drowned by the others.
    """
    texts = declared_texts(ask)
    if not texts:
        return ()
    last = ask.messages[-1]
    continued = replace(last, content="\n\n".join((last.content, "\n".join(texts))))
    alone = sorted((t for t in texts if len(t) >= SHORTEST), key=len, reverse=True)[:MOST_ALONE]
    return (*ask.messages[:-1], continued), *(
        (Message(role="user", content=text),) for text in alone
    )


def policy_for_declared(policy: Policy, categories: Sequence[str]) -> Policy:
    """The policy for declared text: categories that do not apply to it are suppressed.

    categories: those that such text can be refused with; where none of them is the policy's own,
    all apply. A tool that is described in half a sentence is no incomplete request, but a harmful
    one in it is harmful. A forced category stands, and doubt refuses with whichever category is
    left.
    """
    named = set(categories) & set(policy.taxonomy.names)
    if not named:
        return policy
    pairs = zip(policy.taxonomy.names, policy.categories, strict=True)
    kept = tuple(
        c if name in named or c.override == "force" else replace(c, override="suppress")
        for name, c in pairs
    )
    # Nothing but a refusal is written for declared text: there is no answer to stop.
    return replace(policy, categories=kept, monitor=None)


def _texts(value: Any) -> Iterator[str]:
    for item, _, key in walk(value):
        if isinstance(item, str):
            found = (
                item.split("/") if key == "$ref" else [_spelled(item) if key == "pattern" else item]
            )
        elif isinstance(item, Mapping):
            found = [_spelled(name) if key == "patternProperties" else name for name in item]
        else:
            continue
        yield from (text for text in found if text not in _WORDS and text != "#")


def _spelled(pattern: str) -> str:
    try:
        return read_pattern(pattern).text
    except BadPattern:  # no schema with it is taken; its source is text like any other
        return pattern
