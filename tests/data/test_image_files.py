from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from flowdet.data.image_files import missing_pictures, picture_size, read_picture
from flowdet.errors import DataError
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
    assert picture_size(path, upright=True) == shown


def test_the_pixels_of_a_png_are_not_read_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(waves((48, 64), 0)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    assert picture_size(path, upright=True) == picture_size(path) == (64, 48)


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


COLORS = np.array(
    [[[200, 30, 60], [10, 220, 90], [0, 0, 0]], [[255, 255, 255], [40, 80, 240], [128, 128, 128]]], np.uint8
)
GREY_FILES = "1.png 1.tif L.png L.bmp LA.png LA.tif I.tif I;16.png I;16.tif F.tif"
COLOR_FILES = "RGB.png RGB.bmp RGB.tif RGBA.png RGBA.tif P.png P.bmp PA.tif CMYK.tif YCbCr.tif"
GREYS = np.array([[0, 1, 127], [128, 200, 255]], np.uint8)


def grey_image(mode: str) -> Image.Image:
    match mode:
        case "1":
            return Image.fromarray(GREYS).point(lambda value: 255 * (value > 127), "1")
        case "I":
            return Image.fromarray(GREYS.astype(np.int32) * 257)
        case "I;16":
            return Image.fromarray(GREYS.astype(np.uint16) * 257)
        case "F":
            return Image.fromarray(GREYS.astype(np.float32) / 255)
        case "LA":
            image = Image.fromarray(GREYS).convert("LA")
            image.putalpha(100)
            return image
        case _:
            return Image.fromarray(GREYS)


@pytest.mark.parametrize(("mode", "suffix"), [name.split(".") for name in GREY_FILES.split()])
def test_grey_pictures_of_every_mode_have_their_pixels(mode: str, suffix: str, tmp_path: Path) -> None:
    image = grey_image(mode)
    assert image.mode == mode
    image.save(tmp_path / f"a.{suffix}")
    wanted = np.where(GREYS > 127, 255, 0) if mode == "1" else GREYS
    found = read_picture(tmp_path / f"a.{suffix}", (2, 3), "a")
    assert found.dtype == np.uint8
    assert np.array_equal(found, np.repeat(wanted[..., None], 3, axis=2))


def color_image(mode: str) -> Image.Image:
    image = Image.fromarray(COLORS)
    match mode:
        case "P" | "PA":
            return image.quantize(6, dither=Image.Dither.NONE).convert(mode)
        case "RGBA":
            image.putalpha(Image.fromarray(GREYS))
        case "CMYK":
            return Image.fromarray(np.concatenate((255 - COLORS, np.zeros((2, 3, 1), np.uint8)), axis=2), "CMYK")
        case "YCbCr":
            return image.convert("YCbCr")
    return image


@pytest.mark.parametrize(("mode", "suffix"), [name.split(".") for name in COLOR_FILES.split()])
def test_colored_pictures_of_every_mode_have_their_pixels(mode: str, suffix: str, tmp_path: Path) -> None:
    image = color_image(mode)
    assert image.mode == mode
    image.save(tmp_path / f"a.{suffix}")
    found = read_picture(tmp_path / f"a.{suffix}", (2, 3), "a")
    assert np.abs(found.astype(int) - COLORS).max() <= (3 if mode == "YCbCr" else 0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_to_the_size_that_is_stated(orientation: int, tmp_path: Path) -> None:
    stored = waves((48, 64), 0)
    shown = {
        1: stored,
        2: stored[:, ::-1],
        3: stored[::-1, ::-1],
        4: stored[::-1],
        5: stored.transpose(1, 0, 2),
        6: np.rot90(stored, -1),
        7: np.rot90(stored, 2).transpose(1, 0, 2),
        8: np.rot90(stored),
    }[orientation]
    turned(tmp_path / "a.png", orientation)
    height, width = shown.shape[:2]
    assert np.array_equal(read_picture(tmp_path / "a.png", (height, width), "a"), shown)
    if orientation > 4:  # a tool that ignores the orientation has drawn the boxes
        assert np.array_equal(read_picture(tmp_path / "a.png", (48, 64), "a"), stored)


def test_a_damaged_picture_tells_how_to_find_all(tmp_path: Path) -> None:
    Image.fromarray(waves((48, 64), 0)).save(tmp_path / "a.jpg")
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) // 2])
    with pytest.raises(
        DataError, match=r"b\.json: image 3: .*a\.jpg cannot be read: .*; `flowdet data check --decode` finds"
    ):
        read_picture(tmp_path / "a.jpg", (48, 64), "b.json: image 3")
