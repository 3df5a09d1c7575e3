"""What vLLM serves: whether it is a checkpoint as it stands, and which one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from demur.base.errors import EngineError
from demur.core.fingerprint import Fingerprint
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.fingerprint import check_files, fingerprint, settings_digest
from demur.engines.hf.load import PRESETS, checkpoint_folder, preset_encoder
from demur.engines.tokenizer import load_tokenizer


def require_unmodified(vllm_config: Any) -> None:
    """Raise EngineError if vLLM changes the model that it loads: no policy's numbers were made with
    that.
    """
    model = vllm_config.model_config
    changes = {
        "adapters (--enable-lora)": vllm_config.lora_config is not None,
        "quantisation at load time (--quantization)": model.quantization is not None
        and getattr(model.hf_config, "quantization_config", None) is None,
        "random weights (--load-format dummy)": vllm_config.load_config.load_format == "dummy",
        "another configuration (--hf-overrides)": bool(getattr(model, "hf_overrides", None)),
        "code of the checkpoint (--trust-remote-code)": bool(
            getattr(model, "trust_remote_code", False)
        ),
    }
    if found := [what for what, there in changes.items() if there]:
        raise EngineError(
            f"vLLM would serve another model than its files hold: {', '.join(found)}",
            "merge or convert the checkpoint, calibrate on it, and serve that",
        )


def served_fingerprint(vllm_config: Any, expected: Fingerprint) -> Fingerprint:
    """The fingerprint of the served checkpoint; reads every weight file once. expected: whose
    control tokens to take.

    vLLM does not know whether past turns carried control tokens in training: that setting is taken
    as expected where either fits. Raises EngineError when the checkpoint or its control tokens
    cannot be used.
    """
    model = vllm_config.model_config
    dtype = str(model.dtype).removeprefix("torch.")
    served = []
    for keep_history in (True, False):
        tokenizer = load_tokenizer(model.tokenizer)
        encoder = _encoder(tokenizer, expected, keep_history=keep_history)
        served.append((tokenizer, encoder))
    tokenizer, encoder = next(
        (s for s in served if s[1].template_digest == expected.template_digest), served[0]
    )
    folder, other = checkpoint_folder(model.model), Path(model.tokenizer)
    check_files(folder)
    made = fingerprint(folder, tokenizer, encoder, dtype)
    if other.is_dir() and other.resolve() != folder.resolve():
        made = replace(made, config_digest=settings_digest(folder, other))
    return made


def _encoder(tokenizer: Any, expected: Fingerprint, *, keep_history: bool) -> ChatEncoder:
    for preset in PRESETS.values():
        if (preset.tokens, preset.ids) == (expected.tokens, expected.token_ids):
            return preset_encoder(tokenizer, preset, keep_history=keep_history)
    return ChatEncoder(tokenizer, expected.tokens, keep_history=keep_history)
