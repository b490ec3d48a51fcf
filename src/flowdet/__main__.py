"""`python -m flowdet` is the command line."""

from flowdet.cli import main

__all__: list[str] = []

main()
