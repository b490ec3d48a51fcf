"""Where the command line prints."""

import io
import os
import re
import sys
from typing import Any

from rich.console import Console
from rich.progress import Progress, ProgressColumn

from flowdet.errors import FlowdetError

__all__ = ["complain", "err", "flush", "mend_streams", "out", "progress"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")  # all but tab and line feed


class _SafeConsole(Console):
    """Prints control characters in names, such as escape codes, as text."""

    def print(self, *objects: Any, **options: Any) -> None:
        super().print(*map(_without_control, objects), **options)


out = _SafeConsole(soft_wrap=True, highlight=False, markup=False)
err = _SafeConsole(stderr=True, soft_wrap=True, highlight=False, markup=False)


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
    return Progress(*columns, console=err, transient=True, disable=not err.is_terminal)


def _without_control(value: object) -> object:
    if not isinstance(value, str):
        return value
    return _CONTROL.sub(lambda match: f"\\x{ord(match[0]):02x}", value)
