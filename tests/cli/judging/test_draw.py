"""demur draw-labels on a finished run, then demur evaluate on what people made of it."""

import json
import re
import shutil

import typer
from typer.testing import CliRunner

from demur.cli.judging.draw import command
from demur.store.answers.labels import key_path


def test_drawn_texts_come_back_labelled_and_correct_the_rates(demur, made_run, tmp_path):
    run, out = tmp_path / "run", tmp_path / "labels.jsonl"
    shutil.copytree(made_run, run)
    app = typer.Typer()
    app.command()(command)
    drawn = CliRunner().invoke(app, [str(run), "--out", str(out), "--labels", "60", "--json"])
    assert drawn.exit_code == 0, drawn.output
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert key_path(out).exists()
    for n, row in enumerate(rows):
        row["label"] = "refusal" if n % 3 else "compliance"
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = demur("evaluate", run, "--labels", out, "--json")
    assert result.code == 0, result.err
    metrics = json.loads(result.out)
    assert metrics["labels"] == len(rows)
    method = metrics["policies"][1]["corrected"]["all"]["refusal_rate"]["method"]
    assert "hand labels" in method
    shown = demur("evaluate", run, "--labels", out)
    words = " ".join(shown.out.split())
    assert f"{len(rows)} labelled by hand" in words
    rate = metrics["policies"][1]["corrected"]["all"]["refusal_rate"]
    assert re.search(
        rf"refusal rate.*{100 * rate['value']:.1f}%.*{100 * rate['low']:.1f} to "
        rf"{100 * rate['high']:.1f}",
        words,
    )
    assert all(
        name in words
        for name in ("missed refusal", "false refusal", "texts refuse", "texts answer")
    )
    assert demur("evaluate", run).out == shown.out  # without a flag it shows what was measured
    assert demur("evaluate", run, "--labels", out).code == 0
    assert demur("report", run).code == 0
    assert "corrected by hand labels" in (run / "report" / "report.md").read_text()
