"""Hidden states after the frozen layers for every row, computed once and stored in one file.

1. Rows are computed in batches of like length, and appended to the file in that order.
2. A killed training goes on behind the last batch that is whole, which the file's size tells.
3. The file's name holds a digest of the rows' ids and of the weights that read them, so that other
   rows, or another base, never find it.

Shapes: B rows, T tokens, d width.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from demur.base.errors import ArtifactError
from demur.core.ports import Progress
from demur.engines.training.batches import TOKENS_PER_BATCH, by_length
from demur.engines.training.resources.available import free_disk

BATCHES_PER_SYNC = 16  # batches between two fsyncs: lost at most if the machine loses power
_BYTES = torch.bfloat16.itemsize
States = list[torch.Tensor]
Read = Callable[[torch.Tensor], torch.Tensor]  # ids (B, T) -> states (B, T, d)


@dataclass(frozen=True, kw_only=True, slots=True)
class CombinedProgress:
    """Progress of reading the frozen layers and of optimizer steps, as one count of steps."""

    progress: Progress
    reading: int  # steps that take about as long as reading
    steps: int  # estimated: batches are not cut yet

    def read(self, done: int, total: int) -> None:
        """Report progress of reading, in rows."""
        self.progress(done * self.reading // total, self.reading + self.steps)

    def step(self, done: int, total: int) -> None:
        """Report progress of the optimizer, in steps."""
        self.progress(self.reading + done, self.reading + total)


def digest_of(rows: Sequence[Sequence[int]], weights: Iterable[torch.Tensor]) -> str:
    """16 hex digits of sha256 over the rows' ids and the weights that read them."""
    state = hashlib.sha256()
    for ids in rows:
        state.update(torch.tensor(ids).numpy().tobytes())
        state.update(b"|")
    for weight in weights:
        state.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """Rows of ids, and the batches in which they are read."""

    rows: Sequence[Sequence[int]]
    batches: Sequence[Sequence[int]]  # indices of rows
    width: int  # d

    def octets(self, at: int) -> int:
        """Bytes of a batch's states, without padding."""
        return sum(len(self.rows[n]) for n in self.batches[at]) * self.width * _BYTES

    def read_batch(self, read: Read, at: int) -> list[torch.Tensor]:
        """States (T, d) of each row of a batch, bfloat16 on the CPU, without padding."""
        some = [self.rows[n] for n in self.batches[at]]
        longest = max(map(len, some))
        ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in some])
        states_BTd = read(ids_BT).to("cpu", torch.bfloat16)
        return [states_Td[: len(ids)] for ids, states_Td in zip(some, states_BTd, strict=True)]


def stored_states(
    read: Read, rows: Sequence[Sequence[int]], width: int, file: Path, progress: Progress
) -> States:
    """States (T, d) of each row of ids, bfloat16, from the file or computed into it now.

    read: computes the states of a batch, padded on the right: under causal attention no real token
    attends to padding. Raises ArtifactError before reading if the disk has no room for the file.
    """
    lengths = [len(ids) for ids in rows]
    work = _Work(rows=rows, batches=by_length(lengths, TOKENS_PER_BATCH), width=width)
    if not file.exists():
        part = file.with_name(f"{file.name}.part")
        _check_room(
            file.parent,
            sum(lengths) * width * _BYTES - (part.stat().st_size if part.exists() else 0),
        )
        _append(read, work, part, progress)
        part.replace(file)
    # Mapped, not loaded: the states of all rows may be larger than the memory.
    whole = torch.from_file(
        str(file), shared=False, size=sum(lengths) * width, dtype=torch.bfloat16
    ).view(-1, width)
    order = [n for batch in work.batches for n in batch]
    by_row = dict(zip(order, whole.split([lengths[n] for n in order]), strict=True))
    return [by_row[n] for n in range(len(rows))]


def _append(read: Read, work: _Work, part: Path, progress: Progress) -> None:
    """Append the states of all batches that are not whole in the file."""
    there = part.stat().st_size if part.exists() else 0
    whole = done = n = 0
    # Count the batches that the file holds whole; an incomplete one is cut off below.
    while n < len(work.batches) and whole + work.octets(n) <= there:
        whole, done, n = whole + work.octets(n), done + len(work.batches[n]), n + 1
    with part.open("ab") as out:
        out.truncate(whole)
        for at in range(n, len(work.batches)):
            for states_Td in work.read_batch(read, at):
                out.write(states_Td.contiguous().view(torch.uint8).numpy().tobytes())
            done += len(work.batches[at])
            if at % BATCHES_PER_SYNC == 0:
                out.flush()
                os.fsync(out.fileno())
            progress(done, len(work.rows))


def _check_room(folder: Path, octets: int) -> None:
    """Raise ArtifactError if the disk has no room for so many more bytes."""
    free = free_disk(folder)
    if octets > free:
        raise ArtifactError(
            f"the states of the frozen layers take {octets / 1e9:.2g} GB while training, {folder} "
            f"has {free / 1e9:.2g}",
            "free some space, lower train.max_length, or set train.frozen_share = 0",
        )
