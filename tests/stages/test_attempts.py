"""Every certification is written down before it is seen, and says what remains over all of them."""

from dataclasses import replace

import numpy as np
import pytest
from tests.validity.population import population

from demur.base.errors import ArtifactError, ConfigError, GoalInfeasible
from demur.core.goals.attempts import parse_spend
from demur.core.goals.parse import parse_goals
from demur.stages.attempts import CertifyRequest, attempts_on, certify_counted, scored_rows_digest
from demur.stats.thresholds.certify import CertifyOptions
from demur.stats.thresholds.solve import solve
from demur.store.policies.ledger_file import marks_of_texts, read_ledger
from demur.store.policies.policy_file import bind_promises, policy_from_json, policy_to_json


@pytest.fixture
def ledger(tmp_path):
    return tmp_path / "data" / "ledger.jsonl"


def rows_of(seed=0, counts=(300, 120, 60, 30)):
    return population(rows=5000).draw(np.random.default_rng(seed), counts)


def certify(ledger, goals="false_refusal <= 0.2", *, rows=None, name="p", texts=None, **given):
    """One attempt. texts: of the rows that it is made on, numbers in place of prompts."""
    rows = rows or rows_of()
    spend, data = given.pop("spend", None), given.pop("data", None)
    request = CertifyRequest(
        ledger=ledger,
        goals=parse_goals(goals),
        before=replace(population(rows=5000).template, name=name),
        options=CertifyOptions(**{"confidence": 0.95, "method": "shared", **given}),
        marks=marks_of_texts(texts or map(str, range(len(rows.label_N)))),
        data=data or scored_rows_digest(rows),
        spend=None if spend is None else parse_spend(spend),
    )
    return certify_counted(
        request,
        lambda how: solve(request.goals, request.before, rows, how, data_digest="sha256:0"),
    )


def counted(policy):
    (found,) = {p.attempts for p in policy.promises}
    return found


def test_the_same_attempt_costs_nothing_whatever_its_name(ledger):
    for name in ("p", "q", "p"):
        found = counted(certify(ledger, name=name))
        assert (found.count, found.confidence) == (1, 0.95)


@pytest.mark.parametrize(
    "other",
    [
        {"goals": "false_refusal <= 0.25"},
        {"seed": 1},
        {"method": "even"},
        {"confidence": 0.9},
        {"rows": rows_of(1)},
        {"rows": rows_of(0, (340, 120, 60, 30))},  # more rows
        {"texts": ["0", "fresh", "newer"]},  # fewer rows, one of them the same
    ],
)
def test_another_attempt_on_some_of_the_same_rows_costs_its_delta(ledger, other):
    certify(ledger)
    if "texts" in other:
        other = {**other, "rows": rows_of(2)}
    found = counted(certify(ledger, **other))
    assert found.count == 2
    assert found.confidence == (0.85 if "confidence" in other else 0.9)


def test_attempts_on_other_rows_are_not_counted(ledger):
    certify(ledger)
    assert counted(certify(ledger, rows=rows_of(1), texts=["fresh", "newer"])).count == 1
    assert len(read_ledger(ledger).attempts) == 2


def test_an_attempt_that_grants_nothing_counts_as_well(ledger):
    with pytest.raises(GoalInfeasible) as e:
        certify(ledger, "false_refusal <= 0.0001")
    assert "attempts" not in e.value.hint
    with pytest.raises(GoalInfeasible) as e:
        certify(ledger, "false_refusal <= 0.0002")
    assert "2 attempts on these rows: 90% confidence" in e.value.hint
    assert counted(certify(ledger)).confidence == 0.85
    assert [a.granted for a in read_ledger(ledger).attempts] == [False, False, True]


def test_goals_that_promise_nothing_are_no_attempts(ledger):
    policy = certify(ledger, "f1 max")
    assert policy.promises[0].attempts is None
    assert not ledger.exists()


