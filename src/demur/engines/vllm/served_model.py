"""The model that a vLLM process serves: whether it is an unmodified checkpoint, and which one."""

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
    """Raise EngineError if vLLM is set to change the model that it loads.

    Thresholds of a policy hold for the scores of the checkpoint as it is stored.
    """
    model = vllm_config.model_config
    changes = {
        "adapters (--enable-lora)": vllm_config.lora_config is not None,
        # a checkpoint that was stored quantised is served as calibrated
        "quantisation at load time (--quantization)": model.quantization is not None
        and getattr(model.hf_config, "quantization_config", None) is None,
        "random weights (--load-format dummy)": vllm_config.load_config.load_format == "dummy",
        "another configuration (--hf-overrides)": bool(getattr(model, "hf_overrides", None)),
        "code of the checkpoint (--trust-remote-code)": bool(
            getattr(model, "trust_remote_code", False)
        ),
    }
    if found := [change for change, there in changes.items() if there]:
        raise EngineError(
            f"vLLM would serve another model than its files hold: {', '.join(found)}",
            "merge or convert the checkpoint, calibrate on it, and serve that",
        )


def served_fingerprint(vllm_config: Any, expected: Fingerprint) -> Fingerprint:
    """The fingerprint of the served checkpoint; reads every weight file once.

    expected: the policies' fingerprint, which names the control tokens. Raises EngineError when the
    checkpoint or its control tokens cannot be used.
    """
    model = vllm_config.model_config
    dtype = str(model.dtype).removeprefix("torch.")
    # The published token convention that the control tokens belong to, if any.
    preset = next(
        (p for p in PRESETS.values() if (p.tokens, p.ids) == (expected.tokens, expected.token_ids)),
        None,
    )
    # A server does not know whether past turns carried control tokens in training, which is part of
    # the template's digest: the setting that leads to the expected digest is taken, if one does.
    served: list[tuple[Any, ChatEncoder]] = []
    for keep_history in (True, False):
        tokenizer = load_tokenizer(model.tokenizer)
        if preset is None:
            encoder = ChatEncoder(tokenizer, expected.tokens, keep_history=keep_history)
        else:
            encoder = preset_encoder(tokenizer, preset, keep_history=keep_history)
        served.append((tokenizer, encoder))
    tokenizer, encoder = next(
        (s for s in served if s[1].template_digest == expected.template_digest), served[0]
    )
    folder, tokenizer_folder = checkpoint_folder(model.model), Path(model.tokenizer)
    check_files(folder)
    found = fingerprint(folder, tokenizer, encoder, dtype)
    # --tokenizer may name another folder, whose settings files then count
    if tokenizer_folder.is_dir() and tokenizer_folder.resolve() != folder.resolve():
        found = replace(found, config_digest=settings_digest(folder, tokenizer_folder))
    return found
