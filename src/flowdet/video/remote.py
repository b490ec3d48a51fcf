"""Videos in object stores and other places that fsspec knows, such as s3:// and gs://."""

import tempfile
from pathlib import PurePosixPath
from typing import IO, Any, Final
from urllib.parse import urlsplit

from flowdet.errors import ConfigError, VideoError
from flowdet.video.streams import FileSource

__all__ = ["RemoteSource", "is_remote", "remote_matches"]

_FFMPEG: Final = frozenset(
    {
        "file",
        "ftp",
        "gopher",
        "hls",
        "http",
        "https",
        "mms",
        "mmsh",
        "mmst",
        "rtmp",
        "rtmpe",
        "rtmps",
        "rtmpt",
        "rtmpts",
    }
    | {"rtp", "rtsp", "rtsps", "sctp", "srt", "srtp", "tcp", "tls", "udp"}
)
"""Schemes of addresses that FFmpeg reads itself."""


class RemoteSource(FileSource):
    """A video that is copied to this machine and read there; the copy goes when the source is closed.

    Args:
        address: Its address.
        label: What messages call it.
        name: A short name for outputs.

    Raises:
        ConfigError: fsspec, or what it needs for this kind of address, is not installed.
        VideoError: It cannot be copied or opened.
    """

    def __init__(self, address: str, label: str, name: str) -> None:
        self._copy = _copied(address, label)
        try:
            super().__init__(f"file:{self._copy.name}", label, name)
        except BaseException:
            self._copy.close()
            raise

    def close(self) -> None:
        """Removes the copy."""
        self._copy.close()


def is_remote(source: str) -> bool:
    """Whether this is an address that FFmpeg does not read and fsspec may."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() not in _FFMPEG


def remote_matches(pattern: str) -> list[str]:
    """Returns the addresses that match a pattern such as s3://bucket/clips/*.mp4, in order.

    Raises:
        ConfigError: As for `RemoteSource`.
        VideoError: The place cannot be reached.
    """
    system, path = _file_system(pattern, f"'{pattern}'")
    place = pattern.removesuffix(path.lstrip("/"))
    try:
        return [place + match.lstrip("/") for match in sorted(system.glob(path))]
    except Exception as error:  # each kind of store has errors of its own
        raise VideoError(f"'{pattern}' cannot be listed: {type(error).__name__}: {error}") from error


def _copied(address: str, label: str) -> IO[bytes]:
    system, path = _file_system(address, label)
    copy = tempfile.NamedTemporaryFile(prefix="flowdet-", suffix=PurePosixPath(urlsplit(address).path).suffix)  # noqa: SIM115
    try:
        system.get_file(path, copy.name)
    except Exception as error:  # each kind of store has errors of its own
        copy.close()
        raise VideoError(f"{label} cannot be copied: {type(error).__name__}: {error}") from error
    return copy


def _file_system(address: str, label: str) -> tuple[Any, str]:
    try:
        from fsspec.core import url_to_fs  # noqa: PLC0415  (an extra)
    except ImportError as error:
        raise ConfigError(f"{label} needs fsspec: pip install fsspec") from error
    try:
        system, path = url_to_fs(address)
    except ImportError as error:  # says what to install
        raise ConfigError(f"{label} cannot be reached: {error}") from error
    except Exception as error:  # no such kind of address, or no way to sign in there
        raise VideoError(f"{label} cannot be reached: {error}") from error
    return system, str(path)
