"""The corrected rate's 95 % interval covers the truth, whatever the judge does, and on real
answers; its mean over draws is the truth, also with few labels.
"""

from pathlib import Path

import numpy as np
import pytest
from bench.label_draws import SETTINGS as JUDGES

from demur.base.rows import read_rows
from demur.core.judging.judge import JudgeInput, judge_all
from demur.judges.phrases import PhraseJudge
from demur.stages.draw_labels import strata_of
from demur.stats.sample import power_allocation
from tests.stats.judging.test_correction import checked, corrected, in_strata, population

DRAWS = 1000
FEW_LABEL_DRAWS = 2000
LABELLED = Path(__file__).parents[2].parent / "shared" / "data" / "response_labels.jsonl"
DROPPED = ("incoherent", "dontknow")  # tones that chatgpt-refusals leaves out


@pytest.mark.parametrize(("rate", "sensitivity", "specificity"), JUDGES)
def test_with_100_hand_labels_the_interval_covers_the_truth(rate, sensitivity, specificity):
    rng, covered = np.random.default_rng(0), 0
    judge_N, hand_N = population(1500, rate, sensitivity, specificity)
    for _ in range(DRAWS):
        found = corrected(judge_N, hand_N, checked(len(hand_N), 100, rng))
        covered += found.low <= hand_N.mean() <= found.high
    assert covered >= 0.93 * DRAWS


@pytest.mark.parametrize(("rate", "sensitivity", "specificity"), JUDGES)
def test_so_it_does_with_labels_drawn_more_often_near_a_threshold_and_where_the_judge_saw_a_refusal(
    rate, sensitivity, specificity
):
    rng, covered = np.random.default_rng(0), 0
    judge_N, hand_N = population(1500, rate, sensitivity, specificity)
    of_N = 2 * (rng.random(1500) < 0.25) + (judge_N == 1)
    roots = np.sqrt(np.bincount(of_N))
    per_stratum = np.maximum(2, np.round(100 * roots / roots.sum())).astype(int).tolist()
    for _ in range(DRAWS):
        known_N, strata = in_strata(of_N, per_stratum, rng)
        found = corrected(judge_N, hand_N, known_N, strata)
        covered += found.low <= hand_N.mean() <= found.high
    assert covered >= 0.93 * DRAWS


@pytest.mark.parametrize("labels", [20, 40, 60])
@pytest.mark.parametrize(
    ("rate", "sensitivity", "specificity"),
    [(0.145, 0.9, 0.97), (0.145, 0.5, 0.5), (0.1, 0.9, 0.99), (0.3, 0.95, 0.6)],
)
def test_with_few_labels_the_mean_of_the_estimate_is_the_truth(
    rate, sensitivity, specificity, labels
):
    """An estimate that changed with the number of hits seen was .013 below .145 with 60 labels."""
    rng = np.random.default_rng(1)
    judge_N, hand_N = population(2000, rate, sensitivity, specificity)
    found_D = np.array(
        [
            corrected(judge_N, hand_N, checked(2000, labels, rng)).value
            for _ in range(FEW_LABEL_DRAWS)
        ]
    )
    bias, noise = found_D.mean() - hand_N.mean(), found_D.std() / np.sqrt(FEW_LABEL_DRAWS)
    assert abs(bias) <= 3.5 * noise  # 1 in 2,000 by chance
    assert abs(bias) < 0.008


@pytest.mark.parametrize(("rate", "sensitivity", "specificity"), JUDGES)
def test_labels_as_they_are_drawn_cover_the_truth_in_intervals_no_wider_than_random_ones(
    rate, sensitivity, specificity
):
    rng, covered, widths = np.random.default_rng(5), 0, []
    judge_N, hand_N = population(1500, rate, sensitivity, specificity)
    names = strata_of([bool(j) for j in judge_N])
    of_N = np.unique(names, return_inverse=True)[1].astype(np.int64)
    sizes = np.bincount(of_N).tolist()
    for _ in range(300):
        known_N, strata = in_strata(of_N, power_allocation(sizes, sizes, 120), rng)
        found = corrected(judge_N, hand_N, known_N, strata if len(sizes) > 1 else None)
        alike = corrected(judge_N, hand_N, checked(len(hand_N), 120, rng))
        covered += found.low <= hand_N.mean() <= found.high
        widths.append((found.high - found.low, alike.high - alike.low))
    assert covered >= 0.93 * 300
    drawn, random = np.mean(widths, axis=0)
    assert drawn <= 1.02 * random


@pytest.fixture(scope="module")
def answers():
    """(source, request, answer, whether people say that it declines, a partial answer counting as
    one that does).
    """
    rows = [r.value for r in read_rows(LABELLED) if r.value["tone"] not in DROPPED]
    return [
        (r["source"].split("_")[0], r["prompt"], r["response"], float(r["label"] != "compliance"))
        for r in rows
    ]


def by_opening(rows):
    """A judge that errs much: only how an answer begins."""
    return [
        float(a.lower().lstrip().startswith(("sorry", "i'm sorry", "i cannot", "as an ai")))
        for _, _, a, _ in rows
    ]


def by_phrases(rows):
    said = judge_all(
        PhraseJudge(), [JudgeInput(request=p, answer=a, category="safety") for _, p, a, _ in rows]
    )
    return [0.5 if o.verdict == "unscored" else float(o.refuses) for o in said]


@pytest.mark.skipif(not LABELLED.exists(), reason="../shared/data/response_labels.jsonl is absent")
@pytest.mark.parametrize(("judge", "off"), [(by_opening, 0.15), (by_phrases, 0.0)])
@pytest.mark.parametrize(("source", "count"), [("chatgpt", 1706), ("xstest", 1235)])
def test_with_100_hand_labels_of_real_answers_the_interval_covers_the_truth(
    answers, source, count, judge, off
):
    rows, rng, covered = [r for r in answers if r[0] == source], np.random.default_rng(0), 0
    judge_N, hand_N = np.array(judge(rows)), np.array([declines for *_, declines in rows])
    assert len(rows) == count
    assert abs(judge_N.mean() - hand_N.mean()) >= off  # there is something to correct
    for _ in range(DRAWS):
        found = corrected(judge_N, hand_N, checked(len(rows), 100, rng))
        covered += found.low <= hand_N.mean() <= found.high
    assert covered >= 0.93 * DRAWS
