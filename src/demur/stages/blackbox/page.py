"""Write the page of a black-box run: blackbox/index.html, self-contained, and
blackbox/blackbox.md.
"""

from __future__ import annotations

from pathlib import Path

from demur.base.files import write_text
from demur.core.taxonomy import Taxonomy
from demur.pages.page import render_html, render_markdown
from demur.stages.blackbox.content import page_of
from demur.stages.blackbox.results import read_blackbox_run
from demur.store.answers.blackbox_file import BlackboxFolder
from demur.store.run import RunFolder


def run(folder: RunFolder, taxonomy: Taxonomy) -> Path:
    """Write the page of a run that is scored, with its policy if there is one; returns its path.

    Raises ArtifactError if an earlier stage has not finished or its files were changed.
    """
    page = page_of(read_blackbox_run(folder, taxonomy), folder.root.name)
    path = BlackboxFolder(folder).page
    write_text(path, render_html(page))
    write_text(path.with_name("blackbox.md"), render_markdown(page))
    return path
