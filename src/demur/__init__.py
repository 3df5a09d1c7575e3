"""demur: a language model says why it declines before it declines, and you set how often, with
promises that hold.

The Python interface, in the order of the work: docs/python.md. Nothing is imported before it is
used.

    run = demur.run("examples/demo.toml", out="runs/demo")  # or demur.open_run("runs/demo")
    policy = demur.calibrate(run, "false_refusal <= 0.02")
    demur.decide(policy, demur.score(run, ["How do I whittle a spoon?"]))
    demur.evaluate(run)
    demur.serve(run, port=8000)
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from demur.assembly.api import calibrate, decide, evaluate, open_run, run, score
    from demur.core.goals.goal import Goal
    from demur.core.policy import Policy
    from demur.core.taxonomy import Taxonomy
    from demur.server.start import serve

    __version__: str

__all__ = [
    "Goal",
    "Policy",
    "Taxonomy",
    "calibrate",
    "decide",
    "evaluate",
    "open_run",
    "run",
    "score",
    "serve",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, and cache it. Raises AttributeError for any other name."""
    if name == "__version__":
        from demur.base.version import installed_version

        value: Any = installed_version()
    elif name == "serve":
        from demur.server import start

        value = start.serve
    elif name in __all__:
        from demur.assembly import api

        value = getattr(api, name)
    else:
        raise AttributeError(f"module 'demur' has no attribute {name!r}")
    globals()[name] = value  # so that Python does not call __getattr__ for it again
    return value


def __dir__() -> list[str]:
    """List the public names, whether imported yet or not."""
    return [*__all__, "__version__"]
