"""The only code that refuses and defers. Calibration, evaluation, every engine and the gateway call
decide_many.

Shapes: N prompts, K categories, C = K + 1 control tokens (column 0 = respond). Scores are
natural-log probabilities, float32; every comparison is made in float64 on logs, so a probability of
0.9999999 still has a neighbour. Ties refuse; between categories the first in the taxonomy wins a
tie.

1. The policy's rule decides on calibrated probabilities.
2. A locked category whose own threshold is met refuses, whatever the rule made of the others.
3. What is not refused is decided again, with the deferral threshold of each category that has one:
   a request that would be refused at these is deferred (demur.core.threshold).
4. A score whose leftover mass is above the policy's bound is doubtful: it refuses with the heaviest
   category, at every threshold. Callers that act on a decision use decide_or_doubt, which raises
   where the policy says "error".
5. A forced category stands, whatever the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.base.arrays import Bools, Doubles, Floats, Ints
from demur.base.errors import ScoreDoubt, ScoreError
from demur.core.calibrator import Identity
from demur.core.policy import OnDoubt, Policy
from demur.core.score import check_scores, leftover_of
from demur.core.threshold import Outcome, margin


@dataclass(frozen=True, kw_only=True, slots=True)
class Decision:
    """What a policy makes of one prompt's score, before the answer."""

    choice: str  # "respond" or the category refused with
    column: int  # the same as a column of the score: 0 = respond
    heaviest: str  # the active category with the most probability; "respond" if none is active
    # log-odds above (>= 0) or below the threshold that was compared; inf when nothing was
    margin: float
    # the leftover mass is above the policy's bound: refused, whatever the thresholds
    doubt: bool = False
    # the category that it is deferred with; `choice` is "respond" then, and nothing is answered
    deferred: str | None = None

    @property
    def refuses(self) -> bool:
        """Whether a refusal token is emitted."""
        return self.column > 0

    @property
    def outcome(self) -> Outcome:
        """Whether the request is answered, refused or deferred."""
        return "refuse" if self.refuses else "answer" if self.deferred is None else "defer"

    @property
    def category(self) -> str | None:
        """The category that it is refused or deferred with; None where it is answered."""
        return self.choice if self.refuses else self.deferred

    @property
    def words(self) -> str:
        """The decision for people: "respond", the category refused with, or "defer: safety"."""
        return self.choice if self.deferred is None else deferral_words(self.deferred)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Decisions:
    """What a policy makes of N scores."""

    # emitted control token as a column: 0 = respond, also where nothing is emitted (defer_N)
    choice_N: Ints
    heaviest_N: Ints  # column of the heaviest active category, 0 if none is active
    # log-odds distance to the threshold that was compared; +-inf when nothing was
    margin_N: Doubles
    doubt_N: Bools  # leftover mass above the policy's bound: refused, whatever the thresholds
    defer_N: Ints  # column of the category that each is deferred with; 0 where it is not

    @property
    def refuses_N(self) -> Bools:
        """Whether each prompt gets a refusal token."""
        return self.choice_N > 0

    @property
    def defers_N(self) -> Bools:
        """Whether each prompt is deferred: neither answered nor refused."""
        return self.defer_N > 0

    @property
    def sent_N(self) -> Ints:
        """What is sent, as a column: the control token; or, where it is deferred with category k,
        -k.
        """
        return np.where(self.defers_N, -self.defer_N, self.choice_N)

    @property
    def held_N(self) -> Bools:
        """Whether each prompt is not answered: refused or deferred."""
        return self.refuses_N | self.defers_N

    def words(self, choices: Sequence[str]) -> list[str]:
        """Each decision for people, as Decision.words. choices: names of the columns."""
        pairs = zip(self.choice_N.tolist(), self.defer_N.tolist(), strict=True)
        return [deferral_words(choices[d]) if d else choices[c] for c, d in pairs]


def deferral_words(category: str) -> str:
    """A deferral with a category, for people; no category and no other decision reads so."""
    return f"defer: {category}"


def outcome_words(policy: Policy) -> tuple[str, ...]:
    """All that Decision.words may say under a policy: its choices, then its deferrals."""
    pairs = zip(policy.taxonomy.names, policy.categories, strict=True)
    deferring = (deferral_words(name) for name, c in pairs if c.on_defer is not None)
    return (*policy.taxonomy.choices, *deferring)


