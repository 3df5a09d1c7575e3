import json


def test_data_makes_a_run_folder_and_counts_rows_for_programs(demur, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    result = demur("data", config, "--out", tmp_path / "out", "--set", "data.seed=3", "--json")
    assert result.code == 0
    assert json.loads(result.out)["read"] > 2000
    assert (
        json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))["data"]["seed"]
        == 3
    )
    assert (
        "already done"
        in demur("data", config, "--out", tmp_path / "out", "--set", "data.seed=3").err
    )


def test_an_unknown_key_of_a_config_is_named_with_a_suggestion(demur, tmp_path):
    config = tmp_path / "mine.toml"
    config.write_text('[data]\nsed = 3\n[[data.sources]]\nkind = "builtin"\n', encoding="utf-8")
    result = demur("data", config)
    assert result.code == 2
    assert "data.sed" in result.err
    assert "did you mean 'seed'?" in result.err
