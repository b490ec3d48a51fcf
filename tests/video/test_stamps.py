"""Stamps that restart, that are not those of presentation, or that are missing."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.video.stream import VideoStream
from PIL import Image

from flowdet.errors import VideoError
from flowdet.types import Frame
from flowdet.video import containers, streams
from flowdet.video.reader import Video, open_video
from flowdet.video.writer import VideoWriter
from tests.video.clips import damage_packets, grey, make_clip, noise, number_of


def joined(folder: Path, suffix: str = "ts", b_frames: int = 2) -> Path:
    """`cat a.ts b.ts > ab.ts`: 25 pictures each, numbered from 0 to 49."""
    parts = [
        make_clip(folder / f"{start}.{suffix}", [grey(start + i) for i in range(25)], b_frames=b_frames)
        for start in (0, 25)
    ]
    path = folder / f"joined.{suffix}"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def restamped(path: Path, change: Callable[[av.Packet[VideoStream], int], None]) -> Path:
    """A copy of the clip whose packets were changed; a packet's number is that of its decoding."""
    copy = path.with_stem(path.stem + "-restamped")
    with av.open(str(path)) as source, av.open(str(copy), "w", options={"avoid_negative_ts": "disabled"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            change(packet, number)
            packet.stream = stream
            target.mux(packet)
    return copy


def decoding_stamps_only(packet: av.Packet[VideoStream], number: int) -> None:
    step = round(1 / 25 / packet.time_base)
    packet.pts = packet.dts = number * step


@pytest.mark.parametrize("b_frames", [0, 2])
def test_stamps_that_restart_go_on(tmp_path: Path, b_frames: int) -> None:
    video = open_video(joined(tmp_path, b_frames=b_frames))
    frames = list(video)
    assert [number_of(frame.image) for frame in frames] == list(range(50))
    assert [frame.index for frame in frames] == list(range(50))
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(50)], abs=1e-3)
    assert video.problems == []


def test_start_finds_what_lies_behind_a_restart(tmp_path: Path) -> None:
    path = joined(tmp_path)
    assert [(frame.index, number_of(frame.image)) for frame in open_video(path, start=1.2, end=1.36)] == [
        (number, number) for number in range(30, 34)
    ]


def test_the_annotated_video_of_restarting_stamps_is_as_long(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "out.mp4", (48, 64), 25) as writer:
        for frame in open_video(joined(tmp_path)):
            writer.write(frame.image, frame.time)
    assert [frame.time for frame in open_video(tmp_path / "out.mp4")] == pytest.approx(
        [i / 25 for i in range(50)], abs=1e-3
    )


def test_stamps_that_jump_far_ahead_in_a_transport_stream_go_on(tmp_path: Path) -> None:
    def jump(packet: av.Packet[VideoStream], number: int) -> None:
        if number >= 10:
            ticks = round(1000 / packet.time_base)
            packet.pts, packet.dts = cast("int", packet.pts) + ticks, cast("int", packet.dts) + ticks

    video = open_video(restamped(make_clip(tmp_path / "clip.ts", [grey(i) for i in range(20)]), jump))
    assert [frame.time for frame in video] == pytest.approx([i / 25 for i in range(20)], abs=1e-3)
    assert video.problems == []


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
def test_stamps_of_decoding_alone_are_put_in_order(tmp_path: Path, suffix: str) -> None:
    clip = make_clip(tmp_path / f"clip.{suffix}", [grey(i) for i in range(30)], b_frames=2)
    video = open_video(restamped(clip, decoding_stamps_only))
    frames = list(video)
    assert [(frame.index, number_of(frame.image)) for frame in frames] == [(i, i) for i in range(30)]
    assert [frame.time for frame in frames] == pytest.approx([i / 25 for i in range(30)], abs=2e-3)
    assert video.problems == []
    part = open_video(video._source.location.removeprefix("file:"), start=0.4, end=0.6)  # type: ignore[attr-defined]
    assert [(frame.index, number_of(frame.image)) for frame in part] == [(i, i) for i in range(10, 15)]


