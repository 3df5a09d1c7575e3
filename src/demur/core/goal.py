"""Goals: what a caller wants of a policy, one line of text each.

natural                            the model's most probable token
f1 max / f0.5 max                  the best F-beta for "should be refused"
f1[safety] max                     the best F-beta of one category's token; moves that threshold only
macro_f1 max / micro_f1 max        the best mean over the categories; the best F-beta of all tokens counted together
youden max                         the best true-positive minus false-positive rate
cost: false=1 missed=5             the least cost, per error
cost: false=1 missed[safety]=20    a cost per category; what is not named costs `missed`, else as much as `false`
cost: false=1 missed=5 wrong=0.5   refusing with the wrong category costs too; 0 unless given
refusal_rate = 0.10                refuse this share of traffic, all categories together
refusal_rate[humanizing] = 10%     the same for one category

Promises, each kept with one confidence for all of them together:
false_refusal <= 0.05              refused, among requests to be answered
false_refusal[safety] <= 1%        refused with this category's token, among all requests to be answered
missed_refusal <= 0.05             answered, among requests to be refused
missed_refusal[safety] <= 0.02     answered, among requests to be refused with safety
missed_refusal[a + b] <= 0.02      the same over two small categories pooled
wrong_category <= 0.1              refused with another category's token, among requests to be refused
refusal_rate <= 0.10               refused, among all traffic; also per category

Slices: a promise about a part of the rows, by their kind or source. Parts in brackets are divided by ",".
false_refusal[contrast] <= 0.1     among contrast rows. `kind=contrast` says the same; a category of that name is
                                   written `category=contrast`
missed_refusal[safety, source=mine + theirs] <= 0.1    among rows of these sources; names may stand in double quotes
false_refusal <= 0.05 in every source    one promise for each source (kind, category) that the rows have

A promise is hard. "... <= 0.05 soft" or "... soft 2" says that it may be given up, the largest number first, where the
caller chose so on failure. A new form is a reader function and a line in _FORMS.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from demur.base.errors import GoalError
from demur.core.goal_text import GoalReader, lines_of, quoted
from demur.core.slices import FACETS, Facet

GoalKind = Literal[
    "natural",
    "fbeta",
    "macro_fbeta",
    "micro_fbeta",
    "youden",
    "cost",
    "refusal_rate",
    "refusal_rate_cap",
    "false_refusal",
    "missed_refusal",
    "wrong_category",
]
PROMISED: tuple[GoalKind, ...] = ("false_refusal", "missed_refusal", "wrong_category", "refusal_rate_cap")
ANSWERED_KINDS = ("contrast", "benign")  # rows to be answered; as a bare word in brackets they name a slice
KINDS = ("refusal", *ANSWERED_KINDS)
OPTIMA: tuple[GoalKind, ...] = ("fbeta", "macro_fbeta", "micro_fbeta", "youden", "cost")

LEAST_LEVEL = 1e-9  # of a promise: a lower one takes billions of rows, and floats no longer tell 1 - level from 1

_FBETA = re.compile(r"((?:macro_|micro_)?)f(\d+(?:\.\d+)?)")


@dataclass(frozen=True, kw_only=True, slots=True)
class Goal:
    """One goal. Only the fields of its kind are set."""

    kind: GoalKind
    text: str  # as the caller wrote it, white space runs to one space
    level: float | None = None  # rates: a share in [0, 1] (refusal_rate) or (0, 1) (promises)
    category: str | None = None  # of one category, or "a+b": these pooled
    where: tuple[tuple[Facet, tuple[str, ...]], ...] = ()  # the slice: rows whose kind and source are among these
    bare: bool = False  # the kind was written without "kind=": ambiguous beside a category of that name
    every: Facet | None = None  # one promise for each kind, category or source; see demur.stats.thresholds.slices
    beta: float | None = None  # F-beta
    cost_false: float | None = None  # cost of one false refusal
    cost_missed: float | None = None  # cost of one missed refusal
    cost_missed_of: tuple[tuple[str, float], ...] = ()  # the same for single categories
    cost_wrong: float = 0.0  # cost of one refusal with the wrong category
    soft: int | None = None  # None: hard. Else its priority: the largest is given up first

    @property
    def promised(self) -> bool:
        """Whether it bounds a rate, so that it can be certified."""
        return self.kind in PROMISED

    @property
    def optimum(self) -> bool:
        """Whether it asks for the best of something."""
        return self.kind in OPTIMA

    @property
    def categories(self) -> tuple[str, ...]:
        """The categories it speaks of; empty: all."""
        return tuple(self.category.split("+")) if self.category else ()

    @property
    def risk(self) -> str:
        """What it is about, without the level: "missed_refusal[safety]"."""
        base = self.kind.removesuffix("_cap")
        if "fbeta" in base:
            base = f"{base.removesuffix('fbeta')}f{self.beta:g}"
        parts = ["+".join(map(quoted, self.categories))] if self.category else []
        if self.category in ANSWERED_KINDS:
            parts = [f"category={self.category}"]
        parts += [f"{facet}={'+'.join(map(quoted, names))}" for facet, names in self.where]
        return f"{base}[{', '.join(parts)}]" if parts else base


def parse_goal(text: str) -> Goal:
    """Read one goal. Raises GoalError that shows the character at which the text stops making sense."""
    reader = GoalReader(text, f"goals read like: {'; '.join(form.example for form in _FORMS)}")
    match = _FBETA.fullmatch(reader.token.text)
    head = f"{match[1]}f1" if match else reader.token.text
    form = next((f for f in _FORMS if f.head == head), None)
    if form is None:
        reader.fail("a goal", known=tuple(f.head for f in _FORMS))
    goal = form.read(reader, " ".join(text.split()))
    reader.end("'in every ...', 'soft', 'hard' or nothing more" if goal.promised else "nothing more")
    return goal


def parse_goals(texts: str | Sequence[str]) -> tuple[Goal, ...]:
    """Read several goals: a sequence of lines, or one line with ";" between them.

    Raises GoalError where one cannot be read, where none is given, or where two contradict each other.
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
                raise GoalError(f"goals {earlier.text!r} and {later.text!r} contradict each other: {why}", "keep one")
    _check_parts([g for g in goals if g.kind == "refusal_rate" and len(g.categories) == 1], goals)


