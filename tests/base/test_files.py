import os
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.base.errors import ArtifactError
from demur.base.files import (
    digest_bytes,
    digest_file,
    digest_json,
    sweep,
    write_bytes,
    write_json,
    write_text,
    write_together,
)

EMPTY = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_folders_are_made_and_nothing_else_is_left(tmp_path):
    path = tmp_path / "a" / "b" / "c.txt"
    write_text(path, "grüße\n")
    write_text(path, "again\n")
    assert path.read_text(encoding="utf-8") == "again\n"
    assert os.listdir(path.parent) == ["c.txt"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArtifactError, match=r"cannot write .*file/inside"):
        write_text(tmp_path / "file" / "inside", "y")
    with pytest.raises(ArtifactError, match="cannot write"):
        write_text(tmp_path, "over a folder")


FULL = """
import resource, signal, sys
from pathlib import Path
from demur.base.errors import ArtifactError
from demur.base.files import write_bytes
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
try:
    write_bytes(Path(sys.argv[1]), b"x" * 2000)
except ArtifactError as e:
    print(e)
"""


def test_when_no_more_bytes_fit_the_old_file_stays_and_the_error_says_so(tmp_path):
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")
    child = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert f"cannot write {path}" in child.stdout
    assert "free some space" in child.stdout
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


LOOP = """
import sys
from pathlib import Path
from demur.base.files import write_bytes
n = 0
while True:
    n += 1
    write_bytes(Path(sys.argv[1]), bytes([n % 256]) * 3_000_000)
"""


def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path):
    path = tmp_path / "a.bin"
    for wait_s in (0.0, 0.003, 0.011):
        child = subprocess.Popen([sys.executable, "-c", LOOP, str(path)])
        path.unlink(missing_ok=True)
        while not path.exists():
            time.sleep(0.001)
        time.sleep(wait_s)
        child.send_signal(signal.SIGKILL)
        child.wait()
        data = path.read_bytes()
        assert len(data) == 3_000_000
        assert len(set(data)) == 1


def test_json_keeps_its_key_order_and_refuses_what_json_has_not(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"b": 1, "a": "é"})
    assert path.read_text(encoding="utf-8") == '{\n  "b": 1,\n  "a": "é"\n}\n'
    for bad in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"not JSON compliant|Out of range"):
            write_json(path, {"a": bad})
    assert path.read_text(encoding="utf-8").startswith('{\n  "b"')


def test_digests_are_sha256(tmp_path):
    (tmp_path / "empty").touch()
    assert digest_bytes(b"") == digest_file(tmp_path / "empty") == EMPTY
    with pytest.raises(ArtifactError, match=r"cannot read .*none"):
        digest_file(tmp_path / "none")


@given(st.dictionaries(st.text(), st.integers() | st.text(), min_size=1))
def test_a_json_digest_does_not_see_key_order(value):
    turned = dict(reversed(value.items()))
    assert digest_json(value) == digest_json(turned)
    assert digest_json(value) != digest_json({**value, "one more key than any": 0, "": "changed"})


def test_several_files_are_written_all_or_none(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b"]
    write_together(dict.fromkeys(paths, b"old"))
    (tmp_path / "c").mkdir()
    with pytest.raises(ArtifactError, match="cannot write"):
        write_together(
            {paths[0]: b"new", tmp_path / "c" / "inside" / "d": b"new", paths[1] / "e": b"new"}
        )
    assert [p.read_bytes() for p in paths] == [b"old", b"old"]
    assert list(tmp_path.rglob(".*.part")) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from demur.base import files
os.fsync = lambda handle: (print("writing", flush=True), sys.stdin.readline())
files.write_bytes(Path(sys.argv[1]), b"half")
"""


def test_what_a_killed_writer_left_is_swept_away_and_what_a_living_one_writes_is_not(tmp_path):
    path = tmp_path / "calibrate" / "policy.json"
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert writer.stdout.readline() == "writing\n"
    sweep(tmp_path)
    assert len(list(tmp_path.rglob(".*.part"))) == 1
    writer.kill()
    writer.wait(timeout=60)
    assert len(list(tmp_path.rglob(".*.part"))) == 1
    sweep(tmp_path)
    assert list(tmp_path.rglob("*")) == [tmp_path / "calibrate"]
