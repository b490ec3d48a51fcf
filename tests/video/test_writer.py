import errno
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from flowdet.errors import ConfigError, VideoError
from flowdet.video import writer as writer_module
from flowdet.video.reader import open_video
from flowdet.video.writer import VideoWriter
from tests.video.clips import grey, noise, number_of, quadrants


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def boxes(path: Path) -> list[str]:
    """The kinds of the outermost boxes of an mp4."""
    content = path.read_bytes()
    kinds, place = [], 0
    while place < len(content):
        kinds.append(content[place + 4 : place + 8].decode("ascii"))
        place += int.from_bytes(content[place : place + 4], "big")
    return kinds


def test_what_is_written_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, (48, 64), 25) as writer:
        for index in range(30):
            writer.write(grey(index), index / 25)
        assert not path.exists()
    assert writer.frame_count == 30
    assert files(tmp_path) == ["out.mp4"]
    video = open_video(path)
    assert [number_of(frame.image) for frame in video] == list(range(30))
    assert (video.size, video.fps, video.frame_count, video.problems) == ((48, 64), 25, 30, [])


def test_the_file_suits_browsers(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, (48, 64)) as writer:
        writer.write(quadrants(), 0.0)
    assert boxes(path) == ["ftyp", "free", "mdat", "moov"]
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
        assert stream.codec_context.color_primaries == 1
    frame = next(iter(open_video(path)))
    assert np.abs(frame.image.astype(int) - quadrants()).mean() < 6


@pytest.mark.parametrize("fps", [30.0, None])
def test_times_are_kept_from_the_first_on(tmp_path: Path, fps: float | None) -> None:
    path = tmp_path / "out.mp4"
    times = [3.0, 3.04, 3.5, 3.501, 8.25, 8.3]
    with VideoWriter(path, (48, 64), fps) as writer:
        for index, time in enumerate(times):
            writer.write(grey(index), time)
    written = [frame.time for frame in open_video(path)]
    assert written == pytest.approx([time - 3.0 for time in times], abs=1e-4)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.duration is not None
        assert stream.time_base is not None
        last = 1 / 30 if fps else 5.3 / 5
        assert float(stream.duration * stream.time_base) == pytest.approx(5.3 + last, abs=1e-3)


def test_times_that_stand_still_or_go_back_are_moved_on(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, (48, 64), 25) as writer:
        for index, time in enumerate([0.0, 0.5, 0.5, 0.2, 1.0]):
            writer.write(grey(index), time)
    frames = list(open_video(path))
    assert [number_of(frame.image) for frame in frames] == list(range(5))
    assert [frame.time for frame in frames] == pytest.approx([0.0, 0.5, 0.5, 0.5, 1.0], abs=1e-3)
    assert all(a.time < b.time for a, b in pairwise(frames))


@pytest.mark.parametrize("size", [(47, 63), (48, 63), (47, 64), (1, 1)])
def test_odd_sides_become_even(tmp_path: Path, size: tuple[int, int]) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, size) as writer:
        writer.write(grey(20, size), 0.0)
    frame = next(iter(open_video(path)))
    assert frame.image.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    assert number_of(frame.image) == 20


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_what_was_done_playable(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "out.mp4"

    def write_some() -> None:
        with VideoWriter(path, (48, 64), 25) as writer:
            for index in range(7):
                writer.write(grey(index), index / 25)
            raise error

    with pytest.raises(error):
        write_some()
    assert files(tmp_path) == ["out.mp4"]
    assert [number_of(frame.image) for frame in open_video(path)] == list(range(7))


def test_without_frames_nothing_is_left_and_nothing_replaced(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "new.mp4", (48, 64)):
        pass
    assert files(tmp_path) == []
    old = tmp_path / "old.mp4"
    old.write_text("earlier")
    with VideoWriter(old, (48, 64)):
        pass
    assert old.read_text() == "earlier"
    assert files(tmp_path) == ["old.mp4"]


def test_impossible_arguments_are_refused(tmp_path: Path) -> None:
    for size, fps in [((0, 64), 25.0), ((48, 64), 0.0), ((48, 64), float("nan"))]:
        with pytest.raises(ConfigError):
            VideoWriter(tmp_path / "out.mp4", size, fps)
    writer = VideoWriter(tmp_path / "out.mp4", (48, 64))
    with pytest.raises(VideoError, match="expected images of 64x48"):
        writer.write(grey(0, (48, 66)), 0.0)
    writer.close()
    with pytest.raises(VideoError, match="is finished"):
        writer.write(grey(0), 0.0)
    assert files(tmp_path) == []


def test_a_place_that_cannot_be_written_to_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="is a folder; name a file"):
        VideoWriter(tmp_path, (48, 64))
    (tmp_path / "file").touch()
    for parent in ("missing", "file"):
        with pytest.raises(VideoError, match="cannot be written"):
            VideoWriter(tmp_path / parent / "out.mp4", (48, 64))


