"""The command line, called in this process, and a finished run on the fake engine for it to work
on.
"""

import os
import shutil
import sys
from dataclasses import dataclass
from unittest import mock

import pytest

from demur.assembly.config import config_from
from demur.assembly.run import create
from demur.cli.main import main
from tests.fake_run import finished

CONFIG = {"data": {"sources": [{"kind": "builtin"}]}}


@dataclass(frozen=True)
class Result:
    code: int
    out: str
    err: str


@pytest.fixture
def demur(capsys, monkeypatch):
    """Run a command as the shell would; the environment is put back afterwards."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["demur", *map(str, arguments)])
        with mock.patch.dict(os.environ), pytest.raises(SystemExit) as left:
            main()
        printed = capsys.readouterr()
        return Result(code=left.value.code or 0, out=printed.out, err=printed.err)

    return run


@pytest.fixture(scope="session")
def made_run(tmp_path_factory):
    """A run up to evaluate, with a config.json; tests must not change it."""
    root = tmp_path_factory.mktemp("runs") / "made"
    finished(root, every=4)
    create(config_from(CONFIG, "made.toml", base=root), root)
    return root


@pytest.fixture
def run(made_run, tmp_path):
    """A copy of the finished run, to be changed."""
    return shutil.copytree(made_run, tmp_path / "run")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A run of the tiny model; tests must not change it."""
    from tests.engines.tiny_run import tiny_run  # torch, which few of these tests need

    return tiny_run(tmp_path_factory.mktemp("runs") / "tiny")
