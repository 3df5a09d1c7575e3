"""The longest cases, for `make test-slow`."""

from collections.abc import Iterable

import pytest


def longest_apart(cases: Iterable[str], longest: Iterable[str]) -> list[object]:
    """Names of cases as parameters, the longest behind the mark `slow`."""
    slow = set(longest)
    return [pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in cases]
