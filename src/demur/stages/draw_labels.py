"""draw-labels: an evaluated run -> texts for people to label, drawn where labels reduce the
intervals most, and a key with their weights.

Strata: whether the calibrated policy sends the text, whether it declines by the judge's verdict,
and whether the request was near its threshold. The file for people has none of that, nor the
control token: labellers must not know what they are expected to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from demur.base.errors import ConfigError
from demur.core.decision import decide_many
from demur.core.example import Example
from demur.stats.sample import evenly_spaced, power_allocation
from demur.store.answers.labels import DrawnRow, write_drawn
from demur.store.policies.policy_file import read_policy
from demur.store.results.metrics_file import read_metrics
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.rewritten import decided_scores
from demur.store.scores.tables import Branch, read_branches, read_scores

NEAR = 0.25  # the share of requests that count as near their threshold
# texts that the policy sends tell more of its rates than those that other policies would send
SENT_WEIGHT = 4.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The number of texts, and the file to write. Raises ConfigError below 2."""

    out: Path
    labels: int = 120
    seed: int = 0

    def __post_init__(self) -> None:
        if self.labels < 2:
            raise ConfigError(
                f"{self.labels} labels say nothing", "about 100 make the intervals useful"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Stratum:
    """One stratum: the number of texts in it, and of those drawn."""

    name: str
    texts: int
    drawn: int


def run(config: Config, folder: RunFolder) -> tuple[Stratum, ...]:
    """Draw texts and write them with their key. Raises ArtifactError before evaluate has finished,
    DataError if the file is there already. The same seed draws the same texts.
    """
    folder.require("evaluate")
    evaluation = read_metrics(folder.metrics)
    examples = {e.id: e for e in evenly_spaced(read_policy_rows(folder, "test"), evaluation.limit)}
    tokens = evaluation.model.tokens
    branches = [
        b
        for b in read_branches(folder.branches, tokens)
        if b.id in examples and b.answer.text.strip()
    ]
    # Texts of each stratum by its name; in the order of names, so that a seed means one draw.
    names = _strata(folder, list(examples.values()), branches)
    by_name = {
        name: [b for b, n in zip(branches, names, strict=True) if n == name]
        for name in sorted(set(names))
    }
    weights = [
        len(texts) * (SENT_WEIGHT if name.startswith("sent") else 1.0)
        for name, texts in by_name.items()
    ]
    drawn = power_allocation([len(texts) for texts in by_name.values()], weights, config.labels)
    # (text, stratum, texts in the stratum) of each drawn text; a weight is 1 / P(drawn).
    rng = np.random.default_rng(config.seed)
    chosen = [
        (texts[n], name, len(texts))
        for (name, texts), count in zip(by_name.items(), drawn, strict=True)
        for n in rng.choice(len(texts), count, replace=False).tolist()
    ]
    # Shuffled and numbered anew: neither order nor id gives the stratum away.
    rows = []
    for place, n in enumerate(rng.permutation(len(chosen)).tolist(), start=1):
        b, name, size = chosen[n]
        token = evaluation.choices[b.column]
        key = DrawnRow(id=f"text-{place}", prompt=b.id, token=token, stratum=name, of=size)
        rows.append((key, examples[b.id].text, b.answer.text))
    write_drawn(config.out, rows)
    return tuple(
        Stratum(name=name, texts=len(texts), drawn=count)
        for (name, texts), count in zip(by_name.items(), drawn, strict=True)
    )


def _strata(
    folder: RunFolder, examples: Sequence[Example], branches: Sequence[Branch]
) -> list[str]:
    """The name of each branch's stratum."""
    policy = read_policy(folder.policy)
    ids = tuple(e.id for e in examples)
    table = read_scores(decided_scores(folder, "test", policy.fingerprint))[0].select(ids)
    decided = decide_many(policy, table.logp_NC)
    sent = {(i, c) for i, c in zip(ids, decided.choice_N.tolist(), strict=True) if policy.writes(c)}
    # method="lower" takes a distance that occurs, so that at least one request is near.
    far_N: npt.NDArray[np.float64] = np.abs(decided.margin_N)
    near = dict(zip(ids, (far_N <= np.quantile(far_N, NEAR, method="lower")).tolist(), strict=True))
    return [
        f"{'sent' if (b.id, b.column) in sent else 'not sent'}, "
        f"{'declines' if b.outcome.refuses else 'answers'}, {'near' if near[b.id] else 'far'}"
        for b in branches
    ]