def test_a_plan_divides_delta_and_holds_as_a_whole(ledger):
    for n in range(6):
        policy = certify(ledger, seed=n, spend=6)
        promise = policy.promises[0]
        assert promise.confidence == pytest.approx(1 - 0.05 / 6)
        assert (promise.attempts.number, promise.attempts.confidence) == (n + 1, 0.95)
    again = certify(ledger, seed=3, spend="1/6")  # its own share once more
    assert counted(again).number == 4
    with pytest.raises(GoalInfeasible, match=r"all 6 attempts .* are spent") as e:
        certify(ledger, seed=6, spend=6)
    assert e.value.exit_code == 3
    assert "label new rows" in e.value.hint
    beside = counted(certify(ledger, seed=6))
    assert (beside.count, beside.confidence) == (7, 0.9)


def test_a_plan_is_drawn_from_by_attempts_with_more_rows_and_begins_anew_on_other_rows(ledger):
    more = [*map(str, range(510)), "one more"]
    certify(ledger, spend=2)
    assert counted(certify(ledger, rows=rows_of(1), texts=more, spend=2)).number == 2
    assert counted(certify(ledger, rows=rows_of(1), texts=["fresh", "newer"], spend=2)).number == 1


def test_a_plan_goes_on_where_rows_are_replaced_bit_by_bit(ledger):
    """The third shares rows with the second alone; it is the third of the plan all the same."""
    numbers = [
        counted(certify(ledger, rows=rows_of(n), texts=texts, spend="releases")).number
        for n, texts in enumerate((["a", "b"], ["b", "c"], ["c", "d"], ["x"]))
    ]
    assert numbers == [1, 2, 3, 1]


def test_another_plan_on_the_same_rows_is_refused(ledger):
    certify(ledger, spend=6)
    for other in ({"spend": 4}, {"spend": "releases"}, {"spend": 6, "confidence": 0.9}):
        with pytest.raises(ConfigError, match=r"beside the plan of these rows, 1/6 at 0\.95") as e:
            certify(ledger, seed=1, **other)
        assert "spend = 1/6 at confidence 0.95" in e.value.hint


def test_releases_get_smaller_shares_without_end(ledger):
    confidence = [
        certify(ledger, seed=r, spend="releases").promises[0].confidence for r in range(3)
    ]
    shares = [6 / (np.pi * r) ** 2 for r in (1, 2, 3)]
    assert confidence == pytest.approx([1 - 0.05 * share for share in shares])
    assert counted(certify(ledger, seed=9, spend="releases")).confidence == 0.95


def test_nothing_is_certified_where_the_ledger_cannot_be_read_or_written(ledger):
    certify(ledger)
    text = ledger.read_text()
    ledger.write_text(text[:-5])
    with pytest.raises(ArtifactError, match="cut off"):
        certify(ledger, seed=1)
    ledger.unlink()
    ledger.mkdir()
    with pytest.raises(ArtifactError, match=r"ledger\.jsonl"):
        certify(ledger, seed=1)


def test_looks_at_more_and_more_rows_by_evidence_that_allows_it_are_one_attempt(ledger):
    for more in (0, 100, 200):
        rows = rows_of(more, (300 + more, 120, 60, 30))
        found = counted(certify(ledger, rows=rows, method="anytime", data="sha256:order"))
        assert (found.count, found.confidence) == (1, 0.95)
    assert len(read_ledger(ledger).attempts) == 3
    assert counted(certify(ledger, rows=rows)).count == 2  # another method is another attempt


def test_the_policy_file_holds_the_attempts_and_a_file_without_them_keeps_its_digest(ledger):
    certify(ledger, seed=1)
    policy = bind_promises(certify(ledger))
    value = policy_to_json(policy)
    assert value["promises"][0]["attempts"]["count"] == 2
    assert policy_from_json(value, "p") == policy
    fewer = {**value["promises"][0]["attempts"], "count": 1}
    value["promises"][0]["attempts"] = fewer
    assert policy_from_json(value, "p").promises[0].status == "not certified"
    alone = replace(policy, promises=tuple(replace(p, attempts=None) for p in policy.promises))
    assert "attempts" not in policy_to_json(alone)["promises"][0]


def test_all_attempts_by_now_are_known_for_rows(ledger):
    marks = marks_of_texts(map(str, range(510)))
    assert attempts_on(ledger, marks) is None
    certify(ledger)
    certify(ledger, seed=1)
    assert attempts_on(ledger, marks).confidence == 0.9
