"""STYLE's limits, measured: the tails are bounded, because a long tail is what tires a reader."""

import ast
import io
import tokenize
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "src" / "demur"
FILES = sorted(PACKAGE.rglob("*.py"))
TEXTS = {p: p.read_text(encoding="utf-8") for p in FILES}
TREES = {p: ast.parse(text) for p, text in TEXTS.items()}

FUNCTION_P90, FUNCTION_MAX = 30, 60
FILE_P90, FILE_MAX = 300, 450
FOLDER_MAX = 16  # files, __init__.py too
PARAMETERS_MAX = 5
FLAGS_MAX = 8  # a verb of the command line: its keyword parameters are its flags
DOCSTRING_DENSITY = (20, 45)  # docstring lines per 100 lines of code
COMMENT_DENSITY = (5, 12)  # comment lines per 100 lines of code

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, kw_only=True)
class Measure:
    """How long something is, and where it stands."""

    lines: int
    place: str


def docstring_lines(node: ast.AST) -> int:
    if (
        not isinstance(node, ast.Module | ast.ClassDef | Function)
        or ast.get_docstring(node, clean=False) is None
    ):
        return 0
    first = node.body[0]
    return (first.end_lineno or first.lineno) - first.lineno + 1


def functions() -> list[tuple[Path, Function]]:
    return [
        (p, node)
        for p, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, Function)
    ]


def measured_functions() -> list[Measure]:
    return [
        Measure(
            lines=(f.end_lineno or f.lineno) - f.lineno + 1 - docstring_lines(f),
            place=f"{p.relative_to(PACKAGE)}:{f.lineno} {f.name}",
        )
        for p, f in functions()
    ]


def measured_files() -> list[Measure]:
    return [
        Measure(lines=len(text.splitlines()), place=str(p.relative_to(PACKAGE)))
        for p, text in TEXTS.items()
    ]


def p90(measures: list[Measure]) -> int:
    """The smallest length that at least nine in ten do not exceed."""
    ordered = sorted(m.lines for m in measures)
    return ordered[-(-9 * len(ordered) // 10) - 1]


def longer_than(limit: int, measures: list[Measure]) -> list[str]:
    return [
        f"{m.place}: {m.lines} lines"
        for m in sorted(measures, key=lambda m: -m.lines)
        if m.lines > limit
    ]


def parameters(function: Function) -> int:
    a = function.args
    positional = [*a.posonlyargs, *a.args]
    receiver = bool(positional) and positional[0].arg in ("self", "cls")
    return len(positional) - receiver + len(a.kwonlyargs)


def field_lines(tree: ast.Module) -> set[int]:
    """Lines on which a field of a record is declared."""
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    return {
        field.end_lineno or 0
        for c in classes
        for field in c.body
        if isinstance(field, ast.AnnAssign)
    }


def densities() -> tuple[float, float]:
    """Lines of documentation and of comment per 100 lines of code (lines with a token of code) over
    the whole of src.

    Documentation is docstrings and the line that a record's field carries behind it: a field's
    docstring in all but syntax (docs/decisions/0003). Such a line counts as a comment too.
    """
    documented = commented = coded = 0
    for path, text in TEXTS.items():
        documented_here = {
            line
            for node in ast.walk(TREES[path])
            if docstring_lines(node)
            for line in range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)  # type: ignore[attr-defined]
        }
        lines_of_code: set[int] = set()
        lines_of_comment: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                lines_of_comment.add(token.start[0])
            elif token.string.strip() and token.type != tokenize.ENDMARKER:
                lines_of_code.update(range(token.start[0], token.end[0] + 1))
        documented += len(documented_here) + len(lines_of_comment & field_lines(TREES[path]))
        commented += len(lines_of_comment)
        coded += len(lines_of_code - documented_here)
    return 100 * documented / coded, 100 * commented / coded


def test_nine_functions_in_ten_fit_30_lines_and_none_exceeds_60() -> None:
    measures = measured_functions()
    assert not longer_than(FUNCTION_MAX, measures)
    assert p90(measures) <= FUNCTION_P90, longer_than(FUNCTION_P90, measures)


def test_nine_files_in_ten_fit_300_lines_and_none_exceeds_450() -> None:
    measures = measured_files()
    assert not longer_than(FILE_MAX, measures)
    assert p90(measures) <= FILE_P90, longer_than(FILE_P90, measures)


def test_no_folder_holds_more_than_16_files() -> None:
    count = Counter(str(p.parent.relative_to(PACKAGE)) for p in FILES)
    assert not {folder: n for folder, n in count.items() if n > FOLDER_MAX}


def test_no_function_takes_more_than_five_parameters_and_no_verb_more_than_eight_flags() -> None:
    many = []
    for path, function in functions():
        is_verb = "cli" in path.parts and function.name == "command"
        count, most = (
            (len(function.args.kwonlyargs), FLAGS_MAX)
            if is_verb
            else (parameters(function), PARAMETERS_MAX)
        )
        if count > most:
            many.append(f"{path.relative_to(PACKAGE)}:{function.lineno} {function.name}")
    assert not many


def test_docstrings_and_comments_are_neither_scarce_nor_in_the_way() -> None:
    docstrings, comments = densities()
    figures = f"{docstrings:.1f} docstring and {comments:.1f} comment lines per 100 lines of code"
    assert DOCSTRING_DENSITY[0] <= docstrings <= DOCSTRING_DENSITY[1], figures
    assert COMMENT_DENSITY[0] <= comments <= COMMENT_DENSITY[1], figures


def test_every_argument_and_every_result_has_a_type_hint() -> None:
    bare = []
    for path, function in functions():
        a = function.args
        arguments = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
        untyped = [
            x.arg for x in arguments if x.annotation is None and x.arg not in ("self", "cls")
        ]
        if untyped or function.returns is None:
            bare.append(f"{path.relative_to(PACKAGE)}:{function.lineno} {function.name} {untyped}")
    assert not bare
