"""What the docs say, done: code blocks run, commands parse with the real flags, named paths and
anchors exist.
"""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from demur.cli.main import GROUPS, VERBS, group, load, verb_of

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").glob("*.md")]
)
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
# Backquoted names that lie in the repository, or would: runs/ and rows/ are the reader's own.
PATH = re.compile(r"`((?:src|docs|examples|tests|bench)/[\w./-]*)`")
MADE_BY_A_REAL_RUN = {"docs/images/report.png"}


def blocks(page: Path, *languages: str) -> list[str]:
    return [
        code
        for language, code in BLOCK.findall(page.read_text(encoding="utf-8"))
        if language in languages
    ]


def commands(page: Path) -> list[list[str]]:
    """The demur commands of a page, as argument lists without the launcher in front."""
    found = []
    for block in blocks(page, "console", "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.removeprefix("$ "), comments=True)
            if "demur" in words:
                found.append(words[words.index("demur") + 1 :])
    return found


def named(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_blocks(*languages: str) -> list[Path]:
    return [p for p in PAGES if blocks(p, *languages)]


@pytest.mark.parametrize("page", with_blocks("python"), ids=named)
def test_python_blocks_of_a_page_run_in_a_fresh_interpreter_without_torch(page: Path) -> None:
    code = "\n".join(blocks(page, "python")) + "\nimport sys\nassert 'torch' not in sys.modules\n"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=named)
def test_every_command_of_a_page_is_one_that_the_command_line_can_read(page: Path) -> None:
    for words in commands(page):
        verb, arguments = verb_of(words)
        assert verb in VERBS, f"{named(page)} names demur {verb}"
        assert words[: len(verb.split())] == verb.split(), (
            f"{named(page)} names demur {verb} by an older name"
        )
        load(verb).make_context(verb, arguments)  # parses without running; raises a usage error


def test_the_examples_in_the_help_are_commands_that_the_command_line_can_read() -> None:
    for verb in VERBS.values():
        words = shlex.split(verb.example)
        name, arguments = verb_of(words[words.index("demur") + 1 :])
        load(name).make_context(name, arguments)


def test_the_table_of_commands_in_the_readme_is_complete() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `demur ([\w -]+)` \|", text, re.MULTILINE) == list(VERBS)
    assert list(group().commands) == [*(v for v in VERBS if " " not in v), *GROUPS]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_paths_and_anchors_named_in_a_page_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = [t for t in LINK.findall(text) if not t.startswith("https://")]
    for target in targets:
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if str(file.relative_to(ROOT)) not in MADE_BY_A_REAL_RUN:
            assert file.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors(file), f"{named(page)} links to {target}"
    for path in PATH.findall(text):
        assert (ROOT / path).exists(), f"{named(page)} names {path}"


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings get, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in headings}


def test_paths_that_the_sources_name_in_docs_exist() -> None:
    sources = [*(ROOT / "src").rglob("*.py"), *(ROOT / "examples").glob("*.toml")]
    for source in sources:
        for path in re.findall(r"docs/[\w/-]+\.md", source.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{named(source)} names {path}"


def test_each_stage_has_a_page() -> None:
    stages = ("data", "train", "score", "calibrate", "evaluate", "report")
    assert [s for s in stages if not (ROOT / "docs" / f"{s}.md").exists()] == []
