"""`python -m demur`: the command line, as launchers such as torchrun start it."""

from demur.cli.main import main

main()
