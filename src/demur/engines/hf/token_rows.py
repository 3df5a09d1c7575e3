"""Rows of the embedding and of the output head for control tokens: add, initialise, check, merge.

A token has a row (d,) in the embedding, which is read, and one in the output head, whose product
with a hidden state is the token's logit. With tied weights both are one row. Shapes: V tokens, C
control tokens, d width.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.core.taxonomy import Taxonomy

# Least movement of a trained row, relative to a typical row's norm: training moves it by whole
# percents, rounding and weight decay by far less.
LEAST_CHANGE = 1e-3
# Largest |logit| difference between a merged model and its reload, float32; 0.05 in bfloat16.
MERGE_TOLERANCE = 1e-3


def token_tables(model: Any) -> list[torch.Tensor]:
    """Weight matrices (V, d) with one row per token: the embedding, and the head unless tied."""
    embedding, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    return (
        [embedding]
        if head is embedding or head.data_ptr() == embedding.data_ptr()
        else [embedding, head]
    )


def add_token_rows(
    model: Any, tokenizer: PreTrainedTokenizerFast, taxonomy: Taxonomy, ids: Sequence[int]
) -> None:
    """Grow a model to all tokens of its tokenizer and initialise the control tokens' rows.

    Each row is the mean row of the words of its category's description: distinct descriptions give
    distinct rows, so categories do not begin as copies of each other. Raises EngineError if the
    model cannot grow.
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
    """Grow the embedding and the head to `rows` rows.

    Raises EngineError if they are not plain matrices: quantised, or split over several tables.
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
    """Initialise [respond]'s embedding row as the row of the token before it; untied models only.

    header_id: the last token of a rendered prompt. The model then reads an answer behind [respond]
    almost as without it: behind the mean row of a description ordinary replies cost SmolLM2-135M
    .122 nats a token more than without a control token, behind this row .005. With frozen layers
    the embedding stays so; the head's row, which decides, is another and learns.
    """
    if len(token_tables(model)) == 2:
        with torch.no_grad():
            embedding = model.get_input_embeddings().weight
            embedding[respond_id] = embedding[header_id]


def control_rows(model: Any, ids: Sequence[int]) -> torch.Tensor:
    """Copy the control tokens' rows: (tables, C, d) float32 on the CPU."""
    return torch.stack([table.detach()[list(ids)].float().cpu() for table in token_tables(model)])


def table_names(model: Any) -> list[str]:
    """Names in the state dict of the matrices of `token_tables`, in the same order."""
    named = {p.data_ptr(): name for name, p in model.named_parameters()}
    return [named[table.data_ptr()] for table in token_tables(model)]


def row_change(
    after_tables: Sequence[torch.Tensor], ids: Sequence[int], before: torch.Tensor
) -> tuple[float, ...]:
    """Movement of each control token's row in training, relative to the median row norm.

    The least over embedding and head, per control token.

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
    """Wrap a model with LoRA adapters on all linear layers and trainable control-token rows."""
    from peft import LoraConfig, get_peft_model  # 5 s of imports that full training never needs
    from peft.utils import other

    # trl's fused head reads `.bias` of a wrapped lm_head, and peft 0.21's wrapper has none. To be
    # dropped with a peft that has it.
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
    """Merge LoRA adapters and save the model to `folder`; returns the merged model.

    Raises EngineError if the checkpoint, reloaded, computes other logits on probe_ids: with tied
    embeddings or new rows a merge can silently drop what was learnt.
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
    """Last part of a module's name within a model, as PEFT wants it."""
    names: dict[int, str] = {id(m): name for name, m in model.named_modules()}
    return names[id(module)].rpartition(".")[2]
