"""A folder or a pattern of image files, read as a video."""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path

from flowdet.errors import VideoError
from flowdet.files import IMAGE_SUFFIXES
from flowdet.types import Frame
from flowdet.video.pictures import read_picture
from flowdet.video.source import Selection

__all__ = ["ImageSource", "image_files"]

_NAMED_IN_A_PROBLEM = 5


def image_files(paths: Iterable[Path]) -> list[Path]:
    """The image files among these paths in natural order: `2.jpg` comes before `10.jpg`."""
    found = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=_natural_key)


class ImageSource:
    """Image files as the frames of a video; a frame's number is its place in the list.

    Args:
        label: How messages call it.
        name: A short name for outputs.
        files: The images in order, at least one.
        frame_rate: Images a second.

    Raises:
        VideoError: There is no image, or none that can be read.
    """

    is_live = False

    def __init__(self, label: str, name: str, files: Sequence[Path], frame_rate: float) -> None:
        self.label = label
        self.name = name
        self.fps: float | None = frame_rate
        self.total: int | None = len(files)
        self._size = _first_size(label, files)
        self.size: tuple[int, int] | None = self._size
        self._files = files
        self._frame_rate = frame_rate

    def frames(self, selection: Selection, problems: list[str]) -> Generator[Frame, None, None]:
        """Yields the selected images; one that cannot be read or has another size is skipped and named."""
        times = [index / self._frame_rate for index in range(len(self._files))]
        wanted = [i for i, time in enumerate(times) if not selection.is_early(time) and not selection.is_late(time)]
        unreadable: list[str] = []
        misfits: list[str] = []
        for index in wanted[:: selection.every]:
            file = self._files[index]
            try:
                image = read_picture(file)
            except VideoError as error:
                unreadable.append(f"{file.name} ({_reason(error)})")
            else:
                if image.shape[:2] == self._size:
                    yield Frame(index, times[index], image)
                    continue
                misfits.append(f"{file.name} ({_size_text(image.shape[:2])})")
            problems[:] = [
                *_skipped("that cannot be read", unreadable),
                *_skipped(f"of another size than the first one, {_size_text(self._size)}", misfits),
            ]

    def close(self) -> None:
        """Does nothing: no file is held open."""


def _first_size(label: str, files: Sequence[Path]) -> tuple[int, int]:
    reason = ""
    for file in files:
        try:
            height, width = read_picture(file).shape[:2]
        except VideoError as error:
            reason = reason or f"; {file.name}: {_reason(error)}"
        else:
            return height, width
    if not files:
        kinds = ", ".join(sorted(suffix[1:] for suffix in IMAGE_SUFFIXES))
        raise VideoError(f"{label} holds no image: expected files of the kinds {kinds}")
    raise VideoError(f"none of the {len(files)} images of {label} can be read{reason}")


def _natural_key(path: Path) -> list[tuple[str, int]]:
    pieces = re.findall(r"(\D*)(\d*)", str(path))
    return [(text.casefold(), int(digits or -1)) for text, digits in pieces]


def _reason(error: VideoError) -> str:
    return str(error).partition(" cannot be read: ")[2]


def _size_text(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _skipped(which: str, names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:_NAMED_IN_A_PROBLEM])
    more = f" and {len(names) - _NAMED_IN_A_PROBLEM} more" if len(names) > _NAMED_IN_A_PROBLEM else ""
    return [f"skipped {len(names)} image{'s' if len(names) > 1 else ''} {which}: {shown}{more}"]
