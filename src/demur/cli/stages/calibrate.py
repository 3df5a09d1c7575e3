"""demur calibrate: scores and a goal -> a policy, with what it promises."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import typer

from demur.assembly.config import with_overrides
from demur.base.arrays import Floats
from demur.cli import options
from demur.cli.policies import doubt_note
from demur.cli.policy_text import note_policy, summary_json, threshold_text
from demur.cli.terminal import TERMINAL, note, print_json, print_table
from demur.core.decision import decide_many
from demur.core.policy import Policy
from demur.store.models.front_file import read_front_metrics
from demur.store.policies.choice_file import read_choice
from demur.store.run import RunFolder

GoalFlag = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GOAL",
        help="Such as 'f1 max', 'false_refusal <= 0.02'. Repeatable. Default: the config's.",
    ),
]
ConfidenceFlag = Annotated[
    float | None, typer.Option(help="Of all promises together. Default: the config's.")
]
NameFlag = Annotated[
    str | None, typer.Option(help="Keep it under this name, beside the run's own policy.")
]
OnFailureFlag = Annotated[
    str | None,
    typer.Option(
        help=(
            "If promises cannot be certified: stop, hard_only, keep:natural. Default: the config's."
        )
    ),
]
CalibratorFlag = Annotated[
    str | None,
    typer.Option(help="'auto', or a family such as 'temperature'. Default: the config's."),
]
SpendFlag = Annotated[
    str | None,
    typer.Option(
        metavar="N|1/N|releases",
        help="One of N planned attempts on these rows, each at its share of delta.",
    ),
]
SettingsFlag = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Another setting of [calibrate], e.g. method=path, override.safety=suppress. "
        "Repeatable.",
    ),
]


def command(
    run: options.Run,
    *,
    goal: GoalFlag = None,
    confidence: ConfidenceFlag = None,
    name: NameFlag = None,
    on_failure: OnFailureFlag = None,
    calibrator: CalibratorFlag = None,
    spend: SpendFlag = None,
    settings: SettingsFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Choose thresholds on the calibrate split. Calls no model; exit code 3 if no threshold meets
    the goal.
    """
    from demur.assembly.run import reopen
    from demur.assembly.steps import Steps

    # Several goals are one text in the config, in order of priority.
    asked = "; ".join(goal) if goal else None
    given = {
        "goal": asked,
        "confidence": confidence,
        "name": name,
        "calibrator": calibrator,
        "on_failure": on_failure,
        "spend": spend,
    }
    workspace = reopen(run)
    config = with_overrides(workspace.config.calibrate, settings or (), "calibrate")
    workspace = workspace.with_stage("calibrate", config).with_settings("calibrate", **given)
    # exit code 3, from the error's class, if no threshold meets the goal
    policy = Steps(workspace, TERMINAL).perform("calibrate")
    choice = read_choice(workspace.folder.calibrator)
    if as_json:
        chosen = {"calibrator_choice": choice.model_dump(mode="json")} if choice else {}
        print_json(summary_json(policy, workspace.folder.policy) | chosen)
        return
    if choice:
        note(
            f"calibrator: {choice.why}; fitted on {choice.fitted_on} rows, thresholds on "
            f"{choice.left} others"
        )
        for words in choice.notes:
            note(f"calibrator: {words}")
    header = ("category", "threshold", "refused", "false refusals", "missed refusals")
    chosen_on = " that thresholds were chosen on" if config.traffic is None or config.mix_by else ""
    print_table(
        [header, *_rows(workspace.folder, policy)], title=f"on the calibrate rows{chosen_on}"
    )
    note_policy(policy)
    _note_untaught(workspace.folder, policy)
    if told := doubt_note(policy, _threshold_scores(workspace.folder, policy)):
        note(told)
    _note_cascade(workspace.folder, policy)
    note(f"policy: {workspace.folder.policy}")


def _note_untaught(folder: RunFolder, policy: Policy) -> None:
    """Note that a policy has a monitor and its model was never taught to turn back."""
    trained = folder.receipt("train")
    if policy.monitor is None or trained is None or trained.settings.get("turn_back"):
        return
    note(
        "the model was not taught to refuse in mid-answer ([train.turn_back]): its monitor is "
        "calibrated on it, and may stop little of what it should"
    )


def _note_cascade(folder: RunFolder, policy: Policy) -> None:
    """Note the front's share of decisions and their cost, under a policy of a cascade."""
    if policy.fingerprint is not None and policy.fingerprint.front is not None:
        made = read_front_metrics(folder)
        note(
            f"cascade: the front decides {made.share:.0%} of held-out traffic; CPU time of a "
            f"decision: {made.cost}"
        )


def _threshold_scores(folder: RunFolder, policy: Policy) -> Floats:
    """Read the scores that thresholds were chosen on."""
    from demur.stages.arrival import left_rows
    from demur.store.scores.rewritten import decided_scores
    from demur.store.scores.tables import read_scores

    # calibrate rows without those that the calibrator was fitted on
    table, _ = read_scores(decided_scores(folder, "calibrate", policy.fingerprint))
    return table.select(tuple(e.id for e in left_rows(folder).left)).logp_NC


def _rows(folder: RunFolder, policy: Policy) -> Sequence[tuple[str, ...]]:
    """A row per category: its threshold, and refusals and errors on the rows it was chosen on."""
    from demur.stages.arrival import left_rows

    examples = left_rows(folder).left
    # N rows in the order of the examples: the column that is emitted, and the one that ought to be
    # (0 = respond)
    decided = decide_many(policy, _threshold_scores(folder, policy))
    choice_N, sent_N = decided.choice_N, decided.sent_N
    label_N = np.array([policy.taxonomy.column(e.label) for e in examples])
    rows = []
    for column, category in enumerate(policy.categories, start=1):
        # refused with this category; rows of this category; rows to be answered
        emitted_N, own_N, comply_N = choice_N == column, label_N == column, label_N == 0
        rows.append(
            (
                policy.taxonomy.choices[column],
                "-" if policy.rule == "natural" else threshold_text(category.threshold),
                f"{emitted_N.sum()} of {len(examples)}",
                f"{emitted_N[comply_N].sum()} of {comply_N.sum()}",
                f"{(sent_N[own_N] == 0).sum()} of {own_N.sum()}",
            )
        )
    return rows
