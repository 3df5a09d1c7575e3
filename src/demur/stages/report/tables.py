"""The tables and cards."""

from __future__ import annotations

import json
import math

import numpy as np

from demur.core.decision import Decisions, decide_many
from demur.core.example import SPLITS
from demur.core.goal import parse_goal
from demur.core.rates import Rate
from demur.stages.report.material import Material
from demur.stages.report.parts import Card, Cards, Cell, Estimate, Table
from demur.store.metrics_file import ErrorsRow, LevelRow, MeasuredRate, PolicyMetrics
from demur.store.tables import Branch

SHOWN_TOKENS = 3  # the most probable ones, with every prompt


def label(m: Material, policy: PolicyMetrics) -> str:
    """How a policy is called in tables."""
    place = m.evaluation.policies.index(policy)
    return "natural" if place == 0 else f"calibrated ({policy.goal})" if place == 1 else policy.goal


def policies(m: Material) -> Table:
    """All policies, overall."""
    header = ("policy", "refused", "false refusals", "missed refusals", "precision", "F1", "wrong category")
    rows: list[tuple[Cell, ...]] = [("by the control token",)]
    rows += [(label(m, p), *_overall(p.decision), p.wrong_category) for p in m.evaluation.policies]
    rows += [("by the text, as judged",)]
    rows += [(label(m, p), *_overall(p.text), "") for p in m.evaluation.policies]
    base = m.evaluation.always_refuse
    rows += [("for comparison",), ("always refuse", *_rates(base), base.precision, _number(base.f1), "")]
    return Table(
        title="Policies on held-out prompts",
        header=header,
        rows=tuple(rows),
        caption="False refusals (Type I) are a share of the prompts to be answered, missed refusals (Type II) of those "
        "to be refused; small numbers are 95% intervals, of F1 by bootstrap over groups of rows. A text that the judge "
        "could not score counts as an error. F1 alone flatters whoever refuses everything: see the last line.",
    )


def by_category(m: Material) -> Table:
    """Every policy, per category of the prompts."""
    rows: list[tuple[Cell, ...]] = []
    for policy in m.evaluation.policies:
        groups = dict(policy.decision.by_category)
        if "benign" in policy.decision.by_kind:
            groups["ordinary requests"] = policy.decision.by_kind["benign"]
        rows += [(label(m, policy),), *((name, str(e.refusal_rate.of), *_rates(e)) for name, e in groups.items())]
    return Table(
        title="Per category",
        header=("category", "rows", "refused", "false refusals", "missed refusals"),
        rows=tuple(rows),
        caption="The prompts of a category: those to be refused, and contrast prompts that only look like them.",
    )


def by_subcategory(m: Material) -> Table:
    """The calibrated policy, per subcategory."""
    parts = m.measured.decision.by_subcategory
    rows = tuple((name, str(e.refusal_rate.of), *_rates(e)) for name, e in parts.items())
    return Table(
        title="Per subcategory, calibrated policy",
        header=("subcategory", "rows", "refused", "false refusals", "missed refusals"),
        rows=rows,
    )


def by_kind(m: Material) -> Table:
    """Refusals, contrast and ordinary prompts under every policy."""
    kinds = ("refusal", "contrast", "benign")
    rows = []
    for policy in m.evaluation.policies:
        cells = (policy.decision.by_kind.get(k) for k in kinds)
        rows.append((label(m, policy), *(c.refusal_rate if c else "no such rows" for c in cells)))
    return Table(
        title="Contrast prompts apart",
        header=("policy", "to be refused: refused", "contrast: refused", "ordinary: refused"),
        rows=tuple(rows),
        caption="A contrast prompt resembles one to be refused and ought to be answered: each refusal of one is false.",
    )


def rankings(m: Material) -> Table:
    """AUROC and average precision."""
    rows = tuple(
        (
            "should be refused at all" if name == "all" else name,
            str(r.positives),
            _number(r.auroc),
            _number(r.average_precision),
        )
        for name, r in m.evaluation.ranking.items()
    )
    return Table(
        title="How well the scores order prompts",
        header=("refused with", "such rows", "AUROC", "average precision"),
        rows=rows,
        caption="Whatever the threshold. Chance is 0.5 for AUROC, and for average precision the share of such rows among "
        f"{m.evaluation.test_rows}.",
    )


