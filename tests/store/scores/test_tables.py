import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from demur.base.errors import ArtifactError
from demur.core.fingerprint import Fingerprint
from demur.core.judging.outcome import Outcome
from demur.core.ports import Answer
from demur.core.score import ScoreTable
from demur.store.scores.tables import (
    Branch,
    Requests,
    branches_origin,
    read_branches,
    read_requests,
    read_scores,
    write_branches,
    write_scores,
)

TOKENS = ("[respond]", "[s]", "[u]")
FINGERPRINT = Fingerprint(
    model_digest="sha256:m",
    tokenizer_digest="sha256:t",
    template_digest="sha256:c",
    tokens=TOKENS,
    token_ids=(1, 2, 3),
    dtype="float32",
)
text = st.text(st.characters(codec="utf-8"))
branches = st.builds(
    Branch,
    id=text,
    column=st.integers(0, 2),
    answer=st.builds(Answer, text=text, finished=st.booleans(), tokens=st.integers(0, 999)),
    outcome=st.builds(
        Outcome,
        verdict=st.sampled_from(["refusal", "partial", "compliance", "unscored"]),
        reason=text,
        judge=text,
    ),
)


def scores(n, seed=0):
    p_NC = np.random.default_rng(seed).dirichlet(np.ones(4), size=n)[:, :3]
    return ScoreTable(
        ids=tuple(f"row {i}" for i in range(n)), logp_NC=np.log(p_NC).astype(np.float32)
    )


def test_scores_come_back_bit_for_bit(tmp_path):
    table = scores(100)
    write_scores(tmp_path / "s.parquet", table, FINGERPRINT)
    again, fingerprint = read_scores(tmp_path / "s.parquet")
    assert fingerprint == FINGERPRINT
    assert again.ids == table.ids
    assert again.logp_NC.dtype == np.float32
    assert np.array_equal(again.logp_NC, table.logp_NC)


def test_any_parquet_reader_sees_tokens_and_leftover_mass(tmp_path):
    table = scores(5)
    write_scores(tmp_path / "s.parquet", table, FINGERPRINT)
    columns = pq.read_table(tmp_path / "s.parquet")
    assert columns.column_names == ["id", *TOKENS, "leftover"]
    total = np.exp(table.logp_NC.astype(np.float64)).sum(axis=1) + columns["leftover"].to_numpy()
    assert total == pytest.approx(np.ones(5), abs=1e-6)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(branches, max_size=5), text)
def test_branches_come_back_as_they_were(tmp_path, some, origin):
    path = tmp_path / "b.parquet"
    write_branches(path, some, TOKENS, origin)
    assert read_branches(path, TOKENS) == some
    assert branches_origin(path) == origin


def test_missing_cut_and_foreign_files_are_named(tmp_path):
    path = tmp_path / "s.parquet"
    with pytest.raises(ArtifactError, match=r"s\.parquet does not exist"):
        read_scores(path)
    write_scores(path, scores(50), FINGERPRINT)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ArtifactError, match=r"s\.parquet is damaged"):
        read_scores(path)
    pq.write_table(pa.table({"a": [1]}), path)
    with pytest.raises(
        ArtifactError, match=r"s\.parquet has format none, expected demur\.scores/1"
    ):
        read_scores(path)
    write_branches(path, [], TOKENS)
    with pytest.raises(ArtifactError, match=r"has format demur\.branches/1"):
        read_scores(path)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.5])
def test_scores_that_are_no_log_probabilities_are_named_by_row(tmp_path, bad):
    path = tmp_path / "s.parquet"
    write_scores(path, scores(3), FINGERPRINT)
    table = pq.read_table(path)
    spoilt = table["[s]"].to_numpy().copy()
    spoilt[1] = bad
    pq.write_table(table.set_column(2, "[s]", pa.array(spoilt)), path)
    with pytest.raises(ArtifactError, match="row 'row 1'"):
        read_scores(path)


def test_scores_without_a_column_or_fingerprint_are_damaged(tmp_path):
    path = tmp_path / "s.parquet"
    write_scores(path, scores(3), FINGERPRINT)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["[u]"]), path)
    with pytest.raises(ArtifactError, match=r"s\.parquet is damaged"):
        read_scores(path)
    pq.write_table(table.replace_schema_metadata({"format": "demur.scores/1"}), path)
    with pytest.raises(ArtifactError, match=r"s\.parquet is damaged"):
        read_scores(path)


def test_branches_of_other_control_tokens_are_refused(tmp_path):
    path = tmp_path / "b.parquet"
    answer = Answer(text="No.", finished=True, tokens=2)
    outcome = Outcome(verdict="refusal", reason="no", judge="j/1")
    write_branches(path, [Branch(id="a", column=2, answer=answer, outcome=outcome)], TOKENS)
    with pytest.raises(ArtifactError, match=r"control tokens \['\[u\]'\]"):
        read_branches(path, ("[respond]", "[s]"))


def test_sessions_and_counts_are_columns_where_they_say_something(tmp_path):
    path = tmp_path / "s.parquet"
    said = Requests(sessions=("a", None, "a"), counts=(1, 3, 1))
    write_scores(path, scores(3), FINGERPRINT, requests=said)
    assert read_requests(path) == said
    assert read_scores(path)[0].ids == scores(3).ids
    silent = Requests(sessions=(None,) * 3, counts=(1, 1, 1))
    write_scores(path, scores(3), FINGERPRINT, requests=silent)
    assert read_requests(path) == Requests()
    assert not {"session", "count"} & set(pq.read_table(path).column_names)
