"""calibrate: scores of the calibrate split and a goal -> a policy, with what it promises. No model is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from demur.core.errors import DataError
from demur.core.example import Example, shared_prompts
from demur.core.goal import parse_goal
from demur.core.policy import GENERATE, NEVER, CategoryPolicy, Fingerprint, Policy, Rule
from demur.core.taxonomy import Taxonomy
from demur.stats.labelled import label_scores
from demur.stats.select import choose
from demur.store.files import digest_file, digest_json
from demur.store.policy_file import read_policy, write_policy
from demur.store.rows import read_examples
from demur.store.run import RunFolder
from demur.store.tables import read_scores


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """What the policy should achieve, and what callers may change about it."""

    goal: str = "f1 max"
    rule: Rule = "heaviest"
    confidence: float = 0.95
    name: str = "default"
    inactive: tuple[str, ...] = ()  # categories that take no part in the rule
    locked: tuple[str, ...] = ()  # categories whose threshold callers cannot override
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # category -> [lowest, highest] override
    on_refuse: Mapping[str, str] = field(default_factory=dict)  # category -> refusal text to send instead


def run(config: Config, taxonomy: Taxonomy, folder: RunFolder) -> Policy:
    """Choose a policy on the calibrate split and write <run>/calibrate/policy.json.

    Raises DataError if the calibrate split shares a prompt or a group with training, GoalInfeasible if no threshold
    meets the goal, and what demur.stats.select.choose raises.
    """
    goal = parse_goal(config.goal)
    settings = {**asdict(config), "limits": {k: list(map(str, v)) for k, v in config.limits.items()}}  # JSON has no inf
    folder.require("score")
    made_from = {
        "data/train": digest_file(folder.split("train")),
        "data/calibrate": digest_file(folder.split("calibrate")),
        "score/calibrate": digest_file(folder.scores("calibrate")),
    }
    if folder.is_current("calibrate", settings, made_from):
        return read_policy(folder.policy)
    examples = read_examples(folder.split("calibrate"))
    check_disjoint(read_examples(folder.split("train")), examples)
    table, fingerprint = read_scores(folder.scores("calibrate"))
    policy = choose(
        goal,
        template(config, taxonomy, fingerprint),
        label_scores(examples, taxonomy, table),
        confidence=config.confidence,
        data_digest=digest_json(made_from),
    )
    write_policy(folder.policy, policy)
    folder.finish("calibrate", settings, made_from, [folder.policy])
    return policy


def template(config: Config, taxonomy: Taxonomy, fingerprint: Fingerprint) -> Policy:
    """The policy before its thresholds are chosen: nothing is refused. Raises TaxonomyError on an unknown category."""
    for name in (*config.inactive, *config.locked, *config.limits, *config.on_refuse):
        taxonomy.index(name)
    categories = tuple(
        CategoryPolicy(
            active=name not in config.inactive,
            locked=name in config.locked,
            limits=config.limits.get(name),
            threshold=config.limits[name][1] if name in config.limits else NEVER,
            on_refuse=config.on_refuse.get(name, GENERATE),
        )
        for name in taxonomy.names
    )
    return Policy(name=config.name, taxonomy=taxonomy, rule=config.rule, categories=categories, fingerprint=fingerprint)


def check_disjoint(train: Sequence[Example], calibrate: Sequence[Example]) -> None:
    """Raise DataError, naming rows, if a prompt or a group of the calibrate split occurs in training."""
    by_prompt, by_group = shared_prompts(train, calibrate)
    if by_prompt or by_group:
        first = (by_prompt or by_group)[0]
        raise DataError(
            f"the calibrate split shares {len(by_prompt)} prompts and {len(by_group)} grouped rows with training, "
            f"first row {first!r}: thresholds chosen on it would promise too much",
            "make the splits again: demur data",
        )
