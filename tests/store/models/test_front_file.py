import io
import json
import pickle
import zipfile

import numpy as np
import pytest

from demur.base.errors import ArtifactError
from demur.store.models.front_file import read_front, write_front
from tests.front_parts import front, texts, user


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("front") / "front.npz"
    return path, write_front(path, front())


def test_a_front_is_read_as_it_was_written(written, tmp_path):
    path, digest = written
    found = read_front(path)
    assert (found.range, found.edges, found.taught_by) == (
        front().range,
        front().edges,
        front().taught_by,
    )
    for text in texts(40, 8):
        ours, theirs = front().given(user(text)), found.given(user(text))
        assert (ours is None and theirs is None) or np.array_equal(ours, theirs)
    assert write_front(tmp_path / "again.npz", found) == digest


def test_no_text_of_the_traffic_is_in_it(written):
    with zipfile.ZipFile(written[0]) as parts:
        held = b"".join(parts.read(name) for name in parts.namelist())
    assert b"moner" not in held
    assert b"safety and" not in held


def changed(source, target, **arrays):
    with np.load(source, allow_pickle=False) as found:
        parts = {name: found[name] for name in found.files}
    buffer = io.BytesIO()
    np.savez(buffer, **(parts | arrays))
    target.write_bytes(buffer.getvalue())


def head(source, **keys):
    with np.load(source) as found:
        value = json.loads(found["head"].tobytes()) | keys
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


@pytest.mark.parametrize(
    "kind", ["shape", "infinite", "format", "key", "bytes", "pickle", "edge", "gone"]
)
def test_a_file_that_is_no_front_is_refused_by_name(written, tmp_path, kind):
    source, target = written[0], tmp_path / "front.npz"
    if kind == "shape":
        changed(source, target, intercept=np.zeros(2))
    elif kind == "infinite":
        changed(source, target, intercept=np.full(len(front().taught_by.tokens) + 1, np.inf))
    elif kind == "format":
        changed(source, target, head=head(source, format="demur.front/2"))
    elif kind == "key":
        changed(source, target, head=head(source, more=1))
    elif kind == "edge":
        changed(source, target, head=head(source, edges={"answer": "inf", "refuse": None}))
    elif kind == "bytes":
        target.write_bytes(source.read_bytes()[:-200])
    elif kind == "pickle":
        changed(source, target, idf=np.array([pickle.dumps(1)], dtype=object))
    with pytest.raises(ArtifactError, match=r"front.npz"):
        read_front(target)
