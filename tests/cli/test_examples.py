"""The examples that need nothing but a CPU and a second."""

import json
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_the_example_with_categories_of_its_own_runs(demur, tmp_path):
    result = demur("data", EXAMPLES / "own.toml", "--out", tmp_path / "run", "--json")
    assert result.code == 0, result.err
    summary = json.loads(result.out)
    kinds = {(c["kind"], c["category"]) for c in summary["counts"]}
    assert kinds == {(k, c) for k in ("refusal", "contrast") for c in ("legal", "medical")} | {
        ("benign", None)
    }
    assert (summary["duplicates"], summary["contradictory"], summary["leaked"]) == (0, [], [])
    # Few rows, as the example says of itself; but each split has some of each category.
    assert all("has few rows" in warning for warning in summary["warnings"])
