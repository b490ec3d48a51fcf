"""What the command line prints on."""

from rich.console import Console
from rich.markup import escape

from flowdet.errors import FlowdetError

__all__ = ["complain", "err", "out"]

out = Console(soft_wrap=True, highlight=False)
err = Console(stderr=True, soft_wrap=True, highlight=False)


def complain(error: FlowdetError) -> None:
    """Prints an error as one message."""
    err.print(f"[red]flowdet[/red]: {escape(str(error))}")
