"""What `demur explain` says of the model behind a run's policy."""

import pytest

from demur.cli.deciding.explain import _of_the_model
from demur.core.ports import Origin, TrainedModel
from demur.core.taxonomy import single
from demur.engines.fake.engine import FakeEngine
from demur.store.models.model_file import write_model_file
from demur.store.run import RunFolder

ORIGIN = Origin(
    model="some/model", licence="Apache-2.0", source="a folder", digest="sha256:" + "0" * 64
)


@pytest.mark.parametrize(("change", "warned"), [(0.04, False), (0.3, True)])
def test_the_base_and_the_language_are_named_and_a_loss_is_warned_of(tmp_path, change, warned):
    folder = RunFolder(tmp_path).model
    folder.mkdir(parents=True)
    details = {"language_change": change, "language_tokens": 2500, "language_rows": 64}
    fingerprint = FakeEngine(taxonomy=single()).fingerprint
    made = TrainedModel(
        fingerprint=fingerprint,
        steps=1,
        history=(),
        row_change=(1.0, 1.0),
        details=details,
        origin=ORIGIN,
    )
    write_model_file(folder, single(), made, "sha256:rows")
    lines = _of_the_model(tmp_path)
    assert lines[0] == f"the model was made from {ORIGIN.text}"
    assert lines[1].startswith(f"language: {change:+.3f} nats a token")
    assert [line.startswith("warning: the language suffers") for line in lines[2:]] == [
        True
    ] * warned


def test_nothing_is_said_where_nothing_is_known(tmp_path):
    assert _of_the_model(tmp_path) == []
