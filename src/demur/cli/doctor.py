"""demur doctor: is this model ready to be scored and served?"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from demur.cli import options
from demur.cli.show import print_json, print_table
from demur.wiring import find
