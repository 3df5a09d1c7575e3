"""A chat template without the system prompt that it writes by itself.

Some templates open every conversation without a system message with one of their own ("You are a
helpful assistant named ..."): a third of all tokens of short prompts. `bare` wraps such a template
so that this text is taken away:

1. a conversation is rendered with a system message and without one; the difference is the
   default prompt;
2. its turn reaches from the special token that opens every turn to the same token before the user's
   turn;
3. the wrapped template renders as before and cuts that turn off the front of conversations without
   a system message.

The template is left alone where there is no such prompt, where it holds a date (a different text
tomorrow), or where turns open differently, so that the end of the prompt's turn is unknown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError

_SYSTEM, _USER = "S 5b2c", "U 81fe"  # texts that no template writes
_DATES = ("strftime_now", "date_string")  # names in templates that render the date
# Cut off the front only: the same text in somebody's message stays.
_WRAPPED = (
    "{{% set demur_whole %}}\n{template}{{% endset %}}{{% if messages[0]['role'] != 'system' and "
    "demur_whole.startswith({prompt}) %}}{{{{ {start} ~ demur_whole[{length}:] }}}}{{% else "
    "%}}{{{{ demur_whole }}}}{{% endif %}}"
)
_Turns = Sequence[Mapping[str, str]]


def bare(tokenizer: Any) -> str:
    """The tokenizer's chat template without its default system prompt, or unchanged without one."""
    own = str(tokenizer.chat_template)
    user = {"role": "user", "content": _USER}
    plain = _rendered(tokenizer, own, [user])
    with_system = _rendered(tokenizer, own, [{"role": "system", "content": _SYSTEM}, user])
    if plain is None or with_system is None or any(name in own for name in _DATES):
        return own
    # A beginning-of-text token stays in front of what is cut off.
    special = [t.content for t in tokenizer.added_tokens_decoder.values()]
    start = (
        tokenizer.bos_token if tokenizer.bos_token and plain.startswith(tokenizer.bos_token) else ""
    )
    block = _default_turn(plain, with_system, start, special)
    if block is None:  # some tokenizers declare the token that opens every turn as their bos_token
        start, block = "", _default_turn(plain, with_system, "", special)
    if block is None:
        return own
    whole = start + block
    wrapped = _WRAPPED.format(
        template=own.removesuffix("\n"), prompt=repr(whole), start=repr(start), length=len(whole)
    )
    # Proof by rendering: without a system message the prompt is gone, with one nothing changes.
    shorter = start + plain.removeprefix(whole)
    system = [{"role": "system", "content": _SYSTEM}, user]
    kept = (
        _rendered(tokenizer, wrapped, [user]) == shorter
        and _rendered(tokenizer, wrapped, system) == with_system
    )
    return wrapped if kept else own


def _rendered(tokenizer: Any, template: str, turns: _Turns) -> str | None:
    """Render a conversation up to the answer; None if the template refuses its roles."""
    try:
        return str(
            tokenizer.apply_chat_template(
                list(turns),
                chat_template=template,
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=False,
            )
        )
    except TemplateError:
        return None


def _default_turn(plain: str, with_system: str, start: str, special: Sequence[str]) -> str | None:
    """Text of the default prompt's turn; None if there is none or its end cannot be found.

    plain, with_system: a conversation without and with a system message. start: the text that both
    begin with. special: the tokenizer's special tokens.
    """
    before, explicit = (
        text.partition(_USER)[0].removeprefix(start) for text in (plain, with_system)
    )
    # special tokens with which a turn may open: the text before the user's begins with them
    openers = [
        token
        for token in special
        if token and before.startswith(token) and explicit.startswith(token)
    ]
    if not openers or _SYSTEM not in explicit:  # the template drops system messages
        return None
    at = before.rfind(max(openers, key=len))  # where the user's turn opens; 0: it is the only one
    return before[:at] if at > 0 else None
