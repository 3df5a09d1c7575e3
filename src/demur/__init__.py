"""demur: a language model says why it declines before it declines, and you set how often, with promises that hold."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("demur")
except PackageNotFoundError:  # a source tree on sys.path, not installed
    __version__ = "0+unknown"
