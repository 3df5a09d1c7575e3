from dataclasses import replace

import numpy as np
import pytest

from demur.base.errors import GoalError
from demur.core.decision import decide_many
from demur.core.goals.parse import parse_goals
from demur.core.rates import binomial_cdf, most_errors
from demur.stats.thresholds.losses import grouped_scores, losses_of
from demur.stats.thresholds.objective import objective_of
from demur.stats.thresholds.procedures.budgets import certify_budgets, certify_graphical
from demur.stats.thresholds.procedures.search import split_rows
from demur.stats.thresholds.procedures.sequences import certify_path, certify_vectors
from demur.stats.thresholds.procedures.shared import certify_shared
from demur.stats.thresholds.procedures.task import CertifyTask
from demur.stats.thresholds.results import Certified, Uncertified
from tests.builders import labelled, log_softmax, policy, simulated_rows
from tests.oracles.graphical import graphical

EVERY = (certify_path, certify_vectors, certify_shared, certify_budgets, certify_graphical)


def task(texts, labelled_rows, k=3, *, shared=False, delta=0.1, **more):
    grouped = grouped_scores(policy(k), labelled_rows, shared=shared)
    goals = parse_goals(texts)
    losses = losses_of([g for g in goals if g.promised], policy(k), grouped, 0)
    objective = objective_of(next((g for g in goals if g.optimum), None), grouped, losses)
    return CertifyTask(
        grouped=grouped, losses=losses, objective=objective, delta=delta, **{"fixed": {}, **more}
    )


def refused(found, labelled_rows, k=3):
    return decide_many(policy(k, thresholds=list(found.thresholds)), labelled_rows.table.logp_NC)


@pytest.mark.parametrize("procedure", EVERY)
def test_what_is_certified_is_what_decide_many_then_does_and_its_count_allows_it(procedure):
    labelled_rows = simulated_rows(3000, 3, seed=1, signal=3.5)
    asked = task("false_refusal <= 0.06", labelled_rows, shared=procedure is certify_shared)
    found = procedure(asked)
    assert isinstance(found, Certified)
    rate = found.evidence[0].rate
    tested_N = np.ones(3000, dtype=bool)
    if procedure in (certify_path, certify_vectors):
        tested_N = split_rows(asked.grouped, asked.learn_share, asked.seed).test_N
    comply_N = tested_N & (labelled_rows.label_N == 0)
    assert (rate.hits, rate.of) == (
        int(refused(found, labelled_rows).refuses_N[comply_N].sum()),
        int(comply_N.sum()),
    )
    assert binomial_cdf(rate.hits, rate.of, 0.06) == found.evidence[0].p_value <= 0.1


def test_every_goal_of_a_request_is_kept_at_once():
    labelled_rows = simulated_rows(6000, 3, seed=2, signal=4.0)
    texts = (
        "false_refusal <= 0.1; false_refusal[humanizing] <= 0.02; missed_refusal <= 0.15; "
        "wrong_category <= 0.1"
    )
    for procedure in (certify_path, certify_vectors):
        found = procedure(task(texts, labelled_rows))
        assert isinstance(found, Certified)
        assert all(e.p_value <= 0.1 for e in found.evidence)
        assert [e.goal.text for e in found.evidence] == texts.split("; ")


def test_a_goal_about_one_category_does_not_hold_the_others_back():
    labelled_rows = simulated_rows(6000, 3, seed=2, signal=4.0)
    alone = certify_path(task("false_refusal <= 0.05", labelled_rows))
    strict = certify_path(
        task("false_refusal <= 0.05; false_refusal[humanizing] <= 0.004", labelled_rows)
    )
    assert strict.thresholds[1] > alone.thresholds[1]
    assert strict.thresholds[0] <= alone.thresholds[0]
    assert strict.thresholds[2] <= alone.thresholds[2]


