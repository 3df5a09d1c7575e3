"""Frozen lower layers: computed once for every row, while only the layers above them learn.

A small machine spends most of a fine-tuning on layers that hardly move. Here

1. every row runs through the lower layers once; the hidden states after them are stored in one
   file;
2. the model is cut: it reads these states in place of token embeddings, so that a step costs the
   upper layers only;
3. of the output head only the control tokens' rows learn. The head is untied from the embedding
   first: the frozen layers have read the embedding as it was, and must read the same in service;
4. afterwards the layers are joined again and saved as a plain checkpoint.

Shapes: B rows, T tokens, d width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from demur.base.errors import EngineError
from demur.core.ports import Progress, no_progress
from demur.engines.training.batches import IGNORE, TrainingRow
from demur.engines.training.hidden_states import States, digest_of, stored_states
from demur.engines.training.resources.machine import has_bfloat16

# Largest |logit| difference between the whole model and the cut one, with bfloat16 states between.
PROBE_TOLERANCE = 0.05


class RowsHead(nn.Module):
    """An output head (V, d) of which only the rows of the control ids learn."""

    ids: torch.Tensor

    def __init__(self, weight_Vd: torch.Tensor, ids: Sequence[int]) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_Vd, requires_grad=False)
        self.rows = nn.Parameter(weight_Vd[list(ids)].detach().clone())
        self.register_buffer("ids", torch.tensor(list(ids)), persistent=False)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Logits (..., V); those of control tokens from the rows that learn."""
        # All V logits from the frozen weight, then those of the control tokens replaced.
        frozen = functional.linear(hidden, self.weight.to(hidden.dtype))
        learnt = functional.linear(hidden, self.rows.to(hidden.dtype))
        return frozen.index_copy(-1, self.ids, learnt.to(frozen.dtype))

    def start_at(self, rows_Cd: torch.Tensor) -> None:
        """Set the rows that learn, in the order of `ids`."""
        with torch.no_grad():
            self.rows.copy_(rows_Cd)

    def whole(self) -> torch.Tensor:
        """The head's weight (V, d) with the learnt rows in place."""
        weight = self.weight.detach().clone()
        weight[self.ids] = self.rows.detach().to(weight.dtype)
        return weight


@dataclass(frozen=True, slots=True, eq=False)
class CutModel:
    """A model without its lower layers, and these layers, for `join`."""

    model: Any
    lower: tuple[nn.Module, ...]


def untie(model: Any) -> None:
    """Untie a model's output head from its embedding; its weights stay equal for now."""
    head = model.get_output_embeddings()
    if head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr():
        head.weight = nn.Parameter(head.weight.detach().clone())
        model.config.tie_word_embeddings = False


def frozen_states(
    model: Any,
    rows: Sequence[TrainingRow],
    frozen: int,
    folder: Path,
    progress: Progress = no_progress,
) -> States:
    """Hidden states after the lower `frozen` layers for each row, (T, d) bfloat16.

    They are stored in a file in `folder`, mapped into memory. Raises EngineError and ArtifactError.
    """
    body, layers = _body(model)
    embedding = model.get_input_embeddings()
    ids = [r.input_ids for r in rows]
    weights = [embedding.weight, *(p for layer in layers[:frozen] for p in layer.parameters())]
    file = folder / f"states-{digest_of(ids, weights)}.bin"
    device = embedding.weight.device

    def read(ids_BT: torch.Tensor) -> torch.Tensor:
        with (
            torch.inference_mode(),
            torch.autocast(device.type, dtype=torch.bfloat16, enabled=has_bfloat16()),
        ):
            states: torch.Tensor = body(
                input_ids=ids_BT.to(device), use_cache=False
            ).last_hidden_state
        return states

    # The model's own code runs the lower layers: for this call they are all its layers, and the
    # norm behind the last one does nothing.
    norm = body.norm
    body.layers, body.norm = layers[:frozen], nn.Identity()
    try:
        return stored_states(read, ids, embedding.weight.shape[1], file, progress)
    finally:
        body.layers, body.norm = layers, norm


