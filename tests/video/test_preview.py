from collections.abc import Sequence
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from flowdet.errors import ConfigError, VideoError
from flowdet.video.reader import Video, open_video
from flowdet.video.streams import LiveSource
from tests.video.clips import damage_packets, grey, make_clip, noise, number_of


def numbers(video: Video, count: int) -> list[int]:
    return [number_of(frame.image) for frame in video.preview(count)]


def spread(total: int, count: int) -> list[int]:
    return [round(i * (total - 1) / (count - 1)) for i in range(count)]


@pytest.mark.parametrize("name", ["clip.mp4", "clip.mpg", "clip.avi"])  # an mpg does not tell its length
def test_a_preview_is_spread_over_the_whole_video(tmp_path: Path, name: str) -> None:
    codec = {"mp4": "libx264", "mpg": "mpeg2video", "avi": "mpeg4"}[name[-3:]]
    video = open_video(make_clip(tmp_path / name, [grey(i) for i in range(33)], codec=codec, b_frames=2))
    for count in (2, 5, 14, 33):
        frames = video.preview(count)
        assert [frame.index for frame in frames] == spread(33, count)
        assert numbers(video, count) == spread(33, count)
        assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in spread(33, count)], abs=2e-3)
    assert numbers(video, 1) == [0]
    assert [frame.index for frame in video] == list(range(33))


def test_a_preview_of_a_part_is_spread_over_the_part(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", [grey(i) for i in range(40)]), start=0.4, end=1.2, every=2)
    whole = [number_of(frame.image) for frame in video]
    assert numbers(video, 4) == [whole[place] for place in spread(len(whole), 4)]


def test_a_short_video_has_frames_several_times(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", [grey(i) for i in range(3)]))
    assert numbers(video, 6) == [0, 0, 1, 1, 2, 2]


def test_damaged_frames_do_not_count(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", [grey(i) for i in range(40)])
    damage_packets(path, [39, 38])
    video = open_video(path)
    whole = [frame.index for frame in video]
    assert [frame.index for frame in video.preview(5)] == [whole[place] for place in spread(len(whole), 5)]


def save_images(folder: Path, shades: Sequence[int]) -> Path:
    folder.mkdir()
    for shade in shades:
        Image.fromarray(grey(shade)).save(folder / f"{shade}.png")
    return folder


def test_a_preview_of_a_folder_reads_only_what_it_shows(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "shots", range(20))
    video = open_video(folder)
    for number in range(20):
        if number not in spread(20, 4):
            (folder / f"{number}.png").unlink()
    assert numbers(video, 4) == spread(20, 4)


def test_an_unreadable_picture_is_replaced_by_the_next_one(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "shots", range(10))
    for number in (3, 9):
        (folder / f"{number}.png").write_text("no picture")
    assert numbers(open_video(folder), 4) == [0, 4, 6, 6]
    for number in range(10):
        (folder / f"{number}.png").unlink(missing_ok=True)
    Image.fromarray(grey(0)).save(folder / "0.png")
    video = open_video(folder)
    (folder / "0.png").unlink()
    with pytest.raises(VideoError, match="gave no frame"):
        video.preview(3)


def test_what_has_no_preview_is_refused(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", [grey(0)]))
    with pytest.raises(ConfigError, match="1 or more frames, not 0"):
        video.preview(0)
    video.close()
    with pytest.raises(VideoError, match="was closed"):
        video.preview(1)
    import av

    live = LiveSource(lambda: av.open(str(tmp_path / "clip.mp4")), "camera 0", "camera0")
    with pytest.raises(VideoError, match="camera 0 is live and can be read only once"):
        Video(live, video._selection).preview(2)
    live.close()


def test_a_preview_holds_only_its_frames(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "long.mp4", (image for image in noise(200, (480, 640))))
    video = open_video(path)
    video.preview(2)
    process = psutil.Process()
    before = process.memory_info().rss
    assert len(video.preview(4)) == 4
    assert process.memory_info().rss - before < 60e6  # all of them have 184 MB


@pytest.mark.parametrize("suffix", ["tif", "webp", "png", "mpo"])
def test_the_pages_of_a_file_are_its_frames(tmp_path: Path, suffix: str) -> None:
    count = 2 if suffix == "mpo" else 6  # Pillow's index of more pages is wrong
    pages = [Image.fromarray(grey(8 * number)) for number in range(count)]
    path = tmp_path / f"pages.{suffix}"
    pages[0].save(path, save_all=True, append_images=pages[1:], duration=100, lossless=True)
    video = open_video(path, frame_rate=10)
    frames = list(video)
    assert [number_of(frame.image) for frame in frames] == [8 * number for number in range(count)]
    assert [frame.time for frame in frames] == pytest.approx([i / 10 for i in range(count)])
    assert (video.frame_count, video.fps, video.size, video.problems) == (count, 10, (48, 64), [])
    if count == 6:
        assert [frame.index for frame in open_video(path, frame_rate=10, start=0.2, end=0.55, every=2)] == [2, 4]
        assert numbers(video, 3) == [0, 8 * 2, 8 * 5]


def test_pages_of_another_size_and_damaged_ones_are_named(tmp_path: Path) -> None:
    pages = [Image.fromarray(image) for image in (grey(1), grey(2, (10, 20)), grey(3))]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    video = open_video(tmp_path / "p.tif")
    assert [frame.index for frame in video] == [0, 2]
    assert video.problems == ["skipped 1 image of another size than the first one, 64x48: page 2 (20x10)"]
    data = (tmp_path / "p.tif").read_bytes()
    (tmp_path / "p.tif").write_bytes(data[: len(data) - 6000])
    assert [frame.index for frame in video] == [0]
    assert "stopped reading at 1 image that cannot be read: page 3 (" in video.problems[-1]


def test_only_the_first_page_of_a_file_in_a_folder_is_read_and_that_is_told(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "shots", [0, 1])
    Image.fromarray(grey(2)).save(folder / "2.tif", save_all=True, append_images=[Image.fromarray(grey(3))])
    video = open_video(folder)
    assert [number_of(frame.image) for frame in video] == [0, 1, 2]
    assert video.problems == ["read only the first page of 1 image: 2.tif"]


def test_16_bits_and_floats_are_read_by_detection_as_by_the_one_reader(tmp_path: Path) -> None:
    deep = np.arange(48 * 64, dtype=np.uint16).reshape(48, 64) * 21
    Image.fromarray(deep).save(tmp_path / "16.png")
    assert next(iter(open_video(tmp_path / "16.png"))).image[..., 0].tolist() == (deep // 256).tolist()
