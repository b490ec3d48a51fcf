"""The command line."""

import ctypes
import sys
from collections.abc import Sequence

from cyclopts import App

import flowdet
from flowdet.cli.console import complain, err
from flowdet.errors import FlowdetError

__all__ = ["main"]

app = App(
    name="flowdet", version=flowdet.__version__, help="Object detection in video.", suppress_keyboard_interrupt=False
)
# Loaded when they are called, for most of them load PyTorch.
app.command("flowdet.cli.detect:detect", help="Detect objects in videos.")
app.command("flowdet.cli.models:models", name="models", help="List the systems; download and convert their weights.")


def _keep_memory() -> None:
    """Lets glibc keep large freed blocks, which saves a third of the time of convolutions on a CPU."""
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2_000_000_000)
    mallopt(top_pad, 64_000_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; a user's mistake ends with one message and exit code 1, Ctrl-C with 130."""
    _keep_memory()
    try:
        sys.exit(app(arguments, result_action="return_value"))
    except FlowdetError as error:
        complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted; what was done is kept")
        sys.exit(130)