def decide_many(policy: Policy, logp_NC: Floats) -> Decisions:
    """Decide N prompts at once. Raises ScoreError on a wrong shape and on anything but
    log-probabilities.
    """
    if logp_NC.ndim != 2 or logp_NC.shape[1] != len(policy.taxonomy.tokens):
        raise ScoreError(
            f"scores of shape {logp_NC.shape} for {len(policy.taxonomy.tokens)} control tokens",
            f"policy {policy.name!r} decides over {policy.taxonomy.tokens}",
        )
    check_scores(logp_NC)
    forced = [k for k, c in enumerate(policy.categories, start=1) if c.override == "force"]
    if forced:
        everyone_N, nobody_N = (
            np.full(len(logp_NC), forced[0], dtype=np.int64),
            np.zeros(len(logp_NC), dtype=bool),
        )
        margin_N = np.full(len(logp_NC), np.inf)
        return Decisions(
            choice_N=everyone_N,
            heaviest_N=everyone_N,
            margin_N=margin_N,
            doubt_N=nobody_N,
            defer_N=np.zeros_like(everyone_N),
        )
    logq_NC = policy.calibrator.apply(logp_NC).astype(np.float64)
    decided = _ruled(policy, logq_NC, [c.threshold for c in policy.categories])
    if policy.defers:
        held = _ruled(policy, logq_NC, [c.held_from for c in policy.categories])
        decided = replace(decided, defer_N=np.where(decided.refuses_N, 0, held.choice_N))
    return _with_doubt(policy, logq_NC, decided, doubtful(policy, logp_NC))


def decide(policy: Policy, logp_C: Floats) -> Decision:
    """Decide one prompt. See decide_many."""
    many = decide_many(policy, logp_C[None, :])
    column, deferred = int(many.choice_N[0]), int(many.defer_N[0])
    return Decision(
        choice=policy.taxonomy.choices[column],
        column=column,
        heaviest=policy.taxonomy.choices[int(many.heaviest_N[0])],
        margin=float(many.margin_N[0]),
        doubt=bool(many.doubt_N[0]),
        deferred=policy.taxonomy.choices[deferred] if deferred else None,
    )


def decide_or_doubt(policy: Policy, logp_C: Floats) -> Decision:
    """The decision that an engine acts on. Raises ScoreDoubt where there is none.

    That is: the score holds NaN, infinities or no log-probabilities, or it is doubtful and the
    policy says "error".
    """
    require_settled(policy, logp_C[None, :])
    return decide(policy, logp_C)


def require_settled(policy: Policy, logp_NC: Floats) -> None:
    """Raise ScoreDoubt, naming the first such score, where decide_or_doubt would."""
    try:
        doubt_N = decide_many(policy, logp_NC).doubt_N
    except ScoreError as e:
        raise ScoreDoubt(e.message, e.hint) from None
    if doubt_N.any() and on_doubt(policy) == "error":
        first_C = logp_NC[int(np.argmax(doubt_N))]
        raise ScoreDoubt(
            doubt_reason(policy, first_C), f"policy {policy.name!r} says that doubt is an error"
        )


def doubtful(policy: Policy, logp_NC: Floats) -> Bools:
    """Which scores have more leftover mass than the policy allows, shape (N,). The bound itself is
    allowed.
    """
    return np.asarray(leftover_of(logp_NC) > policy.doubt.most_leftover, dtype=bool)


def doubt_reason(policy: Policy, logp_C: Floats) -> str:
    """Why a score is doubtful, in words, with values."""
    left = float(leftover_of(logp_C[None, :])[0])
    return (
        f"{left:.3g} of the probability lies outside the control tokens, policy {policy.name!r} "
        f"allows {policy.doubt.most_leftover:.3g}"
    )


def on_doubt(policy: Policy) -> OnDoubt:
    """What is done with a doubtful score. A policy that suppresses every category cannot refuse: an
    error.
    """
    return (
        policy.doubt.then if any(c.override != "suppress" for c in policy.categories) else "error"
    )


def compared_scores(policy: Policy, logp_NC: Floats) -> Floats:
    """What one threshold shared by all categories is compared with: natural-log probability,
    float32, shape (N,).

    Rule `sum`: the active categories together; every other rule: the heaviest active one. At most
    0; -inf where no category may be emitted; +inf where the score is doubtful, for no threshold
    answers it. What decide_many refuses at a shared T, in [0, 1] or NEVER, is exactly what lies at
    or above log T.
    """
    return np.where(doubtful(policy, logp_NC), np.float32(np.inf), _undoubted(policy, logp_NC))