def test_a_missing_encoder_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer_module, "_ENCODERS", ("no-such-encoder",))
    with pytest.raises(VideoError, match=r"no H\.264 encoder"):
        VideoWriter(tmp_path / "out.mp4", (48, 64))
    assert files(tmp_path) == []


class FullContainer:
    """A container on a disk that is full, or has another fault."""

    def __init__(self, container: Any, number: int = errno.ENOSPC) -> None:
        self._container = container
        self._number = number

    def mux(self, packet: object) -> None:
        raise OSError(self._number, os.strerror(self._number))

    def close(self) -> None:
        self._container.close()
        raise OSError(self._number, os.strerror(self._number))


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (48, 64))
    writer._container = FullContainer(writer._container)  # type: ignore[assignment]
    writer.write(grey(0), 0.0)
    with pytest.raises(
        VideoError,
        match=r"out\.mp4 cannot be written: No space left on device; choose a place with more room; nothing of it was",
    ):
        writer.close()
    writer.close()
    assert files(tmp_path) == []


def test_a_name_with_a_colon_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with VideoWriter("10:00:00.mp4", (48, 64), 25) as writer:
        writer.write(grey(3), 0.0)
    assert files(tmp_path) == ["10:00:00.mp4"]


def test_other_errors_do_not_speak_of_room(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (48, 64))
    writer._container = FullContainer(writer._container, errno.EIO)  # type: ignore[assignment]
    writer.write(grey(0), 0.0)
    with pytest.raises(VideoError, match=r"out\.mp4 cannot be written: [^;]*; nothing of it was kept"):
        writer.close()


def test_a_target_that_cannot_be_replaced_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    writer = VideoWriter(tmp_path / "out.mp4", (48, 64))
    writer.write(grey(7), 0.0)
    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(VideoError, match=r"Permission denied; it is in '.*out\.mp4.*\.part'"):
        writer.close()
    (left,) = tmp_path.iterdir()
    assert [number_of(frame.image) for frame in open_video(left)] == [7]


@pytest.mark.parametrize("step", [0.02, 0.5, 5.0])
def test_a_key_frame_comes_every_two_seconds(tmp_path: Path, step: float) -> None:
    path = tmp_path / "out.mp4"
    with VideoWriter(path, (48, 64), 50) as writer:
        for index in range(220):
            writer.write(grey(9), index * step)
    with av.open(str(path)) as container:
        keys = [packet.pts for packet in container.demux(video=0) if packet.is_keyframe]
    gaps = {(after - before) / 90_000 for before, after in pairwise(keys)}  # type: ignore[operator]
    assert gaps == {max(2.0, step)}


def test_what_a_crash_leaves_is_playable(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "out.mp4", (48, 64), 10)
    for index in range(300):
        writer.write(grey(index % 50), index / 10)
    (partial,) = tmp_path.iterdir()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(partial.read_bytes())
    assert "moof" in boxes(cut)
    video = open_video(cut)
    found = list(video)
    assert 200 < len(found) < 300
    assert (video.frame_count, video.problems) == (len(found), [])
    assert [number_of(frame.image) for frame in found] == [index % 50 for index in range(len(found))]
    writer.close()
    assert len(list(open_video(tmp_path / "out.mp4"))) == 300


def test_a_file_that_may_not_grow_keeps_its_beginning(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = VideoWriter(tmp_path / "out.mp4", (96, 128), 25)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, before[1]))

    def write_much() -> None:
        with writer:
            for index, image in enumerate(noise(200, (96, 128))):
                writer.write(image, index / 25)

    try:
        with pytest.raises(VideoError, match=r"File too large; choose a place with more room; .* kept and playable"):
            write_much()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(tmp_path) == ["out.mp4"]
    assert 20 < len(list(open_video(tmp_path / "out.mp4"))) < 60


def test_the_image_need_not_be_contiguous(tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    turned = quadrants((64, 48)).transpose(1, 0, 2)[:, ::-1]
    with VideoWriter(path, (48, 64)) as writer:
        writer.write(turned, 0.0)
    written = next(iter(open_video(path))).image
    assert np.abs(written.astype(int) - turned).mean() < 6
