import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from flowdet.errors import VideoError
from flowdet.video.pictures import page_count, read_pages, read_picture

Pixels = NDArray[np.uint8]


def noise(height: int = 12, width: int = 16, seed: int = 0) -> Pixels:
    return np.random.default_rng(seed).integers(1, 255, (height, width, 3), dtype=np.uint8)


def grey(seed: int = 0) -> Pixels:
    return np.repeat(noise(seed=seed)[..., :1], 3, axis=2)


def png_chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, rows: bytes, *, interlace: int = 0) -> bytes:
    """An RGB PNG whose compressed rows are these."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, interlace)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "1", "P", "PA", "I;16", "I", "F", "CMYK"])
def test_every_mode_has_the_pixels_that_were_written(mode: str, suffix: str, tmp_path: Path) -> None:
    color, single = noise(), grey()
    expected = single
    match mode:
        case "L" | "LA":
            image = Image.fromarray(single).convert(mode)
        case "RGB" | "RGBA" | "CMYK":
            image, expected = Image.fromarray(color).convert(mode), color
        case "1":
            expected = np.where(single > 127, 255, 0).astype(np.uint8)
            image = Image.fromarray(expected).convert("1")
        case "P" | "PA":
            expected = color // 128 * 128
            image = Image.fromarray(expected).quantize(8, dither=Image.Dither.NONE).convert(mode)
        case "F":
            image = Image.fromarray(single[..., 0].astype(np.float32))
        case _:
            image = Image.fromarray(single[..., 0].astype(np.uint16 if mode == "I;16" else np.int32) * 257)
    path = tmp_path / f"picture.{suffix}"
    try:
        image.save(path)
    except OSError:
        pytest.skip(f"Pillow writes no {mode} {suffix}")
    assert read_picture(path).tolist() == expected.tolist()


def test_a_palette_with_transparency_keeps_its_colors_and_warns_of_nothing(tmp_path: Path) -> None:
    indices = np.arange(12, dtype=np.uint8).reshape(3, 4) % 3
    image = Image.fromarray(indices)
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    image.save(tmp_path / "p.png", transparency=bytes([0, 128, 255]))
    expected = np.array([(10, 20, 30), (40, 50, 60), (70, 80, 90)])[indices]
    assert read_picture(tmp_path / "p.png").tolist() == expected.tolist()


def test_transparent_pixels_keep_their_color(tmp_path: Path) -> None:
    pixels = np.dstack([noise(), np.zeros((12, 16), np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").tolist() == noise().tolist()


@pytest.mark.parametrize("mode", ["YCbCr", "LAB"])
def test_other_color_spaces_become_rgb(mode: str, tmp_path: Path) -> None:
    pixels = np.full((8, 8, 3), (200, 100, 50), np.uint8)
    image = Image.fromarray(pixels)
    if mode == "LAB":
        converted = ImageCms.profileToProfile(
            image, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
        assert converted
        image = converted
    else:
        image = image.convert(mode)
    image.save(tmp_path / "c.tif")
    with Image.open(tmp_path / "c.tif") as saved:
        assert saved.mode == mode
    assert np.abs(read_picture(tmp_path / "c.tif").astype(int) - pixels).max() <= 3


def test_floats_up_to_one_are_scaled_and_others_are_not(tmp_path: Path) -> None:
    for name, values, expected in (
        ("unit", [0.0, 0.5, 1.0], [0, 128, 255]),
        ("bytes", [-3.0, 99.6, 300.0], [0, 100, 255]),
        ("odd", [np.nan, np.inf, 0.2], [0, 0, 51]),
    ):
        Image.fromarray(np.array([values], np.float32)).save(tmp_path / f"{name}.tif")
        assert read_picture(tmp_path / f"{name}.tif")[0, :, 0].tolist() == expected


def test_of_16_bits_the_upper_8_count(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 255, 256, 32768, 65535]], np.uint16)).save(tmp_path / "d.png")
    assert read_picture(tmp_path / "d.png")[0, :, 1].tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_made_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    stored = np.zeros((16, 32, 3), np.uint8)
    stored[:8, :16] = 250  # one bright corner
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(stored).save(path, exif=exif)
    upright = read_picture(path)
    assert upright.shape == ((32, 16, 3) if orientation >= 5 else (16, 32, 3))
    corners = {
        1: "top left", 2: "top right", 3: "bottom right", 4: "bottom left",
        5: "top left", 6: "top right", 7: "bottom right", 8: "bottom left",
    }  # fmt: skip
    height, width = upright.shape[:2]
    row = 2 if "top" in corners[orientation] else height - 3
    column = 2 if "left" in corners[orientation] else width - 3
    assert upright[row, column].min() > 200
    assert upright.mean() < 80
    if suffix != "tif":
        assert read_picture(path, upright=False).shape == (16, 32, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "tif", "webp"])
def test_a_picture_that_is_cut_short_is_an_error(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut.{suffix}"
    Image.fromarray(noise(64, 64)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"cut\..* cannot be read"):
        read_picture(path)


@pytest.mark.parametrize(("interlace", "width", "count"), [(0, 64, 10), (1, 8, 12)])  # or the first two passes
def test_a_png_whose_pixels_end_early_is_an_error(interlace: int, width: int, count: int, tmp_path: Path) -> None:
    rows = b"".join(b"\0" + noise(1, width, seed=number).tobytes() for number in range(count))
    (tmp_path / "short.png").write_bytes(png(64, 48, rows, interlace=interlace))
    with pytest.raises(VideoError, match=f"it is cut short: {count * (1 + 3 * width)} of"):
        read_picture(tmp_path / "short.png")


@pytest.mark.parametrize(("width", "height", "interlace"), [(64, 48, 0), (64, 48, 1), (5, 3, 1), (1, 1, 1)])
def test_a_png_that_is_black_down_to_its_end_is_whole(width: int, height: int, interlace: int, tmp_path: Path) -> None:
    rows = bytes(height * (1 + 3 * width))
    if interlace:
        passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
        sizes = [(len(range(x, width, dx)), len(range(y, height, dy))) for x, y, dx, dy in passes]
        rows = bytes(sum(lines * (1 + 3 * columns) for columns, lines in sizes if columns))
    (tmp_path / "black.png").write_bytes(png(width, height, rows, interlace=interlace))
    assert read_picture(tmp_path / "black.png").shape == (height, width, 3)


def test_a_huge_picture_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    Image.new("1", (13_300, 13_300)).save(tmp_path / "huge.png")
    with pytest.raises(VideoError, match="13300x13300 px are too many"):
        read_picture(tmp_path / "huge.png")


def test_what_is_no_picture_or_is_missing_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no picture")
    with pytest.raises(VideoError, match=r"no\.png cannot be read: it is no picture"):
        read_picture(tmp_path / "no.png")
    with pytest.raises(VideoError, match=r"gone\.png cannot be read: No such file"):
        read_picture(tmp_path / "gone.png")


@pytest.mark.parametrize("suffix", ["tif", "webp", "png", "mpo", "gif"])
def test_every_page_is_read_in_order(suffix: str, tmp_path: Path) -> None:
    shades = [40, 90] if suffix == "mpo" else [40, 90, 140, 190]  # Pillow's index of more pages than 2 is wrong
    pages = [Image.new("RGB", (32, 16), (shade,) * 3) for shade in shades]
    seconds = 0.08 if suffix in {"webp", "png", "gif"} else None
    path = tmp_path / f"pages.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=80)
    found = list(read_pages(path))
    assert page_count(path) == len(shades)
    assert [round(float(page.image.mean())) for page in found] == pytest.approx(shades, abs=2)
    assert [page.seconds for page in found] == [seconds] * len(shades)


def test_the_gain_map_of_a_phone_is_no_page(tmp_path: Path) -> None:
    large, small = Image.new("RGB", (32, 16), "white"), Image.new("RGB", (16, 8))
    large.save(tmp_path / "gain.mpo", save_all=True, append_images=[small])
    assert page_count(tmp_path / "gain.mpo") == 1
    assert [page.image.min() for page in read_pages(tmp_path / "gain.mpo")] == [255]


def test_the_default_image_of_an_animation_is_no_page(tmp_path: Path) -> None:
    shades = [Image.new("RGB", (32, 16), (shade,) * 3) for shade in (10, 100, 200)]
    shades[0].save(tmp_path / "a.png", save_all=True, append_images=shades[1:], default_image=True)
    assert [page.image[0, 0, 0] for page in read_pages(tmp_path / "a.png")] == [100, 200]
    assert read_picture(tmp_path / "a.png")[0, 0, 0] == 10


def test_a_page_that_is_missing_is_an_error_after_those_before_it(tmp_path: Path) -> None:
    pages = [Image.fromarray(noise(32, 32, seed=number)) for number in range(3)]
    pages[0].save(tmp_path / "cut.tif", save_all=True, append_images=pages[1:])
    data = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(data[: len(data) - 500])
    pages_read = read_pages(tmp_path / "cut.tif")
    assert [next(pages_read).image.shape for _ in range(2)] == [(32, 32, 3)] * 2
    with pytest.raises(VideoError, match="cannot be read"):
        next(pages_read)


def test_integers_of_32_bits_count_to_255_where_none_exceeds_it(tmp_path: Path) -> None:
    for values, expected in (([0, 100, 255], [0, 100, 255]), ([0, 255, 65535], [0, 0, 255])):
        Image.fromarray(np.array([values], np.int32)).save(tmp_path / "i.tif")
        assert read_picture(tmp_path / "i.tif")[0, :, 2].tolist() == expected
