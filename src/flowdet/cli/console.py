"""What the command line prints on."""

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from flowdet.errors import FlowdetError

__all__ = ["complain", "err", "out", "progress"]

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def complain(error: FlowdetError) -> None:
    """Prints an error as one message."""
    err.print(f"flowdet: {error}", style="red")


def progress(*columns: ProgressColumn) -> Progress:
    """A bar beside the messages, gone when the work is done; none where nobody watches."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)
