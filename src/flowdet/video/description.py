"""What a source is called, told without opening it."""

from __future__ import annotations

import glob
import re
from dataclasses import dataclass
from pathlib import Path

from flowdet.errors import ConfigError, VideoError

__all__ = ["SourceDescription", "describe_source"]


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """What is known of a source before it is opened.

    Attributes:
        label: How messages and records call it; no password, no query of an address.
        name: A short name that can be part of a file name on every system.
        path: The local file or folder, absolute and without links; None for anything else.
        pattern: It is a pattern of image files, and no file has that very name.
    """

    label: str
    name: str
    path: Path | None = None
    pattern: bool = False


def describe_source(source: str | Path | int) -> SourceDescription:
    """Tells what a source is, without opening it.

    Args:
        source: As for `open_video`.

    Raises:
        ConfigError: The number of a camera is negative.
        VideoError: There is no such file, or it cannot be reached.
    """
    if isinstance(source, int):
        return _camera(source)
    text = str(source)
    if re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        return _address(text)
    try:
        path = Path(text).expanduser()
        if path.exists():
            return _existing(text, path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, not allowed, no such user, a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise VideoError(f"'{text}' cannot be opened: {reason}") from error
    if text.isdecimal():
        return _camera(int(text))
    if glob.has_magic(text):
        folder = path.parent.resolve().name
        return SourceDescription(f"the pattern '{text}'", _file_name(folder, "images"), pattern=True)
    raise VideoError(
        f"'{text}' does not exist: expected a video file, a folder or pattern of images, "
        "the number of a camera or an address such as rtsp://..."
    )


def _existing(text: str, path: Path) -> SourceDescription:
    if path.is_dir():
        folder = path.resolve()
        return SourceDescription(f"the folder '{text}'", _file_name(folder.name, "images"), folder)
    if path.is_char_device():
        return SourceDescription(f"the camera '{text}'", _file_name(path.name, "camera"))
    if not path.is_file():
        raise VideoError(f"'{text}' is neither a file nor a folder: save what it gives as a file first")
    return SourceDescription(f"'{text}'", _file_name(path.stem, "video"), path.resolve())


def _camera(number: int) -> SourceDescription:
    if number < 0:
        raise ConfigError(f"cameras are numbered from 0, not {number}")
    return SourceDescription(f"camera {number}", f"camera{number}")


def _address(address: str) -> SourceDescription:
    public = re.split(r"[?#]", re.sub(r"//[^/]*@", "//", address), maxsplit=1)[0]
    host, *rest = public.split("://", maxsplit=1)[1].rstrip("/").split("/")
    name = "_".join([host, *(Path(part).stem for part in rest[-1:])])
    return SourceDescription(f"'{public}'", re.sub(r"(?:[^\w.-]|_)+", "_", name).strip("._-") or "stream")


def _file_name(text: str, fallback: str) -> str:
    """The text without what Windows refuses in the name of a file."""
    return re.sub(r'[<>:"/\\|?*\x00-\x1f]+', "_", text).strip(" ._") or fallback
