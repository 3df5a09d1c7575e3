"""python -m demur, as launchers such as torchrun start it."""

from demur.cli.main import main

main()