def promises(m: Material) -> Table:
    """What was promised on the calibrate split, beside what the test split shows."""
    rows = []
    for policy, measured in zip(m.policies, m.evaluation.policies, strict=True):
        for promise in policy.promises:
            optimum = "nothing asked" if policy.rule == "natural" else "the optimum"
            level = optimum if promise.level is None else f"{promise.level:.1%}"
            sure = "no guarantee" if promise.confidence is None else f"{promise.confidence:.0%}"
            before, after = _risk(promise.risk, measured)
            on_calibrate: Cell = MeasuredRate.from_core(promise.rate) if promise.rate else before
            rows.append((label(m, measured), promise.status, promise.risk, level, sure, on_calibrate, after))
    return Table(
        title="Promise beside measurement",
        header=("policy", "status", "about", "level", "confidence", "calibrate rows", "test rows"),
        rows=tuple(rows),
        text_columns=3,
        caption='"certified" bounds the rate on new prompts of the same kind, with the stated confidence over the draw '
        'of the calibrate rows; "measured" only reports what was seen. No threshold was chosen on test rows.',
    )


def agreement(m: Material) -> Table:
    """Whether texts do what their token says."""
    rows: list[tuple[Cell, ...]] = [("texts that a policy sends",)]
    for p in m.evaluation.policies:
        rows.append((label(m, p), p.texts_refuse, p.texts_answer, p.unscored))
    rows.append(("every text generated, by the token forced before it",))
    for choice, v in m.evaluation.branches.items():
        count = v.refusal + v.partial + v.compliance + v.unscored
        refuse, answer, unscored = (
            MeasuredRate.from_core(Rate(hits=k, of=count)) for k in (v.refusal, v.partial + v.compliance, v.unscored)
        )
        rows.append((choice, refuse, answer, unscored))
    return Table(
        title="Do the texts do what their token says?",
        header=("", "refuse after a refusal token", "answer after respond", "unscored"),
        rows=tuple(rows),
        caption=f"Judged by {m.evaluation.judge}. In the lower block: the share of these texts that refuse, that answer, "
        "in part or whole, and that cannot be scored.",
    )


def disagreements(m: Material, most: int) -> Cards:
    """Prompts whose text contradicts the token of the calibrated policy, the surest decisions first."""
    decisions = decide_many(m.calibrated, m.rows.table.logp_NC)
    order = np.argsort(-np.abs(decisions.margin_N), kind="stable").tolist()
    wrong = [n for n in order if _contradicts(_branch(m, n, int(decisions.choice_N[n])), int(decisions.choice_N[n]))]
    return Cards(
        title=f"Texts that contradict their token ({len(wrong)} in all)",
        caption="Under the calibrated policy; the surest decisions first.",
        cards=tuple(_card(m, n, decisions) for n in wrong[:most]),
    )


def nearest(m: Material, most: int) -> Cards:
    """Prompts nearest to the threshold of the calibrated policy."""
    decisions = decide_many(m.calibrated, m.rows.table.logp_NC)
    order = np.argsort(np.abs(decisions.margin_N), kind="stable")[:most].tolist()
    return Cards(
        title="Prompts nearest to the threshold",
        caption="A slightly different threshold would decide these the other way: read them to see what it is about.",
        cards=tuple(_card(m, n, decisions) for n in order),
    )


def data(m: Material) -> Table:
    """Rows by split, kind and category."""
    groups = sorted({(kind, category) for _, kind, category in m.counts}, reverse=True)
    rows: list[tuple[Cell, ...]] = [
        (kind, category or "none", *(str(m.counts.get((s, kind, category), 0)) for s in SPLITS))
        for kind, category in groups
    ]
    rows.append(("all", "", *(str(sum(n for (s, _, _), n in m.counts.items() if s == split)) for split in SPLITS)))
    return Table(
        title="Rows",
        header=("kind", "category", *SPLITS),
        rows=tuple(rows),
        text_columns=2,
        caption="Groups of rows made from one another never cross splits.",
    )


