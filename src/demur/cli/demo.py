"""demur demo: the whole pipeline on the built-in corpus, from the config that comes with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from demur.cli import options
from demur.cli.run import default_folder, run_all
from demur.cli.workspace import planned
from demur.config import load_config


def command(out: options.Out = None, settings: options.Set = None) -> None:
    """Run the packaged demo config. Needs no network and no accelerator."""
    with resources.as_file(resources.files("demur.cli") / "demo.toml") as path:
        config = load_config(Path(path), overrides=settings or ())
    run_all(planned(config, out or default_folder(config)))
