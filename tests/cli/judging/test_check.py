from tests.stages.test_judge import rows, write


def test_judge_check_shows_tables_and_the_warning(demur, tmp_path):
    result = demur("judge-check", write(tmp_path / "a.jsonl", rows(60)))
    assert result.code == 0
    assert "60 labelled of 60, lenient view" in result.out
    assert "Rogan-Gladen needs error rates" in " ".join(result.err.split())


def test_judge_check_shows_how_far_judges_agree_with_each_other(demur, tmp_path):
    file = write(tmp_path / "a.jsonl", rows(60))
    demur("judge", file, "--out", tmp_path / "v.jsonl")
    result = demur("judge-check", file, "--judge", "phrases", "--judged", tmp_path / "v.jsonl")
    assert "agreement with each other" in result.out
    assert "1.000 (0." in result.out  # two raters who never differed may yet
