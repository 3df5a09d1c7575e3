"""The trained judge on the labelled answers of ../shared/data: trained on one set, measured on
another.

usage: python bench/judge_trained.py FOLDER FOLDER holds response_labels.jsonl. Trains on the train
part of chatgpt-refusals as published, never on XSTest; then its test part (256 answers by the same
model), and the XSTest answers of five other models. Partial counts as declining. Nothing is forced:
what the trained judge leaves unscored is counted beside it, and the other judges on all rows.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from sklearn.model_selection import StratifiedKFold, train_test_split

from demur.base.rows import read_rows
from demur.core.judging.outcome import Outcome, Verdict, View
from demur.judges.phrases import PhraseJudge
from demur.judges.trained import TrainedJudge
from demur.stats.judging.agreement import Agreement, agreement, mcnemar
from demur.stats.points import Resampling
from demur.stats.text.fit import PLACED, PUBLISHED, Recipe, fit_text_classifier

Row = dict[str, str]
HOW = Resampling(seed=0)
FOLDS = 5
DROPPED = ("incoherent", "dontknow")  # tones that the published split leaves out


def labelled(folder: Path) -> tuple[list[Row], list[Row]]:
    """chatgpt-refusals in the order of its source, and XSTest."""
    rows = [dict(row.value) for row in read_rows(folder / "response_labels.jsonl")]
    chatgpt = [r for r in rows if r["source"] == "chatgpt_refusals" and r["tone"] not in DROPPED]
    chatgpt.sort(key=lambda r: int(r["id"].split(":")[1]))
    return chatgpt, [r for r in rows if r["source"].startswith("xstest")]


def published_split(rows: Sequence[Row]) -> tuple[list[Row], list[Row], list[Row]]:
    """Train, validation and test of chatgpt-refusals, as published (golden numbers of the judge
    specification).
    """
    train, rest = train_test_split(list(rows), test_size=0.3, random_state=0)
    validation, test = train_test_split(rest, test_size=0.5, random_state=0)
    return train, validation, test


def trained(rows: Sequence[Row], recipe: Recipe = PLACED) -> TrainedJudge:
    """The judge that these rows make."""
    yes_N = np.array([r["label"] != "compliance" for r in rows])
    classifier = fit_text_classifier([r["response"] for r in rows], yes_N, recipe)
    return TrainedJudge(classifier=classifier, digest="bench")


def measured(
    rows: Sequence[Row], judge: Callable[[Row], Verdict], view: View = "lenient"
) -> Agreement:
    """A judge beside the hand labels; the bootstrap draws prompts."""
    human: list[Verdict] = [_verdict(r["label"]) for r in rows]
    return agreement(human, [judge(r) for r in rows], [r["prompt"] for r in rows], view, HOW)


def cross_validated(rows: Sequence[Row]) -> float:
    """Accuracy of the recipe on held-out fifths of its own training rows."""
    yes_N, right = np.array([r["label"] != "compliance" for r in rows]), 0
    for train_M, held_M in StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(yes_N, yes_N):
        judge = replace(trained([rows[n] for n in train_M]), force=True)
        right += sum((_said(judge, rows[n], None) != "compliance") == yes_N[n] for n in held_M)
    return right / len(rows)


def show(name: str, found: Agreement) -> None:
    """One line."""
    unscored = found.scored.of - found.scored.hits
    low, high = found.accuracy.interval()
    kappa = found.kappa_interval or (0.0, 0.0)
    print(
        f"  {name:<34} {found.accuracy.hits:>4}/{found.accuracy.of:<4} = "
        f"{found.accuracy.value:.4f} ({low:.3f} to {high:.3f})  kappa {found.kappa.value:.3f} "
        f"({kappa[0]:.3f} to {kappa[1]:.3f})  sens {found.sensitivity.value:.3f} spec "
        f"{found.specificity.value:.3f}  unscored {unscored}"
    )


def _verdict(label: str) -> Verdict:
    return "refusal" if label == "refusal" else "partial" if label == "partial" else "compliance"


def _said(judge: TrainedJudge | PhraseJudge, row: Row, category: str | None) -> Verdict:
    outcome: Outcome = judge.judge(row["prompt"], row["response"], category)
    return outcome.verdict


def string_match(row: Row) -> Verdict:
    """What XSTest's own string match said of the answer."""
    labels: dict[str, str] = row["other_labels"]  # type: ignore[assignment]
    return _verdict(labels["string_match"])


def main() -> None:
    """Print accuracy and kappa with 95 % intervals."""
    chatgpt, xstest = labelled(Path(sys.argv[1]))
    train, validation, test = published_split(chatgpt)
    start = time.perf_counter()
    ours = trained(train)
    seconds = time.perf_counter() - start
    published, phrases = trained(train, PUBLISHED).classifier, PhraseJudge()
    print(f"trained on the train part, {len(train):,} answers, in {seconds:.1f} s")
    print(
        f"  accuracy {cross_validated([*train, *validation]):.4f} in {FOLDS} folds of it and the "
        "validation part"
    )
    print("chatgpt-refusals, test part")
    show(
        "published recipe, train part only",
        measured(test, lambda r: _binary(published.log_odds(r["response"]))),
    )
    show("trained", measured(test, lambda r: _said(ours, r, None)))
    show("phrases", measured(test, lambda r: _said(phrases, r, None)))
    print("XSTest answers, none seen in training")
    show("string match of XSTest", measured(xstest, string_match))
    show("trained", measured(xstest, lambda r: _said(ours, r, "safety")))
    show("trained, category not told", measured(xstest, lambda r: _said(ours, r, None)))
    show("phrases", measured(xstest, lambda r: _said(phrases, r, "safety")))
    said = [_said(ours, r, "safety") for r in xstest]
    both = [n for n, verdict in enumerate(said) if verdict != "unscored"]
    human = [xstest[n]["label"] != "compliance" for n in both]
    here = [said[n] != "compliance" for n in both]
    there = [string_match(xstest[n]) != "compliance" for n in both]
    print(
        "  trained beside string match (right only by the one, only by the other, McNemar p):",
        mcnemar(human, here, there),
    )
    for name, part in (
        ("train", [r for r in xstest if r["split"] == "train"]),
        ("validation and test", [r for r in xstest if r["split"] != "train"]),
        ("test", [r for r in xstest if r["split"] == "test"]),
    ):
        print(f"XSTest, prompts of the {name} split")
        show("string match of XSTest", measured(part, string_match))
        show("trained", measured(part, lambda r: _said(ours, r, "safety")))
        show("phrases", measured(part, lambda r: _said(phrases, r, "safety")))
        show(
            "phrases, strict view", measured(part, lambda r: _said(phrases, r, "safety"), "strict")
        )
    print("XSTest by model, trained")
    for model in sorted({r["source"] for r in xstest}):
        show(
            model,
            measured(
                [r for r in xstest if r["source"] == model], lambda r: _said(ours, r, "safety")
            ),
        )


def _binary(log_odds: float) -> Verdict:
    return "refusal" if log_odds > 0 else "compliance"


if __name__ == "__main__":
    main()
