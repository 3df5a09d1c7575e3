"""demur explain: the thresholds that a request would be decided under, and the origin of each."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from demur.base.errors import AccessError, ConfigError
from demur.base.suggest import suggest
from demur.cli import options
from demur.cli.policies import (
    decision_json,
    note_uncertified,
    policy_file,
    requested_overrides,
    stop_json,
    stop_words,
    stored_stops,
)
from demur.cli.policy_text import note_policy, threshold_text
from demur.cli.terminal import note, print_json, print_table
from demur.core.access import (
    CategorySetting,
    EffectivePolicy,
    PolicyChoice,
    Tenant,
    apply_overrides,
    choose_policy,
)
from demur.core.decision import decide
from demur.core.operating_point import never_refused
from demur.core.policy import THRESHOLD_RULES, Policy
from demur.core.threshold import ALWAYS, NEVER
from demur.core.training.summary import (
    language_line,
    training_warnings,
    turn_back_line,
    twins_line,
)
from demur.store.models.model_file import FILE_NAME, read_model_file
from demur.store.policies.folder import Live, PolicySet, read_folder
from demur.store.policies.policy_file import NEVER_WORD, policy_to_json
from demur.store.policies.tenants_file import read_tenants
from demur.store.run import RunFolder


@dataclass(frozen=True, kw_only=True, slots=True)
class _Explained:
    """A stored policy, and the policy that decides a request for it."""

    live: Live
    effective: EffectivePolicy
    decision: dict[str, Any] | None  # of the row that was asked about


PoliciesArgument = Annotated[
    Path,
    typer.Argument(
        metavar="POLICIES", help="A folder of policies, a policy file, or a calibrated run."
    ),
]
TenantFlag = Annotated[
    str | None,
    typer.Option(metavar="NAME@FILE", help="A tenant of a tenants file. Default: may do anything."),
]
PolicyFlag = Annotated[
    str | None, typer.Option(metavar="NAME", help="Default: the tenant's, or the only one.")
]
SensitivityFlag = Annotated[
    str | None, typer.Option(metavar="NAME", help="One that the policy defines.")
]
RowFlag = Annotated[
    str | None,
    typer.Option(metavar="ID@FILE", help="Decide this row of a score file under it, too."),
]


def command(
    policies: PoliciesArgument,
    *,
    tenant: TenantFlag = None,
    policy: PolicyFlag = None,
    sensitivity: SensitivityFlag = None,
    rate: options.Rate = None,
    threshold: options.Threshold = None,
    row: RowFlag = None,
    as_json: options.AsJson = False,
) -> None:
    """Say what decides a request: thresholds win over rates, rates over a sensitivity, that over
    the policy.
    """
    # A file at fault is noted, and the others are explained: a server serves them too.
    there = read_folder(policy_file(policies, policy))
    for fault in there.faults:
        note(f"not read: {fault.message}")
    # the same steps as in the server: who asks, for which policy, with which overrides
    who = _tenant(tenant) if tenant else _operator(there, policy)
    ask = replace(requested_overrides(threshold, rate, sensitivity), policy=policy)
    live = there.policies[choose_policy(who, ask, there.policies)]
    note_uncertified(live.policy)
    found = apply_overrides(live.policy, ask)
    explained = _Explained(
        live=live, effective=found, decision=_decided(row, found.policy) if row else None
    )
    if as_json:
        print_json(_json(explained))
        return
    _show(explained)
    for line in _of_the_model(policies):
        note(line)
    if live.policy.promises and (covered := _turns_covered(policies)):
        note(covered)
    if unwatched := _unwatched(policies, policy):
        note(unwatched)


def _turns_covered(path: Path) -> str | None:
    """A sentence on the turns that the promises of a run are about; None for a policy elsewhere."""
    from demur.store.rows import read_examples

    split = RunFolder(path).split("calibrate")
    if not split.exists():
        return None
    rows = read_examples(split)
    # rows with an answer among the turns before the last
    later = sum(any(m.role == "assistant" for m in row.prompt) for row in rows)
    if later:
        return (
            f"promises are about requests like the calibrate rows: {later} of {len(rows)} have "
            "an earlier answer"
        )
    return (
        f"promises are about single turns: none of {len(rows)} calibrate rows has an earlier "
        "answer. Later turns are "
        'covered only where the latest turn decides alone: decides_on = "latest turn" of the server'
    )


def _unwatched(path: Path, name: str | None) -> str | None:
    """A sentence on promises about slices of which no label has come; None without any, and for a
    policy outside a run.
    """
    from demur.stages import watch

    folder = RunFolder(path)
    if not folder.policy.exists():
        return None
    risks = watch.unlabelled_promises(folder.named(name) if name in folder.policy_names else folder)
    if not risks:
        return None
    return (
        f"certified, not watched: {', '.join(risks)}. No label said that a request is of these "
        "slices: demur watch --feedback"
    )


def _of_the_model(path: Path) -> list[str]:
    """Lines on the base model of a run's model, its language after training, and warnings; empty
    where demur.json has none of it.
    """
    model = RunFolder(path).model
    if not (model / FILE_NAME).exists():
        return []
    trained = read_model_file(model).to_core()
    made_from = [f"the model was made from {trained.origin.text}"] if trained.origin else []
    lines = (line(trained.details) for line in (language_line, turn_back_line, twins_line))
    return [
        *made_from,
        *(line for line in lines if line),
        *(f"warning: {w}" for w in training_warnings(trained.details)),
    ]


def _operator(there: PolicySet, policy: str | None) -> Tenant:
    """The tenant of a call without --tenant: it may use and change every policy. Raises ConfigError
    if there are several and none is named.
    """
    # no policy at all: the first fault says why
    if not there.policies:
        there.require_sound()
    if policy is None and len(there.policies) > 1:
        raise ConfigError(
            f"{there.path} holds {len(there.policies)} policies",
            f"pick one: --policy {' | '.join(there.policies)}",
        )
    return Tenant(name="operator", policies=tuple(there.policies), may_override=True)


def _tenant(text: str) -> Tenant:
    """The tenant of NAME@FILE. Raises ConfigError, with a suggestion, on an unknown one."""
    name, path = _parts(text, "--tenant", "acme@tenants.toml")
    known = {t.name: t for t in read_tenants(Path(path)).tenants}
    if name not in known:
        raise ConfigError(f"{path} has no tenant {name!r}", suggest(name, known))
    return known[name]


def _decided(text: str, policy: Policy) -> dict[str, Any]:
    """The decision on the scores of ID@FILE, as JSON."""
    from demur.store.scores.tables import read_scores

    name, path = _parts(text, "--row", "ID@runs/demo/score/test.parquet")
    table, fingerprint = read_scores(Path(path))
    policy.require_model(fingerprint)
    logp_C = table.select((name,)).logp_NC[0]
    decision = decide(policy, logp_C)
    row = {"id": name, **decision_json(policy, logp_C, decision)}
    stops = stored_stops(policy, Path(path), (name,))
    if stops is not None:
        row["stop"] = stop_json(policy, decision, stops[0])
    return row


def _parts(text: str, flag: str, example: str) -> tuple[str, str]:
    """Split NAME@FILE. Raises ConfigError naming the flag."""
    # from the right: an id may hold an @, as addresses do
    name, at, path = text.rpartition("@")
    if not (name and at and path):
        raise ConfigError(f"cannot read {flag} {text!r}", f"write {flag} {example}")
    return name, path


def _show(explained: _Explained) -> None:
    """Print where each threshold comes from, the decided row, and the policy's promises."""
    policy, decision = explained.live.policy, explained.decision
    header = ["category", "where from", "callers may choose", "threshold"]
    cells = [
        [
            s.category,
            s.origin,
            _freedom(policy, s),
            # some rules compare no thresholds
            threshold_text(s.threshold) if policy.rule in THRESHOLD_RULES else "-",
        ]
        for s in explained.effective.settings
    ]
    if policy.defers:
        effective = explained.effective.policy
        header.append("defers from")
        cells = [[*row, _deferral_text(effective, row[0])] for row in cells]
    # with --row: what each threshold is compared with
    if decision:
        header.append("probability")
        cells = [[*row, f"{decision['probability'][row[0]]:.4f}"] for row in cells]
    title = f"policy {policy.name!r} {explained.live.digest[:19]}, rule {policy.rule!r}"
    print_table([header, *cells], title=title, words=3)
    if decision:
        shown = [("row", decision["id"]), ("decision", decision["decision"])]
        if "stop" in decision:
            shown.append(("stopped", stop_words(decision["stop"])))
        print_table([*zip(*shown, strict=True)], words=len(shown))
        if decision["doubt"]:
            note(f"doubt: {decision['doubt']}")
    note_policy(policy)
    if known := ", ".join(s.name for s in policy.sensitivities):
        note(f"sensitivities of this policy: {known}")
    if explained.effective.overridden:
        note("the promises of the policy do not cover these thresholds")


