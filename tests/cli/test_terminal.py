"""What is said of progress where there is no terminal."""

from demur.cli import terminal


def test_the_doing_is_said_once_and_other_units_begin_a_new_count(monkeypatch, capsys):
    clock = iter([0.0, 1.0, 21.0, 41.0, 42.0, 62.0])
    monkeypatch.setattr(terminal.time, "monotonic", lambda: next(clock))
    tell = terminal._lines("train", "teaching a model")
    tell(100, 500)  # rows
    tell(300, 500)
    tell(500, 500)
    tell(1, 20)  # steps from here on
    tell(11, 20)
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "train      teaching a model",
        "train      300 of 500, 0:20 elapsed, 0:20 left",
        "train      500 of 500, 0:40 elapsed, 0:00 left",
        "train      11 of 20, 0:20 elapsed, 0:18 left",
    ]