def halves_rounded_up(of, level, delta):
    """The parts of delta of two tests of one level: each has the most errors that its half allows,
    and one more as long as both sizes stay within delta.
    """
    most = max(k for k in range(of) if binomial_cdf(k, of, level) <= delta / 2)
    found = [most, most]
    for at in (0, 1):
        more = [k + (h == at) for h, k in enumerate(found)]
        if sum(binomial_cdf(k, of, level) for k in more) <= delta:
            found = more
    return [binomial_cdf(k, of, level) / delta for k in found]


def test_the_graphical_procedure_over_chains_is_the_graph_with_a_node_per_cut():
    rng = np.random.default_rng(4)
    for _ in range(20):
        label_N = rng.choice(3, size=150, p=[0.6, 0.3, 0.1])
        logits_NC = rng.normal(size=(150, 3)) - np.array([0.0, 0.0, 2.5])
        labelled_rows = labelled(log_softmax(logits_NC), label_N)
        asked = task("false_refusal <= 0.4", labelled_rows, k=2, delta=0.1)
        chain = [
            np.sort(asked.grouped.logq_N[(label_N == 0) & (asked.grouped.group_N == g)])[::-1]
            for g in (0, 1)
        ]
        of, nodes = int((label_N == 0).sum()), [len(c) for c in chain]
        # k-th: refuse the top k
        p = [binomial_cdf(k, of, 0.2) for n in nodes for k in range(1, n + 1)]
        transfer = np.zeros((sum(nodes), sum(nodes)))
        heads = [0, nodes[0]]
        for i in range(sum(nodes) - 1):
            transfer[i, i + 1] = 1.0
        transfer[nodes[0] - 1] = 0.0
        transfer[nodes[0] - 1, heads[1]] = transfer[-1, heads[0]] = 1.0
        weight = np.zeros(sum(nodes))
        weight[heads] = halves_rounded_up(of, 0.2, 0.1)
        rejected = graphical(p, weight, transfer, 0.1)
        found = certify_graphical(
            replace(asked, objective=replace(asked.objective, worth_N=np.ones(150)))
        )
        if isinstance(found, Certified):
            refuses_N = refused(found, labelled_rows, 2)
            for g, start in enumerate(heads):
                seen = int(((refuses_N.choice_N == g + 1) & (label_N == 0)).sum())
                assert seen == len([i for i in rejected if start <= i < start + nodes[g]])


def test_a_finished_category_hands_its_delta_on_and_budgets_do_not():
    rng = np.random.default_rng(5)
    label_N = np.repeat([0, 1, 2], [400, 200, 50])
    logits_NC = rng.normal(size=(650, 3)) + 3 * np.eye(3)[label_N] - np.array([0.0, 0.0, 4.0])
    labelled_rows = labelled(log_softmax(logits_NC), label_N)
    asked = task("false_refusal <= 0.1", labelled_rows, k=2, delta=0.1)
    asked = replace(
        asked, objective=replace(asked.objective, worth_N=np.ones(650))
    )  # as lenient as certified
    lenient, careful = certify_graphical(asked), certify_budgets(asked)
    caught = [refused(f, labelled_rows, 2).refuses_N[label_N > 0].sum() for f in (lenient, careful)]
    assert lenient.thresholds[0] < careful.thresholds[0]
    assert caught[0] >= caught[1]


def test_a_category_of_too_few_rows_hands_its_share_of_level_and_delta_on():
    rng = np.random.default_rng(5)
    label_N = np.repeat([0, 1, 2], [200, 200, 200])
    logits_NC = rng.normal(size=(600, 3)) + 3 * np.eye(3)[label_N]
    labelled_rows = labelled(log_softmax(logits_NC), label_N)
    # so small a share of the level needs more rows than there are
    asked = task("false_refusal <= 0.1", labelled_rows, k=2, delta=0.1)
    asked = replace(asked, shares={asked.grouped.names[0]: 0.95, asked.grouped.names[1]: 0.05})
    asked = replace(asked, objective=replace(asked.objective, worth_N=np.ones(600)))
    lenient, careful = certify_graphical(asked), certify_budgets(asked)
    assert lenient.thresholds[0] < careful.thresholds[0]
    assert np.isinf([lenient.thresholds[1], careful.thresholds[1]]).all()
    errors = refused(lenient, labelled_rows, 2).refuses_N[label_N == 0].sum()
    assert errors == most_errors(200, 0.1, 0.1)


