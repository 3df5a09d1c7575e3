import pytest

from demur.base.errors import ArtifactError
from demur.core.judging.outcome import Outcome
from demur.core.ports import Answer
from demur.store.answers.branch_cache import BranchCache
from demur.store.scores.tables import Branch, read_branches

TOKENS = ("[respond]", "[no]")


def branch(name, column):
    answer = Answer(text=f"text of {name}", finished=True, tokens=3)
    return Branch(
        id=name,
        column=column,
        answer=answer,
        outcome=Outcome(verdict="refusal", reason="no", judge="j/1"),
    )


def cache(tmp_path, origin="a"):
    stage = tmp_path / "evaluate"
    opened = BranchCache(
        file=stage / "branches.parquet", parts=stage / "parts", tokens=TOKENS, origin=origin
    )
    opened.load()
    return opened


def test_parts_and_the_merged_file_hold_the_same_branches(tmp_path):
    first = cache(tmp_path)
    first.add([branch("x", 0)])
    first.add([branch("x", 1), branch("y", 0)])
    assert cache(tmp_path).known == first.known
    first.merge()
    assert cache(tmp_path).known == first.known
    assert not (tmp_path / "evaluate" / "parts").exists()
    assert len(read_branches(tmp_path / "evaluate" / "branches.parquet", TOKENS)) == 3


def test_only_what_is_not_known_is_missing(tmp_path):
    opened = cache(tmp_path)
    opened.add([branch("x", 0)])
    assert opened.missing("x", [0, 1]) == [1]
    assert opened.missing("y", [0, 1]) == [0, 1]


def test_branches_of_another_origin_are_not_read(tmp_path):
    first = cache(tmp_path)
    first.add([branch("x", 0)])
    assert cache(tmp_path, "b").known == {}
    first.merge()
    assert cache(tmp_path, "b").known == {}


def test_a_branch_that_was_never_generated_names_token_and_prompt(tmp_path):
    with pytest.raises(ArtifactError, match=r"no text after '\[no\]' was generated for prompt 'x'"):
        cache(tmp_path).get("x", 1)


def test_a_damaged_part_is_named(tmp_path):
    cache(tmp_path).add([branch("x", 0)])
    (tmp_path / "evaluate" / "parts" / "00000.parquet").write_bytes(b"half")
    with pytest.raises(ArtifactError, match=r"00000\.parquet is damaged"):
        cache(tmp_path)
