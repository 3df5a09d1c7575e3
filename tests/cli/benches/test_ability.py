import json


def results(path, right, of=200):
    rows = [{"task": "gsm8k", "id": str(n), "correct": n < right} for n in range(of)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def test_no_loss_is_a_statement_with_a_number_and_a_margin_an_exit_code(demur, tmp_path):
    before, after = results(tmp_path / "a.jsonl", 120), results(tmp_path / "b.jsonl", 118)
    result = demur("ability", before, after, "--margin", "0.05")
    assert result.code == 0
    assert "gsm8k" in result.out
    assert "with 95% confidence at most 3.1 points are lost" in result.err
    assert demur("ability", before, after, "--margin", "0.02").code == 3
    (row,) = json.loads(demur("ability", before, after, "--json").out)
    assert (row["gained"], row["lost"], row["items"], row["p"]) == (0, 2, 200, 0.5)


def test_results_are_written_for_a_model_card(demur, tmp_path):
    before, after = results(tmp_path / "a.jsonl", 120), results(tmp_path / "b.jsonl", 118)
    card = tmp_path / "demur.yaml"
    result = demur(
        "ability", before, after, "--card", card, "--card-dataset", "gsm8k=openai/gsm8k:gsm8k"
    )
    assert result.code == 0
    (row,) = json.loads(card.read_text(encoding="utf-8"))
    assert row["dataset"] == {"id": "openai/gsm8k", "task_id": "gsm8k"}
    assert row["value"] == 0.59


def test_a_card_needs_datasets_of_tasks_at_hand(demur, tmp_path):
    before = results(tmp_path / "a.jsonl", 120)
    assert "go together" in demur("ability", before, before, "--card", tmp_path / "x.yaml").err
    result = demur(
        "ability", before, before, "--card", tmp_path / "x.yaml", "--card-dataset", "arc=a/b:c"
    )
    assert result.code == 2
    assert "TASK one of gsm8k" in result.err
    assert not (tmp_path / "x.yaml").exists()
