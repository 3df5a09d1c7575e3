"""calibrate: scores of the calibrate split and a goal -> a policy with its promises. No model is
called.

1. `inputs` checks the settings against each other and digests every file.
2. `calibrator` sets the calibrator's own rows apart and fits it, if one is named.
3. `thresholds` solves for the goals on the rows that are left; promises are counted in the run's
   ledger.
4. `run` adds the ranges within which callers may override thresholds, counts the evidence of each
   promise, and writes the policy.
"""

from __future__ import annotations

from dataclasses import replace

from demur.core.policy import Policy
from demur.core.settings import NONE, CalibrateSettings
from demur.core.taxonomy import Taxonomy
from demur.stages.arrival import METHOD as ANYTIME
from demur.stages.arrival import arrival_key, check_anytime, in_arrival_order
from demur.stages.calibrate.calibrator import fit, write_calibrator
from demur.stages.calibrate.fallback import fallback_policy
from demur.stages.calibrate.inputs import collect
from demur.stages.calibrate.monitor import calibrate_answers, starting_monitor
from demur.stages.calibrate.thresholds import (
    certify_request,
    choose,
    keep_traffic,
    labelled,
    template,
)
from demur.stats.doubt import measured_rule
from demur.stats.evidence import with_row_digests
from demur.stats.labelled import join_answers
from demur.stats.missing import note_missing, with_missing
from demur.stats.overrides import override_categories
from demur.stats.sensitivities import with_sensitivities
from demur.store.policies.ledger_file import marks_of, share_ledger
from demur.store.policies.policy_file import bind_promises, write_policy
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder

__all__ = ["NO_CALIBRATOR", "Config", "run"]

NO_CALIBRATOR = NONE  # all rows are then for thresholds


Config = CalibrateSettings


def run(config: Config, taxonomy: Taxonomy, folder: RunFolder) -> Policy:
    """Choose a policy on the calibrate split and write <run>/calibrate/policy.json.

    With a calibrator, also calibrate/calibrator.json: it is fitted first, on rows of its own, so
    that promises about the thresholds hold for it as it stands. Raises DataError, naming
    rows, if the model has seen rows of the calibrate split in training or a calibrator cannot be
    fitted on it, ConfigError on a calibrator for the natural policy, GoalInfeasible if no threshold
    meets the goal and on_failure says stop, and what demur.stats.thresholds.solve raises.
    """
    inputs = collect(config, taxonomy, folder)
    if (done := inputs.finished()) is not None:
        return done
    examples, arrived = read_policy_rows(folder, "calibrate", config.sources), None
    if config.ledger is not None:
        share_ledger(folder.root / "data" / "ledger.jsonl", config.ledger, marks_of(examples))
    if config.method == ANYTIME:
        check_anytime(config, inputs.goals, inputs.missing)
        examples, arrived = in_arrival_order(config, folder, examples)
    fitted = fit(config, taxonomy, examples, inputs)
    # The bound on leftover mass, and which rows are doubtful, come from the scores alone: no
    # labels. Under "anytime" from the first rows alone, so that no later look moves them.
    first = examples if arrived is None else examples[: arrived.learn]
    scored = fitted.table.select(tuple(e.id for e in first))
    doubt = measured_rule(scored, fitted.fingerprint, config.on_doubt)
    fallback = fallback_policy(
        inputs.fallback, config.on_failure, taxonomy, fitted.fingerprint.as_scored
    )
    # A policy from a file has its own rule for doubt; keep:natural has none yet.
    if fallback is not None and inputs.fallback is None:
        fallback = replace(fallback, doubt=doubt)
    before = template(config, taxonomy, fitted.fingerprint)
    before = replace(before, calibrator=fitted.calibrator, doubt=doubt)
    rows = labelled(config, examples, fitted, before)
    if any(goal.midway for goal in inputs.goals):
        answers = calibrate_answers(folder, fitted.fingerprint)
        before = replace(before, monitor=starting_monitor(config, taxonomy, answers.scoring))
        rows = join_answers(rows, answers.peaks, sampled=answers.sampled)
    rows = with_missing(rows, inputs.missing, inputs.goals)
    request = certify_request(config, inputs, before, fitted.left, fallback)
    if arrived is not None:
        # Looks at more rows are one attempt: its key holds how rows are ordered, not which.
        key = arrival_key(config.seed, config.sources)
        options = replace(request.options, arrived=arrived)
        request = replace(request, options=options, data=key)
    policy = choose(config, request, rows, inputs.digest)
    policy = override_categories(policy, config.override, rows)
    policy = with_sensitivities(note_missing(policy, inputs.missing), config.sensitivities)
    # Where rates are met on traffic, no row is counted for or against a promise.
    if config.traffic is None or config.mix_by is not None:
        policy = with_row_digests(policy, rows, (config.seed, 0), arrived)
    policy = bind_promises(policy)
    write_policy(folder.policy, policy)
    made = [folder.policy, *write_calibrator(folder, fitted, policy), *keep_traffic(config, folder)]
    folder.finish("calibrate", inputs.settings, inputs.made_from, made)
    return policy
