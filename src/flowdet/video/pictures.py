"""The one reader of picture files: any file that Pillow opens, as RGB bytes, upright, whole or not at all."""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from flowdet.errors import VideoError

__all__ = ["Page", "page_count", "read_pages", "read_picture"]

_MOST_PIXELS = 89_478_485  # Pillow's own limit; a quarter of a gigabyte as RGB
_ORIENTATION = 0x0112  # EXIF
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by colour type
_BLOCK = 1 << 20


@dataclass(frozen=True, eq=False, slots=True)
class Page:
    """One picture of a file that holds several.

    Attributes:
        image: [h, w, 3] uint8 RGB.
        seconds: How long an animation shows it; None where the file does not tell.
    """

    image: NDArray[np.uint8]
    seconds: float | None


def read_picture(path: str | Path, *, upright: bool = True) -> NDArray[np.uint8]:
    """Returns the first or only picture of a file.

    Of 16 bits the upper 8 count. Integers of 32 bits count to 255, or to 65535 where a pixel exceeds 255; floats
    count to 1, or to 255 where a pixel exceeds 1. Transparency is ignored.

    Args:
        path: The file.
        upright: Turn the picture as its EXIF orientation says. Pillow turns a TIFF in any case.

    Returns:
        [h, w, 3] uint8 RGB.

    Raises:
        VideoError: The file is missing, cut short, damaged, too large or no picture.
    """
    with _opened(Path(path)) as file:
        return _pixels(file, Path(path), upright=upright)


def read_pages(path: str | Path) -> Iterator[Page]:
    """Yields the pictures of a TIFF, WebP, APNG, MPO or GIF in order; any other file has one.

    Raises:
        VideoError: As for `read_picture`; the pages before the damaged one have been yielded.
    """
    with _opened(Path(path)) as file:
        for number in _page_numbers(file):
            file.seek(number)
            image = _pixels(file, Path(path), upright=True)
            milliseconds = file.info.get("duration")
            yield Page(image, milliseconds / 1000 if milliseconds else None)


def page_count(path: str | Path) -> int:
    """Returns the number of pictures that `read_pages` finds in a file, from its headers.

    Raises:
        VideoError: The file is missing, damaged, too large or no picture.
    """
    with _opened(Path(path)) as file:
        return len(_page_numbers(file))


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # `_pixels` refuses such a picture
            file = Image.open(path)
        with file:
            yield file
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        if isinstance(error, UnidentifiedImageError):
            reason = "it is no picture, or damaged at its beginning"
        else:
            reason = getattr(error, "strerror", None) or (str(error).splitlines() or [type(error).__name__])[0]
        raise VideoError(f"{path} cannot be read: {reason}") from error


def _page_numbers(file: Image.Image) -> list[int]:
    # The default image of an APNG may stand for the animation without being part of it.
    first = 1 if getattr(file, "default_image", False) else 0
    numbers = list(range(first, getattr(file, "n_frames", 1)))
    if file.format != "MPO":
        return numbers
    return [number for number in numbers if _is_full_size(file, number)]


def _is_full_size(mpo: Image.Image, number: int) -> bool:
    """False for the thumbnails and gain maps of phones."""
    size = mpo.size
    try:
        mpo.seek(number)
        return mpo.size == size
    except (ValueError, SyntaxError, OSError):  # a damaged page; raised again when it is read
        return True
    finally:
        mpo.seek(0)


def _pixels(file: Image.Image, path: Path, *, upright: bool) -> NDArray[np.uint8]:
    """The current page of an open file as [h, w, 3] uint8 RGB."""
    if file.width * file.height > _MOST_PIXELS:
        raise ValueError(f"{file.width}x{file.height} px are too many; at most {_MOST_PIXELS:,} pixels are read")
    file.load()
    if file.format == "PNG" and file.tell() == 0:
        _check_png_rows(file, path)
    image = _rgb(file)
    if not upright:
        return image
    orientation = file.getexif().get(_ORIENTATION, 1)
    if orientation in (5, 6, 7, 8):
        image = image.transpose(1, 0, 2)
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    return np.ascontiguousarray(image[::rows, ::columns])


def _rgb(file: Image.Image) -> NDArray[np.uint8]:
    if file.mode.startswith("I"):
        values = np.asarray(file).clip(0, 65535)
        is_deep = file.mode != "I" or file.format == "PNG" or values.max() > 255
        grey = values // 256 if is_deep else values
    elif file.mode == "F":
        levels = np.nan_to_num(np.asarray(file), posinf=0, neginf=0)
        grey = np.rint(levels * (255 if levels.max() <= 1 else 1)).clip(0, 255)
    else:
        # Pillow warns where a palette with transparency becomes RGB at once.
        image = file.convert("RGBA") if file.mode in ("P", "PA") else file
        return np.array(image.convert("RGB"))
    return np.repeat(grey.astype(np.uint8)[..., None], 3, axis=2)


def _check_png_rows(file: Image.Image, path: Path) -> None:
    """Raises ValueError if the compressed pixels end before the last row, which Pillow leaves zero without a word."""
    ends = np.asarray(file.crop((0, max(0, file.height - 2), file.width, file.height)))
    is_interlaced = bool(file.info.get("interlace"))
    if not is_interlaced and all(row.any() for row in ends):
        return
    with path.open("rb") as png:
        width, height, depth, color, _, _, is_interlaced = struct.unpack(">IIBBBBB", png.read(29)[16:])
        bits = depth * _PNG_CHANNELS[color]
        expected = sum(
            rows * (1 + (columns * bits + 7) // 8) for columns, rows in _passes(width, height, is_interlaced)
        )
        png.seek(len(_PNG_SIGNATURE))
        found = _inflated_size(png)
    if found < expected:
        raise ValueError(f"it is cut short: {found} of {expected} bytes of its rows are there")


def _passes(width: int, height: int, is_interlaced: bool) -> list[tuple[int, int]]:
    """(columns, rows) of each pass of a PNG that has any."""
    if not is_interlaced:
        return [(width, height)]
    adam7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
    sizes = [(-(-(width - x) // step_x), -(-(height - y) // step_y)) for x, y, step_x, step_y in adam7]
    return [(columns, rows) for columns, rows in sizes if columns > 0 and rows > 0]


def _inflated_size(png: IO[bytes]) -> int:
    """The number of bytes in the IDAT chunks once decompressed."""
    inflater = zlib.decompressobj()
    size = 0
    while len(head := png.read(8)) == 8:
        length, kind = struct.unpack(">I4s", head)
        if kind == b"IEND":
            break
        if kind != b"IDAT":
            png.seek(length + 4, 1)
            continue
        data = png.read(length)
        while data:
            size += len(inflater.decompress(data, _BLOCK))
            data = inflater.unconsumed_tail
        png.seek(4, 1)
    return size
