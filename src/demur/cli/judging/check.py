"""demur judge check: how far judges agree with people, and rates corrected for their errors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.assembly.judges import build_judge, read_judge_settings
from demur.cli import options
from demur.cli.terminal import note, notes, print_json, print_table, progress_bar
from demur.core.judging.outcome import View
from demur.core.rates import Rate

if TYPE_CHECKING:
    from demur.stages.judge_check import (
        Agreement,
        Check,
        RateEstimate,
        RaterAgreement,
        Statistic,
    )

Line = tuple[str, ...]


def command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help='Rows of answers; some or all with "label".')
    ],
    *,
    judge: Annotated[
        list[str] | None, typer.Option(help="A judge to run. Repeatable. Default: phrases.")
    ] = None,
    judged: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Verdicts by `demur judge read`. Repeatable."),
    ] = None,
    category: options.Category = None,
    settings: options.SettingsFile = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="As in trained.model=j.npz. Repeatable."),
    ] = None,
    view: Annotated[
        View, typer.Option(help="strict: a partial answer is no refusal. lenient: it is one.")
    ] = "lenient",
    by: Annotated[
        str | None, typer.Option(metavar="KEY", help="Also for each value of this key of the rows.")
    ] = None,
    as_json: options.AsJson = False,
) -> None:
    """Measure judges against hand labels: accuracy, kappa, sensitivity, specificity, and what
    corrects their rates.
    """
    from demur.stages import judge_check as stage

    found = read_judge_settings(settings, overrides or (), file.with_suffix(".labels.sqlite"))
    # Files of verdicts alone are enough; without either, the judge that needs nothing.
    names = judge or ([] if judged else ["phrases"])
    # each judge with the function that puts its costs into words
    built = {name: build_judge(name, found) for name in names}
    config = stage.Config(
        file=file, judged=tuple(judged or ()), view=view, by=by, category=category
    )
    # costs are told also where judging fails or is interrupted: they were paid
    try:
        with progress_bar("judge-check") as progress:
            check = stage.run(config, {name: judge for name, (judge, _) in built.items()}, progress)
    finally:
        for _, spent in built.values():
            notes(spent())
    if as_json:
        print_json(_json(check))
    else:
        _print(check)


def _print(check: Check) -> None:
    """Print each judge's agreement with people, its confusions, and its rates as corrected."""
    header = ("judge", "answers", "scored", "accuracy", "kappa", "sensitivity", "specificity")
    lines = []
    for c in check.checked:
        lines.append(_line(c.judge, c.agreement))
        lines += [_line(f"  {name}", part) for name, part in c.strata.items()]
    print_table(
        [header, *lines], title=f"{check.labelled} labelled of {check.answers}, {check.view} view"
    )
    for c in check.checked:
        # rows: the label by people; columns: the judge's verdict, which may be unscored
        judged = list(c.agreement.confusion["refusal"])
        rows = [
            (label, *(str(row[v]) for v in judged)) for label, row in c.agreement.confusion.items()
        ]
        print_table([("by people", *judged), *rows], title=f"by {c.judge}")
    _print_together(check)
    rates = [
        (c.judge, _rate(c.raw), _corrected(c.corrected), _corrected(c.rogan_gladen))
        for c in check.checked
    ]
    print_table(
        [("judge", "as judged", "corrected", "Rogan-Gladen"), *rates],
        title="share of answers that decline",
    )
    for c in check.checked:
        # McNemar's test looks at the answers on which exactly one of two judges is right.
        for b in c.beside:
            note(
                f"{c.judge} beside {b.other}: right where the other is wrong {b.right_only_here} "
                f"times, the reverse {b.right_only_there} times, p = {b.p_value:.2g} (McNemar)"
            )
    # warnings of the stage, such as too few labels of one kind
    for text in check.notes:
        note(text)


