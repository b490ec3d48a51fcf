"""The pictures of a data set on disk: their places, sizes and pixels."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowdet.data.cocovid import CocoVID, ImageRecord, Problem
from flowdet.errors import DataError, VideoError
from flowdet.files import IMAGE_SUFFIXES, natural_key
from flowdet.video.pictures import read_picture as read_pixels

__all__ = [
    "find_picture_problems",
    "has_pictures",
    "missing_pictures",
    "names_in",
    "picture_names",
    "picture_size",
    "read_picture",
]

_THREADS = 8
_PROBES = 20
_AT_ONCE = 2000
_ORIENTATION = 0x0112  # EXIF
_QUARTER_TURNS = (5, 6, 7, 8)
_EXIF_OF_PNG = {"exif", "Raw profile type exif"}


def has_pictures(data: CocoVID, folder: Path) -> bool:
    """Returns whether the folder holds at least one of 20 pictures from all over the data set."""
    step = max(1, len(data.images) // _PROBES)
    return any(os.path.isfile(folder / image.file_name) for image in data.images[::step])


def find_picture_problems(
    data: CocoVID,
    folder: Path,
    *,
    decode: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> Iterator[Problem]:
    """Yields a problem for each picture that is missing, damaged, or of another size than the data set says.

    Args:
        data: The data set.
        folder: Folder of its pictures.
        decode: Decode every picture; by default only their headers are read.
        progress: Called with the number of pictures done.
    """
    images = iter(data.images)
    done = 0
    with ThreadPoolExecutor(_THREADS) as pool:
        while part := list(islice(images, _AT_ONCE if not decode else 16 * _THREADS)):
            for problem in pool.map(partial(_picture_problem, folder, decode=decode), part):
                if problem:
                    yield problem
            done += len(part)
            progress(done)


def missing_pictures(folder: Path, names: Sequence[str]) -> list[int]:
    """Returns the positions of the pictures that are not there.

    Each folder is listed once, which takes seconds for a million pictures.

    Args:
        folder: Folder of the pictures.
        names: Their paths below the folder.
    """
    places: dict[str, list[int]] = {}
    for position, name in enumerate(names):
        places.setdefault(os.path.dirname(name), []).append(position)
    with ThreadPoolExecutor(_THREADS) as pool:
        listings = pool.map(names_in, (folder / below for below in places))
        doubtful = [
            position
            for positions, listed in zip(places.values(), listings, strict=True)
            for position in positions
            if os.path.basename(names[position]) not in listed
        ]
        # Some file systems find a name that they list in another spelling.
        found = pool.map(os.path.isfile, (folder / names[position] for position in doubtful))
        return sorted(position for position, is_there in zip(doubtful, found, strict=True) if not is_there)


def names_in(folder: Path) -> set[str]:
    """Returns the names of all that is in a folder; none if there is no such folder."""
    try:
        return set(os.listdir(folder))
    except (OSError, ValueError):  # not there, too long, a null byte
        return set()


def picture_names(folder: Path) -> list[str]:
    """Returns the names of the pictures in a folder in natural order: `2.jpg` comes before `10.jpg`.

    Raises:
        OSError: There is no such folder, or it cannot be read.
    """
    files = [entry.name for entry in folder.iterdir() if entry.is_file() and not entry.name.startswith(".")]
    return sorted((name for name in files if os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES), key=natural_key)


def picture_size(path: Path, *, upright: bool = False) -> tuple[int, int]:
    """Returns (width, height) px from the header of a file.

    Args:
        path: The file.
        upright: As shown, after the quarter turn of its EXIF orientation; else as stored.

    Raises:
        DataError: There is no such file, or it is no picture.
    """
    return _possible_sizes(path)[-1 if upright else 0]


def _possible_sizes(path: Path) -> list[tuple[int, int]]:
    """Returns (width, height) px as stored and, where the EXIF orientation says so, after a quarter turn."""
    try:
        with warnings.catch_warnings():
            # Nothing is decoded: even the size of a huge picture may be asked for.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return [image.size, image.size[::-1]] if _has_quarter_turn(image) else [image.size]
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        raise DataError(f"{path} cannot be read: {str(error)[:120]}") from error


def _has_quarter_turn(image: Image.Image) -> bool:
    # Pillow turns a TIFF by itself, and would decode the whole of a PNG to look for EXIF data behind its pixels.
    if image.format == "TIFF" or (image.format == "PNG" and not _EXIF_OF_PNG & image.info.keys()):
        return False
    return image.getexif().get(_ORIENTATION, 1) in _QUARTER_TURNS


def read_picture(path: Path, size: tuple[int, int], where: str) -> NDArray[np.uint8]:
    """Returns the pixels [h, w, 3] uint8 RGB of a picture, as the boxes of its annotations see them.

    The picture is turned upright by its EXIF orientation, unless it has the stated size only as it is stored: tools
    that draw boxes differ in this.

    Args:
        path: The file.
        size: (height, width) px, as the annotations state it.
        where: The annotation file and the entry, for messages.

    Raises:
        DataError: The picture is missing, damaged, or of another size than stated.
    """
    if not os.path.exists(path):
        raise DataError(f"{where}: there is no file {path}; the images may lie below another folder")
    try:
        upright = read_pixels(path)
        picture = upright if upright.shape[:2] == size else read_pixels(path, upright=False)
    except VideoError as error:
        raise DataError(f"{where}: {error}; `flowdet data check --decode` finds all damaged pictures") from error
    if picture.shape[:2] == size:
        return picture
    raise DataError(
        f"{where}: {path} is {upright.shape[1]}x{upright.shape[0]} px, the annotations say {size[1]}x{size[0]}; "
        "its boxes would lie elsewhere"
    )


def _picture_problem(folder: Path, image: ImageRecord, *, decode: bool) -> Problem | None:
    path = folder / image.file_name
    if not os.path.isfile(path):
        return Problem("picture that is missing", f"{path} is not there")
    try:
        sizes = _possible_sizes(path)
        if decode:
            read_pixels(path)
    except (DataError, VideoError) as error:
        return Problem("picture that cannot be read", str(error))
    if (image.width, image.height) not in sizes:
        found, stated = f"{sizes[0][0]}x{sizes[0][1]}", f"{image.width}x{image.height}"
        return Problem("picture of another size", f"{path} has {found} pixels, the data set says {stated}")
    return None
