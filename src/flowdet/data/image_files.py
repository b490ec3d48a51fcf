"""The pictures of a data set on disk: their places and sizes, without decoding them."""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from PIL import Image

from flowdet.data.cocovid import CocoVID

__all__ = ["PictureFault", "find_picture_faults", "has_pictures", "picture_names", "picture_size"]

_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
_THREADS = 8
_PROBES = 20
_AT_ONCE = 2000
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


def _natural(name: str) -> list[tuple[str, int]]:
    return [(text.casefold(), int(digits or -1)) for text, digits in re.findall(r"(\D*)([0-9]*)", name)]


def _fault(folder: Path, name: str, size: Sequence[int]) -> PictureFault | None:
    if not _is_file(folder, name):
        return "picture that is missing", f"{folder / name} is not there"
    try:
        width, height = picture_size(folder / name)
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        return "picture that cannot be read", f"{folder / name} cannot be read: {str(error)[:120]}"
    if (width, height) != tuple(size):
        sentence = f"{folder / name} has {width}x{height} pixels, the data set says {size[0]}x{size[1]}"
        return "picture of another size", sentence
    return None


def _is_file(folder: Path, name: str) -> bool:
    try:
        return (folder / name).is_file()
    except (OSError, ValueError):  # too long, a null byte
        return False
