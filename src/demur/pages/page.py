"""A page -> HTML and Markdown.

Prompts, answers, names and goals are a stranger's: Jinja escapes them in HTML, escape_markdown in
Markdown, and plots get them as JSON in which no tag can end. Should one slip through all the same,
the page's content security policy names the hashes of the scripts that may run, and lets nothing be
fetched.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from dataclasses import asdict
from importlib import resources

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from demur.pages.parts import Cell, Page, Panel, Spec

_MARKUP = re.compile(r"([\\`*_\[\]<>#|&~])")


def render_html(page: Page) -> str:
    """One self-contained file: style, plotly.js (once), plots and our script are in it."""
    specs: list[Spec] = []

    def plot_number(panel: Panel) -> int:
        specs.append(panel.spec)
        return len(specs) - 1

    environment = _environment(autoescape=True)
    # The numbers are given out while the body is rendered, so the specs are filled in afterwards.
    scripts = {"plotly_js": _script(get_plotlyjs())}
    scripts |= {f"{name}_js": _script(_file(f"{name}.js")) for name in ("plots", "explorer")}
    return environment.get_template("page.html.jinja").render(
        page=page,
        style=Markup(_file("style.css")),
        script_hashes=Markup(" ".join(map(_hash, scripts.values()))),
        plot_number=plot_number,
        plots_json=lambda: Markup(_json_in_html(specs)),
        explorer_json=lambda part: Markup(_json_in_html(asdict(part))),
        **scripts,
    )


def render_markdown(page: Page) -> str:
    """The same as text (GitHub's Markdown), figures as tables of their numbers.

    For terminals, diffs and readers of braille; every chapter, table and card of the page is there.
    """
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    environment.filters["words"] = cell_text
    text = environment.get_template("page.md.jinja").render(page=page)
    return re.sub(r"\n{3,}", "\n\n", text)


def escape_markdown(text: str) -> str:
    """One line of Markdown that shows exactly this text, white space runs to one space.

    Fit for table cells: pipes are escaped, line ends gone.
    """
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def cell_text(cell: Cell) -> str:
    """A cell as text."""
    return cell if isinstance(cell, str) else cell.words


def _environment(autoescape: bool) -> Environment:
    loader = PackageLoader("demur.pages", "")
    return Environment(
        loader=loader,
        autoescape=autoescape,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _file(name: str) -> str:
    return (resources.files("demur.pages") / name).read_text(encoding="utf-8")


def _script(text: str) -> Markup:
    """Code as a browser will read it: the hash is taken after line ends are made one kind."""
    return Markup(text.replace("\r\n", "\n"))


def _hash(script: str) -> str:
    return (
        "'sha256-"
        + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
        + "'"
    )


def _json_in_html(value: object) -> str:
    """JSON that no HTML parser can leave early."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
