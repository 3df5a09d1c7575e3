"""Tokenizers: loading, adding control tokens, proving that each is one special id, digests."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.core.taxonomy import Taxonomy
from demur.engines.bare_template import bare

# Spellings of rows that vocabularies keep free, such as those of Llama 3, Gemma and T5.
RESERVED = re.compile(r"<\|?(reserved_special_token_|unused|extra_id_|reserved_)\d+\|?>")
# For base models, which come without a template: a line that names the role, the text, the end
# token.
TURNS = (
    "{{ bos_token or '' }}{% for m in messages %}{{ '### ' + m['role'] + '\n' + m['content'] + "
    "eos_token + '\n' }}{% endfor %}{% if add_generation_prompt %}{{ '### assistant\n' }}{% endif "
    "%}"
)
# ChatML without the system prompt that some models put in front of every conversation: a third of
# all tokens of short prompts. For models whose tokenizer has its two tokens.
CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' "
    "}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {"turns": TURNS, "chatml": CHATML}


def read_tokenizer(path: str | Path) -> Any:
    """Load the tokenizer of a folder or a Hugging Face name. Raises EngineError if it cannot be."""
    try:
        return AutoTokenizer.from_pretrained(
            str(path), local_files_only=Path(path).is_dir(), trust_remote_code=False
        )
    except (OSError, ValueError) as e:
        raise EngineError(
            f"no tokenizer at {str(path)!r}: {str(e).splitlines()[0]}", "check the path or name"
        ) from None


def fast_tokenizer(path: str | Path) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer. Raises EngineError if it cannot be loaded or is a slow one."""
    tokenizer = read_tokenizer(path)
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise EngineError(
            f"the tokenizer of {str(path)!r} is not a fast one",
            "convert it to tokenizer.json first",
        )
    return tokenizer


def load_tokenizer(path: str | Path, template: str | None = None) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer with a chat template: its own, or `template`.

    template: None or "own", "bare" (see bare_template), a name of TEMPLATES, or Jinja. Raises
    EngineError if the tokenizer cannot be loaded, is not a fast one or has no chat template.
    """
    # transformers would take a mistyped path for a name on the Hub.
    if not Path(path).is_dir() and (Path(path).is_absolute() or str(path).startswith((".", "~"))):
        raise EngineError(
            f"there is no folder {str(path)!r}",
            "expected a checkpoint folder or a Hugging Face name",
        )
    tokenizer = fast_tokenizer(path)
    if template not in (None, "own", "bare"):
        tokenizer.chat_template = TEMPLATES.get(str(template), template)
    if not tokenizer.chat_template:
        raise EngineError(
            f"the tokenizer of {str(path)!r} has no chat template",
            'base models have none: set train.chat_template = "turns", or to a Jinja template of '
            "yours",
        )
    if template == "bare":
        tokenizer.chat_template = bare(tokenizer)
    return tokenizer


def add_control_tokens(
    tokenizer: PreTrainedTokenizerFast, taxonomy: Taxonomy, scratch: Path
) -> tuple[PreTrainedTokenizerFast, dict[str, str]]:
    """Copy `tokenizer` with every control token as one special id, reusing reserved rows.

    scratch: an empty folder to edit the tokenizer's files in. Returns the new tokenizer and, per
    control token, the reserved token whose row it took (absent when a row must be added to the
    model).
    """
    tokenizer.save_pretrained(scratch)
    added = [t.content for t in tokenizer.added_tokens_decoder.values()]
    missing = [t for t in taxonomy.tokens if t not in added]
    reserved = [t for t in added if RESERVED.fullmatch(t)]
    # All or none: with some tokens on reserved rows and some on new ones the model grows anyway.
    taken = dict(zip(missing, reserved, strict=False)) if len(reserved) >= len(missing) else {}
    if taken:
        # transformers cannot rename a token, so the files that name it are edited.
        new_names = {old: new for new, old in taken.items()}
        for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
            if (scratch / name).exists():
                value = _renamed(json.loads((scratch / name).read_text("utf-8")), new_names)
                (scratch / name).write_text(json.dumps(value, ensure_ascii=False), "utf-8")
    copy = load_tokenizer(scratch)
    # Those that exist become special, keeping their ids. False: the default would drop the model's
    # own special tokens.
    copy.add_special_tokens(
        {"extra_special_tokens": list(taxonomy.tokens)}, replace_extra_special_tokens=False
    )
    return copy, taken


def control_ids(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> tuple[int, ...]:
    """The id of each control token, in their order.

    Raises EngineError unless each token is one special id of its own that decodes to the token.
    """
    ids = []
    for token in tokens:
        encoded = tokenizer(token, add_special_tokens=False)["input_ids"]
        if len(encoded) != 1 or encoded[0] == tokenizer.unk_token_id:
            raise EngineError(
                f"control token {token!r} encodes to {len(encoded)} ids {encoded}, expected "
                "exactly one",
                "train with `demur train`, which registers it; or check the taxonomy's spelling: "
                "demur doctor MODEL",
            )
        entry = tokenizer.added_tokens_decoder.get(encoded[0])
        if entry is None or not entry.special:
            raise EngineError(
                f"{token!r} (id {encoded[0]}) is not a special token",
                "register it with add_special_tokens",
            )
        if tokenizer.decode(encoded) != token:
            raise EngineError(
                f"{token!r} decodes to {tokenizer.decode(encoded)!r}", "the token must round-trip"
            )
        ids.append(int(encoded[0]))
    if len(set(ids)) != len(ids):
        raise EngineError(f"control tokens {list(tokens)} share ids {ids}", "give each its own")
    return tuple(ids)


def tokenizer_digest(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of everything that decides how text becomes ids."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    state.pop("padding", None)  # every call that pads sets or unsets it; it does not change ids
    state.pop("truncation", None)
    return f"sha256:{hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()}"


def _renamed(value: Any, taken: dict[str, str]) -> Any:
    """Copy a JSON value with tokens renamed wherever they occur, as keys or as strings."""
    if isinstance(value, dict):
        return {taken.get(k, k): _renamed(v, taken) for k, v in value.items()}
    if isinstance(value, list):
        return [_renamed(v, taken) for v in value]
    return taken.get(value, value) if isinstance(value, str) else value
