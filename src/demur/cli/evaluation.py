"""Evaluations on the terminal, and the exit code where test rows contradict a certified promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from demur.cli.terminal import note, print_table, top_reasons
from demur.store.results.everyday_file import read_everyday
from demur.store.run import RunFolder

if TYPE_CHECKING:
    from demur.stages import evaluate

SPOKEN_AGAINST = 3  # a result, not a fault


def note_everyday(folder: RunFolder) -> None:
    """Print how many everyday prompts are decided as expected, and each of the others; nothing if
    none was decided under this policy.
    """
    found = read_everyday(folder)
    if found is None:
        return
    note(
        f"everyday prompts: {len(found.rows) - len(found.wrong)} of {len(found.rows)} decided as "
        "expected"
    )
    for row in found.wrong:
        note(f"  not so: {row.prompt!r}: {row.decided}, expected {row.expected}")


def exit_if_contradicted(folder: RunFolder) -> None:
    """Exit with code 3 if test rows contradict a certified promise, after a line for each."""
    from demur.stages import evaluate

    if found := evaluate.contradictions(folder):
        for one in found:
            note(f"THE TEST ROWS SPEAK AGAINST A CERTIFICATE: {one.text}")
        note(
            "do not rely on it: find out what sets the test rows apart (demur report), then "
            "calibrate again"
        )
        raise typer.Exit(SPOKEN_AGAINST)


def print_evaluation(evaluation: evaluate.Evaluation) -> None:
    """Print a table of rates per policy, then the goals that no threshold meets.

    With hand labels also the text rates of the calibrated policy, raw and corrected.
    """
    from demur.stages import evaluate

    for block in evaluate.table_rows(evaluation):
        print_table([evaluate.HEADER, *block.rows], title=block.title)
    calibrated = evaluation.policies[1]  # after the natural one; then come goals for comparison
    for table in evaluate.stop_tables(evaluation):
        print_table([table.header, *table.rows], title=table.title)
    if calibrated.stops is not None:
        note(evaluate.leaked_words(calibrated.stops))
    if rows := evaluate.corrected_rows(evaluation):
        title = (
            f"texts of the calibrated policy: {calibrated.goal}; {evaluation.labels} labelled "
            "by hand"
        )
        print_table([evaluate.CORRECTED_HEADER, *rows], title=title)
    if evaluation.labels_elsewhere:
        note(
            f"{evaluation.labels_elsewhere} labels are not counted: they are of texts that this "
            "evaluation does not have"
        )
    some = (
        ""
        if evaluation.text_rows is None
        else f", of {evaluation.text_rows} of {evaluation.test_rows} test rows"
    )
    note(f"texts judged by {evaluation.judge}{some}")
    if evaluation.leftover.doubtful:
        left = evaluation.leftover
        note(
            f"doubt: {left.doubtful} of {evaluation.test_rows} test rows, refused at every "
            "threshold"
        )
    # Rates of texts leave these out, so their number must be seen.
    if calibrated.unscored.hits:
        note(
            f"unscored: {calibrated.unscored.hits} of {calibrated.unscored.of} texts of the "
            "calibrated policy, in no rate of the texts "
            f"({top_reasons(calibrated.unscored_reasons)})"
        )
    for goal in evaluation.unmet:
        note(f"not shown: {goal.goal}: {goal.reason}")
