"""The structure of the source: the numbers of docs/benchmarks.md, "Structure", of this tree and of
any revision.

python bench/structure.py [--at REVISION] [--path]

--at: a revision of this repository; default: the files as they stand. --path: also walk the main
path, which trains a tiny model for a moment: `data`, `train`, `score`, `calibrate` and one answer
of `serve`, all traced. "At 24b7eed" is what this script printed of that revision.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import tokenize
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path

ROOT = Path(__file__).parents[1]
Function = ast.FunctionDef | ast.AsyncFunctionDef
AT_24B7EED = {
    "longest import chain, files": "24",
    "most files in one folder": "51",
    "lines over 100 characters, % of lines that are not blank": "12.4",
    "comment lines per 100 of code, a field's own left out": "2.0",
    "docstring lines per 100 of code": "17.1",
    "private functions with one use, %": "62.4",
    "source lines, without the corpus": "35,296",
    "function lines, p90 / max": "17 / 59",
    "import knots, modules": "0",
    "main path, files entered / lines of their functions": "90 / 4,298",
    "the same without the command line": "79 / 3,837",
}


@dataclass(frozen=True)
class Tree:
    """The modules of demur under one folder `src`."""

    src: Path

    @cached_property
    def texts(self) -> Mapping[Path, str]:
        """Every source file."""
        return {
            p: p.read_text(encoding="utf-8") for p in sorted((self.src / "demur").rglob("*.py"))
        }

    @cached_property
    def parsed(self) -> Mapping[Path, ast.Module]:
        """Their syntax trees."""
        return {p: ast.parse(text) for p, text in self.texts.items()}

    @cached_property
    def functions(self) -> list[tuple[Path, Function]]:
        """All functions and methods, nested ones too."""
        return [
            (p, n)
            for p, tree in self.parsed.items()
            for n in ast.walk(tree)
            if isinstance(n, Function)
        ]

    def module(self, path: Path) -> str:
        """The dotted name of a file."""
        parts = path.relative_to(self.src).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @cached_property
    def imports(self) -> Mapping[str, set[str]]:
        """Module -> modules of ours that it imports anywhere, in functions and for types too."""
        names = {self.module(p) for p in self.texts}
        found: dict[str, set[str]] = {}
        for path, tree in self.parsed.items():
            own = self.module(path)
            package = own if path.name == "__init__.py" else own.rpartition(".")[0]
            # `from a import b` loads a.b where that is a module, else a
            targets = {
                next((m for m in (d, d.rpartition(".")[0]) if m in names), own)
                for d in dotted(tree, package)
            }
            found[own] = targets - {own}
        return found


def dotted(tree: ast.Module, package: str) -> Iterator[str]:
    """Every dotted name that a file imports; `from a import b` is a.b, relative or not."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def docstring_lines(node: ast.AST) -> range:
    """The lines of a node's docstring; empty if it has none."""
    if (
        not isinstance(node, ast.Module | ast.ClassDef | Function)
        or ast.get_docstring(node, clean=False) is None
    ):
        return range(0)
    return range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1)


def length(function: Function) -> int:
    """Lines from `def` to the end, without the docstring."""
    return (function.end_lineno or 0) - function.lineno + 1 - len(docstring_lines(function))


