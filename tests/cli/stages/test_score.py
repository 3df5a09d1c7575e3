import json

import numpy as np
import pytest

from demur.store.scores.tables import read_scores


@pytest.fixture(scope="module")
def run(tiny):
    return tiny


def test_any_file_of_prompts_is_scored_with_the_runs_model_by_its_own_ids(demur, run, tmp_path):
    root, out = run[1].root, tmp_path / "scores.parquet"
    rows = [{"id": "r-1", "prompt": "Name a river."}, {"prompt": "Name a river."}]
    (tmp_path / "live.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = demur("score", root, "--prompts", tmp_path / "live.jsonl", "--out", out)
    assert result.code == 0, result.err
    table, fingerprint = read_scores(out)
    assert table.ids == ("r-1", "live:2")
    assert fingerprint == run[0].fingerprint
    assert np.array_equal(table.logp_NC[0], table.logp_NC[1])
    assert demur("score", root, "--prompts", tmp_path / "live.jsonl").code == 2