def _print_together(check: Check) -> None:
    """Print the agreement of people with each other, and of judges, where there are several."""
    # among: "people", "judges"; each row has the statistics for any number of raters
    several = [
        (
            who,
            str(len(t.raters)),
            str(t.pairable),
            _figure(t.alpha, t.alpha_interval),
            _figure(t.fleiss),
            str(t.complete),
        )
        for who, t in check.together.items()
    ]
    if several:
        header = (
            "among",
            "raters",
            "answers",
            "Krippendorff's alpha",
            "Fleiss' kappa",
            "rated by all",
        )
        print_table([header, *several], title="agreement with each other")


def _line(name: str, a: Agreement) -> Line:
    """A row of the table: one judge on all answers, or on one stratum."""
    rates = (
        _rate(a.accuracy),
        _figure(a.kappa, a.kappa_interval),
        _rate(a.sensitivity),
        _rate(a.specificity),
    )
    return (name, str(a.scored.of), str(a.scored.hits), *rates)


def _figure(figure: Statistic, interval: tuple[float, float] | None = None) -> str:
    """A statistic with its interval, or the reason why it is not defined."""
    if not figure.defined:
        return f"not defined ({figure.why})"
    around = f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else ""
    return f"{figure.value:.3f}{around}"


def _rate(rate: Rate) -> str:
    """A rate in percent with its 95 % interval, which counts prompts."""
    if not rate.defined:
        return "not defined (0 rows)"
    low, high = rate.interval()
    units = f"; {rate.units} prompts" if rate.units < rate.of else ""
    return f"{100 * rate.value:.1f}% ({100 * low:.1f} to {100 * high:.1f}{units})"


def _corrected(found: RateEstimate | str) -> str:
    """A corrected rate in percent with its interval, or the reason why there is none."""
    if isinstance(found, str):
        return f"none: {found}"
    return f"{100 * found.value:.1f}% ({100 * found.low:.1f} to {100 * found.high:.1f})"


def _json(check: Check) -> dict[str, object]:
    """The same for programs."""
    return {
        "answers": check.answers,
        "labelled": check.labelled,
        "view": check.view,
        "judges": [
            {
                "judge": c.judge,
                "agreement": _agreement_json(c.agreement),
                "strata": {name: _agreement_json(part) for name, part in c.strata.items()},
                "raw": _rate_json(c.raw),
                "corrected": _corrected_json(c.corrected),
                "rogan_gladen": _corrected_json(c.rogan_gladen),
                "beside": [
                    {
                        "other": b.other,
                        "right_only_here": b.right_only_here,
                        "right_only_there": b.right_only_there,
                        "p_value": b.p_value,
                    }
                    for b in c.beside
                ],
            }
            for c in check.checked
        ],
        "together": {who: _together_json(t) for who, t in check.together.items()},
        "notes": list(check.notes),
    }


def _agreement_json(a: Agreement) -> dict[str, object]:
    """A judge's agreement with people for programs."""
    # An undefined statistic is null, with the reason beside it.
    rates = ("scored", "accuracy", "sensitivity", "specificity", "human_rate", "judge_rate")
    kappa = {"value": a.kappa.number, "interval": a.kappa_interval, "why": a.kappa.why or None}
    return {
        **{name: _rate_json(getattr(a, name)) for name in rates},
        "kappa": kappa,
        "confusion": a.confusion,
    }


def _together_json(t: RaterAgreement) -> dict[str, object]:
    """The agreement of several raters for programs."""
    return {
        "raters": list(t.raters),
        "pairable": t.pairable,
        "complete": t.complete,
        "fleiss": {"value": t.fleiss.number, "why": t.fleiss.why or None},
        "alpha": {
            "value": t.alpha.number,
            "interval": t.alpha_interval,
            "why": t.alpha.why or None,
        },
    }


def _rate_json(rate: Rate) -> dict[str, object]:
    """A rate for programs; null where it is not defined."""
    interval = rate.interval() if rate.defined else None
    return {
        "hits": rate.hits,
        "of": rate.of,
        "units": rate.units,
        "value": rate.value if rate.defined else None,
        "interval": interval,
    }


def _corrected_json(found: RateEstimate | str) -> dict[str, object]:
    """A corrected rate for programs, or null with the reason."""
    if isinstance(found, str):
        return {"value": None, "why": found}
    return {"value": found.value, "interval": (found.low, found.high), "method": found.method}
