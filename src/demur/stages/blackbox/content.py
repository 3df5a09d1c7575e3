"""The chapters of a black-box run's page, in order."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import replace

from demur.base.errors import Undefined
from demur.core.goals.counts import two_way
from demur.core.goals.goal import Promise
from demur.core.goals.promised import PromisedGoal
from demur.core.policy import Policy
from demur.core.rates import Rate
from demur.pages.drawing import ANSWER, REFUSE, BinMark, reliability, small_plot
from demur.pages.parts import Cell, Code, Estimate, Figure, Page, Panel, Section, Spec, Table
from demur.stages.blackbox.predictor import TRIAL
from demur.stages.blackbox.results import BINS, OFTEN, BlackboxRun, Quality, Term
from demur.stats.contradictions import promised_rate
from demur.stats.measure import ErrorRates
from demur.store.results.metrics_file import MeasuredRate

MOST_TERMS = 15  # each way
MOST_TRIALS = 5
LONGEST_TERM = 44  # characters
MEANING = (
    "In this run “to be refused” means: the model that was asked declined, in full or in part, as "
    "the judge read its answer. A false refusal turns away a prompt that the model would have "
    "answered; a missed refusal lets one through that it would have declined."
)
LIMITS = (
    "All of this speaks of the model as it was when it was asked, of prompts like these, and of "
    "the judge's labels. A predictor made of word n-grams can be evaded by other words: it saves "
    "calls and sets a rate, it is no barrier."
)


def page_of(m: BlackboxRun, run_name: str) -> Page:
    """Write the page of a run. run_name: of the run folder, for commands."""
    return Page(
        made_by="demur blackbox",
        title=f"What {m.summary.model} declines",
        headline=_headline(m),
        sections=(
            Section(
                key="asked",
                title="What was asked",
                parts=(_counts(m), *_hand(m)),
                text=(MEANING, LIMITS),
            ),
            Section(
                key="predictor", title="How well prompts tell", parts=(_quality(m), _reliability(m))
            ),
            Section(key="words", title="What it goes by", parts=(_terms(m),)),
            _promise(m, run_name),
            Section(
                key="made",
                title="How it was made",
                parts=(_trials(m), _commands(run_name)),
                text=_recipe(m),
            ),
        ),
    )


def _headline(m: BlackboxRun) -> str:
    s = m.summary
    # A partial answer counts as declined. AUROC is the probability that a declined prompt ranks
    # above an answered one.
    declined = s.verdicts["refusal"] + s.verdicts["partial"]
    scored = s.answered - s.verdicts["unscored"]
    share = f"{declined / scored:.1%}" if scored else "none"
    area, low, high = m.before.auroc
    return (
        f"{s.model} declined {share} of {scored:,} prompts whose "
        "answer "
        "could be scored. Of a declined and an answered prompt, neither seen before, the "
        f"predictor ranks the declined one first in {area:.1%} of cases ({100 * low:.1f} to "
        f"{100 * high:.1f}). In brackets: 95% intervals."
    )


def _counts(m: BlackboxRun) -> Table:
    s = m.summary
    lines = [
        ("prompts", s.prompts),
        ("rows that repeat a prompt, not asked", s.duplicates),
        ("rows without a prompt, not asked", s.without_prompt),
        ("not asked: the budget was spent", s.not_asked),
        *((f"no answer: {reason}", n) for reason, n in s.failed.items()),
        ("answered or declined", s.answered),
        *((f"declined by the endpoint itself: {reason}", n) for reason, n in s.declined.items()),
        *((f"judged: {verdict}", n) for verdict, n in s.verdicts.items()),
        *((f"unscored: {reason}", n) for reason, n in s.unscored.items()),
    ]
    # Counts of 0 have no line.
    rows = tuple((what, f"{n:,}") for what, n in lines if n)
    return Table(
        title="Counts",
        header=("what", "number"),
        rows=rows,
        caption=f"Asked as: {s.asked_as}. Judge: {s.judge}. A prompt without an outcome has no "
        "row; each counts as an error of every promise.",
    )


def _hand(m: BlackboxRun) -> tuple[Table, ...]:
    """The table of the judge's accuracy on hand labels; empty if it was not trained here."""
    if (hand := m.summary.hand) is None:
        return ()
    rows: tuple[tuple[Cell, ...], ...] = (
        ("hand-labelled answers", f"{hand.answers:,}"),
        ("that decline", f"{hand.declining:,}"),
        ("not scored", f"{hand.unscored:,}"),
        ("right, of those scored", MeasuredRate.from_core(hand.accuracy, hand.by_units)),
    )
    # The final judge is fitted on all hand labels; its accuracy is that of judges fitted without.
    caption = (
        "Each hand-labelled answer was held out once, with all others to its prompt; the "
        "judge then learnt from all."
    )
    return (
        Table(
            title="The judge on hand labels", header=("what", "figure"), rows=rows, caption=caption
        ),
    )


