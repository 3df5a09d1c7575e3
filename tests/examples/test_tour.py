"""The notebook's cells, run in order in one namespace; what a cell ends with is shown as Jupyter
would.
"""

import ast
import json
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def shown(value):
    """What a notebook shows of a value: its HTML if it has some, else its repr."""
    html = getattr(value, "_repr_html_", None)
    return html() if html is not None else repr(value)


def run_cell(source, names):
    """Execute a cell; what its last expression is worth is shown and returned, as text."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return (
        ""
        if last is None
        else shown(eval(compile(ast.Expression(last.value), "cell", "eval"), names))
    )


def test_every_cell_runs_and_shows_what_its_text_says(monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(EXAMPLES)
    book = json.loads((EXAMPLES / "tour.ipynb").read_text(encoding="utf-8"))
    cells = [c for c in book["cells"] if c["cell_type"] == "code"]
    assert not any(c["outputs"] or c["execution_count"] for c in cells), (
        "clear the outputs before committing"
    )
    names: dict = {}
    seen = [run_cell("".join(c["source"]), names) for c in cells]
    assert seen[0].startswith("Run(")
    assert "policy default" in seen[1]
    assert "<td>certified</td>" in seen[1]
    assert all("<table>" in text for text in seen[2:4])
    assert "false_refusal" in capsys.readouterr().out  # the goal that cannot be met, and why
