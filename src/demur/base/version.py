"""The version of the installed package."""

from __future__ import annotations


def installed_version() -> str:
    """Such as "0.1.0"; "0+unknown" for a source tree that is on sys.path and not installed."""
    # 60 ms of imports that most callers never need.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("demur")
    except PackageNotFoundError:
        return "0+unknown"