def in_knots(imports: Mapping[str, set[str]]) -> int:
    """How many modules import each other in a loop, or are imported by one that does only through
    loops.
    """
    left = dict(imports)
    while free := [m for m, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    return len(left)


def longest_chain(imports: Mapping[str, set[str]]) -> tuple[str, ...]:
    """The longest run of modules each of which imports the one before. Without meaning where there
    are knots.
    """

    @cache
    def chain(module: str) -> tuple[str, ...]:
        return (*max((chain(m) for m in sorted(imports[module])), key=len, default=()), module)

    return max((chain(m) for m in sorted(imports)), key=len)


def densities(tree: Tree) -> tuple[float, float]:
    """(comment, docstring) lines per 100 lines of code; the line behind a record's field counts as
    neither.
    """
    documented = commented = coded = 0
    for path, text in tree.texts.items():
        nodes = list(ast.walk(tree.parsed[path]))
        docs = {line for node in nodes for line in docstring_lines(node)}
        classes = [n for n in nodes if isinstance(n, ast.ClassDef)]
        fields = {f.end_lineno for c in classes for f in c.body if isinstance(f, ast.AnnAssign)}
        code: set[int] = set()
        comments: set[int] = set()
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type == tokenize.COMMENT:
                comments.add(token.start[0])
            elif token.string.strip() and token.type != tokenize.ENDMARKER:
                code.update(range(token.start[0], token.end[0] + 1))
        documented += len(docs)
        commented += len(comments - fields)
        coded += len(code - docs)
    return 100 * commented / coded, 100 * documented / coded


def used_once(tree: Tree) -> float:
    """Share of private functions and methods whose name stands in one place of their file."""
    uses = {}
    for path, parsed in tree.parsed.items():
        nodes = list(ast.walk(parsed))
        names = [n.id for n in nodes if isinstance(n, ast.Name)]
        uses[path] = Counter([*names, *(n.attr for n in nodes if isinstance(n, ast.Attribute))])
    private = [
        (p, f) for p, f in tree.functions if f.name.startswith("_") and not f.name.startswith("__")
    ]
    return sum(uses[p][f.name] == 1 for p, f in private) / len(private)


def measured(tree: Tree) -> dict[str, str]:
    """All numbers that need no run."""
    lines = [line for text in tree.texts.values() for line in text.splitlines()]
    written = [line for line in lines if line.strip()]
    lengths = sorted(length(f) for _, f in tree.functions)
    comments, docstrings = densities(tree)
    values = (
        f"{len(longest_chain(tree.imports))}",
        f"{max(Counter(p.parent for p in tree.texts).values())}",
        f"{100 * sum(len(line) > 100 for line in written) / len(written):.1f}",
        f"{comments:.1f}",
        f"{docstrings:.1f}",
        f"{100 * used_once(tree):.1f}",
        f"{len(lines):,}",
        f"{lengths[-(-9 * len(lengths) // 10) - 1]} / {lengths[-1]}",
        f"{in_knots(tree.imports)}",
    )
    return dict(zip(AT_24B7EED, values, strict=False))


# What is run under the tracer, in a process of the revision's own: command line only, so that it
# works on any revision.
WALK = """
import json, os, signal, socket, sys, threading, time
package, run, config, to = sys.argv[1:]
seen = set()
def note(frame, event, arg):
    code = frame.f_code
    if event == "call" and code.co_filename.startswith(package):
        seen.add((code.co_filename, code.co_firstlineno, code.co_name))
def verb(*words):
    from demur.cli.main import main
    sys.argv = ["demur", *words]
    sys.setprofile(note)
    try:
        main()
    except SystemExit as e:
        if e.code:
            sys.exit(f"{words}: exit code {e.code}")
    finally:
        sys.setprofile(None)
def ask():
    import httpx
    asked = [{"role": "user", "content": "How do I bake bread?"}]
    body = {"model": "walk", "messages": asked, "max_tokens": 4}
    for _ in range(600):
        try:
            place = f"http://127.0.0.1:{port}/v1/chat/completions"
            answer = httpx.post(place, json=body, timeout=300)
        except httpx.ConnectError:
            time.sleep(0.2)
        else:
            if answer.status_code == 200 and answer.json()["choices"][0]["message"]["content"]:
                json.dump(sorted(seen), open(to, "w"))
            break
    os.kill(os.getpid(), signal.SIGTERM)
with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
threading.setprofile(note)
verb("data", config, "--out", run)
verb("train", run)
verb("score", run)
verb("calibrate", run, "--goal", "refusal_rate = 0.01")
threading.setprofile(None)
threading.Thread(target=ask).start()
threading.setprofile(note)
verb("serve", run, "--port", str(port))
"""
CONFIG = """
[run]
name = "walk"
seed = 1
threads = 1
[[data.sources]]
kind = "builtin"
[data]
calibrate_share = 0.025
test_share = 0.01
limits = {refusal = 60, contrast = 30, benign = 40}
[train]
epochs = 30
control_weight = 8.0
tiny_width = 24
tiny_layers = 1
tiny_heads = 2
tiny_vocabulary = 400
max_length = 256
answer_tokens = 4
"""


def walked(tree: Tree) -> dict[str, str]:
    """Files with a function that the main path enters, and the lines of those functions."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "walk.toml").write_text(CONFIG, encoding="utf-8")
        words = [
            str(tree.src / "demur"),
            str(folder / "run"),
            str(folder / "walk.toml"),
            str(folder / "seen.json"),
        ]
        environment = os.environ | {"PYTHONPATH": str(tree.src), "OMP_NUM_THREADS": "1"}
        told = subprocess.run(
            [sys.executable, "-c", WALK, *words],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if not (folder / "seen.json").exists():
            sys.exit(f"the main path was not walked to its end:\n{told.stderr[-2000:]}")
        seen = {
            (Path(f), line, name)
            for f, line, name in json.loads((folder / "seen.json").read_text())
        }
    entered = [(p, f) for p, f in tree.functions if {(p, at, f.name) for at in starts(f)} & seen]
    inner = [(p, f) for p, f in entered if (tree.src / "demur" / "cli") not in p.parents]
    return {
        name: f"{len({p for p, _ in some})} / {sum(length(f) for _, f in some):,}"
        for name, some in zip(list(AT_24B7EED)[-2:], (entered, inner), strict=True)
    }


def starts(function: Function) -> set[int]:
    """Lines on which Python may say that a function begins: its own, or that of its first
    decorator.
    """
    return {function.lineno, *(d.lineno for d in function.decorator_list)}


def at_revision(revision: str, to: Path) -> Path:
    """The folder `src` of a revision, unpacked."""
    archive = subprocess.run(
        ["git", "-C", str(ROOT), "archive", revision, "src"], capture_output=True, check=True
    )
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
        packed.extractall(to, filter="data")
    return to / "src"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--at", metavar="REVISION")
    parser.add_argument("--path", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        tree = Tree(at_revision(asked.at, Path(scratch)) if asked.at else ROOT / "src")
        found = measured(tree) | (walked(tree) if asked.path else {})
        chain = longest_chain(tree.imports)
    print(f"| | at 24b7eed | {asked.at or 'now'} |\n|---|---|---|")
    for name, value in found.items():
        print(f"| {name} | {AT_24B7EED[name]} | {value} |")
    print("\nlongest chain: " + " <- ".join(m.removeprefix("demur.") for m in chain))


if __name__ == "__main__":
    main()
