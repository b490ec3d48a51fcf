"""Downloads published files: resumed after a broken connection, verified before they get their name."""

import http.client
import os
import re
import secrets
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from itertools import chain, repeat
from pathlib import Path

from flowdet.errors import ConfigError, DownloadError
from flowdet.files import file_sha256, try_lock, write_text
from flowdet.weights.zoo import ORIGIN, YOLOX_ORIGIN

__all__ = ["DownloadProgress", "cache_folder", "download", "download_unpublished"]

DownloadProgress = Callable[[int, int | None], None]
"""Called with the bytes that have arrived and the bytes in all, None where the server does not say."""

_MIRROR_VARIABLE = "FLOWDET_MIRROR"
_MIRROR = re.compile(r"https?://(\[[^\s/?#@\[\]]+\]|[^\s/?#@:\[\]]+)(:\d+)?(/[!-~]*)?")
_ORIGINS = (ORIGIN, YOLOX_ORIGIN)
_MIRROR_HINT = f"or set {_MIRROR_VARIABLE} to a server that holds a copy of {' or of '.join(_ORIGINS)}"
_LARGEST = 2 << 30  # bytes; the largest published system has 161 million parameters of 4 bytes
_CHUNK = 1 << 18
_ATTEMPTS = 4
_BACKOFF = 0.5
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


class _DroppedError(Exception):
    """A failure that another attempt may mend."""


def cache_folder() -> Path:
    """Returns the folder of downloaded files: $FLOWDET_HOME, else $XDG_CACHE_HOME/flowdet, else ~/.cache/flowdet.

    Raises:
        ConfigError: None of them is set and there is no home folder.
    """
    try:
        if home := os.environ.get("FLOWDET_HOME"):
            return Path(home).expanduser()
        if cache := os.environ.get("XDG_CACHE_HOME"):
            return Path(cache).expanduser() / "flowdet"
        return Path.home() / ".cache" / "flowdet"
    except RuntimeError as error:
        raise ConfigError(f"there is no folder for downloads: {error}; set FLOWDET_HOME to one") from error


def download(
    url: str,
    sha256_prefix: str | None = None,
    folder: Path | None = None,
    *,
    mirror: str | None = None,
    progress: DownloadProgress | None = None,
    timeout: float = 20.0,
) -> Path:
    """Downloads a file, or finds it where an earlier call has put it.

    What has arrived before an interruption stays in a `.part` file, and the next call continues it. The file gets its
    name when its SHA-256 begins as published; a file that is there already is checked too. Without a published digest
    only the length is checked, and the next call starts again. Several processes may download one file: each writes to
    its own part.

    Args:
        url: The address of the file; its last part is the name of the file.
        sha256_prefix: The hexadecimal digits with which the file's SHA-256 begins; None if none were published.
        folder: Where the file goes; `cache_folder()` if None. It is made if it does not exist.
        mirror: Replaces the origin, `ORIGIN` or `YOLOX_ORIGIN`, in the address; $FLOWDET_MIRROR if None.
        progress: Called before the first byte and after every piece.
        timeout: Seconds without a byte after which a connection counts as dropped.

    Returns:
        The path of the file.

    Raises:
        DownloadError: The server cannot be reached or does not have the file, the file is not the published one or is
            larger than 2 GiB, or it cannot be written.
    """
    source = _mirrored(url, mirror)
    folder = cache_folder() if folder is None else folder
    target = folder / url.rpartition("/")[2]
    try:
        if not _is_there(target, sha256_prefix):
            folder.mkdir(parents=True, exist_ok=True)
            part, file = _locked_part(target)
            with file:
                try:
                    _complete(file, part, source, sha256_prefix, progress=progress, timeout=timeout)
                except BaseException:
                    with suppress(OSError):
                        if not part.stat().st_size:
                            part.unlink()
                    raise
                if sys.platform == "win32":  # which neither locks nor renames open files
                    file.close()
                if _is_there(target, sha256_prefix):  # another process was quicker
                    part.unlink()
                else:
                    part.replace(target)
        _remove_abandoned_parts(target)
    except OSError as error:
        raise DownloadError(
            f"cannot write {target}: {error.strerror or error}; mend that or choose another folder"
        ) from error
    return target


def download_unpublished(
    url: str, folder: Path | None = None, *, mirror: str | None = None, progress: DownloadProgress | None = None
) -> Path:
    """As `download`, for a file whose digest was not published.

    The digest of the first download is kept beside the file, in `<name>.sha256`. From then on the file, and whatever a
    server sends in its place, is checked against it.
    """
    folder = cache_folder() if folder is None else folder
    record = folder / f"{url.rpartition('/')[2]}.sha256"
    known = record.read_text(encoding="utf-8").strip() if record.is_file() else None
    path = download(url, known, folder, mirror=mirror, progress=progress)
    if known is None:
        write_text(record, f"{file_sha256(path)}\n", error=DownloadError)
    return path