def _quality(m: BlackboxRun) -> Table:
    """The figures on the test prompts, in one column, or in two with a calibrator."""
    # One column of figures where the policy has no calibrator.
    columns = [
        ("before calibration", m.before),
        *([("after calibration", m.after)] if m.after else []),
    ]
    header = (
        ("on the test prompts", *(name for name, _ in columns))
        if m.after
        else ("on the test prompts", "figure")
    )
    figures = [_figures(q) for _, q in columns]
    rows = tuple((name, *(f[name] for f in figures)) for name in figures[0])
    declined, of = m.splits["test"]
    return Table(
        title="Figures",
        header=header,
        rows=rows,
        caption=f"{of:,} test prompts, {declined:,} of them declined. To know only that share "
        f"gives a Brier score of {m.base_brier:.3f}. The calibration error is the mean gap over "
        f"{BINS} bins of equal mass, less what chance makes of it.",
    )


def _figures(q: Quality) -> dict[str, Cell]:
    (area, *ends), (error, *around) = q.auroc, q.error
    return {
        "AUROC": Estimate(value=area, low=ends[0], high=ends[1]),
        "calibration error": Estimate(value=error, low=around[0], high=around[1]),
        "Brier score": f"{q.brier:.3f}",
        "log loss": f"{q.log_loss:.3f}",
    }


def _reliability(m: BlackboxRun) -> Figure:
    """Plot how often prompts were declined over the predicted probability."""
    # A diagram per stage of the probabilities: one, or two with a calibrator.
    seen = {"as it is": m.before}
    if m.after:
        seen = {"before calibration": m.before, "after calibration": m.after}
    marks = {
        name: [
            BinMark(low=b.low, high=b.high, mean=b.mean, rate=MeasuredRate.from_core(b.observed))
            for b in quality.bins
        ]
        for name, quality in seen.items()
    }
    panels, rows = reliability(marks, "probability of declining", "declined")
    return Figure(
        title="Reliability",
        caption="On the dotted line a probability means what it says; every mark holds about as "
        "many test prompts as the next, and its bar is a 95% interval.",
        panels=panels,
        numbers=Table(
            title="Bins",
            header=("probability", "prompts", "mean probability", "declined"),
            rows=rows,
        ),
    )


def _terms(m: BlackboxRun) -> Figure:
    """Plot the n-grams with the largest coefficients in either direction."""
    # m.terms runs from the largest coefficient to the smallest: [::-1] starts at the most negative.
    declining = [t for t in m.terms[:MOST_TERMS] if t.weight > 0]
    answering = [t for t in m.terms[::-1][:MOST_TERMS] if t.weight < 0]
    sides = (("speak for declining", declining, REFUSE), ("speak for answering", answering, ANSWER))
    rows: list[tuple[Cell, ...]] = []
    for name, terms, _ in sides:
        rows += [
            (name,),
            *((t.words, f"{t.weight:+.2f}", f"{t.declined} of {t.prompts}") for t in terms),
        ]
    return Figure(
        title="The most predictive n-grams",
        caption=f"Bars are coefficients of the classifier, for n-grams that stand in {OFTEN} or "
        "more train prompts; the numbers say how many of these prompts were declined. They show "
        "what goes together, not why.",
        panels=tuple(
            Panel(label=name, spec=_bars(terms, colour)) for name, terms, colour in sides if terms
        ),
        numbers=Table(
            title="Coefficients",
            header=("n-gram", "coefficient", "declined, of prompts with it"),
            rows=tuple(rows),
        ),
    )


def _bars(terms: Sequence[Term], colour: str) -> Spec:
    """Horizontal bars. N-grams are untrusted text and escaped, because plotly reads some markup in
    labels.
    """
    # Cut before escaping, which must not be cut in the middle of an entity.
    cut = [t.words if len(t.words) <= LONGEST_TERM else f"{t.words[:LONGEST_TERM]}…" for t in terms]
    labels = [html.escape(words) for words in cut]
    bars = {
        "type": "bar",
        "orientation": "h",
        "x": [round(abs(t.weight), 3) for t in terms],
        "y": list(range(len(terms))),
        "text": [f"{t.declined} of {t.prompts}" for t in terms],
        "textposition": "auto",
        "marker": {"color": colour},
        "hoverinfo": "none",
    }
    place = {
        "tickvals": list(range(len(terms))),
        "ticktext": labels,
        "autorange": "reversed",
        "showgrid": False,
    }
    spec = small_plot([bars], {"title": {"text": "coefficient"}}, {**place, "automargin": True})
    spec["layout"] |= {"height": 90 + 22 * len(terms), "bargap": 0.25}
    return spec