def test_damage_is_counted_where_stamps_are_those_of_decoding(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", noise(40), b_frames=2)
    path = restamped(clip, decoding_stamps_only)
    damage_packets(path, [22])
    video = open_video(path)
    frames = list(video)
    assert len(frames) < 40
    (problem,) = video.problems
    assert problem.startswith(f"skipped because it was too damaged to decode: {40 - len(frames)} frame")


def test_a_frame_that_only_the_container_calls_damaged_is_kept(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.ts", [grey(i) for i in range(20)])
    content = bytearray(path.read_bytes())
    pid = 0x100
    places = [i for i in range(0, len(content), 188) if (content[i + 1] & 0x1F) << 8 | content[i + 2] == pid]
    for place in places[len(places) // 2 :]:  # the counter skips one, as if a piece were missing
        content[place + 3] = content[place + 3] & 0xF0 | (content[place + 3] + 1) & 0x0F
    path.write_bytes(content)
    with av.open(str(path)) as container:
        assert any(packet.is_corrupt for packet in container.demux(video=0))
    video = open_video(path)
    assert [number_of(frame.image) for frame in video] == list(range(20))
    assert len(video.problems) == 1
    assert video.problems[0].startswith("pieces of the stream are missing at 1 place, first near 0.")


def test_times_never_fall(tmp_path: Path) -> None:
    def stumble(packet: av.Packet[VideoStream], number: int) -> None:
        step = round(1 / 25 / packet.time_base)
        packet.dts = (number - 5) * step
        if number % 5 == 3:
            packet.pts = (number - 2) * step

    path = restamped(make_clip(tmp_path / "clip.mp4", [grey(i) for i in range(30)]), stumble)
    frames = list(open_video(path))
    assert [number_of(frame.image) for frame in frames] == list(range(30))
    assert all(a.time <= b.time and a.index < b.index for a, b in pairwise(frames))


def test_a_damaged_duration_is_unknown(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.webm", [grey(i) for i in range(10)], codec="libvpx-vp9")
    content = path.read_bytes()
    tag = b"00:00:00.4"
    assert content.count(tag) == 1
    for damage in (b"0:0:0:0:\xff4", b"aa:00:00.4", b"00:00:00xx", b"00:00:-1e9", b"99:99:1e30"):
        path.write_bytes(content.replace(tag, damage))
        assert len(list(open_video(path))) == 10


def save_song(path: Path, *, video: bool) -> Path:
    """Sound with a cover picture and, if wanted, a video of 5 frames."""
    cover = BytesIO()
    Image.new("RGB", (32, 32), "red").save(cover, "jpeg")
    with av.open(str(path), "w", format="mp4") as container:
        sound = container.add_stream("aac", rate=8000)
        pictures = container.add_stream("libx264", rate=25) if video else None
        if pictures:
            pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        attached = container.add_stream("mjpeg")
        attached.width, attached.height, attached.pix_fmt = 32, 32, "yuvj420p"
        attached.disposition = av.stream.Disposition.attached_pic
        packet = av.Packet(cover.getvalue())
        packet.stream, packet.pts, packet.dts, packet.time_base = attached, 0, 0, Fraction(1, 90_000)
        container.mux(packet)
        for index in range(5):
            if pictures:
                container.mux(pictures.encode(av.VideoFrame.from_ndarray(grey(index), format="rgb24")))
        if pictures:
            container.mux(pictures.encode())
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        silence.rate = 8000
        container.mux(sound.encode(silence))
        container.mux(sound.encode())
    return path


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="holds no video, only sound with a cover picture"):
        open_video(save_song(tmp_path / "song.m4a", video=False))
    assert len(list(open_video(save_song(tmp_path / "clip.mp4", video=True)))) == 5


Respond = Callable[[socket.socket], None]


@contextmanager
def serving(*responses: Respond) -> Iterator[str]:
    """A server that answers each connection with the next response."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            for respond in responses:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(4096)
                    try:
                        respond(connection)
                    except OSError:
                        continue
            server.close()  # who comes back is refused

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}/live"
        server.close()


def mjpeg(count: int, seconds: float, first: int = 0, *, reset: bool = False) -> Respond:
    def respond(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
        for number in range(first, first + count):
            jpeg = BytesIO()
            Image.fromarray(grey(number)).save(jpeg, "jpeg", quality=95)
            data = jpeg.getvalue()
            connection.sendall(b"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % len(data))
            connection.sendall(data + b"\r\n")
            time.sleep(seconds)
        if reset:  # the cable is pulled
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")

    return respond


def read_into(frames: list[Frame], video: Video) -> None:
    for frame in video:
        frames.append(frame)


def test_pictures_without_stamps_are_timed_by_their_arrival_and_a_lost_camera_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "_RETRY_SECONDS", (0.05, 0.05))
    frames: list[Frame] = []
    with serving(mjpeg(12, 0.1)) as address:
        video = open_video(address)
        assert (video.is_live, video.fps) == (True, None)
        with pytest.raises(VideoError, match=r"was lost at [01].* did not come back in 2 tries: "):
            read_into(frames, video)
    assert [number_of(frame.image) for frame in frames] == list(range(12))
    times = [frame.time for frame in frames]
    assert times[0] == 0
    assert 0.7 < times[-1] < 3
    assert max(b - a for a, b in pairwise(times[3:])) > 0.09  # the first ones waited while the video was opened


@pytest.mark.parametrize("reset", [False, True])
def test_a_live_source_that_comes_back_goes_on(monkeypatch: pytest.MonkeyPatch, reset: bool) -> None:
    monkeypatch.setattr(streams, "_RETRY_SECONDS", (0.3, 0.05, 0.05))
    frames: list[Frame] = []
    with serving(mjpeg(5, 0.05, reset=reset), mjpeg(5, 0.05, 5)) as address:
        video = open_video(address, every=1)
        with pytest.raises(VideoError, match="did not come back in 3 tries"):
            read_into(frames, video)
    numbers = [number_of(frame.image) for frame in frames]
    assert numbers[-5:] == list(range(5, 10))
    assert [frame.index for frame in frames] == list(range(len(frames)))
    assert all(a.time <= b.time for a, b in pairwise(frames))
    assert frames[-5].time - frames[-6].time > 0.3
    assert "the connection was lost at " in video.problems[0]
    assert "came back after 0." in video.problems[0]


def test_a_live_source_that_is_lost_after_its_end_was_wanted_is_complete(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "_RETRY_SECONDS", ())
    with serving(mjpeg(12, 0.1)) as address:
        assert 4 <= len(list(open_video(address, end=0.5))) <= 12


def test_a_silent_server_is_called_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(containers, "_NETWORK_TIMEOUT", (0.5, 0.5))

    def stall(connection: socket.socket) -> None:
        connection.sendall(
            b"HTTP/1.0 200 OK\r\nContent-Type: video/mp4\r\nContent-Length: 100000\r\n\r\n\0\0\0 ftypisom"
        )
        time.sleep(1.5)

    def say_nothing(connection: socket.socket) -> None:
        time.sleep(1.5)

    for respond in (stall, say_nothing):
        with (
            serving(respond) as address,
            pytest.raises(VideoError, match=r"no data came for 0.5 s; the server or the camera hangs"),
        ):
            open_video(address)


def test_a_host_that_does_not_exist_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    for address in ("rtsp://user:secret@camera.invalid/live", "http://camera.invalid:8080/clip.mp4"):
        with pytest.raises(VideoError, match=r"there is no host camera\.invalid, or the network is down"):
            open_video(address)


def without_packet(path: Path, number: int) -> Path:
    """The clip as a demuxer sees it that has lost one packet without a word."""
    copy = path.with_stem("lossy")
    with av.open(str(path)) as source, av.open(str(copy), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for read, packet in enumerate(packet for packet in source.demux(video=0) if packet.size):
            if read != number:
                packet.stream = stream
                target.mux(packet)
    return copy


def test_a_frame_that_a_transport_stream_lost_is_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", [grey(i) for i in range(30)])
    video = open_video(without_packet(clip, 17))
    assert len(list(video)) == 29
    assert video.problems == ["1 frame seems to be missing from the stream, first near 0.6 s"]


def test_several_frames_that_a_transport_stream_lost_are_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", [grey(i) for i in range(30)])
    for number in (27, 22, 17, 7):
        clip = without_packet(clip, number).rename(tmp_path / f"{number}.ts")
    video = open_video(clip)
    assert len(list(video)) == 26
    assert video.problems == ["4 frames seem to be missing from the stream, first near 0.2 s"]


def test_the_first_frames_are_missed_where_their_header_is_damaged(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mpg", list(noise(30)), codec="mpeg2video", b_frames=2)
    content = bytearray(clip.read_bytes())
    header = content.index(b"\0\0\1\xb3")
    content[header + 6 : header + 8] = b"\xff\xff"  # a height and a frame rate that do not exist
    clip.write_bytes(content)
    video = open_video(clip)
    count = len(list(video))
    assert count < 30
    assert f"{30 - count} frames seem to be missing from the stream, first near 0.0 s" in video.problems


BROKEN = "pieces of the file are damaged, or it begins or ends within one: frames may be missing"


@pytest.mark.parametrize("place", ["end", "middle"])
def test_a_transport_stream_that_breaks_off_within_a_packet_is_told(place: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.ts", list(noise(30)))
    content = clip.read_bytes()
    with av.open(str(clip)) as container:
        half = [packet.pos for packet in container.demux(video=0) if packet.size][15]
    assert half is not None
    assert (len(content) % 188, half % 188) == (0, 0)
    clip.write_bytes(content[: half + 50] if place == "end" else content[:half] + bytes(100) + content[half:])
    video = open_video(clip)
    assert (len(list(video)) < 30) == (place == "end")
    assert video.problems == [BROKEN]


@pytest.mark.parametrize("codec", ["mpeg1video", "mpeg2video"])
def test_a_program_stream_that_breaks_off_is_told(codec: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mpg", list(noise(30)), codec=codec)
    content = clip.read_bytes()
    for whole in (content, content + bytes(500), content + b"\0\0\1\xb9"):
        clip.write_bytes(whole)
        video = open_video(clip)
        assert (len(list(video)), video.problems) == (30, [])
    for broken in (content[:-1], content + b"\0\0\1\xba", content + b"text"):
        clip.write_bytes(broken)
        assert not containers.is_unbroken(clip, "mpeg")
    clip.write_bytes(content + b"text")
    video = open_video(clip)
    assert (len(list(video)), video.problems) == (30, [BROKEN])


@pytest.mark.parametrize(("suffix", "codec"), [("webm", "libvpx"), ("mkv", "libx264"), ("mkv", "ffv1")])
def test_a_matroska_file_that_lost_a_piece_is_told(suffix: str, codec: str, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / f"clip.{suffix}", list(noise(30)), codec=codec)
    content = clip.read_bytes()
    assert containers.is_unbroken(clip, "matroska,webm")
    with av.open(str(clip)) as container:
        place = [packet.pos for packet in container.demux(video=0) if packet.size][12]
    assert place is not None
    place = content.rindex(0xA3, place - 4, place)  # a block
    clip.write_bytes(content[:place] + bytes([0xEA]) + content[place + 1 :])  # nothing that a cluster holds
    video = open_video(clip)
    assert len(list(video)) == 29
    assert video.problems == [BROKEN]
    for broken in (content[:-1], content + b"text", content[: place + 1], content[:-200] + content[-150:]):
        clip.write_bytes(broken)
        assert not containers.is_unbroken(clip, "matroska,webm")


def test_a_piece_of_an_avi_that_became_another_is_told(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.avi", list(noise(30)), codec="mpeg4")
    content = clip.read_bytes()
    assert containers.is_unbroken(clip, "avi")
    for broken in (content[:-1], content + b"text", content[:2000] + content[2050:], content[:2000] + content[1990:]):
        clip.write_bytes(broken)
        assert not containers.is_unbroken(clip, "avi")


def test_a_stream_that_begins_late_ends_nothing() -> None:
    """PyAV fails at the end of a file in which a stream began after it was opened."""

    class Failing:
        def demux(self, stream: object) -> Iterator[object]:
            yield from (stream, stream)
            raise IndexError("list index out of range")

    found: list[object] = list(containers.demuxed(Failing(), "stream"))  # type: ignore[arg-type, type-var]
    assert found == ["stream", "stream"]


def test_healthy_files_are_not_called_damaged(tmp_path: Path) -> None:
    pauses = [*range(10), *range(40, 50)]
    for name, codec in (
        ("paused.avi", "mpeg4"),
        ("late.mkv", "libx264"),
        ("long.webm", "libvpx"),
        ("disc.mpg", "mpeg1video"),
    ):
        path = tmp_path / name
        container = av.open(str(path), "w", format="vcd" if name == "disc.mpg" else None)
        with container:
            stream = cast("av.VideoStream", container.add_stream(codec, rate=25))
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stamps = range(20) if name == "disc.mpg" else [25 + each for each in pauses] if "late" in name else pauses
            for stamp, picture in zip(stamps, noise(20), strict=True):
                frame = av.VideoFrame.from_ndarray(picture)
                frame.pts, frame.time_base = stamp, Fraction(1, 25)
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        video = open_video(path)
        assert len(list(video)) == 20
        assert video.problems == [], name
