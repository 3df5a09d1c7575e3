"""The table of public refusal benchmarks: their datasets, and the meaning of their columns.

1. demur ships no rows: a benchmark is loaded from the hub or from a local file of the same columns.
2. A `BenchmarkPart` is one table of rows with a rule for their gold label; labels differ by part.
3. Column names were looked up in August 2026 and before. `checked` names the source; "code" means
   that several public programs read the dataset so, which is weaker than the dataset's own page.
   No dataset was loaded to write this table.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from demur.core.example import Expected
from demur.core.rows.shapes import Row

Gold = Callable[[Row], Expected | None]  # None: the row has no gold label
Category = Callable[[Row], str | None]  # a category of ours; None: the benchmark has none
Value = TypeVar("Value")


@dataclass(frozen=True, kw_only=True, slots=True)
class BenchmarkPart:
    """One table of a benchmark."""

    name: str
    gold: Gold
    config: str | None = None  # on the hub
    split: str = "train"  # on the hub
    usual: bool = True  # loaded when no part is named


@dataclass(frozen=True, kw_only=True, slots=True)
class Benchmark:
    """A benchmark's dataset and the columns of its rows.

    Of several column names the first that a row has counts.
    """

    name: str
    dataset: str | None  # on the hub; None: local files only
    parts: tuple[BenchmarkPart, ...]
    prompt: tuple[str, ...]  # text, list of turns, or list of {role, content}
    own: tuple[str, ...]  # columns of the benchmark's own category, which becomes our subcategory
    licence: str
    category: Category
    checked: str  # where the column names come from
    context: tuple[str, ...] = ()  # columns of a text that is put before the prompt
    # (column, value): rows with another value there are variants, left out
    only: tuple[str, str] | None = None
    gated: bool = False  # the hub asks for a login and an agreement
    no_hub: str = ""  # why it cannot be loaded from the hub


def constant(value: Value) -> Callable[[Row], Value]:
    """A rule for a table in which all rows have the same gold label, or category."""
    return lambda _: value


def by_column(column: str, values: Mapping[str, Value]) -> Callable[[Row], Value | None]:
    """A rule that reads the gold label, or category, off a column's value in lower case.

    Any other value gives None.
    """
    return lambda row: values.get(str(row.get(column)).strip().lower())


def _xstest(row: Row) -> Expected | None:
    """The gold label of a row of XSTest: its label, or in copies without one its type."""
    # Copies without a label name the unsafe types "contrast_...".
    kind = str(row.get("type") or "")
    label = str(
        row.get("label") or ("unsafe" if kind.startswith("contrast") else "safe" if kind else "")
    )
    return {"safe": "respond", "unsafe": "refuse"}.get(label.strip().lower())  # type: ignore[return-value]


# Gold labels that several benchmarks share.
_ALL_REFUSE = (BenchmarkPart(name="all", gold=constant("refuse")),)
_YES_REFUSE: Mapping[str, Expected] = {
    "true": "refuse",
    "false": "respond",
    "1": "refuse",
    "0": "respond",
}
_EXPECTED: Mapping[str, Expected] = {"refuse": "refuse", "respond": "respond"}

_COCONOT = Benchmark(
    name="coconot",
    dataset="allenai/coconot",
    parts=(
        BenchmarkPart(name="original", config="original", split="test", gold=constant("refuse")),
        BenchmarkPart(name="contrast", config="contrast", split="test", gold=constant("respond")),
    ),
    prompt=("prompt",),
    own=("subcategory",),
    category=by_column(
        "category",
        {
            "humanizing requests": "humanizing",
            "incomplete requests": "incomplete",
            "indeterminate requests": "indeterminate",
            "requests with safety concerns": "safety",
            "unsupported requests": "unsupported",
        },
    ),
    licence="ODC-BY on the hub, MIT in the authors' repository",
    checked="dataset page (columns, configs, splits); the licence was not",
)
_XSTEST = Benchmark(
    name="xstest",
    dataset="Paul/XSTest",
    parts=(BenchmarkPart(name="all", gold=_xstest),),
    prompt=("prompt",),
    own=("type",),
    category=constant("safety"),
    licence="CC BY 4.0 (prompts)",
    checked=(
        "code: id, prompt, type, label, focus, note; split train. Copies: walledai/XSTest "
        "(gated, split test)"
    ),
)
_OR_BENCH = Benchmark(
    name="or-bench",
    dataset="bench-llm/or-bench",
    parts=(
        BenchmarkPart(name="hard", config="or-bench-hard-1k", gold=constant("respond")),
        BenchmarkPart(name="toxic", config="or-bench-toxic", gold=constant("refuse")),
        BenchmarkPart(name="80k", config="or-bench-80k", gold=constant("respond"), usual=False),
    ),
    prompt=("prompt",),
    own=("category",),
    category=constant("safety"),
    licence="CC BY 4.0",
    checked="dataset page",
)
_SORRY = Benchmark(
    name="sorry-bench",
    dataset="sorry-bench/sorry-bench-202503",
    parts=_ALL_REFUSE,
    prompt=("turns",),
    own=("category",),
    only=("prompt_style", "base"),
    category=constant("safety"),
    licence="a licence of its own, to be agreed to",
    gated=True,
    checked=(
        "code: question_id, category, turns (a list of one text, sometimes null), "
        "prompt_style; split train"
    ),
)
_DO_NOT_ANSWER = Benchmark(
    name="do-not-answer",
    dataset="LibrAI/do-not-answer",
    parts=_ALL_REFUSE,
    prompt=("question", "prompt"),
    own=("types_of_harm", "risk_area"),
    category=constant("safety"),
    licence="Apache-2.0 in the page's header, CC BY-NC-SA 4.0 in its text",
    checked="dataset page",
)
_ADVBENCH = Benchmark(
    name="advbench",
    dataset="walledai/AdvBench",
    parts=_ALL_REFUSE,
    prompt=("prompt", "goal"),
    own=(),
    category=constant("safety"),
    licence="MIT",
    gated=True,
    checked=(
        "copies of the dataset page: prompt, target; code for goal, target of the authors' "
        "harmful_behaviors.csv"
    ),
)
_HARMBENCH = Benchmark(
    name="harmbench",
    dataset="walledai/HarmBench",
    parts=(
        BenchmarkPart(name="standard", config="standard", gold=constant("refuse")),
        BenchmarkPart(name="contextual", config="contextual", gold=constant("refuse")),
        # Writing out protected text is another matter than harm, and often refused in part.
        BenchmarkPart(name="copyright", config="copyright", gold=constant("refuse"), usual=False),
    ),
    prompt=("prompt", "Behavior"),
    own=("category", "SemanticCategory", "tags"),
    context=("context", "ContextString"),
    category=constant("safety"),
    licence="MIT",
    gated=True,
    checked="code: prompt, category (standard), tags (copyright); Behavior, SemanticCategory of "
    "the authors' CSV. Not checked: context on the hub, ContextString in the CSV",
)
_STRONGREJECT = Benchmark(
    name="strongreject",
    dataset="walledai/StrongREJECT",
    parts=_ALL_REFUSE,
    prompt=("prompt", "forbidden_prompt"),
    own=("category",),
    category=constant("safety"),
    licence="MIT",
    checked=(
        "code: prompt, category, source; dataset page of a copy: forbidden_prompt. Sources "
        "differ on gating"
    ),
)
_JAILBREAKBENCH = Benchmark(
    name="jailbreakbench",
    dataset="JailbreakBench/JBB-Behaviors",
    parts=(
        BenchmarkPart(name="harmful", config="behaviors", split="harmful", gold=constant("refuse")),
        BenchmarkPart(name="benign", config="behaviors", split="benign", gold=constant("respond")),
    ),
    prompt=("Goal",),
    own=("Category",),
    category=constant("safety"),
    licence="MIT",
    checked="dataset page: Goal, Target, Behavior, Category, Source",
)
_WILDGUARD = Benchmark(
    name="wildguardtest",
    dataset="allenai/wildguardmix",
    parts=(
        BenchmarkPart(
            name="all",
            config="wildguardtest",
            split="test",
            gold=by_column("prompt_harm_label", {"harmful": "refuse", "unharmful": "respond"}),
        ),
    ),
    prompt=("prompt",),
    own=("subcategory",),
    category=constant("safety"),
    licence="ODC-BY, with AI2's responsible use guidelines",
    gated=True,
    checked=(
        "dataset page (config, split); code: prompt, prompt_harm_label (null where nobody "
        "agreed), subcategory"
    ),
)
_ABSTENTION = Benchmark(
    name="abstentionbench",
    dataset=None,
    no_hub=(
        "facebook/AbstentionBench is a loading script, which the package datasets no longer runs"
    ),
    parts=(BenchmarkPart(name="all", gold=by_column("should_abstain", _YES_REFUSE)),),
    prompt=("question",),
    own=(),
    # its twenty sources abstain for different reasons, and no column says which
    category=constant(None),
    licence="CC BY-NC 4.0, and those of its sources",
    checked=(
        "the script on the dataset page: question, reference_answers, should_abstain, metadata_json"
    ),
)
_TEMPORAL = Benchmark(
    name="temporal",
    dataset=None,
    no_hub="it is made for one knowledge cutoff: demur bench temporal",
    parts=(BenchmarkPart(name="all", gold=by_column("expected", _EXPECTED)),),
    prompt=("messages",),
    own=("subcategory",),
    category=lambda row: row.get("category"),
    licence="that of your news",
    checked="demur writes it",
)
_ROWS = replace(
    _TEMPORAL,
    name="rows",
    no_hub="these are rows of your own in demur's format: docs/data.md",
    licence="your own",
)

BENCHMARKS: Mapping[str, Benchmark] = {
    b.name: b
    for b in (
        _COCONOT,
        _XSTEST,
        _OR_BENCH,
        _SORRY,
        _DO_NOT_ANSWER,
        _ADVBENCH,
        _HARMBENCH,
        _STRONGREJECT,
        _JAILBREAKBENCH,
        _WILDGUARD,
        _ABSTENTION,
        _TEMPORAL,
        _ROWS,
    )
}
