"""A page -> HTML and Markdown.

Prompts, answers, names and goals are untrusted text:

1. In HTML, Jinja escapes them.
2. In Markdown, escape_markdown does.
3. Plots get them as JSON in which no tag can end (_json_in_html).
4. Should one slip through all the same, the page's content security policy names the hashes of the
   scripts that may run, and forbids every download.
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

# Every character that starts markup in GitHub's Markdown, also inside a table cell.
_MARKUP = re.compile(r"([\\`*_\[\]<>#|&~])")


def render_html(page: Page) -> str:
    """Render a page as one self-contained HTML file with style, plotly.js (once), plots and our
    scripts.
    """
    specs: list[Spec] = []

    # The template calls this for each panel, in order: the plot's place in `plots_json`.
    def plot_number(panel: Panel) -> int:
        specs.append(panel.spec)
        return len(specs) - 1

    environment = _environment(autoescape=True)
    scripts = {"plotly_js": _script(get_plotlyjs())}
    scripts |= {f"{name}_js": _script(_file(f"{name}.js")) for name in ("plots", "explorer")}
    return environment.get_template("page.html.jinja").render(
        page=page,
        style=Markup(_file("style.css")),
        script_hashes=Markup(" ".join(map(_hash, scripts.values()))),
        plot_number=plot_number,
        # Called at the end of the body: only then has plot_number seen every panel.
        plots_json=lambda: Markup(_json_in_html(specs)),
        explorer_json=lambda part: Markup(_json_in_html(asdict(part))),
        **scripts,
    )


def render_markdown(page: Page) -> str:
    """Render a page as GitHub's Markdown, each figure as the table of its numbers.

    For terminals, diffs and readers of braille; every chapter, table and card of the page is there.
    """
    environment = _environment(autoescape=False)
    environment.filters["md"] = escape_markdown
    environment.filters["words"] = cell_text
    text = environment.get_template("page.md.jinja").render(page=page)
    # Parts that are absent leave blank lines behind.
    return re.sub(r"\n{3,}", "\n\n", text)


def escape_markdown(text: str) -> str:
    """Escape text as one line of Markdown, for a table cell too: runs of white space, line ends
    among them, become one space.
    """
    return _MARKUP.sub(r"\\\1", " ".join(text.split()))


def cell_text(cell: Cell) -> str:
    """The text of a table cell: a rate with its interval in words."""
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
    """A script with the line ends that a browser will hash: the HTML parser turns CR LF into LF."""
    return Markup(text.replace("\r\n", "\n"))


def _hash(script: str) -> str:
    """The source expression of a script in a content security policy (CSP level 2)."""
    return (
        "'sha256-"
        + base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
        + "'"
    )


def _json_in_html(value: object) -> str:
    """JSON for a script element, without "<": no "</script>" or "<!--" in it can end the
    element.
    """
    return json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c")
