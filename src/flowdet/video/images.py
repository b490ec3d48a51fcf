"""Picture files read as a video: a folder, a pattern, or the pages of one file."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import VideoError, counted
from flowdet.files import IMAGE_SUFFIXES, natural_key
from flowdet.video.pictures import page_count, read_pages, read_picture
from flowdet.video.source import LazyFrame, Selection

__all__ = ["ImageSource", "PageSource", "image_files"]

_NAMED_IN_A_PROBLEM = 5


def image_files(paths: Iterable[Path]) -> list[Path]:
    """Returns the image files among these paths in natural order: `2.jpg` comes before `10.jpg`."""
    found = [path for path in paths if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")]
    return sorted((path for path in found if path.is_file()), key=lambda path: natural_key(str(path)))


class ImageSource:
    """Image files as the frames of a video; a frame's number is its place in the list.

    Args:
        label: What messages call it.
        name: A short name for outputs.
        files: The images in order.
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

    def frames(self, selection: Selection, problems: list[str]) -> Generator[LazyFrame, None, None]:
        """Yields the selected images; one that cannot be read or has another size is skipped and named."""
        faults = _Faults(self._size, problems)
        times = [index / self._frame_rate for index in range(len(self._files))]
        wanted = [i for i, time in enumerate(times) if not selection.is_early(time) and not selection.is_late(time)]
        for index in wanted[:: selection.every]:
            yield LazyFrame(index, times[index], partial(self._image, self._files[index], faults))

    def close(self) -> None:
        """Does nothing: no file is held open."""

    def _image(self, file: Path, faults: _Faults) -> NDArray[np.uint8] | None:
        try:
            image = read_picture(file)
            if page_count(file) > 1:
                faults.add("read only the first page of {}", file.name)
        except VideoError as error:
            faults.add("skipped {} that cannot be read", f"{file.name} ({_reason(error)})")
            return None
        return faults.checked(image, file.name)


class PageSource:
    """The pages of a TIFF, WebP, APNG or MPO as the frames of a video.

    Args:
        label: What messages call it.
        name: A short name for outputs.
        file: Holds several pages.
        frame_rate: Pages a second where the file tells no durations.

    Raises:
        VideoError: The first page cannot be read.
    """

    is_live = False

    def __init__(self, label: str, name: str, file: Path, frame_rate: float) -> None:
        self.label = label
        self.name = name
        self.total: int | None = page_count(file)
        first = next(read_pages(file))
        self.fps: float | None = 1 / first.seconds if first.seconds else frame_rate
        self._size = (first.image.shape[0], first.image.shape[1])
        self.size: tuple[int, int] | None = self._size
        self._file = file
        self._frame_rate = frame_rate

    def frames(self, selection: Selection, problems: list[str]) -> Generator[LazyFrame, None, None]:
        """Yields the selected pages; those of another size are skipped, a damaged one is the end."""
        faults = _Faults(self._size, problems)
        first: int | None = None
        for index, time, image in self._pages(faults):
            if selection.is_late(time):
                return
            first = index if first is None and not selection.is_early(time) else first
            if first is not None and (index - first) % selection.every == 0:
                yield LazyFrame(index, time, partial(faults.checked, image, f"page {index + 1}"))

    def close(self) -> None:
        """Does nothing: only an iteration holds the file open."""

    def _pages(self, faults: _Faults) -> Iterator[tuple[int, float, NDArray[np.uint8]]]:
        index, time = 0, 0.0
        try:
            for page in read_pages(self._file):
                yield index, time, page.image
                index, time = index + 1, time + (page.seconds or 1 / self._frame_rate)
        except VideoError as error:
            faults.add("stopped reading at {} that cannot be read", f"page {index + 1} ({_reason(error)})")


class _Faults:
    """Names pictures with faults in `problems`, one sentence for each kind of fault."""

    def __init__(self, size: tuple[int, int], problems: list[str]) -> None:
        self._size = size
        self._problems = problems
        self._named: dict[str, list[str]] = {}

    def add(self, fault: str, name: str) -> None:
        """Names a picture with this fault, a sentence with {} for "2 images"."""
        self._named.setdefault(fault, []).append(name)
        self._problems[:] = [_sentence(kind, names) for kind, names in self._named.items()]

    def checked(self, image: NDArray[np.uint8], name: str) -> NDArray[np.uint8] | None:
        """Returns the image, or None where it has not the size of the first one."""
        if image.shape[:2] == self._size:
            return image
        fault = f"skipped {{}} of another size than the first one, {_size_text(self._size)}"
        self.add(fault, f"{name} ({_size_text(image.shape)})")
        return None


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
    if len(files) == 1:
        raise VideoError(f"the only image of {label} cannot be read{reason}")
    raise VideoError(f"none of the {len(files)} images of {label} can be read{reason}")


def _reason(error: VideoError) -> str:
    return str(error).partition(" cannot be read: ")[2]


def _size_text(size: Sequence[int]) -> str:
    return f"{size[1]}x{size[0]}"


def _sentence(fault: str, names: Sequence[str]) -> str:
    shown = ", ".join(names[:_NAMED_IN_A_PROBLEM])
    more = f" and {len(names) - _NAMED_IN_A_PROBLEM} more" if len(names) > _NAMED_IN_A_PROBLEM else ""
    return f"{fault.format(counted(len(names), 'image'))}: {shown}{more}"
