"""calibrate: scores of the calibrate split and a goal -> a policy, with what it promises. No model is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from demur.base.errors import ConfigError, DataError
from demur.base.files import digest_file, digest_json
from demur.core.calibrator import IDENTITY, Calibrator
from demur.core.example import SPLITS, Example
from demur.core.goals.kinds import Goal, Natural
from demur.core.goals.parse import parse_goals
from demur.core.maps import correctness
from demur.core.maps.correctness import CorrectnessAware
from demur.core.policy import GENERATE, NEVER, CategoryPolicy, Fingerprint, Policy
from demur.core.rows.rewrites import RewriteName
from demur.core.score import ScoreTable
from demur.core.settings import AUTO, NONE, CalibrateSettings, Method
from demur.core.taxonomy import Taxonomy
from demur.core.training.seen import require_unseen_ids
from demur.stages.calibrate.kept import kept_file, kept_policy
from demur.stats.calibrators.choose import Choice, ChooseSettings, choose_calibrator
from demur.stats.calibrators.correctness import fit_correctness
from demur.stats.calibrators.families import fit_calibrator
from demur.stats.doubt import measured_rule, require_trained
from demur.stats.evidence import with_rows
from demur.stats.labelled import UNCHECKED, LabelledScores, label_scores
from demur.stats.missing import told, with_missing
from demur.stats.overrides import with_overrides
from demur.stats.sample import apart
from demur.stats.sensitivities import with_sensitivities
from demur.stats.thresholds.certify import How
from demur.stats.thresholds.curve import with_curves
from demur.stats.thresholds.solve import solve, solve_by_probabilities, solve_on_traffic
from demur.store.answers.blackbox_file import prompts_without_outcome
from demur.store.models.front_file import FRONT, front_file
from demur.store.models.seen_file import SEEN, require_unseen_splits
from demur.store.policies.calibrator_file import write_correctness_aware
from demur.store.policies.choice_file import CalibratorChoice, TrialRow, read_choice, write_choice
from demur.store.policies.policy_file import bound, read_policy, write_policy
from demur.store.results.monitor_file import read_feedback
from demur.store.rows import read_policy_rows
from demur.store.run import RunFolder
from demur.store.scores.cascade_scores import cascaded, require_unseen_by_front
from demur.store.scores.rewritten import (
    calibrated_scores,
    correctness_file,
    read_rewritten,
    rewritten_scores,
    seen_through,
)
from demur.store.scores.tables import read_scores, write_scores

NO_CALIBRATOR = NONE  # rows are then all for thresholds


Config = CalibrateSettings


def run(config: Config, taxonomy: Taxonomy, folder: RunFolder) -> Policy:
    """Choose a policy on the calibrate split and write <run>/calibrate/policy.json.

    With a calibrator, also calibrate/calibrator.json: it is fitted first, on rows of its own, so that what is promised
    of the thresholds holds for it as it stands. Raises DataError, naming rows, if the model has seen rows of the
    calibrate split in training or a calibrator cannot be fitted on it, ConfigError on a calibrator for the natural
    policy, GoalInfeasible if no threshold meets the goal and on_failure says stop, and what
    demur.stats.thresholds.solve raises.
    """
    goals = _goals(config)
    settings = _plain(config)
    folder.require("data")
    rewrites = _rewrites(config, folder)
    seen = require_unseen_splits(folder, ["calibrate"])
    made_from = {
        "data/calibrate": digest_file(folder.split("calibrate")),
        "score/calibrate": digest_file(folder.scores("calibrate")),
        **{f"score/{name}": digest_file(rewritten_scores(folder, "calibrate", name)) for name in rewrites},
    }
    if (folder.model / SEEN).exists():
        made_from[f"train/model/{SEEN}"] = digest_file(folder.model / SEEN)
    if config.cascade:
        require_unseen_by_front(folder, "calibrate")
        made_from[f"distil/{FRONT}"] = digest_file(front_file(folder))
    missing = prompts_without_outcome(folder) if any(goal.promised for goal in goals) else 0
    if missing:
        made_from["blackbox"] = digest_json(missing)
    if (file := kept_file(config.on_failure, folder)) is not None:
        made_from["kept"] = digest_file(file)
    for name, path in (("human_labels", config.human_labels), ("traffic", config.traffic)):
        if path is not None:
            made_from[name] = digest_file(path)
            require_unseen_ids(seen, _ids_in(path, taxonomy), str(path))
    if folder.is_current("calibrate", settings, made_from):
        done = read_policy(folder.policy)
        if not any(p.status == "not certified" for p in done.promises):  # else: by an older version, without digests
            return done
    examples = read_policy_rows(folder, "calibrate", config.sources)
    fitted = _fitted(config, taxonomy, examples, (folder, rewrites))
    rows = _checked(config.human_labels, examples, label_scores(fitted.left, taxonomy, fitted.table), taxonomy)
    rows = with_missing(rows, missing, goals)
    doubt = measured_rule(fitted.table.select(tuple(e.id for e in examples)), fitted.fingerprint, config.on_doubt)
    kept = kept_policy(file, config.on_failure, taxonomy, fitted.fingerprint.as_scored)
    if kept is not None and file is None:
        kept = replace(kept, doubt=doubt)
    policy = _choose(
        config,
        replace(template(config, taxonomy, fitted.fingerprint), calibrator=fitted.calibrator, doubt=doubt),
        rows,
        _how(config, goals, kept),
        digest_json(made_from),  # of all calibrate rows: both those fitted on and those left
    )
    policy = with_overrides(policy, config.override, rows)
    policy = with_sensitivities(told(policy, missing), config.sensitivities)
    policy = bound(policy if config.traffic else with_rows(policy, rows, (config.seed, 0)))
    write_policy(folder.policy, policy)
    made = [folder.policy, *_write_calibrator(folder, fitted, policy)]
    folder.finish("calibrate", settings, made_from, made)
    return policy


def _goals(config: Config) -> tuple[Goal, ...]:
    """The goals. Raises ConfigError on settings that mean nothing beside them, or beside each other."""
    goals = parse_goals(config.goal)
    if isinstance(goals[0], Natural) and config.calibrator != NONE:
        raise ConfigError(
            f"calibrator {config.calibrator!r} beside the goal 'natural', which is the model left to itself",
            "do without a calibrator, or choose another goal",
        )
    if isinstance(goals[0], Natural) and config.sensitivities:
        raise ConfigError("sensitivities beside the goal 'natural', which has no thresholds", "choose another goal")
    if config.human_labels is not None and not any(goal.promised for goal in goals):
        raise ConfigError(
            f"human labels beside {config.goal!r}, which promises nothing", "leave them out, or add a promise"
        )
    if config.cost_from == "probabilities" and config.calibrator == NONE:
        raise ConfigError(
            'calibrate.cost_from = "probabilities" without a calibrator: raw scores are no probabilities',
            'name a calibrator, such as "auto"',
        )
    if config.traffic is not None:
        _check_traffic(config)
    return goals


def _check_traffic(config: Config) -> None:
    """Raise ConfigError on settings that are for labelled rows, or for other scores than a file can hold."""
    plain = {"method": "auto", "on_failure": "stop", "cost_from": "labels", "human_labels": None}
    if beside := [name for name, value in plain.items() if getattr(config, name) != value]:
        raise ConfigError(f"calibrate.traffic beside {', '.join(beside)}: it has no labels", "leave one out")
    if config.calibrator == correctness.NAME:
        raise ConfigError(f"calibrate.traffic beside calibrator {config.calibrator!r}: other scores", "leave one out")


def _rewrites(config: Config, folder: RunFolder) -> tuple[RewriteName, ...]:
    """The rewrites that were scored, where the calibrator needs them. Raises ConfigError if it does and has none."""
    scored: Any = folder.require("score").settings.get("rewrites", ())
    if config.calibrator != correctness.NAME:
        return ()
    if not scored:
        raise ConfigError(
            f"calibrator {correctness.NAME!r} looks at rewritten prompts, and none is scored",
            "score them: demur score RUN --rewrite case --rewrite typos --rewrite paraphrase",
        )
    if config.on_failure not in ("stop", "hard_only", "keep:natural"):
        raise ConfigError(
            f"on_failure = {config.on_failure!r} beside calibrator {correctness.NAME!r}: other scores", "stop instead"
        )
    return tuple(scored)


def _write_calibrator(folder: RunFolder, fitted: _Fitted, policy: Policy) -> list[Path]:
    """Write what the calibrator leaves beside the policy; what an earlier one left goes. A kept policy has none."""
    for old in (folder.calibrator, correctness_file(folder), *(calibrated_scores(folder, s) for s in SPLITS)):
        old.unlink(missing_ok=True)
    ours = policy.calibrator is fitted.calibrator and policy.fingerprint == fitted.fingerprint
    made: list[Path] = []
    if ours and fitted.fingerprint.front is not None:
        for split in SPLITS:
            if folder.scores(split).exists():
                made.append(calibrated_scores(folder, split))
                write_scores(made[-1], *cascaded(folder, split))
    if fitted.record is None or not ours:
        return made
    write_choice(folder.calibrator, fitted.record)
    made.append(folder.calibrator)
    if fitted.aware is None:
        return made
    write_correctness_aware(correctness_file(folder), fitted.aware)
    made.append(correctness_file(folder))
    for split in SPLITS:
        if rewritten_scores(folder, split, fitted.rewrites[0]).exists():
            made.append(calibrated_scores(folder, split))
            write_scores(made[-1], seen_through(fitted.aware, folder, split, fitted.rewrites), fitted.fingerprint)
    return made


def _plain(config: Config) -> dict[str, object]:
    """The settings as JSON has them: no infinity, no path. What a file says is an input."""
    limits = {k: list(map(str, v)) for k, v in config.limits.items()}
    plain = asdict(config)
    if not config.override:
        del plain["override"]  # as receipts had it before there were overrides: such runs stay finished
    if not config.cascade:
        del plain["cascade"]  # likewise
    files = {"human_labels": config.human_labels is not None, "traffic": config.traffic is not None}
    return {**plain, "limits": limits, "sources": list(config.sources), **files}


def _checked(
    path: Path | None, examples: Sequence[Example], rows: LabelledScores, taxonomy: Taxonomy
) -> LabelledScores:
    """The rows with what hands say of some of them. Where hands labelled every row, nothing needs a correction.

    Raises DataError on a label of a row that is not in the calibrate split, TaxonomyError on one that is none.
    """
    if path is None:
        return rows
    labels, known = read_feedback(path, taxonomy), {e.id for e in examples}
    if unknown := [i for i in labels if i not in known]:
        raise DataError(
            f"{path}: {len(unknown)} labelled rows are not in the calibrate split, first {unknown[0]!r}",
            "label a random sample of data/calibrate.jsonl, by its ids",
        )
    hand_N = np.array([taxonomy.column(labels[i].label) if i in labels else UNCHECKED for i in rows.table.ids])
    if (hand_N != UNCHECKED).all():
        return replace(rows, label_N=hand_N)
    return replace(rows, hand_N=hand_N)


def _choose(config: Config, before: Policy, rows: LabelledScores, how: How, digest: str) -> Policy:
    """The policy whose thresholds meet the goals on what the settings name: labels, probabilities or traffic."""
    goals = parse_goals(config.goal)
    if config.cost_from == "probabilities":
        return solve_by_probabilities(goals, before, rows, data_digest=digest)
    if config.traffic is not None:
        table, fingerprint = read_scores(config.traffic)
        before.require_model(fingerprint)
        policy = solve_on_traffic(goals, before, table, confidence=how.confidence, data_digest=digest)
        return with_curves(policy, rows)
    return solve(goals, before, rows, how, data_digest=digest)


def _how(config: Config, goals: Sequence[Goal], kept: Policy | None) -> How:
    """One goal alone, unless about false refusals, has one shared threshold, whatever is to be done if that fails."""
    alone = config.method == "auto" and len(goals) == 1 and not goals[0].of_answerable
    method: Method = "shared" if alone else config.method
    on_failure = f"keep:{kept.name}" if kept else config.on_failure
    shares = config.shares or None
    return How(
        confidence=config.confidence, method=method, seed=config.seed, shares=shares, on_failure=on_failure, kept=kept
    )


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class _Fitted:
    """A calibrator, its record, the rows that it has not seen, and the scores to choose thresholds on."""

    left: Sequence[Example]
    table: ScoreTable
    fingerprint: Fingerprint  # of these scores
    calibrator: Calibrator = IDENTITY
    record: CalibratorChoice | None = None  # None if no calibrator was asked for
    aware: CorrectnessAware | None = None  # then the scores went through it, and the policy has no calibrator
    rewrites: tuple[RewriteName, ...] = ()


def _fitted(
    config: Config,
    taxonomy: Taxonomy,
    examples: Sequence[Example],
    source: tuple[RunFolder, tuple[RewriteName, ...]],
) -> _Fitted:
    folder, rewrites = source
    table, fingerprint = cascaded(folder, "calibrate") if config.cascade else read_scores(folder.scores("calibrate"))
    require_trained(table.select(tuple(e.id for e in examples)))
    if config.calibrator == NONE:
        return _Fitted(left=examples, table=table, fingerprint=fingerprint)
    own, left = apart(examples, config.calibrator_share, config.seed)
    if not own or not left:
        raise DataError(
            f"calibrator {config.calibrator!r}: of {len(examples)} calibrate rows {len(own)} are its own and "
            f"{len(left)} are left for the thresholds",
            "give more rows, move calibrate.calibrator_share, or do without a calibrator",
        )
    _require_not_fitted_on(config, own, taxonomy)
    aware = None
    try:
        if rewrites:
            rewritten = read_rewritten(folder, "calibrate", rewrites)
            choice, aware = _correctness(label_scores(own, taxonomy, table), rewritten, taxonomy)
        else:
            choice = _chosen(config, taxonomy, own, table)
    except DataError as e:
        raise DataError(
            f"calibrator {config.calibrator!r}, {len(own)} of the {len(examples)} calibrate rows are its own "
            f"(calibrator_share = {config.calibrator_share:g}): {e.message}",
            e.hint,
        ) from None
    record = CalibratorChoice(
        asked=config.calibrator,
        family=choice.family,
        why=choice.why,
        notes=choice.notes,
        share=config.calibrator_share,
        seed=config.seed,
        fitted_on=len(own),
        left=len(left),
        trials=tuple(TrialRow(**asdict(t)) for t in choice.trials),
    )
    made = _Fitted(
        left=left, table=table, fingerprint=fingerprint, calibrator=choice.calibrator, record=record, rewrites=rewrites
    )
    if aware is None:
        return made
    logprobs = correctness.convention(digest_json(asdict(aware)))
    table = seen_through(aware, folder, "calibrate", rewrites)
    return replace(made, table=table, fingerprint=replace(fingerprint, logprobs=logprobs), aware=aware)


def _correctness(
    rows: LabelledScores, rewritten: Mapping[str, ScoreTable], taxonomy: Taxonomy
) -> tuple[Choice, CorrectnessAware]:
    """The correctness-aware calibrator, fitted on these rows."""
    fit = fit_correctness(rows, {name: t.select(rows.table.ids) for name, t in rewritten.items()}, taxonomy)
    notes = (f"the clamp holds the temperature of {fit.clamped:.0%} of these rows",) if fit.clamped else ()
    why = f"{correctness.NAME}: asked for by name, compared with nothing"
    return Choice(family=correctness.NAME, calibrator=IDENTITY, why=why, trials=(), notes=notes), fit.calibrator


def _chosen(config: Config, taxonomy: Taxonomy, own: Sequence[Example], table: ScoreTable) -> Choice:
    """The calibrator that was asked for, or the one that cross-validation picks, fitted on these rows."""
    rows, groups = label_scores(own, taxonomy, table), [e.group for e in own]
    if config.calibrator == AUTO:
        return choose_calibrator(rows, taxonomy, groups, ChooseSettings(seed=config.seed))
    fitted = fit_calibrator(config.calibrator, rows, taxonomy, groups)
    why = f"{fitted.family}: asked for by name, compared with nothing"
    return Choice(family=fitted.family, calibrator=fitted.calibrator, why=why, trials=(), notes=fitted.notes)


def threshold_rows(folder: RunFolder) -> list[Example]:
    """The calibrate rows that thresholds were chosen on: all but the calibrator's own."""
    examples, choice = read_policy_rows(folder, "calibrate"), read_choice(folder.calibrator)
    return apart(examples, choice.share, choice.seed)[1] if choice else examples


