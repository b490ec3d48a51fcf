"""Fetch published files: resumed after a broken connection, verified before they get their name."""

import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from flowdet.errors import DownloadError
from flowdet.weights.zoo import ORIGIN, PublishedWeights, StartingWeights

__all__ = ["Progress", "cache_folder", "download", "download_log", "file_sha256"]

Progress = Callable[[int, int | None], None]
"""Called with the bytes that are there and the bytes there will be, None where the server does not say."""

_MIRROR_VARIABLE = "FLOWDET_MIRROR"
_MIRROR = re.compile(r"https?://(\[[^\s/?#@\[\]]+\]|[^\s/?#@:\[\]]+)(:\d+)?(/[!-~]*)?")
_CHUNK = 1 << 18
_ATTEMPTS = 4
_BACKOFF = 0.5
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
# Longer than all attempts of a living process can stay silent.
_ABANDONED_AFTER = 900.0


class _DroppedError(Exception):
    """A failure that another attempt may mend."""


def cache_folder() -> Path:
    """Where downloaded files are kept: $FLOWDET_HOME, else $XDG_CACHE_HOME/flowdet, else ~/.cache/flowdet."""
    if home := os.environ.get("FLOWDET_HOME"):
        return Path(home).expanduser()
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache).expanduser() / "flowdet"
    return Path.home() / ".cache" / "flowdet"


def download(
    weights: PublishedWeights | StartingWeights,
    folder: Path | None = None,
    *,
    mirror: str | None = None,
    progress: Progress | None = None,
    timeout: float = 20.0,
) -> Path:
    """Fetch a published weight file, or find it where an earlier call has put it.

    What has arrived before an interruption is kept in a `.part` file and continued by the next call. The file gets its
    name only after its SHA-256 was found to begin as published; a file that is already there is checked the same way.
    Several processes may call this at the same time: each writes to a file of its own.

    Args:
        weights: Which ones; a file without a published digest is fetched as `download_log` does.
        folder: Where to; `cache_folder()` if None. It is made if it does not exist.
        mirror: Address that stands in for https://download.openmmlab.com; $FLOWDET_MIRROR if None.
        progress: Called before the first byte and after every piece.
        timeout: Seconds without a byte after which a connection counts as dropped.

    Returns:
        Path of the verified file.

    Raises:
        DownloadError: The server cannot be reached or does not have the file, the file is not the published one, or it
            cannot be written.
    """
    return _obtain(weights.url, weights.sha256_prefix, folder=folder, mirror=mirror, progress=progress, timeout=timeout)


def download_log(
    weights: PublishedWeights,
    folder: Path | None = None,
    *,
    mirror: str | None = None,
    progress: Progress | None = None,
    timeout: float = 20.0,
) -> Path:
    """Fetch the training log of published weights, or find it where an earlier call has put it.

    No digest of it was published, so only its length is checked and an interrupted download starts again.

    Args:
        weights: Whose log.
        folder: As in `download`.
        mirror: As in `download`.
        progress: As in `download`.
        timeout: As in `download`.

    Returns:
        Path of the log, one JSON object a line.

    Raises:
        DownloadError: The server cannot be reached or does not have the file, or it cannot be written.
    """
    return _obtain(weights.log_url, None, folder=folder, mirror=mirror, progress=progress, timeout=timeout)


def _obtain(
    published_url: str,
    sha256_prefix: str | None,
    *,
    folder: Path | None,
    mirror: str | None,
    progress: Progress | None,
    timeout: float,
) -> Path:
    url = _mirrored(published_url, mirror)
    folder = cache_folder() if folder is None else folder
    target = folder / published_url.rpartition("/")[2]
    try:
        if _is_there(target, sha256_prefix):
            return target
        folder.mkdir(parents=True, exist_ok=True)
        with _own_part(target) as part:
            if sha256_prefix is None:
                part.write_bytes(b"")
                _fetch(url, part, progress, timeout)
            else:
                _fetch_verified(url, part, sha256_prefix, progress, timeout)
            # Windows does not replace a file that is open, and another process may have been quicker and read it now.
            if _is_there(target, sha256_prefix):
                part.unlink()
            else:
                os.replace(part, target)
    except OSError as error:
        raise DownloadError(
            f"cannot write {target}: {error.strerror or error}; mend that or choose another folder"
        ) from error
    return target


def _mirrored(url: str, mirror: str | None) -> str:
    mirror = mirror or os.environ.get(_MIRROR_VARIABLE)
    if not mirror or not url.startswith(f"{ORIGIN}/"):
        return url
    if not _MIRROR.fullmatch(mirror):
        raise DownloadError(
            f"a mirror is an address that begins with https:// or http:// and the name of a server, without spaces, "
            f"accents or passwords, not {mirror!r}"
        )
    return mirror.rstrip("/") + url.removeprefix(ORIGIN)


