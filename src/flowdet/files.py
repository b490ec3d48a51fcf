"""Files on disk: written whole or not at all, locked while they are written, told apart by digest."""

import hashlib
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count, takewhile
from pathlib import Path
from time import monotonic, sleep
from typing import IO

from flowdet.errors import ConfigError, FlowdetError

__all__ = ["IMAGE_SUFFIXES", "file_sha256", "locked", "natural_key", "replacing", "try_lock", "write_text"]

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"})
"""Lower-case suffixes of the files that are read as pictures."""

_held: set[IO[bytes]] = set()
if hasattr(os, "register_at_fork"):  # a child that outlives its parent must not keep the parent's locks
    os.register_at_fork(after_in_child=lambda: [file.close() for file in _held])

_LONGEST_NAME = 255  # bytes, on every common file system
_MARK_LENGTH = len(".") + len(".0123.part")


@contextmanager
def replacing(path: Path, *, error: type[FlowdetError] = ConfigError, keep: bool = False) -> Iterator[Path]:
    """Yields a partial file to write, which takes the place of `path` when the block ends without an error.

    Until then `path` stays as it was. A symbolic link keeps pointing where it points: its target is replaced. What is
    not a regular file, such as a device or a pipe, cannot be replaced and is written to directly. Partial files that a
    killed process left beside `path` are removed.

    Args:
        path: The file to write, in a folder that exists.
        error: Raised in place of an OSError from the first byte to the renaming.
        keep: Leave the partial file where it is, and say so, if all but the renaming worked.

    Raises:
        FlowdetError: The file cannot be written; of the type `error`.
    """
    try:
        target = path.resolve()
        if target.exists() and not target.is_file():
            if target.is_dir():
                raise error(f"{path} is a folder; name a file to write")
            yield target
            return
        _remove_orphans(target)
        with _new_partial(target) as mark:  # its lock tells a partial file that is being written from an orphan
            try_lock(mark)
            partial = Path(mark.name)
            is_whole = False
            try:
                yield partial
                is_whole = True
                partial.replace(target)
            except OSError as failure:
                if keep and is_whole:
                    raise error(f"{path} cannot be written: {failure.strerror}; it is in '{partial}'") from failure
                raise
            finally:
                if not (keep and is_whole):
                    with suppress(OSError):
                        partial.unlink(missing_ok=True)
    except OSError as failure:
        raise error(f"{path} cannot be written: {failure.strerror or failure}") from failure


def write_text(path: Path, text: str, *, error: type[FlowdetError] = ConfigError) -> None:
    """Writes a UTF-8 file whole or not at all.

    Raises:
        FlowdetError: The file cannot be written; of the type `error`.
    """
    with replacing(path, error=error) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


@contextmanager
def locked(path: Path, busy: str, *, patience: float = 0.0) -> Iterator[None]:
    """Keeps other processes from the same block for this path until it ends; a kill lifts the lock.

    The lock is a hidden file beside `path`. On Windows nothing is locked.

    Args:
        path: What is locked, in a folder that exists; a folder is locked by a file beside it, too.
        busy: The message if another process holds the lock; "{holder}" in it becomes the number of that process.
        patience: Seconds to wait for the other process.

    Raises:
        ConfigError: Another process holds the lock, or the lock cannot be made.
    """
    lock = _beside(path.resolve(), ".lock")
    deadline = monotonic() + patience
    while True:
        try:
            file = lock.open("a+b")
        except OSError as error:
            raise ConfigError(f"{path} cannot be locked: {error.strerror}; name another place") from error
        with file:
            if try_lock(file):
                if not _is_at(lock, file):
                    continue  # whoever had it has just removed it
                file.truncate(0)
                file.write(f"{os.getpid()}\n".encode())
                file.flush()
                _held.add(file)
                try:
                    yield
                finally:
                    _held.discard(file)
                    with suppress(OSError):
                        lock.unlink()
                return
            if monotonic() >= deadline:
                file.seek(0)
                holder = file.read().decode(errors="replace").strip()
                raise ConfigError(busy.replace("{holder}", holder or "unknown"))
        sleep(0.1)


def _is_at(path: Path, file: IO[bytes]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def natural_key(name: str) -> list[tuple[str, int]]:
    """Returns a key that sorts names as people count: `2.jpg` comes before `10.jpg`."""
    return [(text.casefold(), int(digits or -1)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def file_sha256(path: Path) -> str:
    """Returns the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _beside(path: Path, suffix: str) -> Path:
    """The hidden companion of a file; long names are replaced by their digest."""
    name = path.name
    if len(os.fsencode(name)) + _MARK_LENGTH > _LONGEST_NAME:
        name = hashlib.sha256(os.fsencode(name)).hexdigest()[:32]
    return path.with_name(f".{name}{suffix}")


def _partials(target: Path) -> Iterator[Path]:
    """Yields the places of partial files; numbered, so that none is looked for in a folder of a million files."""
    return (_beside(target, f".{number}.part") for number in count())


def _new_partial(target: Path) -> IO[bytes]:
    for partial in _partials(target):
        with suppress(FileExistsError):  # another process writes it
            return partial.open("xb")
    raise AssertionError


def _remove_orphans(target: Path) -> None:
    for orphan in takewhile(Path.exists, _partials(target)):
        with suppress(OSError), orphan.open("ab") as file:
            if try_lock(file):
                orphan.unlink()


def try_lock(file: IO[bytes]) -> bool:
    """Locks an open file until it is closed; False if another process, or another opening of it, has locked it."""
    if sys.platform == "win32":
        return True
    import fcntl  # noqa: PLC0415  (not on Windows)

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
