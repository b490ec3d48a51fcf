"""What the command line prints on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn

from flowdet.errors import FlowdetError

__all__ = ["Move", "complain", "err", "out", "progress", "progress_bar", "status"]

out = Console(soft_wrap=True, highlight=False, markup=False)
err = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)


def complain(error: FlowdetError) -> None:
    """Prints an error as one message."""
    err.print(f"flowdet: {error}", style="red")


def progress(*columns: ProgressColumn) -> Progress:
    """A bar beside the messages, gone when the work is done; none where nobody watches."""
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


class Move(Protocol):
    """Moves a progress bar to the amount that is done; `total` may become known on the way."""

    def __call__(self, done: float, total: float | None = None) -> None:
        """Moves the bar."""


@contextmanager
def progress_bar(name: str, total: float | None, unit: str) -> Iterator[Move]:
    """Shows what is done, the rate and the time left, until the block ends; nothing where nobody watches.

    Args:
        name: What is being done.
        total: The amount to do; None if it is not known.
        unit: What is counted, "frames" for instance; amounts of "bytes" become kB, MB and GB.
    """

    def shown(amount: float) -> str:
        return decimal(int(amount)) if unit == "bytes" else f"{amount:.0f}"

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[state]}"))
    began = monotonic()
    with progress(*columns, TimeRemainingColumn()) as bar:
        task = bar.add_task(name, total=total, state="")

        def move(done: float, total: float | None = total) -> None:
            rate = done / max(monotonic() - began, 1e-6)
            of = f" of {shown(total)}" if total else ""
            per_second = f"{shown(rate)}/s" if unit == "bytes" else f"{rate:.1f} {unit}/s"
            state = f"{shown(done)}{of}{'' if unit == 'bytes' else f' {unit}'}, {per_second}"
            bar.update(task, completed=done, total=total, state=state)

        yield move


@contextmanager
def status() -> Iterator[Callable[[str], None]]:
    """Shows a line that says which step is under way, until the block ends; nothing where nobody watches."""
    if not err.is_terminal:
        yield lambda step: None
        return
    with err.status("") as line:
        yield line.update
