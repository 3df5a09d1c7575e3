"""Tiny checkpoints, made once per test session."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engines.checkpoints import CONFIGS, make_checkpoint


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One random checkpoint per architecture of CONFIGS."""
    root = tmp_path_factory.mktemp("checkpoints")
    return {name: make_checkpoint(root / name, name) for name in CONFIGS}
