"""report: a finished run -> report/index.html, self-contained, and report/report.md."""

from __future__ import annotations

import shlex
from dataclasses import asdict
from pathlib import Path

from demur.base.files import digest_file, write_text
from demur.core.settings import ReportSettings
from demur.pages.page import render_html, render_markdown
from demur.pages.parts import Page
from demur.stages.report.content import headline, sections
from demur.stages.report.finished_run import read_finished_run, require_finished
from demur.store.results.everyday_file import everyday_path, read_everyday
from demur.store.run import RunFolder

Config = ReportSettings


def run(config: Config, folder: RunFolder) -> Path:
    """Write report/index.html and report/report.md; returns the path of the page.

    Raises ArtifactError if an earlier stage has not finished, is out of date or was changed,
    DataError, naming rows, if the model was trained on rows that it was measured on.
    """
    require_finished(folder)
    settings: dict[str, object] = dict(asdict(config))
    files = [folder.metrics, folder.branches]
    # Absent without everyday prompts, so that reports from before there were any stay finished.
    if read_everyday(folder):
        files.append(everyday_path(folder))
    made_from = {str(path.relative_to(folder.root)): digest_file(path) for path in files}
    if folder.is_current("report", settings, made_from):
        return folder.report
    # Commands on the page name the run folder relative to where the report is made, if it lies
    # below; else by its last name, because an absolute path would name this machine.
    here, full = Path.cwd(), folder.root.resolve()
    name = str(full.relative_to(here)) if full.is_relative_to(here) else folder.root.name
    material = read_finished_run(folder)
    page = Page(
        made_by="demur report",
        title=config.title,
        headline=headline(material),
        sections=sections(material, shlex.quote(name), config.examples),
    )
    text = folder.report.with_name("report.md")
    write_text(folder.report, render_html(page))
    write_text(text, render_markdown(page))
    folder.finish("report", settings, made_from, [folder.report, text])
    return folder.report
