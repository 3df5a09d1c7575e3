"""Harvested prefixes: the base model's own answers to training rows that are to be refused.

1. Before anything is trained the base writes an answer to each of these rows behind a forced
   [respond], greedily or sampled; control tokens are banned from it.
2. An answer that declines in words is no prefix to turn back from: it is left out and counted.
3. Answers are appended to a file beside the checkpoints, batch by batch, so that a killed training
   goes on behind the last one. The file goes when training ends.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from demur.base.errors import EngineError
from demur.base.files import digest_bytes, write_text
from demur.core.example import Example
from demur.core.judging.outcome import Verdict
from demur.core.ports import Judge
from demur.core.rows.splitting import seeded
from demur.core.serving import Sampling
from demur.core.training.settings import TrainSettings
from demur.core.training.turn_back import rows_to_harvest
from demur.engines.chat_encoder import ChatEncoder
from demur.engines.hf.decode import AnswerRow, decode, prefill
from demur.engines.hf.rules import DecodeRules, decode_rules
from demur.engines.training.batches import by_length
from demur.engines.training.resources.machine import uses_bfloat16

WRITE_TOKENS = 4096  # positions cached at once, those of the answers counted
_FILE = "harvested.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Harvested:
    """One answer that the base wrote."""

    id: str  # of the row
    text: str
    tokens: int
    verdict: Verdict  # compliance: it became a prefix


@dataclass(frozen=True, kw_only=True, slots=True)
class Writer:
    """A base model with control tokens that have not been trained."""

    model: Any
    tokenizer: PreTrainedTokenizerFast
    encoder: ChatEncoder
    settings: TrainSettings


def harvest(
    writer: Writer, examples: Sequence[Example], judge: Judge | None, work: Path
) -> list[Harvested]:
    """Write and judge an answer for each row that wants a prefix and has none; [] where nothing is
    to be harvested.

    work: folder of the file. Raises EngineError without a judge, and if no answer complies.
    """
    settings = writer.settings
    turn_back = settings.turn_back
    if turn_back is None or turn_back.prefixes != "harvest":
        return []
    if judge is None:
        raise EngineError(
            "nobody judges harvested answers", "give the trainer a judge, such as that of phrases"
        )
    wanted = rows_to_harvest(examples, turn_back, settings.seed)
    answers = _written(writer, wanted, work / _FILE)
    found = []
    for example in wanted:
        if example.id not in answers:  # too long for max_length
            continue
        text, tokens = answers[example.id]
        outcome = judge.judge(example.text, text, example.label)
        found.append(Harvested(id=example.id, text=text, tokens=tokens, verdict=outcome.verdict))
    own = any(e.prefix for e in examples)
    if not own and not any(one.verdict == "compliance" for one in found):
        raise EngineError(
            f"train.turn_back.prefixes = 'harvest': the base model declined, or said nothing, in "
            f"all {len(found)} answers to {len(wanted)} training rows that are to be refused",
            "there is nothing to turn back from: name a file of prefixes",
        )
    return found


def with_harvested(examples: Sequence[Example], found: Sequence[Harvested]) -> list[Example]:
    """The rows, those whose answer complied with it as their prefix."""
    prefixes = {one.id: one.text for one in found if one.verdict == "compliance"}
    return [replace(e, prefix=prefixes[e.id]) if e.id in prefixes else e for e in examples]


def write_harvest(path: Path, found: Sequence[Harvested], *, keep_text: bool) -> None:
    """Write what was harvested: a digest of each text, or the text where that was asked for."""
    lines = []
    for one in found:
        digest = digest_bytes(one.text.encode("utf-8", "surrogatepass"))
        said = {"text": one.text} if keep_text else {"digest": digest}
        row = {"id": one.id, "tokens": one.tokens, "verdict": one.verdict, **said}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    write_text(path, "".join(lines))


def _written(writer: Writer, wanted: Sequence[Example], file: Path) -> dict[str, tuple[str, int]]:
    """Text and tokens of each row's answer, by id, from the file or written into it now.

    Rows whose prompt leaves no room in max_length are left out, as training leaves them out.
    """
    found = {row["id"]: (row["text"], row["tokens"]) for row in _kept(file)}
    rows = [(e.id, writer.encoder.prompt(e.prompt)) for e in wanted if e.id not in found]
    rows = [(name, ids) for name, ids in rows if len(ids) + 2 <= writer.settings.max_length]
    if not rows:
        return found
    file.parent.mkdir(parents=True, exist_ok=True)
    turn_back = writer.settings.turn_back
    most = turn_back.most_tokens if turn_back is not None else 1
    model = _to_write_with(writer)
    rules = decode_rules(model, writer.tokenizer, writer.encoder, most)
    with file.open("a", encoding="utf-8") as out:
        for batch in by_length([len(ids) + most for _, ids in rows], WRITE_TOKENS):
            some = [rows[n] for n in batch]
            answers = _batch(writer, model, some, rules)
            for (name, _), (text, tokens) in zip(some, answers, strict=True):
                found[name] = text, tokens
                line = {"id": name, "text": text, "tokens": tokens}
                out.write(json.dumps(line, ensure_ascii=False) + "\n")
            out.flush()
    return found


def _kept(file: Path) -> Iterator[dict[str, Any]]:
    """The lines that a killed training has written; a last one that is not whole is cut off."""
    if not file.exists():
        return
    text = file.read_text("utf-8", errors="replace")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        file.write_text(whole, "utf-8")
    yield from map(json.loads, whole.splitlines())


def _to_write_with(writer: Writer) -> Any:
    """The model in bfloat16 where training multiplies that: a copy, since its weights learn."""
    half = uses_bfloat16(writer.settings) and writer.model.dtype == torch.float32
    return copy.deepcopy(writer.model).to(torch.bfloat16) if half else writer.model


@torch.inference_mode()
def _batch(
    writer: Writer, model: Any, rows: Sequence[tuple[str, Sequence[int]]], rules: DecodeRules
) -> list[tuple[str, int]]:
    """Text and tokens of the answer to each row (id, ids of its prompt), behind [respond]."""
    encoder, tokenizer, settings = writer.encoder, writer.tokenizer, writer.settings
    respond = encoder.token_ids[0]
    sampling = Sampling(temperature=settings.turn_back.temperature if settings.turn_back else 0.0)
    # A row's draws depend on its id alone, so that a training that was killed draws the same.
    answers = [
        AnswerRow(
            prompt=n,
            first_id=respond,
            sampling=sampling,
            random=seeded(settings.seed, f"harvest:{name}"),
        )
        for n, (name, _) in enumerate(rows)
    ]
    decode(model, prefill(model, [ids for _, ids in rows], respond), answers, rules)
    texts = tokenizer.batch_decode([a.ids for a in answers], skip_special_tokens=True)
    return [(text.strip(), len(a.ids)) for text, a in zip(texts, answers, strict=True)]