def template(config: Config, taxonomy: Taxonomy, fingerprint: Fingerprint) -> Policy:
    """The policy before its thresholds are chosen: nothing is refused. Raises TaxonomyError on an unknown category."""
    named = (config.inactive, config.override, config.locked, config.limits, config.on_refuse, config.translations)
    for name in chain.from_iterable(named):
        taxonomy.index(name)
    categories = tuple(
        CategoryPolicy(
            active=name not in config.inactive,
            locked=name in config.locked,
            limits=config.limits.get(name),
            threshold=config.limits[name][1] if name in config.limits else NEVER,
            on_refuse=config.on_refuse.get(name, GENERATE),
            translations=tuple(config.translations.get(name, {}).items()),
        )
        for name in taxonomy.names
    )
    return Policy(name=config.name, taxonomy=taxonomy, rule=config.rule, categories=categories, fingerprint=fingerprint)


def _ids_in(path: Path, taxonomy: Taxonomy) -> Sequence[str]:
    """The ids of a file of scores or of labels."""
    return tuple(read_feedback(path, taxonomy)) if path.suffix != ".parquet" else read_scores(path)[0].ids


def _require_not_fitted_on(config: Config, own: Sequence[Example], taxonomy: Taxonomy) -> None:
    """Raise DataError if traffic holds rows that the calibrator is fitted on: rates there hold of no new request."""
    if config.traffic is not None and (twice := {e.id for e in own} & set(_ids_in(config.traffic, taxonomy))):
        raise DataError(
            f"{config.traffic}: calibrator {config.calibrator!r} is fitted on {len(twice)} of its rows",
            "give other requests, or do without a calibrator",
        )
