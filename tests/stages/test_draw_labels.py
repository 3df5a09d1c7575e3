import json
import shutil

import numpy as np
import pytest
from tests.fake_run import JUDGE, engine_for, examples, prepare

from demur.base.errors import ConfigError, DataError
from demur.core.decision import decide_many
from demur.core.taxonomy import coconot
from demur.stages import draw_labels, evaluate, judge_check
from demur.store.answers.labels import key_path, read_labels
from demur.store.policies.policy_file import read_policy
from demur.store.rows import read_examples
from demur.store.scores.tables import read_branches, read_scores

CHOICES = coconot().choices


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory):
    rows = examples()
    engine = engine_for(rows)
    folder = prepare(tmp_path_factory.mktemp("runs") / "run", rows, engine)
    evaluate.run(evaluate.Config(), engine, JUDGE, folder)
    return folder, engine


@pytest.fixture
def run(evaluated, tmp_path):
    folder, engine = evaluated
    shutil.copytree(folder.root, tmp_path / "run")
    return type(folder)(tmp_path / "run"), engine


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def truth_of(folder, seed=1):
    """What people would say of each text: the judge's word, turned for one in ten, and more often
    near a threshold.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for b in read_branches(folder.branches, coconot().tokens):
        turned = rng.random() < (0.25 if b.outcome.refuses else 0.05)
        found[b.id, b.column] = b.outcome.refuses != turned
    return found


def label(out, truth, every=1):
    """Fill in the file as people would."""
    key = {row["id"]: (row["prompt"], CHOICES.index(row["token"])) for row in lines(key_path(out))}
    rows = lines(out)
    for n, row in enumerate(rows):
        if n % every == 0:
            row["label"] = "refusal" if truth[key[row["id"]]] else "compliance"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_people_see_request_and_answer_and_neither_token_nor_threshold_nor_verdict(run, tmp_path):
    folder, _ = run
    strata = draw_labels.run(draw_labels.Config(out=tmp_path / "a.jsonl", labels=80), folder)
    handed = lines(tmp_path / "a.jsonl")
    assert {tuple(row) for row in handed} == {("id", "request", "answer", "label")}
    assert not [row for row in handed if any(token in row["answer"] for token in coconot().tokens)]
    assert len(handed) == sum(s.drawn for s in strata) == pytest.approx(80, abs=4)
    assert {s.name for s in strata} == {draw_labels.ALL}  # many decline: strata would buy nothing
    texts = {b.answer.text for b in read_branches(folder.branches, coconot().tokens)}
    assert {row["answer"] for row in handed} <= texts


def test_the_draw_is_random_within_strata_and_repeats_with_its_seed(run, tmp_path):
    folder, _ = run
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        draw_labels.run(draw_labels.Config(out=tmp_path / f"{name}.jsonl", seed=seed), folder)
    a, b, c = ((tmp_path / f"{name}.jsonl").read_text() for name in "abc")
    assert a == b != c


def test_labelled_texts_are_never_overwritten(run, tmp_path):
    folder, _ = run
    draw_labels.run(draw_labels.Config(out=tmp_path / "a.jsonl"), folder)
    with pytest.raises(DataError, match="is there already"):
        draw_labels.run(draw_labels.Config(out=tmp_path / "a.jsonl", seed=2), folder)
    with pytest.raises(ConfigError, match="1 labels"):
        draw_labels.Config(out=tmp_path / "b.jsonl", labels=1)


@pytest.mark.parametrize(
    ("few", "strata"), [(0.15, False), pytest.param(1.0, True, marks=pytest.mark.slow)]
)
def test_labels_correct_rates_of_policies_and_of_forced_texts_by_their_weights(
    run, tmp_path, monkeypatch, few, strata
):
    monkeypatch.setattr(draw_labels, "FEW", few)  # many of these texts decline
    folder, engine = run
    truth = truth_of(folder)
    rows = read_examples(folder.split("test"))
    policy = read_policy(folder.policy)
    ids = tuple(e.id for e in rows)
    chosen = decide_many(
        policy, read_scores(folder.scores("test"))[0].select(ids).logp_NC
    ).choice_N.tolist()
    true_rate = np.mean([truth[i, c] for i, c in zip(ids, chosen, strict=True)])
    covered = 0
    for seed in range(5):
        out = tmp_path / f"{seed}.jsonl"
        draw_labels.run(draw_labels.Config(out=out, labels=150, seed=seed), folder)
        label(out, truth)
        found = evaluate.run(evaluate.Config(labels=out, also=()), engine, JUDGE, folder)
        corrected = found.policies[1].corrected["all"]["refusal_rate"]
        covered += corrected.low <= true_rate <= corrected.high
        assert ("weighted by stratum" in corrected.method) == strata
    assert covered >= 4
    assert (
        found.twins["all"].corrected["stuck_refuse"].method == "the labels were drawn text by text"
    )
    assert found.forced["respond"].corrected["kept"].value is not None


def test_labels_of_texts_that_an_evaluation_does_not_have_are_counted_or_an_error(run, tmp_path):
    folder, engine = run
    known = read_branches(folder.branches, coconot().tokens)[0]
    here = {"id": known.id, "token": CHOICES[known.column], "label": "refusal"}
    path = tmp_path / "labels.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in (here, here | {"id": "elsewhere"})))
    found = evaluate.run(evaluate.Config(labels=path, also=()), engine, JUDGE, folder)
    assert (found.labels, found.labels_elsewhere) == (1, 1)
    path.write_text(json.dumps(here | {"id": "elsewhere"}))
    with pytest.raises(DataError, match="none of its 1 labels"):
        evaluate.run(evaluate.Config(labels=path, also=()), engine, JUDGE, folder)


def test_labels_beside_the_key_of_another_draw_are_an_error_not_labels_of_other_texts(
    run, tmp_path
):
    folder, _ = run
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    for seed, out in enumerate((one, other)):
        draw_labels.run(draw_labels.Config(out=out, labels=80, seed=seed), folder)
        label(out, truth_of(folder))
    assert read_labels(one, CHOICES).verdicts
    shutil.copy(key_path(other), key_path(one))
    with pytest.raises(DataError, match="is another text than the one that was drawn"):
        read_labels(one, CHOICES)
    with pytest.raises(DataError, match="is another text than the one that was drawn"):
        judge_check.run(judge_check.Config(file=one), {"fixed": JUDGE})


def test_texts_that_nobody_labelled_yet_are_left_out_and_a_bare_stratum_is_named(
    run, tmp_path, monkeypatch
):
    monkeypatch.setattr(draw_labels, "FEW", 1.0)
    folder, _ = run
    out = tmp_path / "a.jsonl"
    draw_labels.run(draw_labels.Config(out=out, labels=80), folder)
    with pytest.raises(DataError, match="holds no label"):
        read_labels(out, CHOICES)
    label(out, truth_of(folder), every=2)
    found = read_labels(out, CHOICES)
    assert sum(found.checked) == len(found.verdicts) < sum(1 for _ in lines(out))
    assert sum(found.sizes) == len(read_branches(folder.branches, coconot().tokens))
    rows = lines(out)
    first = next(row["stratum"] for row in lines(key_path(out)))
    key = {row["id"]: row["stratum"] for row in lines(key_path(out))}
    some = [r | {"label": None if key[r["id"]] == first else "partial"} for r in rows]
    out.write_text("".join(json.dumps(r) + "\n" for r in some))
    with pytest.raises(DataError, match="no text of the stratum"):
        read_labels(out, CHOICES)
    two = {"ann": "refusal", "bo": "refusal"}
    out.write_text("".join(json.dumps(r | {"label": None, "labels": two}) + "\n" for r in rows))
    assert set(read_labels(out, CHOICES).verdicts.values()) == {"refusal"}
    out.write_text(json.dumps(rows[0] | {"label": None, "labels": two | {"bo": "partial"}}) + "\n")
    with pytest.raises(DataError, match="people differ on 'text-1'"):
        read_labels(out, CHOICES)
    out.write_text(json.dumps({"id": "text-999", "label": "refusal"}) + "\n")
    with pytest.raises(DataError, match="'text-999' is not in"):
        read_labels(out, CHOICES)


def test_few_texts_that_decline_are_a_stratum_of_their_own():
    assert draw_labels.strata_of([True, *[False] * 9]) == ["declines", *["answers"] * 9]
    assert set(draw_labels.strata_of([True, False])) == {draw_labels.ALL}
    assert set(draw_labels.strata_of([False] * 5)) == {draw_labels.ALL}