def _is_there(path: Path, sha256_prefix: str | None) -> bool:
    return path.is_file() and (sha256_prefix is None or file_sha256(path).startswith(sha256_prefix))


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _own_part(target: Path) -> Iterator[Path]:
    """Give a file that no other process writes to, begun with what an earlier one has left of `target`.

    A part is taken over and handed back by renaming it, which is atomic on every file system, unlike locks. A process
    that was killed could not hand back; its part is taken over once it has not grown for long.
    """
    part = target.with_name(f"{target.name}.{uuid.uuid4().hex[:8]}.part")
    handed_back = target.with_name(f"{target.name}.part")
    for old in (handed_back, *target.parent.glob(f"{target.name}.*.part")):
        with suppress(OSError):
            if old == handed_back or time.time() - old.stat().st_mtime > _ABANDONED_AFTER:
                os.utime(old)
                os.rename(old, part)
                break
    part.touch()
    try:
        yield part
    finally:
        if part.exists():
            if part.stat().st_size:
                os.replace(part, handed_back)
            else:
                part.unlink()


def _fetch_verified(url: str, part: Path, sha256_prefix: str, progress: Progress | None, timeout: float) -> None:
    """Make `part` the published file; emptied if it turns out to be another."""
    while not file_sha256(part).startswith(sha256_prefix):
        kept = part.stat().st_size
        _fetch(url, part, progress, timeout)
        if (came := file_sha256(part)).startswith(sha256_prefix):
            return
        part.write_bytes(b"")
        # What an earlier run has left may be to blame, which only a download from the first byte tells.
        if kept == 0:
            raise DownloadError(
                f"{url} gave a file whose SHA-256 begins with {came[:8]} instead of {sha256_prefix}; it was deleted. "
                f"The login page of a network or a bad mirror answers like this: open the address in a browser, "
                f"{_mirror_hint()}"
            )


def _fetch(url: str, part: Path, progress: Progress | None, timeout: float) -> None:
    """Complete `part`, going on after dropped connections until several attempts in a row bring nothing new."""
    validator: str | None = None
    furthest = failures = 0
    with part.open("r+b", buffering=0) as file:
        while True:
            try:
                with _open(url, file.seek(0, os.SEEK_END), validator, timeout) as response:
                    validator = _validator(response)
                    _append(response, file, progress)
                return
            except _DroppedError as error:
                size = file.seek(0, os.SEEK_END)
                failures = 1 if size > furthest else failures + 1
                furthest = max(size, furthest)
                if failures == _ATTEMPTS:
                    raise DownloadError(
                        f"{url} cannot be fetched: {error} ({_ATTEMPTS} attempts). What has arrived is kept: check the "
                        f"network and run again, {_mirror_hint()}"
                    ) from error
            time.sleep(_BACKOFF * 2 ** (failures - 1))


def _open(url: str, offset: int, validator: str | None, timeout: float) -> http.client.HTTPResponse:
    """Ask for a file from byte `offset` on, or for the whole of it if it is not the one that `validator` is of."""
    headers = {"User-Agent": "flowdet"}
    if offset:
        headers["Range"] = f"bytes={offset}-"
        if validator:
            headers["If-Range"] = validator
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(
            urllib.request.Request(url, headers=headers), timeout=timeout
        )
    except urllib.error.HTTPError as error:
        error.close()
        if error.code == http.client.REQUESTED_RANGE_NOT_SATISFIABLE and offset:
            return _open(url, 0, None, timeout)
        if error.code in _PASSING_STATUSES:
            raise _DroppedError(f"the server answers {error.code} {error.reason}") from error
        raise DownloadError(
            f"{url}: the server answers {error.code} {error.reason}. If the file has moved, {_mirror_hint()}"
        ) from error
    # A redirection, too, can lead to what only looks like an address.
    except (ValueError, http.client.InvalidURL) as error:
        raise DownloadError(f"{url} cannot be opened: {error}; check the address, {_mirror_hint()}") from error
    except urllib.error.URLError as error:
        raise _DroppedError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(str(error)) from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise DownloadError(
            f"{url}: a web page came instead of the file. It may be the login page of a network: open the address in a "
            f"browser, {_mirror_hint()}"
        )
    return response


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag: str | None = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _append(response: http.client.HTTPResponse, file: FileIO, progress: Progress | None) -> None:
    """Write a response's body to the end of the file, or over it if the server sends the whole."""
    done = file.seek(0, os.SEEK_END)
    if response.status != http.client.PARTIAL_CONTENT:
        done = file.truncate(file.seek(0))
    elif not re.match(rf"bytes {done}-", response.headers.get("Content-Range", "")):
        file.truncate(file.seek(0))
        raise _DroppedError("the server answers with another range than it was asked for")
    total = None if response.length is None else done + response.length
    while True:
        if progress is not None:
            progress(done, total)
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _DroppedError(f"the connection broke off after {done} bytes: {error}") from error
        if not chunk:
            break
        _write(file, chunk)
        done += len(chunk)
    if total is not None and done < total:
        raise _DroppedError(f"the connection broke off after {done} of {total} bytes")


def _write(file: FileIO, chunk: bytes) -> None:
    rest = memoryview(chunk)
    while rest:
        rest = rest[file.write(rest) :]


def _mirror_hint() -> str:
    return f"or set {_MIRROR_VARIABLE} to a server that holds a copy of {ORIGIN}"
