"""What a source is called, before it is opened."""

from __future__ import annotations

import glob
import hashlib
import os
import re
import unicodedata
from dataclasses import dataclass
from pathlib import Path

from flowdet.errors import ConfigError, VideoError

__all__ = ["VIDEO_SUFFIXES", "SourceDescription", "describe_source", "public_name"]

VIDEO_SUFFIXES = frozenset(
    {".3gp", ".asf", ".avi", ".flv", ".gif", ".m2ts", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf"}
    | {".ogv", ".ts", ".vob", ".webm", ".wmv"}
)
"""Lower-case suffixes by which videos are found in a folder; one that is named may have any suffix."""

_LONGEST_NAME = 200  # bytes; a suffix such as .json.partial.jsonl must fit into 255


@dataclass(frozen=True, slots=True)
class SourceDescription:
    """What is known of a source before it is opened.

    Attributes:
        label: What messages call it, for instance "the folder 'shots'".
        text: What records call it: as it was named, but printable and without password or query of an address.
        name: A short name that can be part of a file name on every system.
        path: The local file or folder, absolute and without links; None for anything else.
        pattern: It is a pattern of image files, and no file has that very name.
    """

    label: str
    text: str
    name: str
    path: Path | None = None
    pattern: bool = False


def describe_source(source: str | Path | int) -> SourceDescription:
    """Returns what a source is called, without opening it.

    Args:
        source: As for `open_video`.

    Raises:
        ConfigError: The number of a camera is negative.
        VideoError: There is no such file, or it cannot be reached.
    """
    if isinstance(source, int):
        return _camera(source)
    text = str(source)
    if not text.strip():
        raise VideoError("a source has no name: name a file, a folder, a camera or an address")
    local = re.fullmatch(r"(?:file|local)://(/.*)", text)
    if not local and re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://", text):
        return _address(text)
    try:
        path = Path(local[1] if local else text).expanduser()
        if path.exists():
            return _existing(text, path)
    except (OSError, RuntimeError, ValueError) as error:  # too long, not allowed, no such user, a null byte
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise VideoError(f"'{_printable(text)}' cannot be opened: {reason}") from error
    if text.isdecimal():
        return _camera(int(text))
    if glob.has_magic(text):
        folder = path.parent.resolve().name
        shown = _printable(text)
        return SourceDescription(f"the pattern '{shown}'", shown, _file_name(folder, "images"), pattern=True)
    raise VideoError(
        f"'{_printable(text)}' does not exist: expected a video file, a folder or pattern of images, "
        "the number of a camera or an address such as rtsp://..."
    )


def _existing(text: str, path: Path) -> SourceDescription:
    shown = _printable(text)
    if path.is_dir():
        folder = path.resolve()
        return SourceDescription(f"the folder '{shown}'", shown, _file_name(folder.name, "images"), folder)
    if path.is_char_device():
        return SourceDescription(f"the camera '{shown}'", shown, _file_name(path.name, "camera"))
    if not path.is_file():
        raise VideoError(f"'{shown}' is neither a file nor a folder: save what comes out of it as a file first")
    return SourceDescription(f"'{shown}'", shown, _file_name(path.stem, "video"), path.resolve())


def _camera(number: int) -> SourceDescription:
    if number < 0:
        raise ConfigError(f"cameras are numbered from 0, not {number}")
    return SourceDescription(f"camera {number}", f"camera {number}", f"camera{number}")


def public_name(source: str) -> str:
    """Returns a source as records call it: printable, an address without password and query."""
    if "://" in source:
        source = re.split(r"[?#]", re.sub(r"//[^/]*@", "//", source), maxsplit=1)[0]
    return _printable(source)


def _address(address: str) -> SourceDescription:
    public = public_name(address)
    host, *rest = public.split("://", maxsplit=1)[1].rstrip("/").split("/")
    name = "_".join([host, *(Path(part).stem for part in rest[-1:])])
    short = _shortened(re.sub(r"(?:[^\w.-]|_)+", "_", name).strip("._-") or "stream")
    return SourceDescription(f"'{public}'", public, short)


def _file_name(text: str, fallback: str) -> str:
    """The text without what Windows refuses in the name of a file, and no longer than file systems allow."""
    return _shortened(re.sub(r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f]+', "_", _printable(text)).strip(" ._") or fallback)


def _shortened(name: str) -> str:
    """The name, or its beginning with a digest that keeps it apart from others with that beginning."""
    encoded = os.fsencode(name)
    if len(encoded) <= _LONGEST_NAME:
        return name
    digest = hashlib.sha256(encoded).hexdigest()[:8]
    return f"{encoded[: _LONGEST_NAME - 9].decode(errors='ignore')}-{digest}"


def _printable(text: str) -> str:
    """The text with control characters and bytes that are no UTF-8 written out as escapes."""
    return "".join(
        character.encode("unicode_escape").decode() if unicodedata.category(character) in ("Cc", "Cs") else character
        for character in text
    )
