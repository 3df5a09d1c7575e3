"""Rows of the embedding and of the head that belong to control tokens: made, initialised, proven
trained, merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.core.taxonomy import Taxonomy

# A trained row moves by whole percents of a typical row; float32 rounding and weight decay alone
# move it far less.
LEAST_CHANGE = 1e-3
# largest |logit| difference between the merged model and its reload, float32; bf16 gets 0.05
MERGE_TOLERANCE = 1e-3


def token_tables(model: Any) -> list[torch.Tensor]:
    """The weight matrices (V, d) with one row per token: the embedding, and the head where it is
    not tied to it.
    """
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return (
        [embedding]
        if head is embedding or head.data_ptr() == embedding.data_ptr()
        else [embedding, head]
    )


def add_token_rows(
    model: Any, tokenizer: PreTrainedTokenizerFast, taxonomy: Taxonomy, ids: Sequence[int]
) -> None:
    """Give the model a row for every token and start each control token's row at the mean row of
    its description.

    Distinct descriptions give distinct rows, so categories do not begin as copies of each other.
    """
    if len(tokenizer) > min(table.shape[0] for table in token_tables(model)):
        _grow_tables(model, len(tokenizer))
    texts = ["Answer the request.", *(c.description for c in taxonomy.categories)]
    with torch.no_grad():
        for table in token_tables(model):
            for token_id, text in zip(ids, texts, strict=True):
                words = tokenizer(text, add_special_tokens=False)["input_ids"]
                table[token_id] = table[words].mean(dim=0)


def _grow_tables(model: Any, rows: int) -> None:
    """Let the embedding and the head grow to `rows`. Raises EngineError where they cannot.

    They are no plain matrices then: quantised, or shared out over several tables.
    """
    before, why = min(table.shape[0] for table in token_tables(model)), ""
    try:
        model.resize_token_embeddings(rows, mean_resizing=False)  # the caller sets the new rows
    except (TypeError, ValueError, AttributeError, NotImplementedError) as e:
        why = f": {str(e).strip().partition('. ')[0]}"
    if why or min(table.shape[0] for table in token_tables(model)) < rows:
        raise EngineError(
            f"{type(model).__name__} has no room for {rows - before} more tokens: {before:,} rows "
            f"that cannot grow{why}",
            "take a base that is not quantised, or one whose tokenizer has reserved tokens or "
            "spare rows",
        )


def start_respond_row(model: Any, respond_id: int, header_id: int) -> None:
    """Give [respond] the input row of the token before it, in a model whose embedding and head are
    apart.

    header_id: the last token of a rendered prompt. What follows is then read as the base model
    reads its own answers: behind the mean row of a description ordinary replies cost SmolLM2-135M
    .122 nats a token more than without a control token, behind this one .005. A frozen embedding
    keeps it; the head's row, which decides, is another.
    """
    if len(token_tables(model)) == 2:
        with torch.no_grad():
            embedding = model.get_input_embeddings().weight
            embedding[respond_id] = embedding[header_id]


def control_rows(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """A float32 copy of the control tokens' rows, (token_tables, C, d)."""
    return torch.stack([table.detach()[list(ids)].float().cpu() for table in token_tables(model)])


def table_names(model: Any) -> list[str]:
    """What the state dict calls the matrices of `token_tables`, in the same order."""
    named = {p.data_ptr(): name for name, p in model.named_parameters()}
    return [named[table.data_ptr()] for table in token_tables(model)]


def row_change(
    after_tables: Sequence[torch.Tensor], ids: Sequence[int], before: torch.Tensor
) -> tuple[float, ...]:
    """How far each control token's row moved, relative to the median row norm; the least over
    embedding and head.

    after_tables: the trained matrices of `token_tables`. before: control_rows as they were
    initialised.

    Raises EngineError if a row did not move or is about zero: then the token was never trained.
    """
    after = torch.stack([table[list(ids)].float().cpu() for table in after_tables])
    scale = torch.stack([table.float().norm(dim=1).median().cpu() for table in after_tables])
    change_C = ((after - before).norm(dim=2) / scale[:, None]).min(dim=0).values
    norm_C = (after.norm(dim=2) / scale[:, None]).min(dim=0).values
    for token_id, change, norm in zip(ids, change_C.tolist(), norm_C.tolist(), strict=True):
        if change < LEAST_CHANGE or norm < LEAST_CHANGE:
            raise EngineError(
                f"the row of control token id {token_id} was not trained: moved {change:.2g}, "
                f"norm {norm:.2g}",
                "every category of the taxonomy needs training rows; with LoRA, its rows must be "
                "trainable",
            )
    return tuple(change_C.tolist())


def with_lora(model: Any, ids: Sequence[int], *, rank: int, alpha: int, dropout: float) -> Any:
    """A PEFT model: adapters on all linear layers, and the control tokens' rows trainable wherever
    they are stored.
    """
    from peft import LoraConfig, get_peft_model  # 5 s of imports that full training never needs
    from peft.utils import other

    # trl's fused head reads `.bias` of a wrapped lm_head; peft 0.21's wrapper has none. Drop when
    # it does.
    if not hasattr(other.TrainableTokensWrapper, "bias"):
        other.TrainableTokensWrapper.bias = None  # type: ignore[attr-defined]
    rows: Any = list(ids)
    if len(token_tables(model)) == 2:  # untied: a bare list would train the embedding's rows only
        rows = {
            _name(model, model.get_input_embeddings()): rows,
            _name(model, model.get_output_embeddings()): rows,
        }
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules="all-linear",
        trainable_token_indices=rows,
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)


def merge_lora(adapted: Any, folder: Path, probe_ids: Sequence[int]) -> Any:
    """Merge adapters, save to `folder`, reload, and compare logits on `probe_ids`. Returns the
    merged model.

    Raises EngineError if the reloaded checkpoint computes something else: with tied embeddings or
    new rows a merge can silently drop what was learnt.
    """
    probe = torch.tensor([list(probe_ids)], device=adapted.device)
    adapted.eval()
    with torch.no_grad():
        wanted = adapted(input_ids=probe).logits[0, -1].float().cpu()
    merged = adapted.merge_and_unload()
    merged.save_pretrained(folder)
    reloaded = AutoModelForCausalLM.from_pretrained(
        folder, dtype=merged.dtype, trust_remote_code=False
    )
    with torch.no_grad():
        found = reloaded(input_ids=probe.cpu()).logits[0, -1].float()
    gap = float((wanted - found).abs().max())
    if gap > (MERGE_TOLERANCE if merged.dtype == torch.float32 else 0.05):
        raise EngineError(
            f"the merged checkpoint's logits differ by {gap:.3g} after a reload",
            "train in full instead",
        )
    return merged


def _name(model: Any, module: Any) -> str:
    names: dict[int, str] = {id(m): name for name, m in model.named_modules()}
    return names[id(module)].rpartition(".")[2]
