"""The digest of the files beside a checkpoint's weights that move a score: read as JSON, digested
here. Pure.

The same weights under another rms_norm_eps, rope_theta or number of layers are another model. What
only says who wrote the files, and with which version, is left out; the dtype is a field of its own
in the fingerprint, as the weights were loaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

# Files that are read, and the keys in them that no score depends on.
NOISE: Mapping[str, frozenset[str]] = {
    "config.json": frozenset(
        {
            "transformers_version",
            "_name_or_path",
            "_commit_hash",
            "torch_dtype",
            "dtype",
            "use_cache",
        }
    ),
    "generation_config.json": frozenset(
        {"transformers_version", "_from_model_config", "use_cache"}
    ),
    "tokenizer_config.json": frozenset(
        {
            "transformers_version",
            "name_or_path",
            "tokenizer_class",
            "chat_template",
            "backend",
            "is_local",
            "local_files_only",
        }
    ),
    "special_tokens_map.json": frozenset(),
}


def config_digest(files: Mapping[str, Any]) -> str | None:
    """sha256 of the settings in these files, by name; None without a config.json. Unknown files are
    not looked at.
    """
    if "config.json" not in files:
        return None
    settings = {
        name: _without(files[name], noise) for name, noise in NOISE.items() if name in files
    }
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def _without(value: Any, noise: frozenset[str]) -> Any:
    """The value without some keys, at every depth: a model of several parts has a config in its
    config.
    """
    if isinstance(value, dict):
        return {key: _without(inner, noise) for key, inner in value.items() if key not in noise}
    return [_without(inner, noise) for inner in value] if isinstance(value, list) else value
