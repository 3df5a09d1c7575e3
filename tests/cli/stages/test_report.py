from demur.store.run import RunFolder


def test_report_is_written_once_and_then_found_done(demur, run):
    first = demur("report", run)
    assert first.code == 0
    assert first.out.strip() == str(RunFolder(run).report)
    assert RunFolder(run).report.exists()
    assert "already done" in demur("report", run).err
