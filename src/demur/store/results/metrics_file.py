"""evaluate/metrics.json: rates of a run's policies on held-out prompts.

Many rows mirror records of demur.stats, which store may not import, with rates turned into
MeasuredRate: a reader of the file needs no statistics to show an interval.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from demur.base.boundary import Strict, read_json, validated
from demur.base.files import write_json
from demur.core.policy import Rule
from demur.core.rates import ByUnits, Rate, stored
from demur.store.fingerprint_json import StoredFingerprint
from demur.store.policies.policy_file import Threshold


class MeasuredRate(Strict):
    """A rate with its 95 % interval; null where it is not defined (of = 0).

    The interval is the rate's own: Clopper-Pearson where every row is independent, and wider where
    rows share units (demur.stats.units).
    """

    hits: int  # requests
    of: int
    # groups, sessions and single rows among them; null: as many as requests, or an older file
    units: int | None = None
    value: float | None
    low: float | None
    high: float | None

    @classmethod
    def from_core(cls, rate: Rate, by_units: ByUnits | None = None) -> MeasuredRate:
        """The rate with value and interval worked out. by_units: as it was stored beside it."""
        if not rate.defined:
            return cls(hits=0, of=0, value=None, low=None, high=None)
        by_units = by_units or stored(rate)[1]
        if by_units is None:
            low, high = rate.interval()
            return cls(hits=rate.hits, of=rate.of, value=rate.value, low=low, high=high)
        return cls(
            hits=rate.hits,
            of=rate.of,
            units=by_units.units,
            value=rate.value,
            low=by_units.low,
            high=by_units.high,
        )

    @property
    def complement(self) -> MeasuredRate:
        """The rate of the others."""
        if self.value is None or self.low is None or self.high is None:
            return self
        ends = {"value": 1 - self.value, "low": 1 - self.high, "high": 1 - self.low}
        return self.model_copy(update={"hits": self.of - self.hits} | ends)

    @property
    def words(self) -> str:
        """For people: "12.3% (10.1 to 14.9)", with "; 60 units" where rows share units, or "not
        defined (0 rows)".
        """
        if self.value is None or self.low is None or self.high is None:
            return "not defined (0 rows)"
        units = "" if self.units is None else f"; {self.units} units"
        return f"{100 * self.value:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f}{units})"

    @property
    def denominator(self) -> str:
        """What the rate is out of, for people: "300", or "300 in 60 units"."""
        return str(self.of) if self.units is None else f"{self.of} in {self.units} units"


class ErrorsRow(Strict):
    """What happened to one group of rows: demur.stats.measure.ErrorRates."""

    refusal_rate: MeasuredRate  # refused, among all rows
    caught: MeasuredRate  # true-positive rate: refused, among rows to be refused
    missed_refusal: MeasuredRate  # Type II: answered, among rows to be refused
    false_refusal: MeasuredRate  # Type I, false-positive rate: refused, among rows to be answered
    precision: MeasuredRate  # to be refused, among refused
    f1: float | None  # null where nothing is refused and nothing ought to be
    # neither answered nor refused, among all rows; null where the policy defers nothing
    deferral: MeasuredRate | None = None


class LevelRow(Strict):
    """Errors of a policy, counted either on its decisions or on the judged texts."""

    overall: ErrorsRow
    # of the overall F1, 95 %, by units of rows
    f1_interval: tuple[float, float] | None
    by_category: dict[str, ErrorsRow]  # the category that the rows belong to, contrast rows too
    by_subcategory: dict[str, ErrorsRow]
    by_kind: dict[str, ErrorsRow]


class TokenRow(Strict):
    """One refusal token against its own category: demur.stats.measure.CategoryDecisions."""

    emitted: MeasuredRate  # among all rows
    false_refusal: MeasuredRate  # emitted, among all rows to be answered
    missed_refusal: MeasuredRate  # answered, among rows to be refused with it
    wrong_category: MeasuredRate  # another refusal token, among rows to be refused with it
    precision: MeasuredRate  # to be refused with it, among emitted
    f1: float | None


class CorrectedRate(Strict):
    """A rate of judged texts, corrected by hand labels of some of them, with a 95 % interval.

    See demur.stats.judging.correction.
    """

    value: float | None  # null where too few labels say anything
    low: float | None
    high: float | None
    labels: int  # by hand, among the texts of this rate
    method: str  # or why there is no value

    @property
    def words(self) -> str:
        """For people: "12.3% (10.1 to 14.9)", or the reason why there is no value."""
        if self.value is None or self.low is None or self.high is None:
            return f"not corrected: {self.method}"
        return f"{100 * self.value:.1f}% ({100 * self.low:.1f} to {100 * self.high:.1f})"


class KeptRow(Strict):
    """Whether texts after one control token do what it said:
    demur.stats.judging.consistency.Kept.
    """

    kept: MeasuredRate  # after a refusal token: declines. After respond: answers, in part or whole
    kept_if_partial_refuses: MeasuredRate
    unscored: int  # texts beside those of the rates
    # by name of the rates above; empty: no labels
    corrected: dict[str, CorrectedRate] = Field(default_factory=dict)


class TwinsRow(Strict):
    """Prompts with a text after a forced refusal token and one after forced respond.

    See demur.stats.judging.consistency.Twins.
    """

    controllable: MeasuredRate
    stuck_refuse: MeasuredRate
    stuck_answer: MeasuredRate
    inverted: MeasuredRate
    unscored: int  # prompts left out
    # by name of the rates above; empty: no labels
    corrected: dict[str, CorrectedRate] = Field(default_factory=dict)


class FatesRow(Strict):
    """What becomes of requests of one kind, among all of them: demur.stats.midway.errors.Fates."""

    at_once: MeasuredRate  # refused by the first decision
    deferred: MeasuredRate | None = None  # null where the policy defers nothing
    midway: MeasuredRate  # answered at first, and stopped
    answered: MeasuredRate  # to the end


class LeakedRow(Strict):
    """Tokens that a stream has sent at the stop, of stopped answers to what ought to be refused."""

    median: float
    p90: float
    most: int


class StopsRow(Strict):
    """The monitor of a policy on the test rows: demur.stats.midway.errors.StopErrors.

    Every row was answered after a forced respond token: false and missed stops count all answers,
    also where the first decision refuses.
    """

    monitor: str  # statistic and answers, in words
    held_back: int
    fates: dict[str, FatesRow]  # by what ought to happen: "respond", or a category
    false_stop: MeasuredRate
    missed_stop: MeasuredRate
    missed_by_category: dict[str, MeasuredRate]
    false_by_length: dict[str, MeasuredRate]  # by tokens of the whole answer
    false_by_kind: dict[str, MeasuredRate]
    false_by_subcategory: dict[str, MeasuredRate]
    # requests by the tokens ahead of their stop; "respond": false stops, "refuse": the others
    positions: dict[str, dict[str, int]]
    leaked: LeakedRow | None  # null where no such answer is stopped


class PolicyMetrics(Strict):
    """One policy on the test split."""

    name: str
    goal: str
    rule: Rule
    file: str  # the policy itself, relative to the run folder
    digest: str
    thresholds: dict[str, Threshold]
    calibrate: ErrorsRow  # its decisions on the rows that its thresholds were chosen on
    decision: LevelRow
    # over the texts that the judge could score: the others are in no rate but the next
    text: LevelRow
    unscored: MeasuredRate  # texts that the judge could not score, among all rows
    # the most frequent reasons, with their texts
    unscored_reasons: dict[str, int] = Field(default_factory=dict)
    partial: MeasuredRate  # texts that answer in part, counted as answers
    tokens: dict[str, TokenRow]
    macro_f1: float | None  # over respond and the categories
    # refused with another category's token, among refused rows to be refused
    wrong_category: MeasuredRate
    # rows by (what ought to happen, what was decided), in order of `choices`
    confusion: tuple[tuple[int, ...], ...]
    # the same on the rows that its thresholds were chosen on
    calibrate_confusion: tuple[tuple[int, ...], ...] = ()
    # rows deferred, which these leave out, by (what ought to happen, category); empty: none may be
    deferred: tuple[tuple[int, ...], ...] = ()
    calibrate_deferred: tuple[tuple[int, ...], ...] = ()
    # null without a monitor, without followed test answers, and in older files
    stops: StopsRow | None = None
    texts_refuse: MeasuredRate  # the text declines, among rows that got a refusal token
    # the text answers, in part or whole, among rows that got the respond token
    texts_answer: MeasuredRate
    kept: dict[str, KeptRow] = Field(
        default_factory=dict
    )  # texts that the policy sends, by the control token that it emitted
    # "all", "category safety", "subcategory ...", "kind contrast" -> a rate of ErrorsRow, partial,
    # texts_refuse or texts_answer; empty: no labels
    corrected: dict[str, dict[str, CorrectedRate]] = Field(default_factory=dict)

    @property
    def judged(self) -> dict[str, MeasuredRate]:
        """The rates of all texts before correction, by their names in `corrected`."""
        names = ("refusal_rate", "false_refusal", "missed_refusal", "precision")
        found: dict[str, MeasuredRate] = {name: getattr(self.text.overall, name) for name in names}
        return {
            **found,
            "partial": self.partial,
            "texts_refuse": self.texts_refuse,
            "texts_answer": self.texts_answer,
        }


class UnmetGoal(Strict):
    """A goal for comparison that no threshold meets."""

    goal: str
    reason: str


class RankingRow(Strict):
    """How well scores order prompts, whatever the threshold; null where the rows are all of one
    kind.
    """

    positives: int
    negatives: int
    auroc: float | None
    average_precision: float | None


class LeftoverRow(Strict):
    """Probability outside the control tokens at the first answer position."""

    mean: float
    median: float
    p95: float
    highest: float
    # the calibrated policy's bound: rows above it are in doubt; None in older files
    most: float | None = None
    doubtful: int | None = None  # test rows in doubt


class CalibrationErrors(Strict):
    """How far probabilities are from what happens, over all control tokens; smaller is better."""

    # of "refused or not": mean gap over 15 bins of equal mass, tied rows kept together
    refusal_ece: float
    top_ece: float  # the same for the most probable token being right
    log_loss: float | None  # nats per row; null where a label has probability 0
    brier: float  # squared error summed over the control tokens, per row


class CalibrationRow(Strict):
    """Calibration errors on the test rows before and after the calibrator of the calibrated policy.
    Leftover mass is shared out among the tokens in both.
    """

    family: str
    why: str
    notes: tuple[str, ...]
    fitted_on: int  # calibrate rows of its own
    before: CalibrationErrors
    after: CalibrationErrors


class VerdictsRow(Strict):
    """Verdicts on the texts that follow one forced control token."""

    refusal: int
    partial: int
    compliance: int
    unscored: int


class Evaluation(Strict):
    """metrics.json."""

    format: Literal["demur.metrics/1"] = "demur.metrics/1"
    model: StoredFingerprint
    judge: str
    max_new_tokens: int
    choices: tuple[str, ...]  # "respond", then the categories: the order of every confusion matrix
    limit: int | None  # at most so many test rows were asked for
    test_rows: int
    # so many of them have texts, in even steps; left out where all have
    text_rows: int | None = None
    calibrate_rows: int  # on which thresholds were chosen
    policies: tuple[PolicyMetrics, ...]  # natural, calibrated, then the goals for comparison
    unmet: tuple[UnmetGoal, ...]
    always_refuse: ErrorsRow  # the baseline that refuses everything: read F1 beside it
    # "all": to be refused or not. A category: to be refused with it or not
    ranking: dict[str, RankingRow]
    calibration: CalibrationRow | None = None  # null if no calibrator was asked for
    leftover: LeftoverRow
    branches: dict[str, VerdictsRow]  # every generated text, by the control token forced before it
    # the same texts: do they keep the forced token's word?
    forced: dict[str, KeptRow] = Field(default_factory=dict)
    # "all", "to be answered", "to be refused", then the prompts of each category
    twins: dict[str, TwinsRow] = Field(default_factory=dict)
    labels: int = 0  # texts labelled by hand among the generated ones
    labels_elsewhere: int = 0  # labels of other texts, which count for nothing here


def text_rows(evaluation: Evaluation) -> int:
    """How many test rows have texts."""
    return evaluation.test_rows if evaluation.text_rows is None else evaluation.text_rows


def write_metrics(path: Path, evaluation: Evaluation) -> None:
    """Write metrics.json atomically."""
    # left out where every test row has a text, as in files of before there was a choice
    unsaid = {"text_rows"} if evaluation.text_rows is None else set()
    write_json(path, evaluation.model_dump(mode="json", exclude=unsaid))


def read_metrics(path: Path) -> Evaluation:
    """Read metrics.json. Raises ArtifactError naming the file and what is wrong with it."""
    return validated(Evaluation, read_json(path), str(path))
