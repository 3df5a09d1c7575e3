"""draw-labels: an evaluated run -> texts for people to label, drawn where labels reduce the
intervals most, and a key with their weights.

Where the judge says of few texts that they decline, these and the others are strata of their own,
and the few are drawn more often. Elsewhere strata buy nothing (bench/label_draws.py), and all texts
are drawn alike. The file for people has neither verdict nor control token: labellers must not know
what they are expected to find.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from demur.base.errors import ConfigError
from demur.stats.sample import evenly_spaced, power_allocation
from demur.store.answers.labels import DrawnRow, write_drawn
from demur.store.results.metrics_file import read_metrics
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.tables import read_branches

# of the texts: so few that decline, by the judge, are a stratum of their own
FEW = 0.15
ALL = "all texts, at random"


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
    names = strata_of([b.outcome.refuses for b in branches])
    by_name = {
        name: [b for b, n in zip(branches, names, strict=True) if n == name]
        for name in sorted(set(names))
    }
    sizes = [len(texts) for texts in by_name.values()]
    drawn = power_allocation(sizes, sizes, config.labels)
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


def strata_of(declines: Sequence[bool]) -> list[str]:
    """The stratum of each text, from whether it declines by the judge."""
    share = sum(declines) / max(len(declines), 1)
    if not 0.0 < share <= FEW:
        return [ALL] * len(declines)
    return ["declines" if d else "answers" for d in declines]
