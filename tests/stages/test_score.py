"""The score stage: every prompt once, in parts that a killed run finds again."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from tests.fake_run import Rows, engine_for, examples

from demur.base.errors import ArtifactError, ScoreError
from demur.core.ports import no_progress
from demur.core.taxonomy import coconot
from demur.engines.fake.engine import FakeEngine
from demur.stages import data, score
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.scores.rewritten import rewritten_scores
from demur.store.scores.tables import read_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class CountingEngine(FakeEngine):
    """A fake engine that counts prompts, and may die after some."""

    asked: list[int] = field(default_factory=list)
    dies_after: int = 10**9

    def logp(self, prompts, progress=no_progress):
        if sum(self.asked) + len(prompts) > self.dies_after:
            raise KeyboardInterrupt
        self.asked.append(len(prompts))
        return FakeEngine.logp(self, prompts, progress)


@pytest.fixture
def folder(tmp_path):
    run = RunFolder(tmp_path)
    data.run(data.Config(), coconot(), {"rows": Rows(examples(every=8))}, run)
    return run


def engine(**settings):
    return CountingEngine(taxonomy=coconot(), **settings)


def test_every_held_out_prompt_is_scored_once_and_leftover_mass_stands_beside_it(folder):
    counting = engine()
    tables = score.run(score.Config(part_rows=50), counting, folder)
    rows = {split: read_examples(folder.split(split)) for split in ("calibrate", "test")}
    assert {s: t.ids for s, t in tables.items()} == {
        s: tuple(e.id for e in r) for s, r in rows.items()
    }
    assert sum(counting.asked) == sum(map(len, rows.values()))
    np.testing.assert_array_equal(
        tables["test"].logp_NC, counting.logp([e.prompt for e in rows["test"]])
    )


def test_a_killed_run_asks_only_for_what_is_missing_and_ends_with_the_same_scores(folder, tmp_path):
    whole = engine()
    expected = score.run(score.Config(part_rows=20), whole, folder)["test"].logp_NC
    folder.scores("test").unlink()
    folder.scores("calibrate").unlink()
    (folder.stage("score") / "made.json").unlink()
    with pytest.raises(KeyboardInterrupt):
        score.run(score.Config(part_rows=20), engine(dies_after=60), folder)
    assert not folder.scores("test").exists()
    rest = engine()
    resumed = score.run(score.Config(part_rows=20), rest, folder)["test"].logp_NC
    assert sum(rest.asked) < sum(whole.asked)
    np.testing.assert_array_equal(resumed, expected)
    assert not (folder.stage("score") / "parts").exists()


def test_parts_of_another_model_or_damaged_ones_are_scored_again(folder):
    with pytest.raises(KeyboardInterrupt):
        score.run(score.Config(part_rows=20), engine(dies_after=60), folder)
    parts = sorted((folder.stage("score") / "parts").iterdir())
    parts[0].write_bytes(b"torn")
    other = engine(seed=1)
    score.run(score.Config(part_rows=20), other, folder)
    _, made_by = read_scores(folder.scores("calibrate"))
    assert made_by == other.fingerprint
    assert sum(other.asked) == sum(
        len(read_examples(folder.split(s))) for s in ("calibrate", "test")
    )


def test_a_finished_stage_calls_no_model(folder):
    score.run(score.Config(), engine(), folder)
    again = engine()
    score.run(score.Config(), again, folder)
    assert again.asked == []


def test_progress_runs_over_both_splits(folder):
    seen = []
    score.run(
        score.Config(part_rows=30), engine(), folder, lambda done, total: seen.append((done, total))
    )
    assert seen[-1][0] == seen[-1][1]
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)


def test_scores_that_are_not_numbers_end_with_the_prompt_they_belong_to(folder):
    class Broken(CountingEngine):
        def logp(self, prompts, progress=no_progress):
            out = FakeEngine.logp(self, prompts, progress)
            out[3, 1] = np.nan
            return out

    with pytest.raises(ScoreError, match="not log-probabilities"):
        score.run(score.Config(), Broken(taxonomy=coconot()), folder)
    assert not folder.scores("calibrate").exists()


def test_without_data_the_stage_says_what_to_run(tmp_path):
    with pytest.raises(ArtifactError, match="is not finished") as error:
        score.run(score.Config(), engine_for(()), RunFolder(tmp_path))
    assert "demur data" in error.value.hint


def test_rewrites_can_be_added_later_and_a_killed_run_of_them_goes_on(folder):
    score.run(score.Config(part_rows=20), engine(), folder)
    wish = score.Config(part_rows=20, rewrites=("case",))
    with pytest.raises(KeyboardInterrupt):
        score.run(wish, engine(dies_after=60), folder)
    rest = engine()
    score.run(wish, rest, folder)
    rows = [e for s in ("calibrate", "test") for e in read_examples(folder.split(s))]
    assert 0 < sum(rest.asked) < len(rows)  # no plain prompt again, and no part that was saved
    table, _ = read_scores(rewritten_scores(folder, "test", "case"))
    assert table.ids == tuple(e.id for e in rows if e.split == "test")
