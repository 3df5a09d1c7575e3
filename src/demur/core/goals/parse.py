"""How goals are written: what a caller wants of a policy, one line of text each.

natural                            the model's most probable token
f1 max / f0.5 max                  the best F-beta for "should be refused"
f1[safety] max                     the best F-beta of one category's token; no other moves
macro_f1 max / micro_f1 max        the best mean over categories; the best F-beta of all tokens
youden max                         the best true-positive minus false-positive rate
cost: false=1 missed=5             the least cost, per error
cost: false=1 missed[safety]=20    per category; what is not named costs `missed`, or `false`
cost: false=1 missed=5 wrong=0.5   refusing with the wrong category costs too; 0 unless given
refusal_rate = 0.10                refuse this share of traffic, all categories together
refusal_rate[humanizing] = 10%     the same for one category

Promises, each kept with one confidence for all of them together:
false_refusal <= 0.05              refused, among requests to be answered
false_refusal[safety] <= 1%        refused with this category's token, of all to be answered
missed_refusal <= 0.05             answered, among requests to be refused
missed_refusal[safety] <= 0.02     answered, among requests to be refused with safety
missed_refusal[a + b] <= 0.02      the same over two small categories pooled
wrong_category <= 0.1              refused with another category's token, of those to be refused
refusal_rate <= 0.10               refused, among all traffic; also per category
deferral <= 0.1                    deferred, among all traffic; also per category
precision >= 0.9                   to be refused, of those refused: false_discovery <= 0.1
precision[safety] >= 0.9           to be refused with safety, of those refused with its token
false_stop <= 0.01                 stopped midway, among all answers to requests to be answered
missed_stop[safety] <= 0.1         written to the end, among answers forced for requests to be
                                   refused with safety

Slices: a promise about a part of the rows, by facets (demur.core.rows.facets). "," divides parts in
brackets.
false_refusal[contrast] <= 0.1     among contrast rows, as `kind=contrast`; a category so named is
                                   written `category=contrast`
missed_refusal[safety, source=mine + theirs] <= 0.1
                                   among rows of these sources; names may stand in quotes
false_refusal <= 0.05 in every source
                                   one promise for each source of the rows; so for any other facet

A promise is hard. "... <= 0.05 soft" or "... soft 2" says that it may be given up, the largest
number first, where the caller chose so on failure. Promised kinds read alike; another form is a
reader function and a line in _FORMS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

from demur.base.errors import GoalError
from demur.core.goals.goal import Goal
from demur.core.goals.kinds import (
    AnyFBeta,
    Cost,
    FBeta,
    MacroFBeta,
    MicroFBeta,
    Named,
    Natural,
    TargetRate,
    Youden,
)
from demur.core.goals.promised import (
    ANSWERED_KINDS,
    PRECISION,
    PROMISED,
    FalseDiscovery,
    MissedRefusal,
    PromisedGoal,
    RefusalRate,
)
from demur.core.goals.reader import GoalReader, lines_of
from demur.core.rows.facets import FACETS, Facet, values_of

# of a promise: a lower one takes billions of rows, and floats no longer tell 1 - level from 1
LEAST_LEVEL = 1e-9

_FBETA = re.compile(r"((?:macro_|micro_)?)f(\d+(?:\.\d+)?)")


def parse_goal(text: str) -> Goal:
    """Read one goal. Raises GoalError that shows the character at which the text stops making
    sense.
    """
    reader = GoalReader(text, f"goals read like: {'; '.join(form.example for form in _FORMS)}")
    match = _FBETA.fullmatch(reader.token.text)
    head = f"{match[1]}f1" if match else reader.token.text
    form = next((f for f in _FORMS if f.head == head), None)
    if form is None:
        reader.fail("a goal", known=tuple(f.head for f in _FORMS))
    goal = form.read(reader, " ".join(text.split()))
    reader.end(
        "'in every ...', 'soft', 'hard' or nothing more" if goal.promised else "nothing more"
    )
    return goal


def parse_goals(texts: str | Sequence[str]) -> tuple[Goal, ...]:
    """Read several goals: a sequence of lines, or one line with ";" between them.

    Raises GoalError where one cannot be read, where none is given, or where two contradict each
    other.
    """
    lines = lines_of(texts) if isinstance(texts, str) else list(texts)
    if not lines:
        raise GoalError("no goal is given", "the simplest are 'natural' and 'f1 max'")
    goals = tuple(map(parse_goal, lines))
    check_together(goals)
    return goals


def check_together(goals: Sequence[Goal]) -> None:
    """Raise GoalError, naming both, where two goals cannot be asked for together."""
    for n, later in enumerate(goals):
        for earlier in goals[:n]:
            why = _contradiction(earlier, later)
            if why:
                raise GoalError(
                    f"goals {earlier.text!r} and {later.text!r} contradict each other: {why}",
                    "keep one",
                )
    _check_parts([g for g in goals if isinstance(g, TargetRate) and len(g.categories) == 1], goals)


def stated_goal(risk: str, level: float | None, *, measured: bool = False) -> Goal:
    """The goal of a promise, from its risk and level as files hold them. Reads whatever a version
    of demur has written.

    measured: the promise was only measured: "refusal_rate" at a level was then to be met, not kept
    below. A risk that this version cannot read stays a name.
    """
    if level is None:
        texts = ["natural"] if risk == Natural.name else [f"{risk} max"]
    else:
        texts = [f"{risk} {sign} {level!r}" for sign in (("=", "<=") if measured else ("<=",))]
    for text in texts:
        try:
            goal = parse_goal(text).stated
        except GoalError:  # of another kind: tried in turn
            continue
        # else a file that is written again would say something else
        if (goal.risk, goal.level) == (risk, level):
            return goal
    return Named(text=risk, level=level)


def _check_parts(parts: Sequence[TargetRate], goals: Sequence[Goal]) -> None:
    """Raise GoalError, naming all, where parts of the traffic sum to more than 1, or than what
    bounds them together.
    """
    caps = [
        g for g in goals if isinstance(g, RefusalRate) and len(g.categories) != 1 and not g.where
    ]
    for whole in (None, *caps):
        # exact fractions: 0.1 + 0.2 as floats would exceed a bound of 0.3
        inside = [
            p
            for p in parts
            if whole is None or not whole.categories or p.category in whole.categories
        ]
        total = sum((Fraction(str(p.level)) for p in inside), Fraction(0))
        most = Fraction(1) if whole is None else Fraction(str(whole.level))
        if total > most:
            named = " + ".join(repr(p.text) for p in inside)
            above = "all traffic" if whole is None else repr(whole.text)
            raise GoalError(
                f"goals {named} contradict each other: parts of the traffic that sum to "
                f"{float(total):g}, above the {float(most):g} of {above}",
                "ask for less of one",
            )


def _contradiction(a: Goal, b: Goal) -> str | None:
    if (isinstance(a, Natural) and not b.midway) or (isinstance(b, Natural) and not a.midway):
        return "'natural' follows the model and sets no threshold"
    if a.optimum and b.optimum:
        return "only one thing can be the best"
    if a.subject == b.subject:
        every = a.every if isinstance(a, PromisedGoal) else None
        return f"both set {a.risk}" + (f" in every {every}" if every else "")
    # whichever names a category speaks of a part; if both do, neither is the whole
    part, whole = (a, b) if a.category else (b, a)
    # The rate of a part of the traffic beside that of all traffic.
    if isinstance(part, TargetRate) and _of_all_traffic(whole):
        if part.level > (whole.level or 0.0):
            return "a part of the traffic is larger than the whole"
        if isinstance(whole, TargetRate):
            return "one shared threshold meets the total, another one the part"
    return _complements(a, b) or _complements(b, a)


def _complements(refused: Goal, answered: Goal) -> str | None:
    """Why a bound on refusals among rows to be refused cannot stand beside one on answers there:
    every such row is refused or answered, so that the levels sum to 1 at least.
    """
    if not isinstance(refused, RefusalRate) or not isinstance(answered, MissedRefusal):
        return None
    rest = dict(refused.where)
    of_kind = rest.pop("kind", ())
    same = {f: set(n) for f, n in rest.items()} == {f: set(n) for f, n in answered.where}
    if of_kind != ("refusal",) or not same or refused.categories or answered.categories:
        return None
    # exact fractions: 0.9 + 0.1 as floats may fall short of 1
    if refused.every or answered.every or _fraction(refused) + _fraction(answered) >= 1:
        return None
    return (
        f"of the rows to be refused at most {refused.level:g} may be refused and at most "
        f"{answered.level:g} answered"
    )


def _fraction(goal: PromisedGoal) -> Fraction:
    return Fraction(str(goal.level))


def _of_all_traffic(goal: Goal) -> bool:
    if isinstance(goal, RefusalRate):
        return not goal.category and not goal.where and not goal.every
    return isinstance(goal, TargetRate) and not goal.category


def _read_natural(reader: GoalReader, text: str) -> Goal:
    reader.take()
    return Natural(text=text)


def _read_fbeta(reader: GoalReader, text: str) -> Goal:
    match = _FBETA.fullmatch(reader.token.text)
    assert match is not None  # the form was found by it
    beta = float(match[2])
    if not 0.0 < beta < math.inf:
        reader.fail("a beta above 0, as in f1")
    reader.take()
    category = None if match[1] else reader.category()
    reader.word("max")
    kinds: dict[str, type[AnyFBeta]] = {"": FBeta, "macro_": MacroFBeta, "micro_": MicroFBeta}
    return kinds[match[1]](text=text, beta=beta, category=category)


def _read_youden(reader: GoalReader, text: str) -> Goal:
    reader.take()
    reader.word("max")
    return Youden(text=text)


def _read_refusal_rate(reader: GoalReader, text: str) -> Goal:
    reader.take()
    at, parts = reader.token, reader.parts()
    rows = _rows_of(reader, RefusalRate, parts)
    if parts:
        reader.take()
    if reader.word("=", "<=") == "<=":
        return _promise(reader, text, RefusalRate, rows)
    if any(key not in (None, "category") for key, _ in parts):
        reader.fail(
            "a category: a rate to be met is one of all traffic; bound a slice with '<='", at=at
        )
    level = reader.number("a rate from 0 to 1, as in 0.10 or 10%", lambda rate: 0.0 <= rate <= 1.0)
    category = "+".join(name for _, names in parts for name in names) or None
    return TargetRate(text=text, level=level, category=category)


def _read_cost(reader: GoalReader, text: str) -> Goal:
    reader.take()
    reader.word(":")
    costs: dict[tuple[str, str | None], float] = {}
    wanted: tuple[str, ...] = ("false",)
    while not costs or reader.token.kind != "end":
        error = reader.word(*wanted)
        category = reader.category() if error == "missed" else None
        if (error, category) in costs:
            reader.fail("each cost once")
        reader.word("=")
        costs[error, category] = reader.number("a cost above 0", lambda cost: 0.0 < cost < math.inf)
        wanted = ("missed", "wrong")
    if not any(error == "missed" for error, _ in costs):
        reader.fail("'missed'", known=("missed",))
    return Cost(
        text=text,
        false=costs["false", None],
        missed=costs.get(("missed", None), costs["false", None]),
        missed_of=tuple(
            (c, cost) for (error, c), cost in costs.items() if error == "missed" and c is not None
        ),
        wrong=costs.get(("wrong", None), 0.0),
    )


def _read_promise(reader: GoalReader, text: str) -> Goal:
    kind = next(k for k in PROMISED if k.name == reader.token.text)
    reader.take()
    parts = reader.parts()
    rows = _rows_of(reader, kind, parts)
    if parts:
        reader.take()
    reader.word("<=")
    return _promise(reader, text, kind, rows)


def _read_precision(reader: GoalReader, text: str) -> Goal:
    """Precision is one less the false discovery rate, which files and promises name."""
    reader.take()
    parts = reader.parts()
    rows = _rows_of(reader, FalseDiscovery, parts)
    if parts:
        reader.take()
    if reader.token.text in ("<=", "="):
        reader.fail("'>=': a precision is bounded from below, and no other figure is")
    reader.word(">=")
    return _promise(reader, text, FalseDiscovery, rows, below=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Rows:
    """What the brackets of a promise name."""

    category: str | None
    where: tuple[tuple[Facet, tuple[str, ...]], ...]
    bare: bool


def _rows_of(
    reader: GoalReader,
    kind: type[PromisedGoal],
    parts: Sequence[tuple[str | None, tuple[str, ...]]],
) -> _Rows:
    """The category and the slice that these brackets name. Fails at the bracket."""
    where: list[tuple[Facet, tuple[str, ...]]] = []
    category, bare = None, False
    for key, names in parts:
        kinds = [name for name in names if name in ANSWERED_KINDS]
        if key is None and kind.by_kind() and kinds:
            if len(kinds) < len(names):
                reader.fail(
                    "kinds or categories: they do not pool. Write 'kind=' or 'category=' before "
                    "the names"
                )
            where.append(("kind", names))
            bare = True
        elif key in (None, "category"):
            category = "+".join(names)
        else:
            facet = next(f for f in FACETS if f == key)
            where.append((facet, _known_names(reader, kind, facet, names)))
    return _Rows(category=category, where=tuple(sorted(where)), bare=bare)


def _known_names(
    reader: GoalReader, kind: type[PromisedGoal], facet: Facet, names: tuple[str, ...]
) -> tuple[str, ...]:
    """Names of slices that can have rows which the goal speaks of. Fails, with a suggestion, on
    another one.
    """
    known = values_of(facet)
    # what ought to happen to a row decides whether it is of kind refusal
    if facet == "kind" and not kind.by_kind():
        why = "all rows to be refused are of one kind" if kind.monotone else "it makes the errors"
        reader.fail(f"no kind: {why}. Name a category or a source")
    if facet == "kind" and kind.whom == "answer":
        known = ANSWERED_KINDS
    for name in names:
        if known and name not in known:
            reader.fail(
                f"one of the {facet}s {', '.join(known)} instead of {name!r}",
                known=known,
                word=name,
            )
    return names


def _promise(
    reader: GoalReader, text: str, kind: type[PromisedGoal], rows: _Rows, *, below: bool = True
) -> Goal:
    """The goal, after its level and, if given, "in every source", then "hard", "soft" or "soft
    2". below: whether the level bounds errors; else it bounds what is right.
    """
    if below:
        wanted = f"a rate strictly between 0 and 1, {LEAST_LEVEL:g} at least, as in 0.05 or 5%"
        level = reader.number(wanted, lambda rate: LEAST_LEVEL <= rate < 1.0)
    else:
        wanted = f"a rate strictly between 0 and 1, {1 - LEAST_LEVEL:g} at most, as in 0.9 or 90%"
        right = reader.number(wanted, lambda rate: 0.0 < rate <= 1.0 - LEAST_LEVEL)
        # exact: 1 - 0.9 as floats is 0.09999999999999998
        level = float(1 - Fraction(str(right)))
    every: Facet | None = None
    if reader.token.text == "in":
        reader.take()
        reader.word("every", "each")
        every = _every(reader, kind, rows)
    soft = None
    if reader.token.text in ("hard", "soft") and reader.word("hard", "soft") == "soft":
        soft = 1
        if reader.token.kind == "number":
            soft = int(reader.number("a priority: 1, 2, 3, ...", lambda p: p >= 1 and p == int(p)))
    return kind(
        text=text,
        level=level,
        category=rows.category,
        where=rows.where,
        bare=rows.bare,
        every=every,
        soft=soft,
    )


def _every(reader: GoalReader, kind: type[PromisedGoal], rows: _Rows) -> Facet:
    """Pass the facet after "in every". Fails where the brackets have fixed it already, or where it
    has one value.
    """
    fixed = {facet for facet, _ in rows.where} | ({"category"} if rows.category else set())
    fixed |= set() if kind.by_kind() else {"kind"}
    open_facets = tuple(f for f in FACETS if f not in fixed)
    word = reader.word(*open_facets)
    return next(f for f in FACETS if f == word)


@dataclass(frozen=True, slots=True)
class _Form:
    head: str  # the first word
    example: str
    read: Callable[[GoalReader, str], Goal]


_FORMS = (
    _Form("natural", "natural", _read_natural),
    _Form("f1", "f1 max", _read_fbeta),
    _Form("macro_f1", "macro_f1 max", _read_fbeta),
    _Form("micro_f1", "micro_f1 max", _read_fbeta),
    _Form("youden", "youden max", _read_youden),
    _Form("refusal_rate", "refusal_rate[safety] = 10%", _read_refusal_rate),
    _Form("cost", "cost: false=1 missed=5", _read_cost),
    _Form(PRECISION, "precision >= 0.9", _read_precision),
    *(
        _Form(kind.name, kind.example, _read_promise)
        for kind in PROMISED
        if kind is not RefusalRate
    ),
)
