import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil
import pytest
from PIL import Image

from flowdet.errors import ConfigError, VideoError
from flowdet.types import Frame
from flowdet.video import reader as reader_module
from flowdet.video.reader import check_selection, open_video, read_ahead
from flowdet.video.streams import camera_device
from tests.video.clips import Image as Picture
from tests.video.clips import cut, damage_packets, grey, make_clip, noise, number_of, quadrants, set_display_matrix

CONTAINERS = [
    ("clip.mp4", "libx264", 0),
    ("clip.mp4", "libx264", 2),
    ("clip.mp4", "libx265", 2),
    ("clip.mov", "libx264", 2),
    ("clip.mkv", "libx264", 2),
    ("clip.webm", "libvpx", 0),
    ("clip.webm", "libvpx-vp9", 0),
    ("clip.avi", "mpeg4", 0),
    ("clip.avi", "mpeg4", 2),
    ("clip.avi", "libx264", 2),
    ("clip.ts", "libx264", 2),
    ("clip.mpg", "mpeg2video", 2),
]


def greys(count: int) -> list[Picture]:
    return [grey(index) for index in range(count)]


@pytest.mark.parametrize(("name", "codec", "b_frames"), CONTAINERS)
def test_every_container_gives_every_frame_in_order(tmp_path: Path, name: str, codec: str, b_frames: int) -> None:
    path = make_clip(tmp_path / name, greys(33), codec=codec, b_frames=b_frames)
    video = open_video(path)
    frames = list(video)
    assert [frame.index for frame in frames] == list(range(33))
    assert [number_of(frame.image) for frame in frames] == list(range(33))
    assert [frame.time for frame in frames] == pytest.approx([index / 25 for index in range(33)], abs=2e-3)
    assert (video.name, video.size, video.fps) == ("clip", (48, 64), 25)
    assert video.frame_count == 33 or name == "clip.mpg"  # it stores no length
    assert not video.is_live
    assert video.problems == []


@pytest.mark.parametrize(("name", "codec", "b_frames"), CONTAINERS)
def test_start_end_and_every_keep_true_numbers(tmp_path: Path, name: str, codec: str, b_frames: int) -> None:
    path = make_clip(tmp_path / name, greys(40), codec=codec, b_frames=b_frames)
    for start, end, every in [(0.84, 1.2, 1), (0.5, 1.3, 3), (0.0, 0.4, 1), (1.2, None, 2)]:
        video = open_video(path, start=start, end=end, every=every)
        frames = list(video)
        wanted = [i for i in range(40) if start - 1e-3 <= i / 25 < (end or 9) - 1e-3][::every]
        assert [frame.index for frame in frames] == wanted
        assert [number_of(frame.image) for frame in frames] == wanted
        assert video.frame_count == len(wanted) or name == "clip.mpg"
        assert video.problems == []


