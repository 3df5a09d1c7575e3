"""What leaves the frozen layers for every row: read once, kept in one file, read on where a killed
training stopped.

The file is written in batches of like length, so its size says which of them are whole. Its name
holds a digest of the rows' ids and of the weights that read them: other rows, or another base,
never find it.

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

BATCHES_PER_SYNC = 16  # a machine that loses power reads so many again
_BYTES = torch.bfloat16.itemsize
States = list[torch.Tensor]
Read = Callable[[torch.Tensor], torch.Tensor]  # ids (B, T) -> states (B, T, d)


@dataclass(frozen=True, kw_only=True, slots=True)
class CombinedProgress:
    """Reading and steps in one count, so that a bar moves evenly: reading takes about as long as so
    many steps.
    """

    progress: Progress
    reading: int  # steps
    steps: int  # about: batches are not cut yet

    def read(self, done: int, total: int) -> None:
        """Progress of reading, in rows."""
        self.progress(done * self.reading // total, self.reading + self.steps)

    def step(self, done: int, total: int) -> None:
        """Progress of the optimizer, in steps."""
        self.progress(self.reading + done, self.reading + total)


def digest_of(rows: Sequence[Sequence[int]], weights: Iterable[torch.Tensor]) -> str:
    """16 hex digits of the rows' ids and of the weights that read them."""
    state = hashlib.sha256()
    for ids in rows:
        state.update(torch.tensor(ids).numpy().tobytes())
        state.update(b"|")
    for weight in weights:
        state.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return state.hexdigest()[:16]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Work:
    """Rows of ids in the batches in which they are read."""

    rows: Sequence[Sequence[int]]
    batches: Sequence[Sequence[int]]
    width: int

    def octets(self, at: int) -> int:
        """Bytes of the states of a batch."""
        return sum(len(self.rows[n]) for n in self.batches[at]) * self.width * _BYTES

    def read_batch(self, read: Read, at: int) -> list[torch.Tensor]:
        """The states of each row of a batch, on the CPU."""
        some = [self.rows[n] for n in self.batches[at]]
        longest = max(map(len, some))
        ids_BT = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in some])
        states_BTd = read(ids_BT).to("cpu", torch.bfloat16)
        return [states_Td[: len(ids)] for ids, states_Td in zip(some, states_BTd, strict=True)]


def stored_states(
    read: Read, rows: Sequence[Sequence[int]], width: int, file: Path, progress: Progress
) -> States:
    """The states (T, d) of each row of ids, in bfloat16. A file that is whole is not made again.

    Rows of a batch are padded on the right: under causal attention no real token sees a pad. Raises
    ArtifactError before reading if the disk has no room for the file.
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
    whole = torch.from_file(
        str(file), shared=False, size=sum(lengths) * width, dtype=torch.bfloat16
    ).view(-1, width)
    order = [n for batch in work.batches for n in batch]
    by_row = dict(zip(order, whole.split([lengths[n] for n in order]), strict=True))
    return [by_row[n] for n in range(len(rows))]


def _append(read: Read, work: _Work, part: Path, progress: Progress) -> None:
    """Write the states of all batches behind those that are whole in the file already."""
    there = part.stat().st_size if part.exists() else 0
    whole = done = n = 0
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
    """Raise ArtifactError if the disk has no room for a file of so many bytes."""
    free = free_disk(folder)
    if octets > free:
        raise ArtifactError(
            f"the states of the frozen layers take {octets / 1e9:.2g} GB while training, {folder} "
            f"has {free / 1e9:.2g}",
            "free some space, lower train.max_length, or set train.frozen_share = 0",
        )
