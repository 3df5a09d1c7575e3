"""Position of a reasoning model's control token: after an empty thought, or before any thought.

1. A reasoning model's chat template opens a thought in front of each answer. Whether it closes the
   thought, and whether a finished conversation and a prompt have the same one, differs from
   template to template. A control token trained at one position and scored at another is useless.
2. The setting `train.thought` wraps the template (`with_thought`), so that training, scoring,
   serving and vLLM all render the same position.
3. `require_same_position` proves by rendering that they do.
"""

from __future__ import annotations

from typing import Any

from demur.base.errors import EngineError
from demur.core.example import Message
from demur.engines.chat_encoder import PLACE_HINT, ChatEncoder

EMPTY = "<think>\n\n</think>\n\n"
# Thoughts that templates put between the header of an answer and its text. The longest first: some
# begin with others.
_OPENED = (
    EMPTY,
    "<think>\n\n</think>\n",
    "<think>\n</think>\n\n",
    "<think></think>",
    "<think>\n",
    "<think>",
)

# Jinja, on one line behind the template, whose rendering is `demur.text`:
# 1. remove the thoughts in front of past answers;
# 2. of a prompt, remove the thought at its end and append the prefix;
# 3. of a finished conversation, insert the prefix before its last answer.
_WRAPPED = (
    "{{% set demur_rendered %}}\n{template}{{% endset %}}{{% set demur = "
    "namespace(text=demur_rendered, last='') %}}{{% for m in messages if m['role'] == 'assistant' "
    "and m['content'] is string and m['content'] %}}{{% set demur.last = m['content'] %}}{{% for s "
    "in {opened} %}}{{% set demur.text = demur.text.replace(s ~ demur.last, demur.last) %}}{{% "
    "endfor %}}{{% endfor %}}{{% if add_generation_prompt %}}{{% for s in {opened} %}}{{% if "
    "demur.text.endswith(s) %}}{{% set demur.text = demur.text[:-(s | length)] %}}{{% endif %}}{{% "
    "endfor %}}{{% set demur.text = demur.text ~ {prefix} %}}{{% elif demur.last and "
    "messages[-1]['role'] == 'assistant' %}}{{% set parts = demur.text.rsplit(demur.last, 1) "
    "%}}{{% set demur.text = parts[0] ~ {prefix} ~ demur.last ~ parts[1] %}}{{% endif %}}{{{{ "
    "demur.text }}}}"
)
_PROBES = (
    (Message(role="user", content="How are you?"),),
    (
        Message(role="user", content="How are you?"),
        Message(role="assistant", content="Well."),
        Message(role="user", content="And now?"),
    ),
)


def with_thought(template: str, thought: str) -> str:
    """Wrap a chat template so that the control token of every answer has the same position.

    thought: "template" returns the template unchanged, "none" puts an empty, closed thought before
    the control token, "before" renders no thought, so that the model's own follows the token.
    """
    if thought == "template":
        return template
    prefix = repr(EMPTY) if thought == "none" else "''"
    return _WRAPPED.format(
        template=template.removesuffix("\n"), opened=repr(list(_OPENED)), prefix=prefix
    )


def require_same_position(tokenizer: Any, encoder: ChatEncoder) -> None:
    """Raise EngineError unless training and service put control tokens at the same position."""
    for probe in _PROBES:
        # The ids before the control token, of a prompt and of the same conversation answered.
        served = encoder.prompt(probe)
        ids, turns = encoder.conversation(
            (*probe, Message(role="assistant", content="Good.")), [0] * len(probe)
        )
        trained = ids[: turns[-1].control_at]
        if served == trained:
            continue
        tails = [tokenizer.decode(i[-8:]) for i in (trained, served)]
        raise EngineError(
            f"the chat template puts a control token behind {tails[0]!r} in training, behind "
            f"{tails[1]!r} in service",
            PLACE_HINT,
        )
