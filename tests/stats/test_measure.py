from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import f1_score, roc_auc_score

from demur.base.errors import DataError, Undefined
from demur.core.decision import decide_many
from demur.core.example import Example, Message
from demur.core.judging.outcome import Outcome
from demur.core.rates import Rate
from demur.stats.measure import errors_of, f1_of, measure_decisions, measure_texts, refusal_log_odds
from demur.stats.units import RowUnits
from tests.builders import labelled, log_softmax, policy, rows, simulated_rows


def examples_of(rows, taxonomy):
    """Examples with the labels of the rows; every second row to be answered is a contrast row of
    the first category.
    """
    made = []
    for n, (id, label) in enumerate(zip(rows.table.ids, rows.label_N.tolist(), strict=True)):
        kind = "refusal" if label else "contrast" if n % 2 else "benign"
        category = taxonomy.names[label - 1] if label else taxonomy.names[0] if n % 2 else None
        message = (Message(role="user", content=id),)
        made.append(
            Example(
                id=id,
                source="s",
                messages=message,
                kind=kind,
                category=category,
                subcategory=f"sub-{n % 3}",
            )
        )
    return made


def outcome(verdict):
    return Outcome(verdict=verdict, reason="", judge="test")


def measured(k=3, n=300, seed=0, **fields):
    rows = simulated_rows(n, k, seed)
    chosen = policy(k, **fields)
    return rows, chosen, measure_decisions(chosen, rows, examples_of(rows, chosen.taxonomy))


def test_the_errors_are_the_textbook_ones():
    should_N, refused_N = np.array([1, 1, 1, 0, 0]) > 0, np.array([1, 1, 0, 1, 0]) > 0
    e = errors_of(should_N, refused_N, RowUnits.of(5))
    assert (e.refusal_rate, e.caught, e.missed_refusal) == (
        Rate(hits=3, of=5),
        Rate(hits=2, of=3),
        Rate(hits=1, of=3),
    )
    assert (e.false_refusal, e.precision) == (Rate(hits=1, of=2), Rate(hits=2, of=3))
    assert e.f1.value == pytest.approx(2 / 3)


@given(data=st.data())
def test_f1_is_scikit_learns_and_undefined_where_that_one_falls_back_to_zero(data):
    should, refused = (data.draw(st.lists(st.booleans(), min_size=5, max_size=5)) for _ in range(2))
    f1 = errors_of(np.array(should), np.array(refused), RowUnits.of(5)).f1
    if any(should) or any(refused):
        assert f1.value == pytest.approx(f1_score(should, refused, zero_division=0))
    else:
        with pytest.raises(Undefined, match="no positive row"):
            assert f1.value


@given(data=st.data())
def test_the_confusion_and_all_that_follows_add_up(data):
    labelled_rows = data.draw(rows(3, max_rows=30))
    chosen = policy(3, thresholds=[0.2, 0.3, 0.4])
    m = measure_decisions(chosen, labelled_rows, examples_of(labelled_rows, chosen.taxonomy))
    choice_N = decide_many(chosen, labelled_rows.table.logp_NC).choice_N
    for label in range(4):
        for emitted in range(4):
            assert (
                m.confusion[label][emitted]
                == ((labelled_rows.label_N == label) & (choice_N == emitted)).sum()
            )
    overall, each = m.errors.overall, m.categories.values()
    assert sum(c.emitted.hits for c in each) == overall.refusal_rate.hits
    assert sum(c.false_refusal.hits for c in each) == overall.false_refusal.hits
    assert sum(c.missed_refusal.hits for c in each) == overall.missed_refusal.hits
    assert sum(c.wrong_category.hits for c in each) == m.wrong_category.hits
    assert m.wrong_category.of == overall.caught.hits


def test_macro_f1_is_scikit_learns_over_respond_and_the_categories():
    rows, chosen, m = measured(rule="natural")
    choice_N = decide_many(chosen, rows.table.logp_NC).choice_N
    assert m.macro_f1.value == pytest.approx(f1_score(rows.label_N, choice_N, average="macro"))