def _mirrored(url: str, mirror: str | None) -> str:
    mirror = mirror or os.environ.get(_MIRROR_VARIABLE)
    origin = next((origin for origin in _ORIGINS if url.startswith(f"{origin}/")), None)
    if not mirror or not origin:
        return url
    if not _MIRROR.fullmatch(mirror):
        raise DownloadError(
            f"a mirror is an address that begins with https:// or http:// and the name of a server, without spaces, "
            f"accents or passwords, not {mirror!r}"
        )
    return mirror.rstrip("/") + url.removeprefix(origin)


def _is_there(path: Path, sha256_prefix: str | None) -> bool:
    return path.is_file() and file_sha256(path).startswith(sha256_prefix or "")


def _locked_part(target: Path) -> tuple[Path, FileIO]:
    """Returns a part of `target` that no other process writes to, preferably one that an earlier call left."""
    first = target.with_name(f"{target.name}.part")
    fresh = (target.with_name(f"{target.name}.{secrets.token_hex(4)}.part") for _ in repeat(None))
    for part in chain(sorted(_parts(target)), [first], fresh):
        file = part.open("ab", buffering=0)
        if try_lock(file) and _is_at(part, file):
            return part, file
        file.close()
    raise AssertionError  # fresh names do not end


def _parts(target: Path) -> Iterator[Path]:
    return target.parent.glob(f"{target.name}*.part")


def _is_at(path: Path, file: FileIO) -> bool:
    """Whether an open file still has this name: another process may have finished or removed it before the lock."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _remove_abandoned_parts(target: Path) -> None:
    for part in _parts(target):
        with suppress(OSError), part.open("ab", buffering=0) as file:
            if try_lock(file):
                part.unlink()


def _complete(
    file: FileIO,
    part: Path,
    url: str,
    sha256_prefix: str | None,
    *,
    progress: DownloadProgress | None,
    timeout: float,
) -> None:
    """Makes the part the published file; empties it if it turns out to be another."""
    if sha256_prefix is None:
        file.truncate(0)
    elif file_sha256(part).startswith(sha256_prefix):
        return
    while True:
        kept = part.stat().st_size
        _fetch(url, file, progress, timeout)
        came = file_sha256(part)
        if came.startswith(sha256_prefix or ""):
            return
        file.truncate(0)
        if kept == 0:  # else what an earlier call left may be to blame
            raise DownloadError(
                f"{url} gave a file whose SHA-256 begins with {came[:8]} instead of {sha256_prefix}; it was deleted. "
                f"The login page of a network or a bad mirror answers like this: open the address in a browser, "
                f"{_MIRROR_HINT}"
            )


def _fetch(url: str, file: FileIO, progress: DownloadProgress | None, timeout: float) -> None:
    """Completes a part, going on after dropped connections until several attempts in a row bring nothing new."""
    validator: str | None = None
    furthest = failures = 0
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
                    f"network and run again, {_MIRROR_HINT}"
                ) from error
        time.sleep(_BACKOFF * 2 ** (failures - 1))


def _open(url: str, offset: int, validator: str | None, timeout: float) -> http.client.HTTPResponse:
    """Asks for a file from byte `offset` on, or for the whole file if it is no longer the one of the `validator`."""
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
            f"{url}: the server answers {error.code} {error.reason}. If the file has moved, {_MIRROR_HINT}"
        ) from error
    # A redirection, too, can lead to what only looks like an address.
    except (ValueError, http.client.InvalidURL) as error:
        raise DownloadError(f"{url} cannot be opened: {error}; check the address, {_MIRROR_HINT}") from error
    except urllib.error.URLError as error:
        raise _DroppedError(str(error.reason)) from error
    except (OSError, http.client.HTTPException) as error:
        raise _DroppedError(str(error)) from error
    if response.headers.get_content_type() == "text/html":
        response.close()
        raise DownloadError(
            f"{url}: a web page came instead of the file. It may be the login page of a network: open the address in a "
            f"browser, {_MIRROR_HINT}"
        )
    return response


def _validator(response: http.client.HTTPResponse) -> str | None:
    etag: str | None = response.headers.get("ETag")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def _append(response: http.client.HTTPResponse, file: FileIO, progress: DownloadProgress | None) -> None:
    """Appends a response's body to the file, or replaces its content if the server sends the whole."""
    done = file.seek(0, os.SEEK_END)
    if response.status != http.client.PARTIAL_CONTENT:
        done = file.truncate(0)
    elif not re.match(rf"bytes {done}-", response.headers.get("Content-Range", "")):
        file.truncate(0)
        raise _DroppedError("the server answers with another range than it was asked for")
    total = None if response.length is None else done + response.length
    while True:
        if max(done, total or 0) > _LARGEST:
            file.truncate(0)
            raise DownloadError(
                f"{response.url} sends more than {_LARGEST / 2**30:.1f} GiB, which no published file has; nothing is "
                f"kept. Open the address in a browser, {_MIRROR_HINT}"
            )
        if progress is not None:
            progress(done, total)
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _DroppedError(f"the connection broke off after {done} bytes: {error}") from error
        if not chunk:
            break
        rest = memoryview(chunk)
        while rest:
            rest = rest[file.write(rest) :]
        done += len(chunk)
    if total is not None and done < total:
        raise _DroppedError(f"the connection broke off after {done} of {total} bytes")
