from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flowdet.data.image_files import missing_pictures, picture_size, read_picture, upright_size
from tests.data.pictures import waves


def turned(path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(waves((48, 64), 0)).save(path, exif=exif)


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_upright_size_is_that_of_the_picture_as_shown(suffix: str, orientation: int, tmp_path: Path) -> None:
    path = tmp_path / f"a.{suffix}"
    turned(path, orientation)
    with Image.open(path) as image:
        shown = ImageOps.exif_transpose(image).size
    assert shown == ((48, 64) if orientation > 4 else (64, 48))
    assert upright_size(path) == shown


def test_the_pixels_of_a_png_are_not_read_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(waves((48, 64), 0)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert upright_size(path) == picture_size(path) == (64, 48)


def test_a_picture_that_is_upside_down_is_turned_upright(tmp_path: Path) -> None:
    turned(tmp_path / "a.png", 3)
    found = read_picture(tmp_path / "a.png", (48, 64), "a")
    assert np.array_equal(found, waves((48, 64), 0)[::-1, ::-1])


def test_missing_pictures_are_found_in_any_folder(tmp_path: Path) -> None:
    names = [
        "a.png",
        "below/b.png",
        "below/gone.png",
        "nowhere/a.png",
        "below/../c.png",
        "x" * 5000,
        "d\0.png",
        "below",
    ]
    (tmp_path / "below").mkdir()
    for name in ("a.png", "below/b.png", "c.png"):
        (tmp_path / name).touch()
    assert missing_pictures(tmp_path, names) == [2, 3, 5, 6]
