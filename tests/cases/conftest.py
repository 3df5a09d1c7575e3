"""The command line, as the tests of its verbs call it."""

from tests.cli.conftest import demur

__all__ = ["demur"]
