"""Reading a record must not need an engine: what a bare import loads. Counted in modules, not in
seconds.
"""

import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src" / "demur"
HEAVY = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "sklearn",
    "scipy",
    "plotly",
    "pyarrow",
}
NEVER_AT_THE_DOOR = {
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "sklearn",
    "plotly",
}
COMMAND_LINE = ["demur.cli.main"] if (PACKAGE / "cli" / "main.py").exists() else []


def loaded_by(module: str) -> set[str]:
    """Top-level packages in sys.modules after importing `module` in a fresh interpreter."""
    code = f"import sys, {module}; print(*{{m.partition('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_demur_loads_nothing_heavy_and_not_even_numpy() -> None:
    assert not loaded_by("demur") & (HEAVY | {"numpy"})


@pytest.mark.parametrize(
    "module",
    ["demur.core.decision", "demur.core.ports", "demur.assembly.wiring", "demur.judges.phrases"],
)
def test_the_contracts_need_no_engine(module: str) -> None:
    assert not loaded_by(module) & NEVER_AT_THE_DOOR


@pytest.mark.parametrize("module", COMMAND_LINE)
def test_the_command_line_opens_without_any_engine(module: str) -> None:
    assert not loaded_by(module) & NEVER_AT_THE_DOOR


def test_no_verb_brings_statistics_plots_or_an_engine_before_it_runs() -> None:
    code = """
import sys
from demur.cli.main import VERBS, load
for verb in VERBS:
    load(verb)
print(*{m.partition(".")[0] for m in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & (
        HEAVY | {"jinja2", "fastapi", "uvicorn", "httpx", "pandas"}
    )