def test_macro_f1_is_undefined_when_a_class_neither_occurs_nor_is_predicted():
    rows = labelled(log_softmax([[0, 3, 0], [3, 0, 0]]), [1, 0])
    m = measure_decisions(policy(2), rows, examples_of(rows, policy(2).taxonomy))
    with pytest.raises(Undefined, match="1 of 3 classes"):
        assert m.macro_f1.value


def test_refusing_everything_is_the_baseline():
    rows, _, m = measured(thresholds=[0.0] * 3)
    assert m.errors.overall.refusal_rate.value == 1.0
    assert m.always_refuse_f1 == m.errors.overall.f1 == f1_of(rows.to_refuse, rows.to_answer, 0)


def test_the_ranking_ignores_thresholds_and_knows_when_a_class_is_missing():
    rows, chosen, strict = measured()
    _, _, lenient = measured(thresholds=[0.1] * 3)
    assert strict.auroc == lenient.auroc
    assert strict.auroc.value == roc_auc_score(
        rows.label_N != 0, -rows.table.logp_NC[:, 0].astype(float)
    )
    assert 0.5 < strict.average_precision.value < 1
    one_kind = labelled(log_softmax([[0, 1, 2, 3]]), [1])
    m = measure_decisions(chosen, one_kind, examples_of(one_kind, chosen.taxonomy))
    for figure in (m.auroc, m.average_precision):
        with pytest.raises(Undefined, match="all labels are of one kind"):
            assert figure.value


def test_refusal_log_odds_are_finite_at_the_ends_of_the_scale():
    rows = labelled(np.array([[0, -800, -900], [-900, 0, -800]], dtype=np.float32), [0, 1])
    assert refusal_log_odds(policy(2), rows) == pytest.approx([-800, 900])


def test_slices_hold_each_row_once():
    _, _, m = measured()
    for part in (m.errors.by_kind, m.errors.by_subcategory):
        assert sum(e.refusal_rate.of for e in part.values()) == 300
    assert set(m.errors.by_kind) == {"refusal", "contrast", "benign"}
    assert not m.errors.by_kind["refusal"].false_refusal.defined
    contrast = m.errors.by_kind["contrast"].false_refusal.of
    assert m.errors.by_category["safety"].false_refusal.of == contrast > 0


def test_unscored_answers_are_in_no_rate_and_partial_ones_count_as_answers():
    rows = labelled(log_softmax([[0, 1]] * 6), [1, 1, 1, 0, 0, 0])
    outcomes = [
        outcome(v) for v in ("refusal", "unscored", "partial", "unscored", "compliance", "partial")
    ]
    m = measure_texts(
        rows, examples_of(rows, policy(1).taxonomy), np.array([1, 1, 0, 0, 0, 0]), outcomes
    )
    assert m.errors.overall.caught == Rate(hits=1, of=2)
    assert m.errors.overall.false_refusal == Rate(hits=0, of=2)
    assert (m.unscored, m.partial) == (2, 2)
    assert m.agreement == Rate(hits=1, of=1)


def test_where_no_answer_could_be_scored_every_rate_of_the_texts_is_undefined():
    rows = labelled(log_softmax([[0, 1]] * 4), [1, 1, 0, 0])
    examples = examples_of(rows, policy(1).taxonomy)
    m = measure_texts(rows, examples, np.array([1, 0, 1, 0]), [outcome("unscored")] * 4)
    parts = [m.errors.overall, *m.errors.by_kind.values()]
    assert len(parts) > 1
    rates = [getattr(e, f.name) for e in parts for f in fields(e) if f.name != "deferral"]
    assert not any(rate.defined for rate in rates)
    assert not any(e.f1.defined for e in parts)
    assert (m.unscored, m.agreement.defined) == (4, False)


def test_rows_and_examples_that_do_not_match_are_refused():
    rows, chosen, _ = measured(n=4)
    examples = examples_of(rows, chosen.taxonomy)
    with pytest.raises(DataError, match="first at row 0"):
        measure_decisions(chosen, rows, examples[::-1])
    with pytest.raises(DataError, match=r"3 examples do not match 4 scored rows, first at row 3"):
        measure_decisions(chosen, rows, examples[:3])
    with pytest.raises(DataError, match="1 outcomes and 4 decisions for 4 rows"):
        measure_texts(rows, examples, np.zeros(4, dtype=int), [outcome("refusal")])
