"""Where the control token of a reasoning model stands: after an empty thought, or before any.

A reasoning model's template opens a thought in front of each answer; whether it closes it, and
whether training and service open the same one, differs from template to template. A control token
that is trained in one place and scored in another is not scored at all. The setting `train.thought`
wraps the template, so that whatever reads the checkpoint later (scoring, serving, vLLM) renders the
same place; `require_same_position` proves by rendering that it is one.
"""

from __future__ import annotations

from typing import Any

from demur.base.errors import EngineError
from demur.core.example import Message
from demur.engines.tokens import PLACE_HINT, ChatEncoder

EMPTY = "<think>\n\n</think>\n\n"
# What a template may put between the header of an answer and the answer, the longest first.
_OPENED = (
    EMPTY,
    "<think>\n\n</think>\n",
    "<think>\n</think>\n\n",
    "<think></think>",
    "<think>\n",
    "<think>",
)

# Jinja, on one line behind the template: `text` is what that renders. Thoughts in front of answers
# and at the end of a prompt are taken away; with a prefix, that is then put in front of the last
# answer, or at the end of the prompt.
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
    """The chat template whose answers open with a control token in one place.

    thought: "template" leaves it alone, "none" closes an empty thought before the control token,
    "before" opens none.
    """
    if thought == "template":
        return template
    prefix = repr(EMPTY) if thought == "none" else "''"
    return _WRAPPED.format(
        template=template.removesuffix("\n"), opened=repr(list(_OPENED)), prefix=prefix
    )


def require_same_position(tokenizer: Any, encoder: ChatEncoder) -> None:
    """Raise EngineError unless an answer's control token stands in the same place in training and
    in service.
    """
    for probe in _PROBES:
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
