"""The arrows of DESIGN, checked on the syntax tree: imports in functions and for types only count
like any other.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SRC = Path(__file__).parents[1] / "src"
PACKAGE = SRC / "demur"
FILES = sorted(PACKAGE.rglob("*.py"))

ALLOWED: dict[str, set[str]] = {
    "base": set(),
    "core": {"base"},
    "stats": {"core", "base"},
    "store": {"core", "base"},
    "engines": {"core", "base"},
    "sources": {"core", "base"},
    "judges": {"core", "base"},
    "pages": {"core", "base"},
    "stages": {"stats", "store", "pages", "core", "base"},
    "assembly": {
        "stages",
        "stats",
        "store",
        "engines",
        "sources",
        "judges",
        "pages",
        "core",
        "base",
    },
    "server": {"assembly", "stages", "store", "core", "base"},
    "harness": {"assembly", "store", "core", "base"},
    "cli": {"assembly", "server", "stages", "store", "core", "base"},
    "__main__": {"cli"},
}
CHAIN_MAX = 14  # files: whoever reads the last one may have to read all of them
# vLLM builds our plug-in itself, so nobody of ours can hand it what it reads: docs/decisions/0008.
EXCEPTIONS = {("engines/vllm/policies.py", "store")}
ENGINES_ONLY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "vllm",
    "tokenizers",
    "safetensors",
}
CORE_MAY_IMPORT = {"numpy"}
BASE_MAY_ALSO_IMPORT: dict[str, set[str]] = {
    "columnar.py": {"pyarrow"},
    "boundary.py": {"pydantic", "pydantic_core"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(SRC).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(p) for p in FILES}


def imported(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything imported anywhere; `from a import b` yields a.b, relative
    or not.
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            )
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def imports_of(path: Path) -> list[tuple[int, str]]:
    name = module_name(path)
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return list(imported(ast.parse(path.read_text(encoding="utf-8")), package))


def as_module(dotted: str) -> str | None:
    """The module of ours that a dotted import name loads, None for others' packages."""
    return next((m for m in (dotted, dotted.rpartition(".")[0]) if m in MODULES), None)


def folder(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def stage(module: str) -> str:
    """The stage that a module under demur.stages belongs to: a file, or a folder of files."""
    return ".".join(module.split(".")[2:3])


def calls(path: Path, names: set[str]) -> list[int]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        name = (
            node.attr
            if isinstance(node, ast.Attribute)
            else node.id
            if isinstance(node, ast.Name)
            else ""
        )
        if name in names:
            found.append(node.lineno)  # type: ignore[attr-defined]
    return found


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(SRC)}:{line}"


def test_every_folder_has_its_arrows() -> None:
    assert {folder(m) for m in MODULES} - {""} <= set(ALLOWED)


def test_imports_follow_the_arrows() -> None:
    wrong = []
    for path in FILES:
        mine = folder(module_name(path))
        for line, dotted in imports_of(path):
            target = as_module(dotted)
            theirs = folder(target) if target else mine
            excepted = (path.relative_to(PACKAGE).as_posix(), theirs) in EXCEPTIONS
            if mine and theirs and theirs != mine and theirs not in ALLOWED[mine] and not excepted:
                wrong.append(f"{place(path, line)} {mine} imports {dotted}")
    assert not wrong


def test_a_stage_never_imports_a_stage() -> None:
    shared = {"arrival", "attempts", "texts"}  # imported by stages, and imports none
    wrong = []
    for path in PACKAGE.glob("stages/**/*.py"):
        for line, dotted in imports_of(path):
            target = as_module(dotted)
            if (
                target
                and folder(target) == "stages"
                and stage(target) not in {"", stage(module_name(path))} | shared
            ):
                wrong.append(f"{place(path, line)} imports {dotted}")
    assert not wrong


def test_only_assembly_names_a_module_of_ours_in_a_string() -> None:
    """ "demur.engines.x:Y" would be an arrow that no import shows. Entry points stand in
    pyproject.toml.
    """
    wrong = []
    for path in FILES:
        if folder(module_name(path)) == "assembly":
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        docstrings = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Constant)
                and isinstance(node.value, str)
                and node not in docstrings
            ):
                dotted = re.fullmatch(r"(demur(?:\.\w+)+)(:\w*)?", node.value)
                # Names of loggers and of a package's own data are no arrows.
                theirs = folder(as_module(dotted[1]) or "") if dotted else ""
                if dotted and (dotted[2] or (theirs and theirs != folder(module_name(path)))):
                    wrong.append(f"{place(path, node.lineno)} {node.value}")
    assert not wrong


