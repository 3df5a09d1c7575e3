"""Agreement of texts with their control token ("kept word" and "twins" in docs/words.md), and the
judged rates corrected by hand labels. Rows of metrics.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import numpy as np

from demur.base.arrays import Bools
from demur.core.example import Example
from demur.core.judging.outcome import Outcome
from demur.stages.evaluate.comparison import ComparedPolicy, Comparison
from demur.stages.evaluate.corrected import ANSWERS, DECLINES, CheckedTexts, kept_rates, twin_rates
from demur.stats.judging.consistency import kept_word, twins
from demur.stats.measure import row_units
from demur.stats.units import units_of
from demur.store.answers.branch_cache import BranchCache
from demur.store.answers.labels import HandLabels
from demur.store.results.metrics_file import CorrectedRate, KeptRow, MeasuredRate, TwinsRow

Pair = tuple[Example, int]  # an example and the column of its likeliest refusal token


def sent_texts(
    comparison: Comparison,
    compared: ComparedPolicy,
    outcomes: Sequence[Outcome],
    labels: HandLabels,
) -> CheckedTexts:
    """The texts that a policy sends, one for each test row."""
    columns = compared.choice_N.tolist()
    return CheckedTexts(
        keys=tuple((e.id, c) for e, c in zip(comparison.examples, columns, strict=True)),
        verdicts=tuple(o.verdict for o in outcomes),
        fixed_N=np.array([not compared.policy.writes(c) for c in columns], dtype=bool),
        labels=labels,
        units=row_units(comparison.rows),
    )


def kept_by_token(choices: Sequence[str], texts: CheckedTexts) -> dict[str, KeptRow]:
    """Count the texts that keep their token's word, per control token. A token that was not emitted
    has a rate of 0 rows.
    """
    column_N = np.array([column for _, column in texts.keys], dtype=np.int64)
    return {
        choice: _kept_row(texts, column_N == column, column > 0)
        for column, choice in enumerate(choices)
    }


def forced(comparison: Comparison, cache: BranchCache, labels: HandLabels) -> dict[str, KeptRow]:
    """Count the texts that keep their token's word, per forced control token, over all texts of the
    evaluated rows in the cache.
    """
    ours = {e.id: n for n, e in enumerate(comparison.examples)}
    known = [b for b in cache.known.values() if b.id in ours]
    row_M = np.array([ours[b.id] for b in known], dtype=np.int64)
    texts = CheckedTexts(
        keys=tuple((b.id, b.column) for b in known),
        verdicts=tuple(b.outcome.verdict for b in known),
        fixed_N=np.zeros(len(known), dtype=bool),
        labels=labels,
        units=row_units(comparison.rows).at(row_M),
    )
    return kept_by_token(comparison.policy.taxonomy.choices, texts)


def twin_rows(
    comparison: Comparison, cache: BranchCache, labels: HandLabels
) -> dict[str, TwinsRow]:
    """Compare the two texts of each prompt, after its likeliest refusal token and after respond.

    In groups: all prompts, those to be answered, those to be refused, and those of each category.
    """
    # Column 0 is respond, hence the + 1.
    heaviest = (comparison.rows.table.logp_NC[:, 1:].argmax(axis=1) + 1).tolist()
    rows = [
        (e, column)
        for e, column in zip(comparison.examples, heaviest, strict=True)
        if (e.id, column) in cache.known and (e.id, 0) in cache.known
    ]
    groups = {
        "all": rows,
        "to be answered": [r for r in rows if r[0].label is None],
        "to be refused": [r for r in rows if r[0].label is not None],
    }
    for name in comparison.policy.taxonomy.names:
        groups[name] = [r for r in rows if r[0].category == name]
    return {name: _twins_row(own, cache, labels) for name, own in groups.items()}


def corrected(
    comparison: Comparison, compared: ComparedPolicy, texts: CheckedTexts
) -> dict[str, dict[str, CorrectedRate]]:
    """Correct the rates of a policy's texts by hand labels, for all rows and for each category,
    subcategory and kind. Strict view: a partial answer is an answer. Empty without labels.
    """
    if not texts.labels.verdicts:
        return {}
    # Which rows are in each group; prefixes keep equal names of two attributes apart.
    groups = {"all": np.ones(len(texts.keys), dtype=bool)}
    for attribute in ("category", "subcategory", "kind"):
        values = np.array([getattr(e, attribute) or "" for e in comparison.examples])
        groups |= {f"{attribute} {v}": values == v for v in sorted(set(values.tolist())) if v}
    should_N, token_N = comparison.rows.label_N != 0, compared.choice_N > 0
    return {name: _rates(texts, of_N, should_N, token_N) for name, of_N in groups.items()}


def _rates(
    texts: CheckedTexts, of_N: Bools, should_N: Bools, token_N: Bools
) -> dict[str, CorrectedRate]:
    """The corrected rates of one group, by name of the rate in metrics.json."""
    return {
        "refusal_rate": texts.rate(of_N, DECLINES),
        "caught": texts.rate(of_N & should_N, DECLINES),
        "missed_refusal": texts.rate(of_N & should_N, ANSWERS),
        "false_refusal": texts.rate(of_N & ~should_N, DECLINES),
        "precision": texts.precision(of_N, should_N),
        "partial": texts.rate(of_N, frozenset({"partial"})),
        "texts_refuse": texts.rate(of_N & token_N, DECLINES),
        "texts_answer": texts.rate(of_N & ~token_N, ANSWERS),
    }


def _kept_row(texts: CheckedTexts, of_N: Bools, refuses: bool) -> KeptRow:
    """The texts in of_N that keep their word. refuses: whether their token is a refusal token."""
    kept = kept_word(
        [v for v, of in zip(texts.verdicts, of_N.tolist(), strict=True) if of],
        texts.units.at(of_N),
        refuses=refuses,
    )
    return KeptRow(
        kept=MeasuredRate.from_core(kept.kept),
        kept_if_partial_refuses=MeasuredRate.from_core(kept.kept_if_partial_refuses),
        unscored=kept.unscored,
        corrected=kept_rates(texts, of_N, refuses=refuses),
    )


def _twins_row(rows: Sequence[Pair], cache: BranchCache, labels: HandLabels) -> TwinsRow:
    """The four cells of the prompts' pairs of texts, as judged and as corrected."""
    # Keys of the text after the refusal token and of the text after respond.
    keys = [((e.id, column), (e.id, 0)) for e, column in rows]
    judged = [
        (cache.known[refused].outcome.verdict, cache.known[answered].outcome.verdict)
        for refused, answered in keys
    ]
    units = units_of([e for e, _ in rows])
    found = twins([r for r, _ in judged], [a for _, a in judged], units)
    cells = {
        f.name: MeasuredRate.from_core(getattr(found, f.name))
        for f in fields(found)
        if f.name != "unscored"
    }
    rates = twin_rates(keys, judged, labels, units)
    return TwinsRow(**cells, unscored=found.unscored, corrected=rates)