def test_every_alone_counts_from_the_first_frame(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", greys(10)), every=4)
    assert [frame.index for frame in video] == [0, 4, 8]
    assert video.frame_count == 3


def test_a_file_can_be_read_twice_and_by_two_at_once(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", greys(6)))
    assert [(a.index, b.index) for a, b in zip(video, video, strict=True)] == [(i, i) for i in range(6)]


def test_varying_frame_rate_is_kept(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.5, 0.533, 1.2, 1.25, 3.0]
    for name in ("clip.mp4", "clip.mkv"):
        path = make_clip(tmp_path / name, greys(7), times=times, b_frames=2)
        assert [frame.time for frame in open_video(path)] == pytest.approx(times, abs=1e-3)
        assert [frame.index for frame in open_video(path, start=0.52, end=1.22)] == [3, 4]


def test_time_starts_at_zero_where_stamps_do_not(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", greys(5), times=[7.0, 7.1, 7.2, 7.3, 7.4])
    assert [frame.time for frame in open_video(path)] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4], abs=1e-3)
    assert [frame.index for frame in open_video(path, start=0.2)] == [2, 3, 4]


@pytest.mark.parametrize(
    ("matrix", "turned"),
    [
        ((1, 0, 0, 1), lambda image: image),
        ((0, 1, -1, 0), lambda image: np.rot90(image, -1)),
        ((-1, 0, 0, -1), lambda image: np.rot90(image, 2)),
        ((0, -1, 1, 0), lambda image: np.rot90(image, 1)),
        ((-1, 0, 0, 1), lambda image: image[:, ::-1]),
        ((1, 0, 0, -1), lambda image: image[::-1]),
        ((0, 1, 1, 0), lambda image: image.transpose(1, 0, 2)),
    ],
)
def test_the_display_matrix_is_honoured(
    tmp_path: Path, matrix: tuple[int, int, int, int], turned: Callable[[Picture], Picture]
) -> None:
    path = make_clip(tmp_path / "clip.mp4", [quadrants()] * 2)
    set_display_matrix(path, matrix)
    video = open_video(path)
    expected = turned(quadrants()).astype(int)
    frames = list(video)
    assert video.size == expected.shape[:2]
    for frame in frames:
        assert np.abs(frame.image - expected).mean() < 8
        assert frame.image.flags.c_contiguous
        assert frame.image.flags.writeable


@pytest.mark.parametrize(
    ("aspect", "size"), [(Fraction(4, 3), (48, 85)), (Fraction(1, 2), (96, 64)), (Fraction(99), (48, 64))]
)
def test_pixels_become_square(tmp_path: Path, aspect: Fraction, size: tuple[int, int]) -> None:
    path = make_clip(tmp_path / "clip.mp4", [quadrants()] * 2, pixel_aspect=aspect)
    video = open_video(path)
    frame = next(iter(video))
    assert video.size == frame.image.shape[:2] == size
    assert np.abs(frame.image[: size[0] // 2 - 2, : size[1] // 2 - 2].astype(int) - quadrants()[0, 0]).mean() < 8
    set_display_matrix(path, (0, 1, -1, 0))
    turned = open_video(path)
    assert turned.size == next(iter(turned)).image.shape[:2] == size[::-1]
    assert turned.problems == []


def test_hidden_frames_of_a_trimmed_mp4_are_no_damage(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "whole.mp4", greys(30), b_frames=2, key_every=15)
    trimmed = tmp_path / "trimmed.mp4"
    with av.open(str(source)) as whole, av.open(str(trimmed), "w", options={"avoid_negative_ts": "disabled"}) as part:
        stream = part.add_stream_from_template(whole.streams.video[0])
        for packet in whole.demux(video=0):
            if packet.dts is not None and packet.pts is not None:
                shift = round(5 / 25 / packet.time_base)
                packet.pts, packet.dts, packet.stream = packet.pts - shift, packet.dts - shift, stream
                part.mux(packet)
    video = open_video(trimmed)
    assert [(frame.index, number_of(frame.image)) for frame in video] == [(i, i + 5) for i in range(25)]
    assert video.frame_count == 25
    assert video.problems == []


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("clip.mp4", "libx264"),
        ("clip.mp4", "libx265"),
        ("clip.mkv", "libx264"),
        ("clip.webm", "libvpx"),
        ("clip.webm", "libvpx-vp9"),
    ],
)
def test_damaged_packets_are_skipped_and_reported(tmp_path: Path, name: str, codec: str) -> None:
    path = make_clip(tmp_path / name, greys(40), codec=codec)
    damage_packets(path, [22, 23])
    video = open_video(path)
    frames = list(video)
    indices = [frame.index for frame in frames]
    assert 30 <= len(frames) < 40
    assert indices == sorted(set(indices))
    assert indices[:20] == list(range(20))
    assert indices[-10:] == list(range(30, 40))
    assert [number_of(frame.image) for frame in frames[-10:]] == list(range(30, 40))
    lost = 40 - len(frames)
    assert video.problems == [f"skipped because it was too damaged to decode: {lost} frames near 0.9 s"]
    assert [frame.index for frame in open_video(path, start=1.0)] == [index for index in indices if index >= 25]


def test_frames_damaged_in_part_are_kept_and_reported(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.avi", noise(20), codec="mpeg4")
    damage_packets(path, [5], kept=0.5)
    video = open_video(path)
    assert len(list(video)) == 20
    assert video.problems == ["kept though damaged in part: 1 frame near 0.2 s"]
    assert len(list(video)) == 20
    assert len(video.problems) == 1


@pytest.mark.parametrize("number", [39, 38, 36])
def test_damage_at_the_end_costs_only_the_damaged_frames(tmp_path: Path, number: int) -> None:
    path = make_clip(tmp_path / "clip.mp4", noise(40))
    damage_packets(path, [number])
    video = open_video(path)
    assert [frame.index for frame in video] == [index for index in range(40) if index != number]
    assert len(video.problems) == 1


def test_a_truncated_mp4_gives_its_good_frames(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", noise(60), options={"movflags": "faststart"})
    cut(path, 0.5)
    video = open_video(path)
    frames = list(video)
    assert 25 < len(frames) < 35
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert video.problems[-1] == f"the file is cut short: {len(frames) + 1} of 60 frames are there"
    part = open_video(path, end=0.5)
    assert len(list(part)) == 13
    assert part.problems == []


@pytest.mark.parametrize(("name", "codec"), [("clip.mkv", "libx264"), ("clip.webm", "libvpx"), ("clip.avi", "mpeg4")])
def test_a_truncated_file_without_a_count_seems_short(tmp_path: Path, name: str, codec: str) -> None:
    path = make_clip(tmp_path / name, noise(60), codec=codec)
    cut(path, 0.5)
    video = open_video(path)
    assert 15 < len(list(video)) < 45
    assert [problem.split(":")[0] for problem in video.problems][-1] == "the file seems to be cut short"


def test_another_picture_size_is_scaled_to_the_first(tmp_path: Path) -> None:
    path = tmp_path / "clip.ts"
    parts = [make_clip(tmp_path / f"{h}.ts", [grey(9, (h, 64))] * 5) for h in (48, 96)]
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    video = open_video(path)
    frames = list(video)
    assert {frame.image.shape for frame in frames} == {(48, 64, 3)}
    assert any(problem.startswith("scaled to the size of the first frame: ") for problem in video.problems)


def test_hopeless_files_are_refused_with_one_message(tmp_path: Path) -> None:
    empty = tmp_path / "empty.mp4"
    empty.touch()
    text = tmp_path / "text.mp4"
    text.write_text("not a video\n" * 100)
    session = tmp_path / "notes.txt"
    session.write_text("not a video\n" * 100)
    headless = make_clip(tmp_path / "headless.mp4", noise(30))
    cut(headless, 0.5)
    frameless = tmp_path / "frameless.mkv"
    with av.open(str(frameless), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        container.start_encoding()
    broken = make_clip(tmp_path / "broken.mp4", greys(5))
    damage_packets(broken, range(5))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "clip.mp4").touch()
    cases: list[tuple[str | Path | int, str]] = [
        (empty, "is empty"),
        (text, "is no video"),
        (session, "holds no pictures"),
        (headless, "table of contents is missing"),
        (frameless, "ends before its first frame"),
        (broken, "not one frame"),
        (folder, "holds no image"),
        (tmp_path / "missing.mp4", "does not exist"),
        (str(tmp_path / "*.jpg"), "holds no image"),
        (97, "camera 97 cannot be opened"),
        ("97", "camera 97 cannot be opened"),
        ("http://127.0.0.1:9/clip.mp4", "Connection refused"),
        ("rtsp://user:secret@127.0.0.1:9/live", "'rtsp://127.0.0.1:9/live' cannot be opened: Connection refused"),
    ]
    for source, message in cases:
        with pytest.raises(VideoError, match=message) as caught:
            open_video(source)
        assert "secret" not in str(caught.value)


def test_impossible_arguments_are_refused(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mp4", greys(2))
    impossible: list[dict[str, Any]] = [
        {"start": -1.0},
        {"start": float("nan")},
        {"start": 2.0, "end": 1.0},
        {"end": 0.0},
        {"every": 0},
        {"frame_rate": 0.0},
    ]
    for arguments in impossible:
        with pytest.raises(ConfigError):
            open_video(path, **arguments)
        if "frame_rate" not in arguments:
            with pytest.raises(ConfigError):
                check_selection(**arguments)
    with pytest.raises(ConfigError, match="cameras are numbered"):
        open_video(-1)


def test_a_part_without_frames_is_refused(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", greys(5)), start=3.0, end=4.0)
    with pytest.raises(VideoError, match=r"no frame from 3 s to 4 s; it lasts about 0\.2 s"):
        list(video)
    with pytest.raises(VideoError, match="no frame from 50 s on; it lasts"):
        list(open_video(tmp_path / "clip.mp4", start=50.0))


def test_a_closed_video_gives_nothing_more(tmp_path: Path) -> None:
    with open_video(make_clip(tmp_path / "clip.mp4", greys(5))) as video:
        frames = iter(video)
        next(frames)
    assert list(frames) == []
    with pytest.raises(VideoError, match="was closed"):
        next(iter(video))


def test_a_colon_in_a_name_is_no_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_clip(tmp_path / "clip.mp4", greys(3)).rename(tmp_path / "2024-01-01T10:00:00.mp4")
    monkeypatch.chdir(tmp_path)
    video = open_video("2024-01-01T10:00:00.mp4")
    assert len(list(video)) == 3
    assert video.name == "2024-01-01T10_00_00"


def test_a_folder_that_may_not_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)
    with pytest.raises(VideoError, match=r"^the folder '.*' cannot be read: Permission denied$"):
        open_video(tmp_path)


def save_images(folder: Path, names: list[str]) -> Path:
    folder.mkdir()
    for index, name in enumerate(names):
        Image.fromarray(grey(index)).save(folder / name)
    return folder


def test_a_folder_is_read_in_natural_order(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "shots", ["1.png", "2.JPG", "10.bmp", "11.jpeg", "100.webp", "101.tif"])
    (folder / "notes.txt").write_text("no image")
    (folder / "._1.png").write_text("no image either")
    video = open_video(folder)
    frames = list(video)
    assert [(f.index, number_of(f.image), f.time) for f in frames] == [(i, i, i / 25) for i in range(6)]
    assert (video.name, video.size, video.fps, video.frame_count) == ("shots", (48, 64), 25.0, 6)
    assert video.problems == []
    selected = open_video(folder, start=0.2, end=0.5, every=2, frame_rate=10)
    assert [(f.index, f.time) for f in selected] == [(2, 0.2), (4, 0.4)]
    assert selected.frame_count == 2


def test_a_folder_with_a_number_for_a_name_is_no_camera(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_images(tmp_path / "0007", ["1.png"])
    monkeypatch.chdir(tmp_path)
    assert len(list(open_video("0007"))) == 1


def test_unusable_images_are_skipped_and_named(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "shots", [f"{i}.png" for i in range(4)])
    (folder / "1.png").write_bytes((folder / "1.png").read_bytes()[:60])
    (folder / "a.jpg").write_text("text")
    Image.fromarray(grey(0, (10, 20))).save(folder / "2.png")
    video = open_video(folder)
    assert [frame.index for frame in video] == [0, 3]
    assert len(video.problems) == 2
    assert video.problems[0].startswith("skipped 2 images that cannot be read: 1.png (")
    assert ", a.jpg (" in video.problems[0]
    assert video.problems[1] == "skipped 1 image of another size than the first one, 64x48: 2.png (20x10)"
    for path in folder.glob("*.png"):
        path.write_text("text")
    with pytest.raises(VideoError, match=r"none of the 5 images .* can be read; 0\.png: "):
        open_video(folder)
    for path in set(folder.iterdir()) - {folder / "0.png"}:
        path.unlink()
    with pytest.raises(VideoError, match=r"the only image of .* cannot be read; 0\.png: "):
        open_video(folder)


def test_a_pattern_and_a_single_image(tmp_path: Path) -> None:
    folder = save_images(tmp_path / "shots", ["a1.png", "b1.png", "a2.png"])
    video = open_video(str(folder / "a*.png"))
    assert [number_of(frame.image) for frame in video] == [0, 2]
    assert video.name == "shots"
    assert open_video(str(tmp_path / "*" / "a*.png")).name == "images"
    assert [number_of(frame.image) for frame in open_video(folder / "b1.png")] == [1]


def test_photographs_are_turned_upright_and_deep_ones_scaled(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # "turn by 90 degrees clockwise to show"
    Image.fromarray(quadrants()).save(tmp_path / "1.png", exif=exif)
    video = open_video(tmp_path / "1.png")
    assert video.size == (64, 48)
    assert np.array_equal(next(iter(video)).image, np.rot90(quadrants(), -1))
    deep = np.linspace(0, 65535, 48 * 64).astype(np.uint16).reshape(48, 64)
    Image.fromarray(deep).save(tmp_path / "2.png")
    assert np.array_equal(next(iter(open_video(tmp_path / "2.png"))).image[..., 1], deep // 256)


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  (the base class's name)
        pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(tmp_path))) as http:
        thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_file_behind_an_address(tmp_path: Path, server: str) -> None:
    make_clip(tmp_path / "clip.mp4", greys(30), options={"movflags": "faststart"})
    video = open_video(f"{server}/clip.mp4?token=1")
    assert video.name == f"127.0.0.1_{server.rpartition(':')[2]}_clip"
    assert (video.frame_count, video.is_live) == (30, False)
    for _ in range(2):
        assert [number_of(frame.image) for frame in video] == list(range(30))
    assert [frame.index for frame in open_video(f"{server}/clip.mp4", start=0.8)] == list(range(20, 30))
    with pytest.raises(VideoError, match="404"):
        open_video(f"{server}/other.mp4")


def test_a_live_stream_comes_once(tmp_path: Path, server: str) -> None:
    make_clip(tmp_path / "live.mkv", greys(30), options={"live": "1"})
    video = open_video(f"{server}/live.mkv", every=3)
    assert (video.is_live, video.frame_count, video.size) == (True, None, (48, 64))
    assert [number_of(frame.image) for frame in video] == list(range(0, 30, 3))
    with pytest.raises(VideoError, match="only once"):
        list(video)
    unread = open_video(f"{server}/live.mkv")
    unread.close()
    with pytest.raises(VideoError, match="was closed"):
        list(unread)


def test_cameras_go_by_the_name_of_the_platform() -> None:
    assert camera_device(2, "linux") == ("/dev/video2", "v4l2")
    assert camera_device(1, "darwin") == ("1", "avfoundation")


def plain_frames(count: int) -> Iterator[Frame]:
    for index in range(count):
        yield Frame(index, index / 25, np.zeros((2, 2, 3), np.uint8))


def reader_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "flowdet-read-ahead"]


def test_reading_ahead_gives_the_same_frames(tmp_path: Path) -> None:
    video = open_video(make_clip(tmp_path / "clip.mp4", greys(30)))
    assert [number_of(frame.image) for frame in read_ahead(video, 3)] == list(range(30))
    assert reader_threads() == []


def test_reading_ahead_is_bounded_and_ends_with_its_reader() -> None:
    pulled = 0

    def count() -> Iterator[Frame]:
        nonlocal pulled
        for frame in plain_frames(1_000_000):
            pulled += 1
            yield frame

    ahead = read_ahead(count(), depth=4)
    assert reader_threads() == []
    for frame in ahead:
        time.sleep(0.005)
        assert pulled - (frame.index + 1) <= 4 + 1
        if frame.index == 20:
            break
    ahead.close()
    assert reader_threads() == []
    with pytest.raises(ConfigError):
        read_ahead(plain_frames(1), depth=0)


@pytest.mark.parametrize("depth", [1, 8])
def test_reading_ahead_hands_on_errors_after_the_good_frames(depth: int) -> None:
    def failing() -> Iterator[Frame]:
        yield from plain_frames(5)
        raise VideoError("the cable was pulled")

    seen: list[int] = []

    def consume() -> None:
        for frame in read_ahead(failing(), depth):
            seen.append(frame.index)

    with pytest.raises(VideoError, match="the cable was pulled"):
        consume()
    assert seen == list(range(5))
    assert reader_threads() == []


def test_a_slow_reader_of_a_live_source_misses_frames_and_stays_up_to_date() -> None:
    ended = threading.Event()

    def live() -> Iterator[Frame]:
        yield from plain_frames(50)
        ended.set()

    ahead = read_ahead(live(), depth=3, drop_oldest=True)
    first = next(ahead)
    assert ended.wait(5)
    seen = [first.index, *(frame.index for frame in ahead)]
    assert len(seen) <= 4 + 1
    assert seen[-3:] == [47, 48, 49]
    assert reader_threads() == []
    broken = read_ahead(iter([]), drop_oldest=True)
    assert list(broken) == []


def test_waiting_for_a_slow_source_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader_module, "_WAKE_SECONDS", 0.01)

    def slow() -> Iterator[Frame]:
        time.sleep(0.05)
        yield from plain_frames(2)

    assert [frame.index for frame in read_ahead(slow())] == [0, 1]


def test_an_interrupt_of_the_consumer_ends_the_thread() -> None:
    ahead = read_ahead(plain_frames(1_000_000), depth=1)

    def consume() -> None:
        for frame in ahead:
            if frame.index == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        consume()
    ahead.close()
    assert reader_threads() == []


def test_memory_stays_flat_over_a_long_video(tmp_path: Path) -> None:
    still = [grey(index, (192, 320)) for index in range(10)]
    path = make_clip(tmp_path / "long.mp4", (still[index % 10] for index in range(3000)), key_every=100)
    process = psutil.Process()
    settled = 0
    count = 0
    for frame in read_ahead(open_video(path)):
        count += 1
        if frame.index == 500:
            settled = process.memory_info().rss
    assert count == 3000
    assert process.memory_info().rss - settled < 30e6
