"""distil: unlabelled traffic and the model's scores of it -> a cheap front model, and the edges
beyond which it decides in the model's place.

1. Rows that promises or measurements need (calibrate, test) and rows that the model was trained on
   are left out.
2. The front is fitted on about 70 % of the rest; the others choose its range and edges
   (demur.stats.text.front_edges).
3. All rows that it has seen are recorded, so that `demur calibrate` refuses to count one of them.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from demur.base.arrays import Floats
from demur.base.errors import ConfigError, DataError
from demur.base.files import digest_file, digest_json, write_json
from demur.core.cascade.front import Front, FrontEdges, system_digest
from demur.core.decision import decide_many
from demur.core.example import Example
from demur.core.fingerprint import Fingerprint
from demur.core.policy import Policy
from demur.core.score import ScoreTable
from demur.core.settings import FRONT_BOUND
from demur.core.training.seen import merge_records, seen_of, seen_prompts
from demur.stats.sample import split_by_group
from demur.stats.text.front_edges import HeldOutPrompts, choose_edges
from demur.stats.text.front_fit import fit_linear, fit_range
from demur.store.fingerprint_json import fingerprint_json
from demur.store.models.front_file import (
    HELD_SHARE,
    FrontMetrics,
    front_file,
    metrics_file,
    write_front,
)
from demur.store.models.seen_file import front_seen, seen_by_run, write_seen
from demur.store.policies.policy_file import policy_digest
from demur.store.prompts_file import PromptRow, Prompts
from demur.store.rows import read_examples
from demur.store.run import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The bound on the front's errors. Raises ConfigError on a bound outside (0, 0.5)."""

    bound: float = FRONT_BOUND  # on how often the model decides otherwise where the front is sure
    seed: int = 0  # which rows are held out

    def __post_init__(self) -> None:
        if not 0.0 < self.bound < 0.5:
            raise ConfigError(f"bound {self.bound} is not in (0, 0.5)", "0.01: one in a hundred")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Traffic:
    """Unlabelled requests with the model's scores of them."""

    file: Path
    prompts: Prompts
    scores: ScoreTable
    model: Fingerprint  # of the scores
    model_ms: float | None  # CPU time of the model for one score; None: it was not measured


def run(config: Config, traffic: Traffic, policy: Policy, folder: RunFolder) -> FrontMetrics:
    """Fit a front on traffic; write distil/front.npz, its record of rows, and its metrics.

    policy: its decisions on the model's scores are those that the front is to agree with. Raises
    DataError on too little traffic, PolicyError if the policy is of another model.
    """
    policy.require_model(traffic.model)
    rows, left_out = _usable(traffic.prompts.rows, folder)
    examples = [
        Example(id=r.id, source="traffic", messages=r.messages, kind="benign", group=r.group)
        for r in rows
    ]
    held, fitted = split_by_group(examples, HELD_SHARE, config.seed)
    if not held:
        raise DataError(f"{len(rows)} usable rows of traffic", "give more traffic")
    # First a front without edges, which is sure of nothing: the edges are chosen on its readings of
    # held-out rows within its range, and a row outside it always goes to the model.
    fit = fit_linear([e.text for e in fitted], _scores(traffic, fitted))
    own = fit_range([e.prompt for e in fitted], [e.prompt for e in held])
    front = Front(
        taught_by=traffic.model,
        linear=fit.linear,
        range=own,
        edges=FrontEdges(answer=None, refuse=None),
    )
    inside = [e for e in held if front.outside(e.prompt) is None]
    chosen = choose_edges(_held(front, inside, _scores(traffic, inside), policy), config.bound)
    front = replace(front, edges=chosen.edges)
    # CPU time, so that other work on the machine does not count.
    start = time.process_time()
    decided = sum(front.given(e.prompt) is not None for e in held)
    front_ms = 1000.0 * (time.process_time() - start) / len(held)
    metrics = FrontMetrics(
        bound=config.bound,
        policy=policy.name,
        strength=fit.strength,
        left_out=left_out,
        fitted=len(fitted),
        held=len(held),
        inside=len(inside),
        decided=decided,
        answered=chosen.answered,
        refused=chosen.refused,
        front_ms=front_ms,
        model_ms=traffic.model_ms,
    )
    _write(config, front, metrics, (traffic, policy, examples), folder)
    return metrics


def _usable(rows: Sequence[PromptRow], folder: RunFolder) -> tuple[list[PromptRow], dict[str, int]]:
    """The rows that a front may learn from, and how many were left out for each reason."""
    prompts = [row.messages for row in rows]
    kept_apart = [e for s in ("calibrate", "test") for e in read_examples(folder.split(s))]
    reasons = (
        ("of the calibrate or test split", seen_prompts(seen_of(kept_apart), prompts)),
        ("that the model was trained on", seen_prompts(seen_by_run(folder), prompts)),
        (
            "with more than one message of a user",
            [n for n, p in enumerate(prompts) if system_digest(p) is None],
        ),
    )
    # A row with several reasons counts under the first: later assignments win, hence reversed.
    why = {n: reason for reason, found in reversed(reasons) for n in found}
    left_out = {reason: list(why.values()).count(reason) for reason, _ in reasons}
    return [row for n, row in enumerate(rows) if n not in why], left_out


def _scores(traffic: Traffic, examples: Sequence[Example]) -> Floats:
    return traffic.scores.select(tuple(e.id for e in examples)).logp_NC


def _held(
    front: Front, inside: Sequence[Example], logp_NC: Floats, policy: Policy
) -> HeldOutPrompts:
    """Decide held-out rows within the range twice: on the front's scores, and on the model's.

    logp_NC: the model's scores of `inside`.
    """
    readings = [front.read(e.text) for e in inside]
    fronts_NC = np.array([r.logp_C for r in readings], dtype=np.float32).reshape(logp_NC.shape)
    theirs, ours = decide_many(policy, logp_NC), decide_many(policy, fronts_NC)
    # Rows in doubt on either side agree with nothing: such a row is the model's.
    settled_N = ~theirs.doubt_N & ~ours.doubt_N
    return HeldOutPrompts(
        odds_N=np.array([r.odds for r in readings]),
        risk_N=np.array([r.risk for r in readings]),
        both_answer_N=settled_N & ~theirs.held_N & ~ours.held_N,
        # refused, or deferred, alike
        both_refuse_N=settled_N & theirs.held_N & (theirs.sent_N == ours.sent_N),
    )


def _write(
    config: Config,
    front: Front,
    metrics: FrontMetrics,
    made_with: tuple[Traffic, Policy, Sequence[Example]],
    folder: RunFolder,
) -> None:
    """Write all files, the receipt last."""
    # The record holds every row of the traffic that was used: also those held out, because the
    # edges were chosen on them.
    traffic, policy, examples = made_with
    digest = write_front(front_file(folder), front)
    write_seen(front_seen(folder), merge_records([seen_of(examples)]), digest)
    write_json(metrics_file(folder), metrics.model_dump(mode="json"))
    made_from = {
        "traffic": digest_file(traffic.file),
        "scores": digest_json(traffic.scores.logp_NC.tolist()),
        "policy": policy_digest(policy),
        "model": digest_json(fingerprint_json(traffic.model)),
    }
    files = [front_file(folder), front_seen(folder), metrics_file(folder)]
    folder.finish("distil", asdict(config), made_from, files)