def compared_slack(
    policy: Policy, logp_NC: Floats, tolerance: float, category: str | None = None
) -> Doubles:
    """How far compared_scores may move where each log-probability is off by at most so much, to the
    first order; shape (N,), natural log. category: this one's probability instead.

    Raw scores move as far as their log-probabilities, a maximum or a sum of them no farther. Behind
    a calibrator the moves add up that each token causes alone: the largest change of a smooth map,
    and every step of one with steps. Doubt is taken as it is.
    """

    def value(moved_NC: Floats) -> Doubles:
        if category is None:
            return _undoubted(policy, moved_NC).astype(np.float64)
        column_N = policy.calibrator.apply(moved_NC)[:, policy.taxonomy.column(category)]
        return np.minimum(column_N.astype(np.float64), 0.0)

    if isinstance(policy.calibrator, Identity):
        return np.full(len(logp_NC), tolerance)
    base_N, slack_N = value(logp_NC), np.zeros(len(logp_NC))
    for column in range(logp_NC.shape[1]):
        moves = []
        for step in (tolerance, -tolerance):
            moved_NC = logp_NC.copy()
            moved_NC[:, column] = np.minimum(moved_NC[:, column] + step, 0.0)
            # no category may be emitted: -inf before and after
            with np.errstate(invalid="ignore"):
                moves.append(np.nan_to_num(np.abs(value(moved_NC) - base_N), nan=0.0))
        slack_N += np.maximum(*moves)
    return slack_N


def _undoubted(policy: Policy, logp_NC: Floats) -> Floats:
    """The compared scores as if no row were doubtful."""
    value_NK = _masked(policy, policy.calibrator.apply(logp_NC).astype(np.float64))
    compared_N = np.minimum(_total(value_NK) if policy.rule == "sum" else value_NK.max(axis=1), 0.0)
    return np.asarray(compared_N, dtype=np.float32)


def _ruled(policy: Policy, logq_NC: Doubles, thresholds: Sequence[float]) -> Decisions:
    """Refuse by the rule and the locks at these thresholds, one per category; doubt is not seen."""
    with np.errstate(divide="ignore"):
        log_threshold_K = np.log(np.array(thresholds, dtype=np.float64))
    decided = _RULES[policy.rule](policy, logq_NC, log_threshold_K)
    return _with_locks(policy, logq_NC, log_threshold_K, decided)


def _masked(policy: Policy, logq_NC: Doubles, *, active_only: bool = True) -> Doubles:
    """The categories' columns, those that may not be emitted at -inf. Shape (N, K)."""
    allowed_K = [c.may_emit if active_only else c.override != "suppress" for c in policy.categories]
    return np.where(np.array(allowed_K, dtype=bool)[None, :], logq_NC[:, 1:], -np.inf)


def _pick(value_NK: Doubles, index_N: Ints) -> Doubles:
    return np.take_along_axis(value_NK, index_N[:, None], axis=1)[:, 0]


def _settle(value_NK: Doubles, choice_N: Ints, margin_N: Doubles) -> Decisions:
    """Decisions from the masked category values, with nobody refusing where no category may be
    emitted.
    """
    best_N = value_NK.argmax(axis=1).astype(np.int64)
    any_N = np.isfinite(_pick(value_NK, best_N))
    return Decisions(
        choice_N=np.where(any_N, choice_N, 0),
        heaviest_N=np.where(any_N, best_N + 1, 0),
        margin_N=np.where(any_N, margin_N, -np.inf),
        doubt_N=np.zeros(len(value_NK), dtype=bool),
        defer_N=np.zeros(len(value_NK), dtype=np.int64),
    )


def _with_locks(
    policy: Policy, logq_NC: Doubles, log_threshold_K: Doubles, decided: Decisions
) -> Decisions:
    """The decisions, with a refusal wherever a locked category's own threshold is met.

    Callers may move other categories' thresholds, and the heaviest category would hide the locked
    one. Where several locked categories are met the heaviest of them is emitted. What the rule
    refuses stays as it is.
    """
    locked_K = np.array([c.locked and c.may_emit for c in policy.categories], dtype=bool)
    if not locked_K.any():
        return decided
    met_NK = locked_K[None, :] & (logq_NC[:, 1:] >= log_threshold_K[None, :])
    lock_N = np.where(met_NK, logq_NC[:, 1:], -np.inf).argmax(axis=1).astype(np.int64)
    margin_N = margin(_pick(logq_NC[:, 1:], lock_N), log_threshold_K[lock_N])
    by_lock_N = met_NK.any(axis=1) & (decided.choice_N == 0)
    return replace(
        decided,
        choice_N=np.where(by_lock_N, lock_N + 1, decided.choice_N),
        margin_N=np.where(by_lock_N, margin_N, decided.margin_N),
    )