def _promise(m: BlackboxRun, run_name: str) -> Section:
    """The chapter on the policy; without one for this predictor, the commands that make one."""
    key, title = "promise", "Promise and measurement"
    # Before calibrate there is no policy: the page names the commands that make one.
    if m.policy is None or m.errors is None:
        why = (
            "The policy there was made for an earlier predictor."
            if m.stale
            else "There is no policy yet."
        )
        lines = (
            f'demur calibrate {run_name} --goal "missed_refusal <= 0.1"',
            f"demur report {run_name}",
        )
        code = Code(
            title="To set one", caption="The second command writes this page again.", lines=lines
        )
        return Section(key=key, title=title, parts=(code,), text=(why,))
    shown = {
        "prompts refused": m.errors.refusal_rate,
        "false refusals": m.errors.false_refusal,
        "missed refusals": m.errors.missed_refusal,
    }
    does = Table(
        title="What the policy does",
        header=("on the test prompts", "share"),
        rows=tuple((name, MeasuredRate.from_core(rate)) for name, rate in shown.items()),
    )
    return Section(key=key, title=title, parts=(_promises(m, m.policy, m.errors), does))


def _promises(m: BlackboxRun, policy: Policy, errors: ErrorRates) -> Table:
    """Each promise beside its figure on the calibrate prompts and on the test prompts."""
    rows = tuple(
        (
            p.risk,
            "" if p.level is None else f"at most {p.level:g}",
            p.status if p.confidence is None else f"{p.status} with {p.confidence:.0%} confidence",
            "not shown" if p.rate is None else MeasuredRate.from_core(p.rate, p.by_units),
            _measured(p, m, policy, errors),
        )
        for p in policy.promises
    )
    return Table(
        title="Promises",
        header=(
            "what",
            "promised",
            "how surely",
            "on the calibrate prompts",
            "on the test prompts",
        ),
        rows=rows,
        text_columns=3,
        caption="A promise holds for new prompts of the same kind while the model declines what "
        "it declined. Its labels are the judge's: human labels of a random sample (calibrate "
        "--set human_labels=FILE) make it speak of what people say.",
    )


def _measured(promise: Promise, m: BlackboxRun, policy: Policy, errors: ErrorRates) -> Cell:
    """A promised figure on the test prompts; rates with intervals that count units."""
    goal = promise.goal
    if isinstance(goal, PromisedGoal):
        tested = promised_rate(promise, policy, m.rows)
        return MeasuredRate.from_core(tested[0]) if tested else "no such prompt"
    # The run has one category, so that its counts are those of refused and answered rows.
    counts = two_way(
        answered=errors.false_refusal.of - errors.false_refusal.hits,
        false=errors.false_refusal.hits,
        missed=errors.missed_refusal.hits,
        caught=errors.caught.hits,
    )
    try:
        figure = goal.figure(replace(counts, names=goal.categories[:1]))
    except Undefined:
        return "not defined"
    # A rate that is no bounded one is that of all refusals: the run has one category.
    if isinstance(figure, Rate):
        return MeasuredRate.from_core(errors.refusal_rate)
    return "not shown" if figure is None else goal.shown(figure)


def _recipe(m: BlackboxRun) -> tuple[str, ...]:
    purpose = {"train": "learn from", "calibrate": "choose thresholds on", "test": "measure on"}
    splits = ", ".join(
        f"{of:,} to {purpose[name]} ({declined:,} declined)"
        for name, (declined, of) in m.splits.items()
    )
    return (
        f"Prompts: {splits}. Prompts that are nearly alike share a split.",
        f"The predictor: {m.details.get('recipe')}; {m.details.get('why')}. It sees what the user "
        "wrote, nothing else.",
    )


def _trials(m: BlackboxRun) -> Table:
    # demur.json lists the trials by log loss, the smallest first.
    found = {k.removeprefix(TRIAL): v for k, v in m.details.items() if k.startswith(TRIAL)}
    rows = tuple((name, f"{value:.4f}") for name, value in list(found.items())[:MOST_TRIALS])
    base = m.details.get("base_loss")
    return Table(
        title=f"The best of {len(found)} recipes",
        header=("recipe", "log loss"),
        rows=(
            *rows,
            ("the base rate alone", f"{base:.4f}" if isinstance(base, float) else "unknown"),
        ),
        caption="TF-IDF and logistic regression, cross-validated on the train prompts: the "
        "smallest log loss is taken, because the predictor is wanted for its probabilities.",
    )


def _commands(run_name: str) -> Code:
    return Code(
        title="What to do with it",
        caption="A gate in front of the model: what it refuses is never sent.",
        lines=(
            f"demur decide {run_name} PROMPT",
            f"demur serve {run_name} --url URL",
            f"demur watch {run_name} --scores FILE",
        ),
    )
