"""The log of a training run: one line of JSON a step, and TensorBoard where it is installed."""

import json
import os
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from flowdet.errors import FlowdetError

__all__ = ["LOG_NAME", "TrainingLog", "has_tensorboard", "read_log"]

LOG_NAME = "log.jsonl"


def has_tensorboard() -> bool:
    """Whether the extra `flowdet[log]` is installed."""
    return find_spec("tensorboard") is not None


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's log, in order; each has the number of "step"s done.

    A line that a killed process left half-written is passed over, with all that follows it.

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
        entries.append(entry)
    return entries


class TrainingLog:
    """Writes the log of a run, from a step on; what an earlier process wrote of later steps is cut off."""

    def __init__(self, folder: Path, step: int) -> None:
        """Opens the log.

        Args:
            folder: Of the run.
            step: Steps done; lines of later ones go.
        """
        path = folder / LOG_NAME
        kept = [entry for entry in read_log(folder) if entry["step"] <= step] if path.exists() else []
        unfinished = folder / f"{LOG_NAME}.part"
        unfinished.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
        unfinished.replace(path)
        self._evaluated = {entry["step"] for entry in kept if "figures" in entry}
        self._file = path.open("a")
        self._board = None
        if has_tensorboard():
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  (an optional extra)

            self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def __enter__(self) -> Self:
        """The log itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Closes the files."""
        self._file.close()
        if self._board:
            self._board.close()

    def was_evaluated(self, step: int) -> bool:
        """Whether the figures after this step are in the log already."""
        return step in self._evaluated

    def write(self, entry: Mapping[str, Any]) -> None:
        """Adds a line; numbers one and two levels deep go to TensorBoard too."""
        self._file.write(json.dumps(entry) + "\n")
        self._file.flush()
        if self._board:
            for name, value in _numbers(entry):
                self._board.add_scalar(name, value, entry["step"])

    def keep(self) -> None:
        """Brings what was written to the disk, so that a checkpoint is never ahead of its log."""
        os.fsync(self._file.fileno())


def _numbers(entry: Mapping[str, Any]) -> list[tuple[str, float]]:
    found = []
    for name, value in entry.items():
        if isinstance(value, Mapping):
            found += [(f"{name}/{inner}", number) for inner, number in _numbers(value)]
        elif isinstance(value, int | float) and name != "step":
            found.append((name, value))
    return found
