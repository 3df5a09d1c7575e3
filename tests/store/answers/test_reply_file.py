import sqlite3

import pytest

from demur.base.errors import ArtifactError
from demur.core.judging.judge import ChatAnswer
from demur.store.answers.reply_file import ReplyFile

SAID = ChatAnswer(text="Who opened the bridge?", model="m-1")


def test_a_reply_is_there_for_the_next_process(tmp_path):
    first = ReplyFile(tmp_path / "below" / "replies.sqlite")
    first.put("key", SAID)
    # while the first is still open, as after a kill
    second = ReplyFile(tmp_path / "below" / "replies.sqlite")
    assert second.get("key") == SAID
    assert second.get("another") is None
    first.close()
    second.close()


def test_a_damaged_file_or_another_format_is_named(tmp_path):
    (tmp_path / "bad.sqlite").write_bytes(b"not a database, and long enough to be read as one" * 20)
    with pytest.raises(ArtifactError, match="bad"):
        ReplyFile(tmp_path / "bad.sqlite")
    db = sqlite3.connect(tmp_path / "old.sqlite")
    db.execute("PRAGMA user_version=7")
    db.close()
    with pytest.raises(ArtifactError, match="format 7"):
        ReplyFile(tmp_path / "old.sqlite")
