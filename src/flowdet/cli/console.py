"""What the command line prints on."""

from rich.console import Console

from flowdet.errors import FlowdetError

__all__ = ["complain", "err", "out"]

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def complain(error: FlowdetError) -> None:
    """Prints an error as one message."""
    err.print(f"flowdet: {error}", style="red")