def _with_doubt(policy: Policy, logq_NC: Doubles, decided: Decisions, doubt_N: Bools) -> Decisions:
    """The decisions, with a refusal for every doubtful score: the heaviest category, and nothing
    was compared.

    Where no category may be emitted: the heaviest one that is not suppressed, else the heaviest of
    all, which engines turn into an error (on_doubt).
    """
    if not doubt_N.any():
        return decided
    allowed_K = np.array([c.override != "suppress" for c in policy.categories], dtype=bool)
    allowed_K |= not allowed_K.any()
    fallback_N = np.where(allowed_K[None, :], logq_NC[:, 1:], -np.inf).argmax(axis=1) + 1
    column_N = np.where(decided.heaviest_N > 0, decided.heaviest_N, fallback_N)
    return replace(
        decided,
        choice_N=np.where(doubt_N, column_N, decided.choice_N),
        margin_N=np.where(doubt_N, np.inf, decided.margin_N),
        doubt_N=doubt_N,
        defer_N=np.where(doubt_N, 0, decided.defer_N),
    )


def _natural(policy: Policy, logq_NC: Doubles, _: Doubles) -> Decisions:
    return _most_probable(_masked(policy, logq_NC, active_only=False), logq_NC[:, 0])


def _bias(policy: Policy, logq_NC: Doubles, _: Doubles) -> Decisions:
    bias_K = np.array([c.bias for c in policy.categories], dtype=np.float64)
    return _most_probable(_masked(policy, logq_NC) + bias_K[None, :], logq_NC[:, 0])


def _most_probable(value_NK: Doubles, respond_N: Doubles) -> Decisions:
    best_N = value_NK.argmax(axis=1).astype(np.int64)
    margin_N = _pick(value_NK, best_N) - respond_N
    return _settle(value_NK, np.where(margin_N >= 0.0, best_N + 1, 0), margin_N)


def _heaviest(policy: Policy, logq_NC: Doubles, log_threshold_K: Doubles) -> Decisions:
    value_NK = _masked(policy, logq_NC)
    best_N = value_NK.argmax(axis=1).astype(np.int64)
    margin_N = margin(_pick(value_NK, best_N), log_threshold_K[best_N])
    return _settle(value_NK, np.where(margin_N >= 0.0, best_N + 1, 0), margin_N)


def _released(policy: Policy, logq_NC: Doubles, log_threshold_K: Doubles) -> Decisions:
    """As published: only the heaviest of ALL refusal tokens is looked at; outside S the model's own
    token stands.
    """
    value_NK = _masked(policy, logq_NC, active_only=False)
    best_N = value_NK.argmax(axis=1).astype(np.int64)
    own = _most_probable(value_NK, logq_NC[:, 0])
    active_N = np.array([c.active for c in policy.categories], dtype=bool)[best_N]
    ours_N = margin(_pick(value_NK, best_N), log_threshold_K[best_N])
    margin_N = np.where(active_N, ours_N, own.margin_N)
    return _settle(value_NK, np.where(margin_N >= 0.0, best_N + 1, 0), margin_N)


def _total(value_NK: Doubles) -> Doubles:
    """Log of the categories' summed probability, rounded to float32 once, as calibrators do: see
    Calibrator.apply.
    """
    total_N = np.minimum(np.logaddexp.reduce(value_NK, axis=1), 0.0)
    return np.asarray(total_N, dtype=np.float32).astype(np.float64)


def _sum(policy: Policy, logq_NC: Doubles, log_threshold_K: Doubles) -> Decisions:
    value_NK = _masked(policy, logq_NC)
    best_N = value_NK.argmax(axis=1).astype(np.int64)
    active = [t for t, c in zip(log_threshold_K, policy.categories, strict=True) if c.active]
    threshold = np.float64(active[0] if active else np.inf)
    margin_N = margin(_total(value_NK), np.full(len(value_NK), threshold))
    return _settle(value_NK, np.where(margin_N >= 0.0, best_N + 1, 0), margin_N)


def _any(policy: Policy, logq_NC: Doubles, log_threshold_K: Doubles) -> Decisions:
    value_NK = _masked(policy, logq_NC)
    log_thresholds_NK = np.broadcast_to(log_threshold_K, value_NK.shape)
    margin_NK = np.where(np.isfinite(value_NK), margin(value_NK, log_thresholds_NK), -np.inf)
    widest_N = margin_NK.argmax(axis=1).astype(np.int64)
    margin_N = _pick(margin_NK, widest_N)
    return _settle(value_NK, np.where(margin_N >= 0.0, widest_N + 1, 0), margin_N)


_RULES = {
    "natural": _natural,
    "heaviest": _heaviest,
    "released": _released,
    "sum": _sum,
    "any": _any,
    "bias": _bias,
}
