"""The command line."""

import ctypes
import os
import sys
from collections.abc import Sequence

from cyclopts import App

import flowdet
from flowdet.cli.console import complain, err
from flowdet.errors import FlowdetError

__all__ = ["keep_memory", "main"]

app = App(
    name="flowdet", version=flowdet.__version__, help="Object detection in video.", suppress_keyboard_interrupt=False
)
# Loaded when they are called, for most of them load PyTorch.
app.command("flowdet.cli.detect:detect", help="Detect objects in videos.")
app.command("flowdet.cli.models:models", name="models", help="List the systems; download and convert their weights.")
app.command("flowdet.cli.evaluate:evaluate", help="Evaluate a system, or a results file, on annotated videos.")
app.command("flowdet.cli.benchmark:benchmark", help="Measure what a system costs on this machine, part by part.")
app.command("flowdet.cli.quantise:quantise", help="Make a system's backbone and flow net int8, for --runtime.")
app.command("flowdet.cli.export:export", help="Write the parts of a system as ONNX files.")
app.command("flowdet.cli.train:train", name="train", help="Train or fine-tune a system; draw how training runs went.")
app.command("flowdet.cli.data:data", name="data", help="Make annotation files, check them, and see what is in them.")


def keep_memory() -> None:
    """Lets glibc keep large freed blocks, which saves a third of the time of convolutions on a CPU."""
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", lambda parameter, value: 0)
    for parameter, name, value in (
        (-4, "MALLOC_MMAP_MAX_", 0),
        (-1, "MALLOC_TRIM_THRESHOLD_", 2_000_000_000),
        (-2, "MALLOC_TOP_PAD_", 64_000_000),
    ):
        mallopt(parameter, value)
        os.environ.setdefault(name, str(value))  # for the processes that are started from here


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; a user's mistake ends with one message and exit code 1, Ctrl-C with 130."""
    keep_memory()
    try:
        sys.exit(app(arguments, result_action="return_value"))
    except FlowdetError as error:
        complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        err.print("interrupted; what was done is kept")
        sys.exit(130)
