"""One training run in a folder at a time."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from flowdet.errors import ConfigError

__all__ = ["LOCK_NAME", "lock_folder"]

LOCK_NAME = "lock"


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it for as long as the context lasts; a kill lifts the lock.

    On Windows nothing is locked.

    Raises:
        ConfigError: The folder cannot be made, or another run is at work in it.
    """
    path = folder / LOCK_NAME
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = path.open("a+")
    except OSError as error:
        raise ConfigError(f"the folder {folder} of the run cannot be used: {error.strerror}; name another") from error
    with file:
        _lock(file.fileno(), path)
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        try:
            yield
        finally:
            with suppress(OSError):
                path.unlink()


def _lock(descriptor: int, path: Path) -> None:
    if sys.platform == "win32":
        return
    import fcntl  # noqa: PLC0415  (not on Windows)

    try:
        # Not flock: the processes that read ahead would inherit that, and outlive a kill by some seconds.
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = path.read_text().strip()
        raise ConfigError(
            f"process {holder} is training in {path.parent}: wait for it, stop it, or name another folder"
        ) from error
