import pytest

from demur.base.errors import ArtifactError
from demur.core.judging.outcome import Outcome
from demur.store.answers.label_store import LabelFile

OUTCOME = Outcome(verdict="partial", reason="some of it", judge="llm/x/1", score=0.25)


def test_a_label_reads_back_as_it_was_put(tmp_path):
    LabelFile(tmp_path / "new" / "l.sqlite").put("k", OUTCOME, "m-1")
    file = LabelFile(tmp_path / "new" / "l.sqlite")
    assert file.get("k") == OUTCOME
    assert file.get("other") is None
    assert file.served_by("llm/x/1") == "m-1"
    assert file.served_by("llm/x/2") is None


def test_two_readers_see_what_one_writes(tmp_path):
    a, b = LabelFile(tmp_path / "l.sqlite"), LabelFile(tmp_path / "l.sqlite")
    a.put("k", OUTCOME, "m")
    assert b.get("k") == OUTCOME


def test_a_file_that_is_no_label_file_is_named(tmp_path):
    path = tmp_path / "l.sqlite"
    path.write_text("not a database at all, but long enough to be read as one" * 40)
    with pytest.raises(ArtifactError, match=r"l\.sqlite is no label file"):
        LabelFile(path)
