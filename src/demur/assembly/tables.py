"""Tables of scores and decisions for notebooks: to and from pandas and Hugging Face datasets.

A row is a prompt. Columns of scores: `id`, a natural-log probability for each choice ("respond",
then the categories), `leftover`. Columns of decisions: `id`, `decision`, `refuses`, `margin`,
`doubt`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from demur.base.errors import MissingDependency, ScoreError
from demur.base.html import table_html
from demur.core.decision import Decisions
from demur.core.fingerprint import Fingerprint
from demur.core.score import ScoreTable
from demur.core.taxonomy import RESPOND

SHOWN = 10  # rows of a table that a notebook shows
_NOT_CHOICES = ("id", "leftover")  # columns of scores that are no log-probability of a choice


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Scores:
    """Scores of prompts, with the meaning of their columns and the model's fingerprint."""

    table: ScoreTable
    choices: tuple[str, ...]  # by column: "respond", then the categories
    fingerprint: Fingerprint | None = None  # None: unknown, as after a trip through pandas

    def __len__(self) -> int:
        return len(self.table.ids)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns by name: the head of this module lists them."""
        logp_CN = self.table.logp_NC.T.tolist()
        return {
            "id": list(self.table.ids),
            **dict(zip(self.choices, logp_CN, strict=True)),
            "leftover": self.table.leftover_N.tolist(),
        }

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame. Raises MissingDependency without pandas."""
        return _frame(self.columns())

    def to_datasets(self) -> Any:
        """Return a datasets.Dataset. Raises MissingDependency without datasets."""
        return _dataset(self.columns())

    @classmethod
    def from_pandas(cls, frame: Any, fingerprint: Fingerprint | None = None) -> Scores:
        """Read scores from a DataFrame with the columns of `columns`.

        Raises ScoreError on a missing column and on values that are no log-probabilities.
        """
        return cls.from_columns({name: frame[name].tolist() for name in frame.columns}, fingerprint)

    @classmethod
    def from_datasets(cls, dataset: Any, fingerprint: Fingerprint | None = None) -> Scores:
        """Read scores from a datasets.Dataset; otherwise like from_pandas."""
        return cls.from_columns(
            {name: list(dataset[name]) for name in dataset.column_names}, fingerprint
        )

    @classmethod
    def from_columns(
        cls, columns: dict[str, list[Any]], fingerprint: Fingerprint | None = None
    ) -> Scores:
        """Read scores from columns in any order; otherwise like from_pandas.

        `leftover` is ignored, as it follows from the rest.
        """
        for name in ("id", RESPOND):
            if name not in columns:
                raise ScoreError(
                    f"there is no column {name!r} among {', '.join(columns)}",
                    "see demur.Scores.columns",
                )
        # respond is column 0 wherever it stood; categories keep their order
        choices = (RESPOND, *(name for name in columns if name not in (*_NOT_CHOICES, RESPOND)))
        logp_NC = np.array([columns[name] for name in choices], dtype=np.float32).T
        table = ScoreTable(ids=tuple(map(str, columns["id"])), logp_NC=logp_NC)
        return cls(table=table, choices=choices, fingerprint=fingerprint)

    def __repr__(self) -> str:
        leftover = f", leftover mass {self.table.leftover_N.mean():.4f}" if len(self) else ""
        return f"Scores({len(self)} prompts, {', '.join(self.choices)}{leftover})"

    def _repr_html_(self) -> str:
        p_NC = np.exp(self.table.logp_NC[:SHOWN])  # people read probabilities, not their logs
        rows = [
            (name, *(f"{p:.4f}" for p in p_C), f"{left:.4f}")
            for name, p_C, left in zip(
                self.table.ids[:SHOWN], p_NC, self.table.leftover_N[:SHOWN], strict=True
            )
        ]
        return table_html(
            ("id", *self.choices, "leftover"), rows, _caption(len(self), "probabilities")
        )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class DecisionTable:
    """A policy's decisions, one per prompt."""

    policy: str  # its name
    ids: tuple[str, ...]
    # "respond", a category, "defer: safety", or "undecided" where doubt is an error
    decision: tuple[str, ...]
    decisions: Decisions

    def __len__(self) -> int:
        return len(self.ids)

    def columns(self) -> dict[str, list[Any]]:
        """Return the columns by name: the head of this module lists them."""
        return {
            "id": list(self.ids),
            "decision": list(self.decision),
            "refuses": self.decisions.refuses_N.tolist(),
            "defers": self.decisions.defers_N.tolist(),
            "margin": self.decisions.margin_N.tolist(),
            "doubt": self.decisions.doubt_N.tolist(),
        }

    def to_pandas(self) -> Any:
        """Return a pandas DataFrame. Raises MissingDependency without pandas."""
        return _frame(self.columns())

    def to_datasets(self) -> Any:
        """Return a datasets.Dataset. Raises MissingDependency without datasets."""
        return _dataset(self.columns())

    def __repr__(self) -> str:
        refused, deferred = (
            int(part_N.sum()) for part_N in (self.decisions.refuses_N, self.decisions.defers_N)
        )
        beside = f", {deferred} deferred" if deferred else ""
        return f"Decisions({len(self)} prompts, {refused} refused{beside}, policy {self.policy!r})"

    def _repr_html_(self) -> str:
        margin_N, doubt_N = self.decisions.margin_N, self.decisions.doubt_N
        rows: Sequence[Sequence[str]] = [
            (name, word, f"{margin_N[n]:+.2f}", "doubt" if doubt_N[n] else "")
            for n, (name, word) in enumerate(zip(self.ids[:SHOWN], self.decision, strict=False))
        ]
        return table_html(
            ("id", "decision", "margin", ""), rows, _caption(len(self), f"policy {self.policy}")
        )


def _caption(count: int, what: str) -> str:
    return f"{what}: {count} prompts" + (f", the first {SHOWN}" if count > SHOWN else "")


def _frame(columns: dict[str, Any]) -> Any:
    return _imported("pandas", "pip install pandas").DataFrame(columns)


def _dataset(columns: dict[str, Any]) -> Any:
    return _imported("datasets", "pip install 'demur[hub]'").Dataset.from_dict(columns)


def _imported(package: str, install: str) -> Any:
    """Import a package. Raises MissingDependency with the command that installs it."""
    try:
        return import_module(package)
    except ModuleNotFoundError as e:
        # the package is there, but lacks one of its own
        if e.name != package:
            raise
        raise MissingDependency(f"to_{package} needs {package}", install) from None