def _check_parts(parts: Sequence[Goal], goals: Sequence[Goal]) -> None:
    """Raise GoalError, naming all, where parts of the traffic sum to more than 1, or than what bounds them together."""
    caps = [g for g in goals if g.kind == "refusal_rate_cap" and len(g.categories) != 1 and not g.where]
    for whole in (None, *caps):
        inside = [p for p in parts if whole is None or not whole.categories or p.category in whole.categories]
        total = sum((Fraction(str(p.level)) for p in inside), Fraction(0))
        most = Fraction(1) if whole is None else Fraction(str(whole.level))
        if total > most:
            named = " + ".join(repr(p.text) for p in inside)
            above = "all traffic" if whole is None else repr(whole.text)
            raise GoalError(
                f"goals {named} contradict each other: parts of the traffic that sum to {float(total):g}, "
                f"above the {float(most):g} of {above}",
                "ask for less of one",
            )


def _contradiction(a: Goal, b: Goal) -> str | None:
    if "natural" in (a.kind, b.kind):
        return "'natural' follows the model and sets no threshold"
    if a.optimum and b.optimum:
        return "only one thing can be the best"
    if a.risk == b.risk and a.every == b.every:
        return f"both set {a.risk}" + (f" in every {a.every}" if a.every else "")
    part, whole = (a, b) if a.category else (b, a)
    of_all = not whole.category and not whole.where and not whole.every
    if part.kind == "refusal_rate" and whole.kind in ("refusal_rate", "refusal_rate_cap") and of_all:
        if (part.level or 0.0) > (whole.level or 0.0):
            return "a part of the traffic is larger than the whole"
        if whole.kind == "refusal_rate":
            return "one shared threshold meets the total, another one the part"
    return None


def _read_natural(reader: GoalReader, text: str) -> Goal:
    reader.take()
    return Goal(kind="natural", text=text)


def _read_fbeta(reader: GoalReader, text: str) -> Goal:
    match = _FBETA.fullmatch(reader.token.text)
    assert match is not None  # the form was found by it
    beta = float(match[2])
    if not 0.0 < beta < math.inf:
        reader.fail("a beta above 0, as in f1")
    reader.take()
    kinds: dict[str, GoalKind] = {"": "fbeta", "macro_": "macro_fbeta", "micro_": "micro_fbeta"}
    category = None if match[1] else reader.category()
    reader.word("max")
    return Goal(kind=kinds[match[1]], text=text, beta=beta, category=category)


def _read_youden(reader: GoalReader, text: str) -> Goal:
    reader.take()
    reader.word("max")
    return Goal(kind="youden", text=text)


