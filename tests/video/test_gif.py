"""A GIF has no count of its pictures: its blocks are counted, and where they break off, that is said."""

from pathlib import Path

import pytest
from PIL import Image

from flowdet.video.containers import count_gif_pictures
from flowdet.video.reader import open_video
from tests.video.clips import grey


@pytest.fixture
def gif(tmp_path: Path) -> Path:
    first, *others = (Image.fromarray(grey(number)) for number in range(12))
    first.save(tmp_path / "a.gif", save_all=True, append_images=others, duration=80)
    return tmp_path / "a.gif"


def read(path: Path) -> tuple[int, list[str]]:
    video = open_video(path)
    return len(list(video)), video.problems


def test_a_whole_gif_has_no_problems(gif: Path) -> None:
    assert count_gif_pictures(gif) == 12
    assert read(gif) == (12, [])


@pytest.mark.parametrize("kept", [0.3, 0.6, 0.99])
def test_a_gif_that_is_cut_short_says_so(gif: Path, kept: float) -> None:
    whole = gif.read_bytes()
    gif.write_bytes(whole[: int(kept * len(whole))])
    frames, problems = read(gif)
    assert frames <= 12
    assert "cut short or damaged" in problems[-1]


def test_a_gif_with_a_damaged_block_says_so(gif: Path) -> None:
    data = bytearray(gif.read_bytes())
    place = data.index(b"\x21\xf9\x04", 600)  # of a later picture
    data[place] = 0x3B  # ends the file for readers
    gif.write_bytes(data)
    frames, problems = read(gif)
    assert count_gif_pictures(gif) is None
    assert frames == 12 or "cut short or damaged" in problems[-1]