def cut(model: Any, frozen: int, control_ids: Sequence[int], probe: TrainingRow) -> CutModel:
    """Cut a model above its lower `frozen` layers and make the rest trainable.

    The layers above, the last norm and the control tokens' head rows learn. Raises EngineError if
    the cut model computes other logits on `probe` than the whole one: then its architecture scales
    embeddings or counts its layers in a way that a cut breaks.
    """
    ids = torch.tensor([probe.input_ids], device=model.get_input_embeddings().weight.device)
    body, layers = _body(model)
    # The probe row's logits of the whole model, and of the cut one from the probe's states.
    with torch.inference_mode():
        wanted = model(input_ids=ids, use_cache=False).logits[0, -1].float()
        norm = body.norm
        body.layers, body.norm = layers[:frozen], nn.Identity()
        states = body(input_ids=ids, use_cache=False).last_hidden_state
        body.layers, body.norm = layers[frozen:], norm
        found = model(inputs_embeds=states, use_cache=False).logits[0, -1].float()
    if (gap := float((wanted - found).abs().max())) > PROBE_TOLERANCE:
        raise EngineError(
            f"{type(model).__name__} cannot be cut below layer {frozen}: logits differ by "
            f"{gap:.3g}",
            "set train.frozen_share = 0, or use LoRA",
        )
    # Freeze all, then free what learns: the embedding and the head's other rows stay.
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for parameter in (*body.layers.parameters(), *norm.parameters()):
        parameter.requires_grad_(True)
    model.set_output_embeddings(
        RowsHead(model.get_output_embeddings().weight.detach(), control_ids)
    )
    return CutModel(model, tuple(layers[:frozen]))


def join(cut_model: CutModel) -> Any:
    """Join a cut model's layers again, with a plain output head that holds the learnt rows."""
    model = cut_model.model
    body = model.get_decoder()
    body.layers = nn.ModuleList([*cut_model.lower, *body.layers])
    head = model.get_output_embeddings()
    plain = nn.Linear(
        head.weight.shape[1], head.weight.shape[0], bias=False, dtype=head.weight.dtype
    )
    plain.weight = nn.Parameter(head.whole())
    model.set_output_embeddings(plain)
    return model


def frozen_count(layers: int, share: float) -> int:
    """Number of frozen layers for a share of them."""
    return round(share * layers)


def layers_below(model: Any, share: float) -> int:
    """Number of a model's frozen layers. Raises EngineError if it is 0 or all layers."""
    layers = _body(model)[1]
    frozen = frozen_count(len(layers), share)
    if not 0 < frozen < len(layers):
        raise EngineError(
            f"train.frozen_share = {share} freezes {frozen} of {len(layers)} layers",
            "leave one to freeze and one to learn, or set it to 0",
        )
    return frozen


def _body(model: Any) -> tuple[Any, nn.ModuleList]:
    """A model's decoder and its layers. Raises EngineError if they are not where most have them."""
    body = model.get_decoder()
    layers = getattr(body, "layers", None)
    if not isinstance(layers, nn.ModuleList) or not hasattr(body, "norm"):
        raise EngineError(
            f"{type(model).__name__} keeps its layers elsewhere", "set train.frozen_share = 0"
        )
    return body, layers


class StateRows(Dataset[dict[str, torch.Tensor]]):
    """Training rows as hidden states. An index is row + epoch x rows, as for NoisyRows."""

    def __init__(self, states: Sequence[torch.Tensor], rows: Sequence[TrainingRow]) -> None:
        self._states, self._labels = states, [torch.tensor(r.labels) for r in rows]
        self._weights = [torch.tensor(r.weight) for r in rows]
        self._midway = [torch.tensor(r.midway is not None) for r in rows]

    def __len__(self) -> int:
        return len(self._states)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        n = index % len(self._states)
        return {
            "inputs_embeds": self._states[n],
            "labels": self._labels[n],
            "weights": self._weights[n],
            "midway": self._midway[n],
        }


def stacked(states: Sequence[torch.Tensor]) -> torch.Tensor:
    """Stack states (T, d) of several rows, padded on the right: (B, T, d) float32."""
    longest = max(map(len, states))
    return torch.stack(
        [functional.pad(states_Td, (0, 0, 0, longest - len(states_Td))) for states_Td in states]
    ).float()


def pad_states(rows: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Collate rows of StateRows by padding on the right.

    {"inputs_embeds": (B, T, d) float32, "labels": (B, T), "weights": (B,), "midway": (B,)}.
    """
    states_BTd = stacked([r["inputs_embeds"] for r in rows])
    longest = states_BTd.shape[1]
    labels = [
        functional.pad(r["labels"], (0, longest - len(r["labels"])), value=IGNORE) for r in rows
    ]
    return {
        "inputs_embeds": states_BTd,
        "labels": torch.stack(labels),
        "weights": torch.stack([r["weights"] for r in rows]),
        "midway": torch.stack([r["midway"] for r in rows]),
    }
