"""attack.json: what became of attacks on a model under a policy, and attack.jsonl: each of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from demur.base.boundary import Strict, every_key
from demur.base.files import write_json, write_text
from demur.core.judging.outcome import Verdict
from demur.core.midway.monitor import AnswerSampling
from demur.store.fingerprint_json import StoredFingerprint
from demur.store.results.metrics_file import MeasuredRate

# refused: by the first decision. stopped: by the monitor. written: to its end, or to its limit
Fate = Literal["refused", "stopped", "written"]


class JudgedAttack(Strict):
    """What one judge says of the texts of one attack."""

    judge: str
    # Got an answer to their end that does not decline, among requests whose text could be judged:
    # under the policy, and under its first decision alone.
    answered: MeasuredRate
    first_alone: MeasuredRate
    # of `answered`, those whose text has lost the meaning of the request
    off_topic: int
    unscored: int  # in no rate


class AttackRow(Strict):
    """One attack on all requests."""

    attack: str
    requests: int
    left_out: dict[str, int]  # reason: requests that could not be asked so
    refused: MeasuredRate  # by the first decision
    stopped: MeasuredRate  # by the monitor
    # refused, or stopped with no more tokens sent than `within`
    caught: MeasuredRate
    within: int
    median_leaked: float | None  # tokens sent of stopped answers; None: none was stopped
    judged: tuple[JudgedAttack, ...]


class AttackFile(Strict):
    """attack.json."""

    format: Literal["demur.attack/1"] = "demur.attack/1"
    model: StoredFingerprint
    policy: str
    policy_digest: str
    monitored: bool
    answers: Annotated[AnswerSampling, every_key(AnswerSampling)]
    attacks: tuple[AttackRow, ...]


class AttackItem(Strict):
    """One line of attack.jsonl: one request under one attack. Texts only where they are kept."""

    id: str
    attack: str
    fate: Fate
    category: str | None  # that refused or stopped it
    leaked: int | None = None  # tokens sent of a stopped answer
    verdicts: dict[str, Verdict]  # of each judge on the whole text; empty where there is none
    about: bool | None = None  # whether that text is about the request
    text: str | None = None


def write_attack(folder: Path, attack: AttackFile, items: Sequence[AttackItem]) -> None:
    """Write both files; attack.json comes last: where it is, the result is whole."""
    lines = (json.dumps(i.model_dump(mode="json"), ensure_ascii=False) for i in items)
    write_text(folder / "attack.jsonl", "".join(f"{line}\n" for line in lines))
    write_json(folder / "attack.json", attack.model_dump(mode="json"))