def _read_refusal_rate(reader: GoalReader, text: str) -> Goal:
    reader.take()
    at, parts = reader.token, reader.parts()
    sliced = _sliced(reader, Goal(kind="refusal_rate_cap", text=text), parts)
    if parts:
        reader.take()
    if reader.word("=", "<=") == "<=":
        return _promise(reader, sliced)
    if any(key in ("kind", "source") for key, _ in parts):
        reader.fail("a category: a rate to be met is one of all traffic; bound a slice with '<='", at=at)
    level = reader.number("a rate from 0 to 1, as in 0.10 or 10%", lambda rate: 0.0 <= rate <= 1.0)
    category = "+".join(name for _, names in parts for name in names) or None
    return Goal(kind="refusal_rate", text=text, level=level, category=category)


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
    return Goal(
        kind="cost",
        text=text,
        cost_false=costs["false", None],
        cost_missed=costs.get(("missed", None), costs["false", None]),
        cost_missed_of=tuple((c, cost) for (error, c), cost in costs.items() if error == "missed" and c is not None),
        cost_wrong=costs.get(("wrong", None), 0.0),
    )


def _read_promise(reader: GoalReader, text: str) -> Goal:
    kind: GoalKind = next(k for k in PROMISED if k == reader.token.text)
    reader.take()
    parts = reader.parts()
    goal = _sliced(reader, Goal(kind=kind, text=text), parts)
    if parts:
        reader.take()
    reader.word("<=")
    return _promise(reader, goal)


def _sliced(reader: GoalReader, goal: Goal, parts: Sequence[tuple[str | None, tuple[str, ...]]]) -> Goal:
    """The goal with the category and the slice that its brackets name. Fails at the bracket."""
    among_answered = goal.kind in ("false_refusal", "refusal_rate_cap")
    where: list[tuple[Facet, tuple[str, ...]]] = []
    category, bare = None, False
    for key, names in parts:
        kinds = [name for name in names if name in ANSWERED_KINDS]
        if key is None and among_answered and kinds:
            if len(kinds) < len(names):
                reader.fail("kinds or categories: they do not pool. Write 'kind=' or 'category=' before the names")
            where.append(("kind", names))
            bare = True
        elif key in (None, "category"):
            category = "+".join(names)
        elif key == "source":
            where.append(("source", names))
        else:
            where.append(("kind", _known_kinds(reader, goal, names)))
    return replace(goal, category=category, where=tuple(sorted(where)), bare=bare)


def _known_kinds(reader: GoalReader, goal: Goal, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names of kinds that have rows which the goal speaks of. Fails, with a suggestion, on another one."""
    kinds = KINDS if goal.kind == "refusal_rate_cap" else ANSWERED_KINDS
    if goal.kind in ("missed_refusal", "wrong_category"):
        reader.fail("no kind: all rows to be refused are of one kind. Name a category or a source")
    for name in names:
        if name not in kinds:
            reader.fail(f"one of the kinds {', '.join(kinds)} instead of {name!r}", known=kinds, word=name)
    return names


def _promise(reader: GoalReader, goal: Goal) -> Goal:
    """The goal with its level and, if given, "in every source", then "hard", "soft" or "soft 2"."""
    wanted = f"a rate strictly between 0 and 1, {LEAST_LEVEL:g} at least, as in 0.05 or 5%"
    level = reader.number(wanted, lambda rate: LEAST_LEVEL <= rate < 1.0)
    every: Facet | None = None
    if reader.token.text == "in":
        reader.take()
        reader.word("every", "each")
        every = _every(reader, goal)
    soft = None
    if reader.token.text in ("hard", "soft") and reader.word("hard", "soft") == "soft":
        soft = 1
        if reader.token.kind == "number":
            soft = int(reader.number("a priority: 1, 2, 3, ...", lambda p: p >= 1 and p == int(p)))
    return replace(goal, level=level, soft=soft, every=every)


def _every(reader: GoalReader, goal: Goal) -> Facet:
    """Pass the facet after "in every". Fails where the brackets have fixed it already, or where it has one value."""
    fixed = {facet for facet, _ in goal.where} | ({"category"} if goal.category else set())
    fixed |= {"kind"} if goal.kind in ("missed_refusal", "wrong_category") else set()
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
    _Form("false_refusal", "false_refusal <= 0.05", _read_promise),
    _Form("missed_refusal", "missed_refusal[safety] <= 0.02 soft", _read_promise),
    _Form("wrong_category", "wrong_category <= 0.1", _read_promise),
)
