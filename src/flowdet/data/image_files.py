"""The pictures of a data set on disk: their places, sizes and pixels."""

import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from flowdet.data.cocovid import CocoVID
from flowdet.errors import DataError

__all__ = [
    "PictureFault",
    "find_picture_faults",
    "has_pictures",
    "missing_pictures",
    "picture_names",
    "picture_size",
    "read_picture",
    "upright_size",
]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_THREADS = 8
_PROBES = 20
_AT_ONCE = 2000
_ORIENTATION = 0x0112  # EXIF
_QUARTER_TURNS = (5, 6, 7, 8)
_EXIF_OF_PNG = {"exif", "Raw profile type exif"}
PictureFault = tuple[str, str]
"""(kind, sentence) of something wrong with one picture."""


def has_pictures(data: CocoVID, folder: Path) -> bool:
    """Whether at least one of some pictures, taken from all over the data set, lies in this folder."""
    step = max(1, len(data.images) // _PROBES)
    return any(_is_file(folder, image.file_name) for image in data.images[::step])


def find_picture_faults(
    data: CocoVID, folder: Path, progress: Callable[[int], None] = lambda images: None
) -> Iterator[PictureFault]:
    """Yields what is wrong with pictures: not there, not readable, of another size than the data set says.

    Args:
        data: Says which pictures there are.
        folder: Holds them.
        progress: Told how many pictures are done.
    """
    images = iter(data.images)
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while part := list(islice(images, _AT_ONCE)):
            names = [image.file_name for image in part]
            sizes = [(image.width, image.height) for image in part]
            for fault in pool.map(_fault, [folder] * len(part), names, sizes):
                if fault:
                    yield fault
            done += len(part)
            progress(done)


def missing_pictures(folder: Path, names: Sequence[str]) -> list[int]:
    """Positions of the pictures that are not there; each folder is listed once, which takes seconds for a million.

    Args:
        folder: Holds them.
        names: Their places below the folder.
    """
    places: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        places.setdefault(os.path.dirname(name), []).append(position)
    with ThreadPoolExecutor(_THREADS) as pool:
        listings = pool.map(_listed, (folder / below for below in places))
        doubtful = [
            position
            for positions, listed in zip(places.values(), listings, strict=True)
            for position in positions
            if os.path.basename(names[position]) not in listed
        ]
        # Some file systems find a name that they list in another spelling.
        found = pool.map(_is_file, [folder] * len(doubtful), [names[position] for position in doubtful])
        return sorted(position for position, is_there in zip(doubtful, found, strict=True) if not is_there)


def _listed(folder: Path) -> set[str]:
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):  # not there, too long, a null byte
        return set()


def picture_names(folder: Path) -> list[str]:
    """Names of the pictures in a folder, in natural order: `2.jpg` comes before `10.jpg`.

    Raises:
        OSError: There is no such folder, or it cannot be read.
    """
    files = [entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return sorted((name for name in files if name.lower().endswith(_SUFFIXES)), key=_natural)


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) px as stored, read from the head of the file.

    Raises:
        OSError: There is no such file, or it is no picture.
        ValueError: The name or the head of the file makes no sense.
    """
    with warnings.catch_warnings():
        # Its size is all that is wanted of a huge picture; nothing is decoded.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return image.size


def upright_size(path: Path) -> tuple[int, int]:
    """(width, height) px as shown: a quarter turn that a camera has noted is made. Only the head of the file is read.

    Raises:
        OSError: There is no such file, or it is no picture.
        ValueError: The name or the head of the file makes no sense.
    """
    return _possible_sizes(path)[-1]


def _possible_sizes(path: Path) -> list[tuple[int, int]]:
    """(width, height) px as stored and, last, where a camera has noted a quarter turn, as shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with Image.open(path) as image:
            return [image.size, image.size[::-1]] if _has_quarter_turn(image) else [image.size]


def _has_quarter_turn(image: Image.Image) -> bool:
    # Pillow turns a TIFF by itself, and would decode the whole of a PNG to look for a note behind its pixels.
    if image.format == "TIFF" or (image.format == "PNG" and not _EXIF_OF_PNG & image.info.keys()):
        return False
    return image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS


def read_picture(path: Path, size: tuple[int, int], where: str) -> NDArray[np.uint8]:
    """The pixels [h, w, 3] RGB of a picture, as the boxes of its annotations see them.

    It is turned upright as a camera has noted it, unless it has the stated size only as it is stored: tools that draw
    boxes differ in this.

    Args:
        path: The file.
        size: (height, width) px, as the annotations state it.
        where: The annotation file and the entry, for messages.

    Raises:
        DataError: It is missing, damaged, or of another size than stated.
    """
    try:
        with Image.open(path) as file:
            pictures = [file.convert("RGB")]
            if file.getexif().get(_ORIENTATION, 1) != 1:
                pictures.insert(0, ImageOps.exif_transpose(file).convert("RGB"))
    except FileNotFoundError:
        raise DataError(f"{where}: there is no file {path}; the images may lie below another folder") from None
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        raise DataError(f"{where}: {path} cannot be read: {error}") from error
    for picture in pictures:
        if picture.size == size[::-1]:
            return np.array(picture)
    raise DataError(
        f"{where}: {path} is {pictures[0].width}x{pictures[0].height} px, the annotations say {size[1]}x{size[0]}; "
        "its boxes would lie elsewhere"
    )


def _natural(name: str) -> list[tuple[str, int]]:
    return [(text.casefold(), int(digits or -1)) for text, digits in re.findall(r"(\D*)([0-9]*)", name)]


def _fault(folder: Path, name: str, size: Sequence[int]) -> PictureFault | None:
    if not _is_file(folder, name):
        return "picture that is missing", f"{folder / name} is not there"
    try:
        sizes = _possible_sizes(folder / name)
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        return "picture that cannot be read", f"{folder / name} cannot be read: {str(error)[:120]}"
    if tuple(size) not in sizes:
        sentence = f"{folder / name} has {sizes[0][0]}x{sizes[0][1]} pixels, the data set says {size[0]}x{size[1]}"
        return "picture of another size", sentence
    return None


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # too long, a null byte
        return False
