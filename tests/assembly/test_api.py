"""The Python interface, on a run of a text classifier: no engine is imported."""

import subprocess
import sys

import numpy as np
import pytest

import demur
from demur.assembly.tables import Scores
from demur.base.errors import ArtifactError, ConfigError, DataError, PolicyError, ScoreError
from tests.predictor_run import ANSWERED, DECLINED, predictor_run


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder, _ = predictor_run(tmp_path_factory.mktemp("runs") / "p")
    return demur.open_run(folder.root)


@pytest.fixture(scope="module")
def scores(run):
    return demur.score(run, [DECLINED, {"id": "b", "prompt": ANSWERED}])


def test_every_public_name_is_there_and_others_are_not():
    assert all(getattr(demur, name) is not None for name in demur.__all__)
    assert {"run", "serve", "__version__"} <= set(dir(demur))
    with pytest.raises(AttributeError, match="no attribute 'calibrat'"):
        demur.calibrat  # noqa: B018


def test_a_name_brings_only_what_it_needs():
    code = (
        "import sys, demur; demur.Policy, demur.decide; print(*{m.partition('.')[0] for m in "
        "sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {
        "torch",
        "transformers",
        "sklearn",
        "pyarrow",
        "pydantic",
        "plotly",
    }


def test_prompts_are_scored_by_their_ids_and_decided(run, scores):
    assert scores.table.ids == ("0", "b")
    decided = demur.decide(run.policy, scores)
    assert decided.decision == ("refuse", "respond")
    assert repr(decided) == "Decisions(2 prompts, 1 refused, policy 'default')"
    assert repr(run).endswith("engine prompts, done: data, train, score, calibrate)")


def test_the_held_out_splits_are_those_of_the_stage(run):
    found = demur.score(run)
    assert set(found) == {"calibrate", "test"}
    assert found["test"].fingerprint == run.engine.fingerprint


def test_another_policy_is_kept_beside_the_runs_own(run):
    before = run.policy
    careful = demur.calibrate(run, ["missed_refusal <= 0.9"], name="careful", confidence=0.9)
    assert demur.open_run(run.path, policy="careful").policy == careful
    assert run.policy == before
    with pytest.raises(ConfigError, match="keeps no policy 'other'"):
        demur.open_run(run.path, policy="other")


def test_what_cannot_be_is_an_error(run, scores, tmp_path):
    with pytest.raises(ArtifactError, match="not a run folder"):
        demur.open_run(tmp_path)
    with pytest.raises(ConfigError, match=r"\[calibrate\] has no setting 'confidense'"):
        demur.calibrate(run, "f1 max", confidense=0.9)
    with pytest.raises(ConfigError, match="needs a model that answers"):
        demur.evaluate(run)
    with pytest.raises(DataError, match="row 1: there is no prompt"):
        demur.score(run, ["Hello.", "  "])
    with pytest.raises(DataError, match="another row has the id 'a'"):
        demur.score(run, [{"id": "a", "prompt": "x"}, {"id": "a", "prompt": "y"}])
    other = Scores(table=scores.table, choices=("respond", "other"))
    with pytest.raises(ConfigError, match="scores of respond, other"):
        demur.decide(run.policy, other)


def test_scores_of_another_model_are_not_decided(run, scores):
    from dataclasses import replace

    foreign = replace(scores.fingerprint, model_digest="sha256:other")
    with pytest.raises(PolicyError, match="another model"):
        demur.decide(
            run.policy, Scores(table=scores.table, choices=scores.choices, fingerprint=foreign)
        )


@pytest.mark.parametrize("kind", ["pandas", "datasets"])
def test_tables_go_to_other_libraries_and_scores_come_back(run, scores, kind):
    pytest.importorskip(kind)
    there = getattr(scores, f"to_{kind}")()
    back = getattr(Scores, f"from_{kind}")(there, scores.fingerprint)
    assert back.table.ids == scores.table.ids
    assert back.choices == scores.choices
    np.testing.assert_array_equal(back.table.logp_NC, scores.table.logp_NC)
    assert len(getattr(demur.decide(run.policy, back), f"to_{kind}")()) == 2
    asked = {"pandas": lambda m: m.DataFrame, "datasets": lambda m: m.Dataset.from_dict}[kind](
        sys.modules[kind]
    )
    again = demur.score(run, asked({"id": ["x", "y"], "prompt": [DECLINED, ANSWERED]}))
    assert again.table.ids == ("x", "y")
    np.testing.assert_array_equal(again.table.logp_NC, scores.table.logp_NC)


def test_a_table_without_its_columns_is_named():
    with pytest.raises(ScoreError, match="no column 'respond' among id, safety"):
        Scores.from_columns({"id": ["a"], "safety": [-1.0]})


def test_html_escapes_what_people_wrote(scores):
    hostile = Scores.from_columns({"id": ["<script>"], "respond": [-0.1], "refuse": [-3.0]})
    assert "<script>" not in hostile._repr_html_()
    assert "&lt;script&gt;" in hostile._repr_html_()
