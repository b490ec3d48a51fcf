"""The command line."""

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

from cyclopts import App

import flowdet
from flowdet.cli import console
from flowdet.errors import FlowdetError

__all__ = ["keep_memory", "main"]

_ENDING = [signal.SIGTERM] + ([signal.SIGHUP] if sys.platform != "win32" else [])
_RENAMED = {"--mode": "--variant", "--runtime": "--backend"}
_ENDING_CODES = [128 + number for number in _ENDING]

app = App(
    name="flowdet",
    version=flowdet.__version__,
    help="Object detection in video.",
    suppress_keyboard_interrupt=False,
    console=console.help_pages,
)
app.register_install_completion_command()
# Loaded when they are called, for most of them load PyTorch.
app.command("flowdet.cli.detect:detect", help="Detect objects in videos.")
app.command(
    "flowdet.cli.models:models", name="models", help="List and show the systems; download and convert their weights."
)
app.command("flowdet.cli.evaluate:evaluate", help="Evaluate a system, or a results file, on annotated videos.")
app.command("flowdet.cli.view:view", help="Make a page that shows results.")
app.command("flowdet.cli.serve:serve", help="Detect in the browser, for clips that are uploaded or chosen.")
app.command("flowdet.cli.benchmark:benchmark", help="Measure what a system costs on this machine, part by part.")
app.command("flowdet.cli.quantise:quantise", help="Make a system's backbone and flow net int8, for --backend.")
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
    """Runs the command line and ends the process.

    A user's mistake ends with one message and exit code 1, a wrong option with 2, Ctrl-C with 130, SIGTERM with 143.
    """
    keep_memory()
    # Read when PyTorch is loaded: threads of OpenMP that wait for work leave their core to others, instead of spinning.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    console.mend_streams()
    before = _end_in_order()
    try:
        code = _run(arguments)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with suppress(OSError):
        console.flush()
    sys.exit(code)


def _run(arguments: Sequence[str] | None) -> int | None:
    for argument in sys.argv[1:] if arguments is None else arguments:
        old = argument.partition("=")[0]
        if old in _RENAMED:
            return _failed(f"{old} was an option of version 0.1; it is called {_RENAMED[old]} now", 2)
    try:
        code: int | None = app(arguments, result_action="return_value")
        console.flush()
    except FlowdetError as error:
        return _failed(str(error))
    except KeyboardInterrupt:
        return _failed("interrupted; what was done is kept", 130)
    except BrokenPipeError:  # `flowdet ... | head` has seen enough
        return 141
    except (MemoryError, RuntimeError) as error:
        from flowdet.ops.devices import memory_shortage  # noqa: PLC0415  (loads PyTorch)

        if (shortage := memory_shortage(error)) is None:
            raise
        return _failed(f"{shortage}; try smaller inputs or a smaller system")
    except OSError as error:
        return _failed(": ".join(str(part) for part in (error.filename, error.strerror or error) if part))
    except ImportError as error:
        return _failed(str(error))
    except SystemExit as end:
        if end.code in _ENDING_CODES:
            _failed("terminated; what was done is kept")
        raise
    return code


def _failed(message: str, code: int = 1) -> int:
    with suppress(OSError):  # nobody reads it
        console.complain(message)
    return code


def _end_in_order() -> dict[signal.Signals, Any]:
    """Lets SIGTERM and SIGHUP end the process as an error does, so that files are finished.

    Returns:
        The handlers that were there.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    # `nohup` has SIGHUP ignored.
    default = [number for number in _ENDING if signal.getsignal(number) == signal.SIG_DFL]
    return {number: signal.signal(number, _end) for number in default}


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    for each in _ENDING:
        signal.signal(each, signal.SIG_IGN)  # finishing the files is not to be interrupted
    raise SystemExit(128 + number)
