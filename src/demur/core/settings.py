"""The settings of the stages, one frozen record a section of a run's TOML file; [train] is in
demur.core.training.

They are apart from the stages so that a command that only reads a run loads no statistics.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from demur.base.errors import ConfigError
from demur.base.suggest import suggest
from demur.core.example import Kind, RewriteName, Split
from demur.core.goals.attempts import parse_spend
from demur.core.goals.parse import parse_goals
from demur.core.maps import correctness
from demur.core.midway.followed import AnswerScoring
from demur.core.midway.monitor import AnswerSampling, Statistic
from demur.core.policy import OnDoubt, Override, Rule
from demur.core.rows.facets import FACETS, Facet, MixBy
from demur.core.threshold import OnDefer

# How promises are certified: demur.stats.thresholds.solve.
Method = Literal["auto", "shared", "even", "path", "vectors", "budgets", "graphical", "anytime"]
PlanFailure = Literal["stop", "hard_only"]
Parted = Literal["category", "source"]  # what parts the test rows of a study of calibrators
FRONT_BOUND = 0.01  # how often a model may decide otherwise where its front is sure: demur distil
Which = Literal["reachable", "all"]  # the control tokens after which evaluate writes texts

AUTO = "auto"  # the calibrator is chosen by cross-validation
NONE = "none"  # no calibration: rows are then all for thresholds
# The families that demur.stats.calibrators.families can fit, roughly from few parameters to many.
CALIBRATORS = (
    NONE,
    *("temperature", "platt", "vector", "beta", "histogram", "isotonic", "venn-abers", "dirichlet"),
    *(f"h-linear-{size}" for size in (16, 32, 64, 128)),
    *(f"h-piecewise-{size}" for size in (1, 10, 100, 500)),
    *(f"h-umnn-{size}" for size in (2, 10, 20, 50)),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class DataSettings:
    """[data]: how rows are split, and the mix of the training rows.

    The mix is made in this order: limits, then contrast_ratio, then refusal_share. Which rows stay
    is decided by a hash of seed and id, so that more rows change little. Raises ConfigError on
    shares, ratios and limits that mean nothing.
    """

    # at most so many contrast rows per refusal in train; None: all there are
    contrast_ratio: float | None = None
    # share of refusals in train; refusals or benign rows in excess are dropped
    refusal_share: float | None = None
    limits: Mapping[Kind, int] = field(default_factory=dict)  # at most so many train rows of a kind
    calibrate_share: float = 0.15  # of the rows whose source has no splits
    test_share: float = 0.2  # of the rows whose source has no splits
    seed: int = 0  # of the split and of which rows are dropped
    on_leak: Literal["drop", "error"] = "drop"  # a source's own splits share a prompt or a group

    def __post_init__(self) -> None:
        if not (
            self.calibrate_share > 0
            and self.test_share > 0
            and self.calibrate_share + self.test_share < 1
        ):
            raise ConfigError(
                f"calibrate_share {self.calibrate_share} and test_share {self.test_share} leave "
                "no three splits",
                "both above 0, together below 1",
            )
        if self.contrast_ratio is not None and not self.contrast_ratio >= 0:
            raise ConfigError(
                f"contrast_ratio {self.contrast_ratio} is below 0", "0 drops all contrast rows"
            )
        if self.refusal_share is not None and not 0 < self.refusal_share < 1:
            raise ConfigError(f"refusal_share {self.refusal_share} is not in (0, 1)", "e.g. 0.3")
        if any(limit < 0 for limit in self.limits.values()):
            raise ConfigError(
                f"limits {dict(self.limits)} go below 0", "0 drops all rows of a kind"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class AnswerSettings:
    """[score.answers]: answers to write and follow, for a monitor to be calibrated on. Raises
    PolicyError on values that no monitor can have.
    """

    most_tokens: int  # as long as answers will be in service, at least
    temperature: float = 1.0  # 0: greedy
    top_p: float = 1.0
    statistic: Statistic = "maximum"
    reference: float = 0.01  # "cusum" only: see demur.core.midway.monitor
    traces: bool = False  # keep the position scores, too
    texts: bool = False  # keep the answers, too: some of them answer what should be refused

    def __post_init__(self) -> None:
        _ = self.scoring

    @property
    def scoring(self) -> AnswerScoring:
        """How answers are written and followed."""
        return AnswerScoring(
            answers=AnswerSampling(
                most_tokens=self.most_tokens, temperature=self.temperature, top_p=self.top_p
            ),
            statistic=self.statistic,
            reference=self.reference,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoreSettings:
    """[score]: the splits and rewrites to score, and the answers to follow."""

    splits: tuple[Split, ...] = ("calibrate", "test")
    part_rows: int = 1000  # prompts between two saves: a killed run loses at most so many
    # case, typos, punctuation, paraphrase, tense: one more prefill each
    rewrites: tuple[RewriteName, ...] = ()
    answers: AnswerSettings | None = None  # None: no answer is written, no monitor calibrated


@dataclass(frozen=True, kw_only=True, slots=True)
class MonitorSettings:
    """[calibrate.monitor]: the monitor of a policy with a goal about stops."""

    # those that may stop an answer; none named: safety where there is one, else all active ones
    categories: tuple[str, ...] = ()
    held_back: int = 24  # newest tokens of an answer that a stream withholds
    # how answers will be written in service: those that were scored must cover it. None: like them
    served: AnswerSampling | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrateSettings:
    """[calibrate]: the goal of the policy, and what callers may change about it. Raises ConfigError
    on the calibrator.
    """

    goal: str = "f1 max"  # one, or several with ";" between them
    rule: Rule = "heaviest"
    confidence: float = 0.95  # that all promises hold together
    method: Method = "auto"  # how promises are certified; auto: what fits goals and labels, see How
    # category -> of level and delta; budgets, graphical
    shares: Mapping[str, float] = field(default_factory=dict)
    # what tells the costs of errors: rows, or the calibrator
    cost_from: Literal["labels", "probabilities"] = "labels"
    on_doubt: OnDoubt = "refuse"  # too much probability off the control tokens: refuse, or error
    # stop; hard_only: give up soft goals; keep:natural or keep:<policy file>: see .kept
    on_failure: str = "stop"
    name: str = "default"
    # categories that take no part in the rule: thresholds are chosen without them
    inactive: tuple[str, ...] = ()
    # category -> suppress or force, after the choice
    override: Mapping[str, Override] = field(default_factory=dict)
    locked: tuple[str, ...] = ()  # categories whose threshold callers cannot override
    # category -> [lowest, highest] override
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    # category -> refusal text to send instead
    on_refuse: Mapping[str, str] = field(default_factory=dict)
    # category -> language tag -> that text
    translations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # category -> ask or escalate: between answer and refusal, see demur.core.threshold
    on_defer: Mapping[str, OnDefer] = field(default_factory=dict)
    # category -> the text to send then
    defer_text: Mapping[str, str] = field(default_factory=dict)
    # category -> language tag -> that text
    defer_translations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    # name -> category -> refusal rate
    sensitivities: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    calibrator: str = NONE  # "auto", one of CALIBRATORS, or "correctness-aware"
    # of the calibrate rows, for fitting it; thresholds are chosen on the others
    calibrator_share: float = 0.4
    seed: int = 0  # which rows these are
    # only rows of these, such as one tenant's or several pooled; none named: all rows
    sources: tuple[str, ...] = ()
    # JSONL {"id", "label"} of a random sample: the rows' labels are then a judge's
    human_labels: Path | None = None
    # scores of unlabelled requests: refusal rates are then met on these; or, with mix_by, promises
    # are made for their mix
    traffic: Path | None = None
    mix_by: MixBy | None = None  # None: no mix is estimated
    # facet -> slice -> share of the traffic to promise for; empty: mixed as the rows are
    mix: Mapping[Facet, Mapping[str, float]] = field(default_factory=dict)
    # decide on the scores of the run's front model and its model together: demur distil
    cascade: bool = False
    # 6 or "1/6": one of so many planned attempts on these rows, each at its share of delta;
    # "releases": as many as come, each at a smaller share
    spend: int | str | None = None
    # a ledger that this run shares with others on some of its rows; None: the one that it has
    ledger: Path | None = None
    monitor: MonitorSettings = MonitorSettings()  # of goals about stops

    def __post_init__(self) -> None:
        known = (AUTO, *CALIBRATORS, correctness.NAME)
        if self.calibrator not in known:
            raise ConfigError(
                f"unknown calibrator {self.calibrator!r}", suggest(self.calibrator, known)
            )
        if not 0.0 < self.calibrator_share < 1.0:
            raise ConfigError(
                f"calibrate.calibrator_share = {self.calibrator_share} is not in (0, 1)",
                "0.4 leaves most rows to the thresholds",
            )
        _check_mix(self.mix)
        if self.mix_by is not None and self.traffic is None:
            raise ConfigError(
                f"calibrate.mix_by = {self.mix_by!r} without traffic, whose mix it would be",
                'name scores of unlabelled requests: traffic = "FILE.parquet"',
            )
        if self.spend is not None:
            parse_spend(self.spend)
        if self.cascade and (
            self.calibrator == correctness.NAME or self.on_failure.startswith("keep:")
        ):
            raise ConfigError(
                f"calibrate.cascade beside calibrator {self.calibrator!r} and on_failure = "
                f"{self.on_failure!r}",
                f"a cascade's scores are no others': no {correctness.NAME}, and stop or hard_only",
            )


def _check_mix(mix: Mapping[Facet, Mapping[str, float]]) -> None:
    """Raise ConfigError unless a stated mix gives the slices of one facet positive shares of 1."""
    if not mix:
        return
    (facet, shares), *others = mix.items()
    if others:
        raise ConfigError(
            f"calibrate.mix states shares of {', '.join(mix)}: how these go together is not known",
            "state the shares of one facet",
        )
    if facet not in FACETS:
        raise ConfigError(f"calibrate.mix: unknown facet {facet!r}", suggest(facet, FACETS))
    if wrong := {name: share for name, share in shares.items() if not 0.0 < share <= 1.0}:
        raise ConfigError(
            f"calibrate.mix.{facet}: {wrong} are no shares of traffic",
            "positive numbers that sum to 1; leave out a slice that will not come",
        )
    if not abs(sum(shares.values()) - 1.0) <= 1e-6:
        raise ConfigError(
            f"calibrate.mix.{facet}: {dict(shares)} sum to {sum(shares.values()):g}", "scale to 1"
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluateSettings:
    """[evaluate]: the texts to generate, and the goals to show beside the calibrated policy. Raises
    ConfigError and GoalError.
    """

    # texts after respond, the heaviest refusal token and what a policy emits; or all
    branches: Which = "reachable"
    max_new_tokens: int = 48  # of one text; the generator is built with the same number
    # Goals for comparison, met on the calibrate split; several at once with ";" between them.
    also: tuple[str, ...] = ("refusal_rate = 0.10", "cost: false=1 missed=5")
    limit: int | None = None  # at most so many test rows, in even steps
    # write texts for so many of these rows only, in even steps; None: for all
    texts: int | None = None
    # what reads the texts: a name of demur.assembly.wiring.JUDGES or "package.module:Class"
    judge: str = "phrases"
    # TOML of judges' settings, such as [llm]: demur.assembly.judges
    judge_settings: Path | None = None
    # JSONL: hand labels of a random sample of the texts; see demur.store.answers.labels
    labels: Path | None = None
    # ask forty everyday prompts too: for the report's readers, in no rate and no promise
    everyday: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("max_new_tokens", self.max_new_tokens),
            ("limit", self.limit),
            ("texts", self.texts),
        ):
            if value is not None and value < 1:
                raise ConfigError(
                    f"evaluate.{name} = {value} must be at least 1", "correct it, or leave it out"
                )
        for goals in self.also:
            parse_goals(goals)


@dataclass(frozen=True, kw_only=True, slots=True)
class ReportSettings:
    """[report]: the report's title and the number of prompts that it shows. Raises ConfigError."""

    title: str = "Refusal report"
    examples: int = 12  # of each kind

    def __post_init__(self) -> None:
        if self.examples < 0:
            raise ConfigError(f"report.examples = {self.examples} is below 0", "0 shows no prompts")