def test_a_category_without_an_error_among_the_rows_still_needs_its_share():
    labelled_rows = simulated_rows(300, 2, seed=11, signal=3.0)
    kept = (labelled_rows.label_N != 0) | (labelled_rows.table.logp_NC[:, 1:].argmax(axis=1) == 0)
    few = labelled(labelled_rows.table.logp_NC[kept], labelled_rows.label_N[kept])
    asked = task("false_refusal <= 0.1", few, k=2)
    for procedure in (certify_budgets, certify_graphical):
        found = procedure(asked)
        assert isinstance(found, Certified)
        of = found.evidence[0].rate.of
        assert found.evidence[0].rate.hits <= most_errors(of, 0.05, 0.1)


def test_too_few_rows_say_how_many_would_do_whatever_the_procedure():
    labelled_rows = simulated_rows(60, 3, seed=6)
    for procedure in EVERY[:3]:
        found = procedure(
            task("false_refusal <= 0.01", labelled_rows, shared=procedure is certify_shared)
        )
        assert isinstance(found, Uncertified)
        assert found.rows == labelled_rows.to_answer
        assert found.rows_needed >= 230


@pytest.mark.parametrize("procedure", [certify_path, certify_vectors])
def test_a_few_rows_that_scores_part_without_an_error_are_certified_and_thresholds_lie_in_the_gap(
    procedure,
):
    """A threshold right below the lowest learnt score would miss every new row that scores a little
    lower.
    """
    for seed in range(20):
        label_N = np.repeat([0, 1, 2, 3], [60, 20, 20, 20])
        logits_NC = np.random.default_rng(seed).normal(size=(120, 4)) + 12 * np.eye(4)[label_N]
        rows = labelled(log_softmax(logits_NC), label_N)
        found = procedure(task("false_refusal <= 0.15; missed_refusal <= 0.15", rows, seed=seed))
        assert isinstance(found, Certified)
        assert [e.rate.hits for e in found.evidence] == [0, 0]


def test_a_promise_is_not_kept_by_refusing_nobody():
    rng = np.random.default_rng(8)
    label_N = np.repeat([0, 1], [300, 100])
    upside_down = labelled(
        log_softmax(rng.normal(size=(400, 2)) * 0.1 + 3 * np.eye(2)[1 - label_N]), label_N
    )
    for procedure in (certify_path, certify_budgets, certify_shared):
        found = procedure(
            task("false_refusal <= 0.05", upside_down, k=1, shared=procedure is certify_shared)
        )
        assert not isinstance(found, Certified)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({"safety": 0.5, "humanizing": 0.4, "incomplete": 0.2}, "sum to 1.1"),
        ({"safety": 0.5, "humanizing": 0.5, "incomplete": 0.0}, "incomplete gets 0"),
        ({"safety": 1.0}, "one share each"),
    ],
)
def test_shares_that_do_not_sum_or_fit_are_refused(shares, message):
    asked = task("false_refusal <= 0.1", simulated_rows(500, 3, seed=9), shares=shares)
    for procedure in (certify_budgets, certify_graphical):
        with pytest.raises(GoalError, match=message):
            procedure(asked)


def test_budgets_refuse_goals_that_cannot_be_split():
    labelled_rows = simulated_rows(500, 3, seed=9)
    with pytest.raises(GoalError, match="cannot be split over categories"):
        certify_budgets(task("missed_refusal <= 0.1", labelled_rows))
    with pytest.raises(GoalError, match="beside budgets"):
        certify_budgets(task("false_refusal <= 0.1", labelled_rows, fixed={0: 0.5}))
