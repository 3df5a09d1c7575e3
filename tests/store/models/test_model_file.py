import json
from dataclasses import replace

import pytest

from demur.base.errors import ArtifactError
from demur.core.fingerprint import Fingerprint
from demur.core.ports import Origin, TrainedModel
from demur.core.taxonomy import coconot
from demur.store.models.model_file import FILE_NAME, read_model_file, write_model_file

FINGERPRINT = Fingerprint(
    model_digest="sha256:m",
    tokenizer_digest="sha256:t",
    template_digest="sha256:c",
    tokens=coconot().tokens,
    token_ids=(7, 8, 9, 10, 11, 12),
    dtype="float32",
)
TRAINED = TrainedModel(
    fingerprint=FINGERPRINT,
    steps=3,
    history=({"step": 1.0, "loss": 2.5}, {"step": 2.0, "loss": 1.5}),
    row_change=(0.5,) * 6,
    details={"recipe": "tiny", "processes": 1, "tied": True},
)


def test_what_is_written_is_read(tmp_path):
    write_model_file(tmp_path, coconot(), TRAINED, "sha256:d")
    file = read_model_file(tmp_path)
    assert file.to_core() == TRAINED
    assert file.taxonomy == coconot()
    assert (file.format, file.data_digest) == ("demur.model/1", "sha256:d")


def test_the_base_is_written_where_there_is_one(tmp_path):
    write_model_file(tmp_path, coconot(), TRAINED, "sha256:d")
    assert "base" not in json.loads((tmp_path / FILE_NAME).read_text())
    origin = Origin(model="m", licence="mit", source="package p 1", digest="sha256:b")
    write_model_file(tmp_path, coconot(), replace(TRAINED, origin=origin), "sha256:d")
    assert read_model_file(tmp_path).to_core().origin == origin


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("steps", None, "steps"),
        ("format", "demur.model/9", "format"),
        ("stepz", 3, "stepz: unknown key"),
        ("taxonomy", {"name": "x", "respond_token": "[r]", "categories": []}, "no category"),
    ],
)
def test_damage_is_named(tmp_path, key, value, says):
    write_model_file(tmp_path, coconot(), TRAINED, "sha256:d")
    path = tmp_path / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    with pytest.raises(ArtifactError) as e:
        read_model_file(tmp_path)
    assert str(path) in e.value.message
    assert says in e.value.message


def test_a_folder_that_is_no_demur_model_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"demur\.json does not exist"):
        read_model_file(tmp_path)