def test_a_verb_never_imports_a_verb() -> None:
    wrong = []
    for path in PACKAGE.glob("cli/*/*.py"):
        for line, dotted in imports_of(path):
            target = as_module(dotted)
            if target and target.startswith("demur.cli.") and target.count(".") == 3:
                wrong.append(f"{place(path, line)} imports {dotted}")
    assert not wrong


def graph() -> dict[str, set[str]]:
    """Module -> modules of ours that it imports anywhere, in functions and for types too."""
    return {
        module_name(p): {m for _, d in imports_of(p) if (m := as_module(d))} - {module_name(p)}
        for p in FILES
    }


def longest_chain(imports: dict[str, set[str]]) -> tuple[str, ...]:
    """The longest run of modules each of which imports the one before; imports without a loop."""
    chains: dict[str, tuple[str, ...]] = {}
    left = dict(imports)
    # modules in the order in which they could be loaded: all that one imports come before it
    while left:
        free = [m for m, needs in left.items() if not needs & set(left)]
        for module in free:
            longest = max((chains[m] for m in sorted(left.pop(module))), key=len, default=())
            chains[module] = (*longest, module)
    return max(chains.values(), key=len)


def test_modules_import_each_other_in_no_loop() -> None:
    left = graph()
    while free := [m for m, needs in left.items() if not needs & set(left)]:
        for module in free:
            del left[module]
    assert not left, f"these import each other: {sorted(left)}"


def test_no_chain_of_imports_is_longer_than_14_files() -> None:
    chain = longest_chain(graph())
    assert len(chain) <= CHAIN_MAX, " <- ".join(chain)


def test_a_chain_counts_every_module_on_the_longest_way() -> None:
    imports = {"a": set(), "b": {"a"}, "c": {"a", "b"}, "d": {"a", "c"}, "e": {"a"}}
    assert longest_chain(imports) == ("a", "b", "c", "d")


def test_torch_and_its_kin_are_named_only_in_engines() -> None:
    wrong = [
        f"{place(path, line)} {dotted}"
        for path in FILES
        if folder(module_name(path)) != "engines"
        for line, dotted in imports_of(path)
        if dotted.partition(".")[0] in ENGINES_ONLY
    ]
    assert not wrong


def test_core_needs_the_standard_library_and_numpy_only() -> None:
    wrong = []
    for path in PACKAGE.glob("core/**/*.py"):
        for line, dotted in imports_of(path):
            top = dotted.partition(".")[0]
            special = path.name == "rates.py" and dotted.startswith("scipy.special")
            if top not in sys.stdlib_module_names | CORE_MAY_IMPORT | {"demur"} and not special:
                wrong.append(f"{place(path, line)} {dotted}")
    assert not wrong


def test_base_needs_the_standard_library_and_numpy_and_one_package_more_in_two_files() -> None:
    wrong = []
    for path in PACKAGE.glob("base/**/*.py"):
        allowed = CORE_MAY_IMPORT | {"demur"} | BASE_MAY_ALSO_IMPORT.get(path.name, set())
        for line, dotted in imports_of(path):
            if dotted.partition(".")[0] not in sys.stdlib_module_names | allowed:
                wrong.append(f"{place(path, line)} {dotted}")
    assert not wrong


@pytest.mark.parametrize(
    ("names", "home"),
    [({"import_module", "__import__"}, "assembly"), ({"print"}, "cli")],
    ids=["importing by name belongs to assembly", "printing belongs to cli"],
)
def test_a_privilege_stays_at_home(names: set[str], home: str) -> None:
    elsewhere = [p for p in FILES if folder(module_name(p)) != home]
    assert not [place(p, line) for p in elsewhere for line in calls(p, names)]


def test_the_reader_of_imports_sees_every_kind(tmp_path: Path) -> None:
    code = """
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    from demur.engines import fake
def f():
    import torch.nn as nn
    from ..store import run
    from . import gate
"""
    names = [dotted for _, dotted in imported(ast.parse(code), "demur.engines")]
    assert names == [
        "typing.TYPE_CHECKING",
        "demur.engines.fake",
        "torch.nn",
        "demur.store.run",
        "demur.engines.gate",
    ]
