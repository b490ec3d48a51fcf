"""The drawings and photographs in the package; training and validation have none in common."""

import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["SPLITS", "Assets", "Picture", "Split", "load_assets"]

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")

_NO_CLASS = "_"


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing or photograph, decoded on demand.

    Attributes:
        name: Its path in the pack without the split, for example "zebra/noto/zebra.webp".
        content: The encoded file.
    """

    name: str
    content: bytes

    def image(self) -> Image.Image:
        """Returns the image: RGBA for a drawing, RGB for a photograph."""
        with Image.open(io.BytesIO(self.content)) as image:
            return image.convert("RGB" if image.format == "JPEG" else "RGBA")

    def pixels(self) -> NDArray[np.uint8]:
        """Returns the pixels [h, w, 3 or 4] uint8."""
        return np.array(self.image())


@dataclass(frozen=True, eq=False, slots=True)
class Assets:
    """Drawings and photographs of one split.

    Attributes:
        drawings: Drawings by class name, in the order of the pack.
        props: Drawings of no class (trees, houses, ...), which hide objects.
        photographs: Backgrounds; none shows an object of the classes.
    """

    drawings: Mapping[str, tuple[Picture, ...]]
    props: tuple[Picture, ...]
    photographs: tuple[Picture, ...]


@cache
def load_assets(split: Split) -> Assets:
    """Returns the drawings and photographs of a split from the packs."""
    drawings: dict[str, list[Picture]] = {}
    for picture in _read("sprites.zip", split):
        drawings.setdefault(picture.name.split("/")[0], []).append(picture)
    props = drawings.pop(_NO_CLASS)
    by_class = {name: tuple(pictures) for name, pictures in sorted(drawings.items())}
    return Assets(by_class, tuple(props), tuple(_read("backgrounds.zip", split)))


def _read(pack: str, split: Split) -> list[Picture]:
    content = files("flowdet.data.synthetic").joinpath("pack", pack).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        names = [name for name in archive.namelist() if name.startswith(f"{split}/")]
        return [Picture(name.removeprefix(f"{split}/"), archive.read(name)) for name in names]
