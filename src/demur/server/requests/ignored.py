"""Fields of a request that are accepted and ignored, because none of them can move the decision.

Nothing listed here reaches the model, the policy or the sampling; some name the session that the
monitors count (demur.server.requests.prepare). There are three kinds:

1. IGNORED: metadata of clients, caches and accounting; any value is accepted.
2. DEFAULTS: fields that are accepted with a value that asks for what happens anyway.
3. null, which stands for "left out" whatever the field's name.

Every other unlisted field is a 400: it could move the decision, reveal its scores, or ask for
something that the caller would wrongly believe to be in force. docs/serve.md shows these tables.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

# By place in the request. The models of demur.server.requests.schema name their places.
IGNORED: Mapping[str, Collection[str]] = {
    "request": (
        "metadata",
        "moderation",
        "parallel_tool_calls",  # an answer holds one call at most, so that both values are honoured
        "prompt_cache_key",
        "prompt_cache_options",
        "prompt_cache_retention",
        "safety_identifier",
        "service_tier",
        "store",  # nothing is stored, whatever its value
        "user",
    ),
    "message": (
        "annotations",
        "cache_control",
        "created_at",
        "id",
        "index",
        "metadata",
        "name",  # who of several people speaks: not rendered, so neither read nor scored
        "opts",
        "provider_specific_fields",
        "status",
        "timestamp",
    ),
    # Thoughts of past answers are dropped: the model never reads its own, nor does the decision.
    "assistant message": (
        "provider",
        "reasoning",
        "reasoning_content",
        "reasoning_details",
        "reasoning_opaque",
        "reasoning_text",
        "thinking",
        "thinking_blocks",
        "thought_signature",
    ),
    "part": ("annotations", "cache_control", "citations", "id", "index", "prompt_cache_breakpoint"),
    "tool call": (
        "cache_control",
        "extra_content",
        "index",
        "provider_specific_fields",
        "thought_signature",
    ),
    "tool": (
        "allowed_callers",
        "cache_control",
        "defer_loading",
        "eager_input_streaming",
        "metadata",
    ),
    "stream_options": ("include_obfuscation",),
}
DEFAULTS: Mapping[str, Mapping[str, Collection[Any]]] = {
    "request": {
        "audio": (),
        "bad_words": ([],),
        "chat_template_kwargs": ({},),
        "continue_final_message": (False,),
        "documents": ([],),
        "echo": (False,),
        "frequency_penalty": (0,),
        "function_call": ("none",),
        "functions": ([],),
        "ignore_eos": (False,),
        "include_reasoning": (False,),
        "include_stop_str_in_output": (False,),
        "length_penalty": (1,),
        "logit_bias": ({},),
        "logprobs": (False,),
        "min_p": (0,),
        "min_tokens": (0,),
        "modalities": (["text"],),
        "presence_penalty": (0,),
        "reasoning_effort": ("none",),  # a trained model answers without thinking first
        "repetition_penalty": (1,),
        "stop_token_ids": ([],),
        "top_k": (0, -1),
        "top_logprobs": (0,),
        "use_beam_search": (False,),
        "verbosity": ("medium",),
        "web_search_options": (),
    },
    "message": {"audio": (), "function_call": (), "refusal": ("",), "tool_calls": ([],)},
    "stream_options": {"continuous_usage_stats": (False,)},
}


def is_ignored(places: Collection[str], name: str, value: Any) -> bool:
    """Whether an unlisted field at one of these places may be ignored with this value."""
    if value is None or any(name in IGNORED.get(place, ()) for place in places):
        return True
    harmless = (same for place in places for same in DEFAULTS.get(place, {}).get(name, ()))
    # Python's True equals 1; JSON's does not.
    return any(
        value == same and isinstance(value, bool) == isinstance(same, bool) for same in harmless
    )


def is_known(places: Collection[str], name: str) -> bool:
    """Whether the field itself is known at one of these places, so that a value is refused."""
    return any(name in DEFAULTS.get(place, {}) for place in places)
