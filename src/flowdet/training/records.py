"""What a training run records about itself in its folder: settings, environment, steps, evaluations, messages."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch

from flowdet.errors import FlowdetError
from flowdet.files import write_text
from flowdet.training.processes import Processes

__all__ = [
    "LOG_NAME",
    "MESSAGES_NAME",
    "Throttle",
    "TrainingLog",
    "TrainingProgress",
    "add_message",
    "describe_environment",
    "has_tensorboard",
    "peak_memory",
    "read_log",
    "write_description",
]

LOG_NAME, MESSAGES_NAME = "log.jsonl", "messages.txt"
_CONFIG_NAME, _ENVIRONMENT_NAME = "config.json", "environment.json"
_SECONDS_BETWEEN_MESSAGES = 30.0


@dataclass(frozen=True)
class TrainingProgress:
    """How far a training is after a step.

    Attributes:
        step: The number of steps done.
        steps: The number of steps of the whole training.
        epoch: The epoch of this step, from 1.
        epochs: The number of epochs of the whole training.
        loss: The loss of this step.
        clips_per_second: Over this step, all processes together.
        seconds_left: Estimated from the time since this process began, evaluations included.
    """

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    clips_per_second: float
    seconds_left: float

    def __str__(self) -> str:
        left = timedelta(seconds=round(self.seconds_left))
        return (
            f"epoch {self.epoch}/{self.epochs} step {self.step}/{self.steps} loss {self.loss:.3f} "
            f"{self.clips_per_second:.1f} clips/s {left} left"
        )


class Throttle:
    """Passes a message on if 30 s have passed since the last one, and the last message in any case."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._due = 0.0

    def __call__(self, message: object, *, is_last: bool) -> None:
        """Passes the message on or drops it."""
        if is_last or time.monotonic() >= self._due:
            self._due = time.monotonic() + _SECONDS_BETWEEN_MESSAGES
            self._write(str(message))


def add_message(folder: Path, message: str) -> None:
    """Appends a line with the time and a message to the run's `messages.txt`.

    Raises:
        FlowdetError: The file cannot be written.
    """
    path = folder / MESSAGES_NAME
    with _writing(path), path.open("a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"{datetime.now().astimezone().isoformat(' ', 'seconds')} {message}\n")


def write_description(folder: Path, config: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
    """Writes the settings of a run to `config.json` and appends this start's environment to `environment.json`.

    Raises:
        FlowdetError: A file cannot be written.
    """
    past = folder / _ENVIRONMENT_NAME
    try:
        before = json.loads(past.read_text())
    except (OSError, ValueError):
        before = []
    for path, value in ((folder / _CONFIG_NAME, config), (past, [*before, environment])):
        write_text(path, json.dumps(value, indent=2) + "\n", error=FlowdetError)


def describe_environment(processes: Processes) -> dict[str, Any]:
    """Returns versions, code, machine and command of this process."""
    on_gpu = processes.device.type == "cuda"
    return {
        "flowdet": version("flowdet"),
        **_checkout(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(processes.device) if on_gpu else platform.processor() or "cpu",
        "cuda": torch.version.cuda if on_gpu else None,
        "tf32": {"matmul": torch.backends.cuda.matmul.allow_tf32, "cudnn": torch.backends.cudnn.allow_tf32},
        "threads": torch.get_num_threads(),
        "world_size": processes.world,
        "command": sys.argv,
        "folder": str(Path().absolute()),
    }


def _checkout(folder: Path) -> dict[str, Any]:
    """Commit and state of the git checkout that the code runs from; None for an installed package."""
    commit = _git(folder, "rev-parse", "HEAD")
    tracked = _git(folder, "ls-files", "--error-unmatch", "__init__.py")
    if commit is None or tracked is None:
        return {"commit": None, "changed": None}
    return {"commit": commit, "changed": bool(_git(folder, "status", "--porcelain"))}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False, timeout=30
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def peak_memory(device: torch.device) -> int | None:
    """Returns the peak of the memory in use, bytes: of the GPU, or of the process; None where it is not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource  # noqa: PLC0415  (not on Windows)
    except ImportError:
        return None
    # Linux counts in units of 1024 bytes, macOS in bytes.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def has_tensorboard() -> bool:
    """Whether TensorBoard is installed."""
    return find_spec("tensorboard") is not None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """Returns the lines of a run's log in order; each has the number of "step"s done.

    Ends before the first line that a killed process left unfinished.

    Raises:
        FlowdetError: There is no log.
    """
    path = folder / LOG_NAME
    try:
        lines = path.read_bytes().splitlines(keepends=True)
    except OSError as error:
        raise FlowdetError(f"{path} cannot be read: {error.strerror}; is {folder} a training run?") from error
    entries = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not line.endswith(b"\n") or not isinstance(entry, dict) or type(entry.get("step")) is not int:
            break
        if "figures" in entry:  # the name of the metrics in logs of version 0.1
            entry["metrics"] = entry.pop("figures")
        entries.append(entry)
    return entries


class TrainingLog:
    """Writes the log of a run from a step on: one line of JSON per step, and TensorBoard where it is installed.

    Lines that an earlier process wrote after that step are cut off.
    """

    def __init__(self, folder: Path, step: int) -> None:
        """Opens the log.

        Args:
            folder: The folder of the run.
            step: The number of steps done; the lines of later steps are removed.

        Raises:
            FlowdetError: The log cannot be written.
        """
        self._path = folder / LOG_NAME
        kept = [entry for entry in read_log(folder) if entry["step"] <= step] if self._path.exists() else []
        write_text(self._path, "".join(json.dumps(entry) + "\n" for entry in kept), error=FlowdetError)
        self._evaluated = {entry["step"] for entry in kept if "metrics" in entry}
        with _writing(self._path):
            self._file = self._path.open("a")
        self._board = None
        if has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an optional extra)

            with _writing(folder / "tensorboard"):
                self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Self:
        """Returns the log."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the files; every line is written already."""
        with suppress(OSError):
            self._file.close()
        if self._board:
            with suppress(OSError):
                self._board.close()

    def was_evaluated(self, step: int) -> bool:
        """Whether the log has the metrics after this step already."""
        return step in self._evaluated

    def write(self, entry: Mapping[str, Any]) -> None:
        """Adds a line; its numbers, also those in nested dictionaries, go to TensorBoard too.

        Raises:
            FlowdetError: The log cannot be written.
        """
        with _writing(self._path):
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
            if self._board:
                for name, value in _numbers(entry):
                    self._board.add_scalar(name, value, entry["step"])

    def sync(self) -> None:
        """Brings the log to the disk, so that a checkpoint is never ahead of it.

        Raises:
            FlowdetError: The log cannot be written.
        """
        with _writing(self._path):
            os.fsync(self._file.fileno())


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise FlowdetError(
            f"{path} cannot be written: {error.strerror or error}. Mend that and give the same command, which goes on "
            "from the last checkpoint"
        ) from error


def _numbers(entry: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found += [(f"{name}/{inner}", number) for inner, number in _numbers(value)]
        elif isinstance(value, int | float) and name != "step":
            found.append((name, value))
    return found