def settings(m: Material) -> Table:
    """The settings that each stage ran with."""
    rows = tuple((r.stage, json.dumps(r.settings, ensure_ascii=False)) for r in m.receipts if r.stage != "report")
    return Table(title="Settings of each stage", header=("stage", "settings"), rows=rows, text_columns=2)


def _overall(level: LevelRow) -> tuple[Cell, ...]:
    f1: Cell = _number(level.overall.f1)
    if level.overall.f1 is not None and level.f1_interval is not None:
        f1 = Estimate(value=level.overall.f1, low=level.f1_interval[0], high=level.f1_interval[1])
    return (*_rates(level.overall), level.overall.precision, f1)


def _rates(errors: ErrorsRow) -> tuple[Cell, ...]:
    return (errors.refusal_rate, errors.false_refusal, errors.missed_refusal)


def _number(value: float | None) -> str:
    return "not defined" if value is None else f"{value:.3f}"


def _risk(risk: str, p: PolicyMetrics) -> tuple[Cell, Cell]:
    """The figure that a promise speaks of, on the calibrate rows where it is not a rate, and on the test rows."""
    overall = p.decision.overall
    if risk == "f1":
        return _number(p.calibrate.f1), _number(overall.f1)
    if risk == "youden":
        return _youden(p.calibrate), _youden(overall)
    if risk == "cost":
        return _cost(p.goal, p.calibrate), _cost(p.goal, overall)
    if risk == "false_refusal":
        return "", overall.false_refusal
    if risk == "refusal_rate":
        return "", overall.refusal_rate
    category = risk.removeprefix("refusal_rate[").removesuffix("]")
    return "", p.tokens[category].emitted if category in p.tokens else ""


def _youden(errors: ErrorsRow) -> str:
    caught, false = errors.caught.value, errors.false_refusal.value
    return _number(None if caught is None or false is None else caught - false)


def _cost(goal: str, errors: ErrorsRow) -> str:
    """Cost per 100 rows."""
    wanted = parse_goal(goal)
    false, missed = errors.false_refusal.hits, errors.missed_refusal.hits
    total = (wanted.cost_false or 0.0) * false + (wanted.cost_missed or 0.0) * missed
    return f"{100 * total / errors.refusal_rate.of:.1f} per 100 rows"


def _branch(m: Material, n: int, column: int) -> Branch | None:
    """The text of a test row after a control token; None where the policy sends a fixed refusal instead."""
    return m.branches.get((m.examples[n].id, column))


def _contradicts(branch: Branch | None, column: int) -> bool:
    if branch is None or branch.outcome.verdict == "unscored":
        return False
    return branch.outcome.refuses != (column > 0)


def _card(m: Material, n: int, decisions: Decisions) -> Card:
    example, choices, column = m.examples[n], m.evaluation.choices, int(decisions.choice_N[n])
    logp_C = m.rows.table.logp_NC[n]
    most = np.argsort(-logp_C, kind="stable")[:SHOWN_TOKENS].tolist()
    branch = _branch(m, n, column)
    facts = [
        ("ought to be", f"refused ({example.label})" if example.label else f"answered ({example.kind})"),
        ("decided", choices[column] + _compared_with(m, int(decisions.heaviest_N[n]))),
        ("probabilities", ", ".join(f"{choices[c]} {math.exp(min(float(logp_C[c]), 0.0)):.1%}" for c in most)),
        ("judged", f"{branch.outcome.verdict} ({branch.outcome.reason})" if branch else "a fixed refusal was sent"),
    ]
    answer = branch.answer.text if branch else m.calibrated.categories[column - 1].on_refuse
    return Card(prompt=example.text, facts=tuple(facts), answer=answer)


def _compared_with(m: Material, heaviest: int) -> str:
    """The threshold that decided, under the rule that compares the heaviest category with its own."""
    if m.calibrated.rule != "heaviest" or not heaviest:
        return ""
    name, threshold = m.calibrated.taxonomy.names[heaviest - 1], m.calibrated.categories[heaviest - 1].threshold
    return f" (threshold of {name}: {'never' if math.isinf(threshold) else f'{threshold:.3f}'})"
