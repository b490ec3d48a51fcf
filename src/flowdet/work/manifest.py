"""The state of every source of a large job, as a file that grows with it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final

from flowdet.errors import ConfigError
from flowdet.files import locked

__all__ = ["MANIFEST", "Manifest", "open_manifest"]

MANIFEST: Final = "_manifest.ndjson"
"""Its name in the folder of the results; readers of Parquet data sets pass over names with an underscore."""


class Manifest:
    """JSON lines, one for each source that was done or failed; of several lines of a source the last one counts.

    What is finished is told by the results themselves: without this file nothing is done again.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        lines = file.read().splitlines(keepends=True)
        self._states = dict(map(_state_of, lines))
        if lines and not lines[-1].endswith(b"\n"):  # a killed run was writing it
            self._append(b"\n")

    def add(self, source: str, state: str, **about: Any) -> None:
        """Appends a line; nothing if the source is done already and still is."""
        if state == self._states.get(source) == "done":
            return
        self._states[source] = state
        self._append(json.dumps({"source": source, "state": state, **about}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        self._file.write(line)
        self._file.flush()


@contextmanager
def open_manifest(folder: Path) -> Iterator[Manifest]:
    """Yields the manifest of a folder of results, and keeps other runs that share sources out of it until the end.

    Raises:
        ConfigError: Another run is at work there, or the file cannot be written.
    """
    path = folder / MANIFEST
    busy = f"another run (process {{holder}}) works on {folder}; wait for it, or name another folder with --out"
    try:
        with locked(path, busy), path.open("a+b") as file:
            file.seek(0)
            yield Manifest(file)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def _state_of(line: bytes) -> tuple[str, str]:
    try:
        record = json.loads(line)
        return str(record["source"]), str(record["state"])
    except (ValueError, LookupError, TypeError):
        return "", ""
