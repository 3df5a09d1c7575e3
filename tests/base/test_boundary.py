from dataclasses import dataclass
from typing import Literal

import numpy as np
import pytest

from demur.base.boundary import Strict, dumped, read_json, read_toml, validated
from demur.base.errors import ArtifactError, ConfigError
from demur.base.text import read_text


class Inner(Strict):
    threshold: float = 0.5


class Outer(Strict):
    name: str
    rule: Literal["natural", "heaviest"] = "natural"
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Count:
    hits: int
    share: float = 0.5


class Holder(Strict):
    count: Count


def test_a_dataclass_is_read_as_strictly_as_a_strict_record():
    assert validated(Count, {"hits": 3}, "here") == Count(hits=3)
    with pytest.raises(ArtifactError, match="here: hit: unknown key") as e:
        validated(Count, {"hit": 3}, "here")
    assert "'hits'" in e.value.hint
    with pytest.raises(ArtifactError, match=r"here: count\.hit: unknown key") as e:
        validated(Holder, {"count": {"hit": 3}}, "here")
    assert "'hits'" in e.value.hint
    with pytest.raises(ArtifactError, match="finite"):
        validated(Count, {"hits": 3, "share": float("inf")}, "here")


def test_a_dataclass_with_numbers_of_numpy_is_written_as_plain_json():
    count = Count(hits=np.int64(3), share=np.float32(0.25))
    assert dumped(count) == {"hits": 3, "share": 0.25}
    assert Holder(count=count).model_dump(mode="json") == {"count": {"hits": 3, "share": 0.25}}


def test_what_fits_is_returned_frozen():
    record = validated(Outer, {"name": "a", "inner": {"threshold": 1}}, "here")
    assert record == Outer(name="a", inner=Inner(threshold=1.0))
    with pytest.raises(ValueError, match="frozen"):
        record.name = "b"


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        ({"nane": "a"}, "here: nane: unknown key", "did you mean 'name'?"),
        ({"name": "a", "rul": "x"}, "here: rul: unknown key", "did you mean 'rule'?"),
        ({"name": "a", "zzz": 1}, "here: zzz: unknown key", "known keys: name, rule, inner, many"),
        (
            {"name": "a", "inner": {"treshold": 1}},
            "here: inner.treshold: unknown key",
            "did you mean 'threshold'?",
        ),
        (
            {"name": "a", "many": [{"tresh": 1}]},
            "here: many.0.tresh: unknown key",
            "did you mean 'threshold'?",
        ),
        ({"name": "a", "rule": "x" * 200}, "here: rule: Input should be", "correct"),
        ([], "here: the whole file", "correct"),
    ],
)
def test_a_fault_names_place_value_and_remedy(data, message, hint):
    with pytest.raises(ConfigError) as e:
        validated(Outer, data, "here", ConfigError)
    assert e.value.message.startswith(message)
    assert hint in e.value.hint
    assert len(e.value.message) < 200


def test_json_faults_name_file_and_line(tmp_path):
    path = tmp_path / "a.json"
    with pytest.raises(ArtifactError, match=r"a\.json does not exist"):
        read_json(path)
    path.write_text('{"a": 1,\n"b": }')
    with pytest.raises(ArtifactError, match=r"a\.json is damaged: line 2"):
        read_json(path)
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_toml_faults_name_the_file(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text("a = \n")
    with pytest.raises(ConfigError, match=r"a\.toml is not TOML.*line 1"):
        read_toml(path)
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):  # as editors on Windows save it
        path.write_text("a = 1\n", encoding=encoding)
        assert read_toml(path) == {"a": 1}


def test_what_is_not_text_cannot_be_read(tmp_path):
    (tmp_path / "a").write_bytes(b"\xff\xfe\x00")
    for path in (tmp_path / "a", tmp_path):
        with pytest.raises(ArtifactError, match="cannot read"):
            read_text(path, ArtifactError)
