"""Where the command line prints."""

import io
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, Protocol

from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
from rich.text import Text

from flowdet.errors import FlowdetError

__all__ = [
    "Move",
    "complain",
    "err",
    "flush",
    "help_pages",
    "mend_streams",
    "out",
    "progress",
    "progress_bar",
    "status",
]

_UNLIMITED = 10_000  # characters
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


class _PipedConsole(Console):
    """Leaves it to the caller that nobody reads any more; rich would end the process with exit code 1."""

    def on_broken_pipe(self) -> None:
        raise  # noqa: PLE0704  (rich calls this in its `except`)


class _SafeConsole(_PipedConsole):
    """Prints control characters in names, such as escape codes, as text."""

    def print(self, *objects: Any, **options: Any) -> None:
        if not self.is_terminal:
            self.width = _UNLIMITED  # a table in a file or a pipe is whole
        super().print(*map(_without_control, objects), **options)


# Names may hold what rich takes for markup or an emoji, such as "[bold]" and ":dog:".
out = _SafeConsole(soft_wrap=True, highlight=False, markup=False, emoji=False)
err = _SafeConsole(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
help_pages = _PipedConsole()


def mend_streams() -> None:
    """Lets every name be printed on any terminal, and output go nowhere where standard output is closed."""
    for name, number in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if stream is None:
            # Else the next file that is opened would take the number, and what C libraries print.
            null = os.open(os.devnull, os.O_WRONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            setattr(sys, name, open(number, "w", encoding="utf-8"))  # noqa: SIM115  (stays open)
        elif isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def flush() -> None:
    """Writes what waits for standard output.

    Raises:
        OSError: It cannot be written; what waits is dropped, so that it is told only once.
    """
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
        raise


def complain(error: FlowdetError | str) -> None:
    """Prints an error as one message."""
    err.print(f"flowdet: {error}", style="red")


def progress(*columns: ProgressColumn) -> Progress:
    """Returns a bar beside the messages, gone when the work is done; nothing is shown where nobody watches."""
    # What goes into a file or a pipe must not be redirected to the terminal.
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal, redirect_stdout=out.is_terminal)


class Move(Protocol):
    """Moves a progress bar to the amount that is done; `total` may become known on the way."""

    def __call__(self, done: float, total: float | None = None) -> None:
        """Moves the bar."""


@contextmanager
def progress_bar(name: str, total: float | None, unit: str, *, is_shown: bool = True) -> Iterator[Move]:
    """Shows what is done, the rate and the time left, until the block ends; nothing where nobody watches.

    Args:
        name: What is being done.
        total: The amount to do; None if it is not known.
        unit: What is counted, "frames" for instance; amounts of "bytes" become kB, MB and GB.
        is_shown: False for one of several processes, whose bars would be in each other's way.
    """
    if not is_shown:
        yield lambda done, total=None: None
        return

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
        yield lambda step: line.update(Text(step))


def _without_control(value: object) -> object:
    if not isinstance(value, str):
        return value
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
