import json

from demur.assembly.config import config_from
from demur.assembly.run import create
from tests import fake_run
from tests.cli.conftest import CONFIG


def test_bench_calibration_studies_the_runs_below_a_folder(demur, tmp_path):
    config = config_from(CONFIG, "one.toml", base=tmp_path)
    rows = fake_run.examples(every=2)
    for sharpness in (1.0, 2.0):
        folder = fake_run.prepare(
            tmp_path / "runs" / f"s{sharpness}",
            rows,
            fake_run.engine_for(rows, sharpness=sharpness),
        )
        create(config, folder.root)
    result = demur(
        "bench-calibration",
        tmp_path / "runs",
        "--calibrator",
        "platt",
        "--calibrator",
        "temperature",
    )
    assert result.code == 0
    assert [c for c in ("none", "platt", "temperature") if c not in result.out] == []
    assert "mean over the runs" in result.out
    assert "By ece_em_15 nothing is ranked: the data of all 2 models is of one kind" in result.err
    assert "Do the measurements agree? Not known: 2 cases, at least 3 needed." in result.err
    out = tmp_path / "runs" / "study"
    assert sorted(p.name for p in out.iterdir()) == ["study.html", "study.json", "study.md"]
    study = json.loads(
        demur("bench-calibration", tmp_path / "runs", "--calibrator", "platt", "--json").out
    )
    assert [m["name"] for m in study["models"]] == ["s1.0", "s2.0"]
    assert study["calibrators"] == ["none", "platt"]


def test_bench_calibration_studies_pairs_of_score_files_without_a_run(demur, tmp_path):
    rows, files = fake_run.examples(every=2), tmp_path / "files"
    files.mkdir()
    for name in ("a", "b"):
        made = fake_run.prepare(
            tmp_path / name, rows, fake_run.engine_for(rows, sharpness=1.0 if name == "a" else 2.0)
        )
        for split in ("calibrate", "test"):
            (files / f"{name}-{split}.jsonl").write_bytes(made.split(split).read_bytes())
            (files / f"{name}-{split}.parquet").write_bytes(made.scores(split).read_bytes())
    result = demur("bench-calibration", files, "--calibrator", "platt", "--json")
    assert result.code == 0
    assert [m["name"] for m in json.loads(result.out)["models"]] == ["a", "b"]
    for kind in ("jsonl", "parquet"):
        (files / f"a-calibrate.{kind}").write_bytes((files / f"a-test.{kind}").read_bytes())
    result = demur("bench-calibration", files, "--calibrator", "platt")
    assert result.code == 2
    assert "a: the calibrate and test files share prompts" in result.err


def test_bench_calibration_without_a_scored_run_says_where_it_looked(demur, tmp_path):
    result = demur("bench-calibration", tmp_path)
    assert result.code == 2
    assert f"{tmp_path} has no scored run" in result.err