def _deferral_text(policy: Policy, name: str) -> str:
    """From where a category defers, and what is done then."""
    category = policy.category(name)
    if category.defer_threshold is None:
        return "-"
    return f"{threshold_text(category.defer_threshold)}: {category.on_defer}"


def _freedom(policy: Policy, setting: CategorySetting) -> str:
    """The thresholds of a category that callers may ask for, or the reason why there is none."""
    category = policy.category(setting.category)
    # Asking for the threshold that is set already changes nothing, and is refused as any other.
    try:
        apply_overrides(policy, PolicyChoice(thresholds={setting.category: category.threshold}))
    except AccessError as e:
        return f"none: {e.code}"
    low, high = map(threshold_text, category.limits or (ALWAYS, NEVER))
    return f"{low} to {high}"


def _json(explained: _Explained) -> dict[str, object]:
    """The same for programs, with the promises as their file has them."""
    policy = explained.live.policy
    # monitor and promises as their file has them, these with the status that was found on reading
    value = policy_to_json(policy)
    promises = value["promises"]
    for row, promise in zip(promises, policy.promises, strict=True):
        row["status"] = promise.status
    return {
        "policy": policy.name,
        "digest": explained.live.digest,
        "rule": policy.rule,
        "overridden": explained.effective.overridden,
        "sensitivities": [s.name for s in policy.sensitivities],
        "promises": promises,
        "monitor": value.get("monitor"),
        "never_refused": list(never_refused(policy)),
        "categories": [
            {
                "category": s.category,
                "threshold": _plain(s.threshold),
                "origin": s.origin,
                "locked": c.locked,
                "limits": [_plain(limit) for limit in c.limits] if c.limits else None,
                "defer_threshold": None if c.on_defer is None else _plain(c.held_from),
                "on_defer": c.on_defer,
            }
            for s, c in zip(
                explained.effective.settings, explained.effective.policy.categories, strict=True
            )
        ],
        "row": explained.decision,
    }


def _plain(threshold: float) -> float | str:
    # as in policy files: JSON has no infinity
    return NEVER_WORD if math.isinf(threshold) else threshold
