"""The annotated video has the sound of its source, packet by packet."""

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import pytest
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.video.frame import VideoFrame
from PIL import Image

from flowdet.video.reader import open_video
from flowdet.video.writer import VideoWriter
from tests.command import exit_code

SECONDS, FPS, RATE = 4, 25, 48_000


def source(path: Path, codec: str = "aac") -> Path:
    """A clip of grey frames with noise as its sound."""
    samples = np.random.default_rng(0).uniform(-0.3, 0.3, (1, SECONDS * RATE)).astype(np.float32)
    with av.open(str(path), "w") as container:
        pictures = container.add_stream("h264", rate=FPS)
        pictures.width, pictures.height, pictures.pix_fmt = 64, 48, "yuv420p"
        sound = cast("AudioStream", container.add_stream(codec, rate=RATE, layout="mono"))
        for number in range(SECONDS * FPS):
            image = np.full((48, 64, 3), number, np.uint8)
            for packet in pictures.encode(VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in pictures.encode():
            container.mux(packet)
        for begin in range(0, samples.shape[1], 1024):
            frame = AudioFrame.from_ndarray(samples[:, begin : begin + 1024].copy(), format="fltp", layout="mono")
            frame.rate, frame.pts, frame.time_base = RATE, begin, Fraction(1, RATE)
            for packet in sound.encode(frame):
                container.mux(packet)
        for packet in sound.encode():
            container.mux(packet)
    return path


def packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        found = [packet for packet in container.demux(audio=0) if packet.size]
        return [(float((packet.pts or 0) * packet.time_base), bytes(packet)) for packet in found]


def copied(clip: Path, out: Path, **selection: float) -> str:
    with open_video(clip, **selection) as video:  # type: ignore[arg-type]
        sound = video.open_sound()
        assert sound is not None
        with VideoWriter(out, (48, 64), video.fps, sound=sound) as writer:
            for frame in video:
                writer.write(frame.image, frame.time)
    return sound.problem


def durations(path: Path) -> tuple[float, float]:
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        return tuple(float((s.duration or 0) * (s.time_base or 0)) for s in (video, audio))  # type: ignore[return-value]


PARTS = [{}, {"start": 2.0, "end": 3.0}, {"end": 1.0}, {"start": 0.4, "every": 5, "end": 3.5}]


@pytest.mark.parametrize("selection", PARTS, ids=str)
@pytest.mark.parametrize("name", ["clip.mp4", "clip.mkv"])
def test_packets_are_those_of_the_source(name: str, selection: dict[str, float], tmp_path: Path) -> None:
    clip, out = source(tmp_path / name), tmp_path / "out.mp4"
    assert copied(clip, out, **selection) == ""
    begin, end = selection.get("start", 0.0), selection.get("end", float(SECONDS))
    last = end if "every" not in selection else 3.44  # where the picture of 3.4 s is over
    expected = [(time - begin, data) for time, data in packets(clip) if begin - 1e-3 <= time < last]
    found = packets(out)
    assert [data for _, data in found] == [data for _, data in expected]
    assert found[0][0] == 0  # as an mp4 without edits stores it; it is less than one packet early
    assert [time for time, _ in found[1:]] == pytest.approx([time for time, _ in expected[1:]], abs=2e-3)
    video, audio = durations(out)
    assert video == pytest.approx(last - begin, abs=1e-3)
    assert audio == pytest.approx(last - begin, abs=1 / FPS)


def test_what_an_mp4_cannot_hold_is_told(tmp_path: Path) -> None:
    out = tmp_path / "out.mp4"
    problem = copied(source(tmp_path / "clip.mkv", "pcm_s16le"), out)
    assert problem == "the annotated video has no sound: an mp4 cannot hold pcm_s16le"
    with av.open(str(out)) as container:
        assert not container.streams.audio


def test_pictures_have_no_sound(tmp_path: Path) -> None:
    (tmp_path / "frames").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "frames" / "0.png")
    with open_video(tmp_path / "frames") as video:
        assert video.open_sound() is None


def test_detect_keeps_the_sound(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clip, silent = source(tmp_path / "clip.mp4"), source(tmp_path / "silent.mkv", "pcm_s16le")
    options = ("--system", "single-nano", "--end", "0.2", "--out", tmp_path / "o")
    assert exit_code("detect", clip, silent, *options) == 0
    expected = [data for time, data in packets(clip) if 0 <= time < 0.2]
    assert [data for _, data in packets(tmp_path / "o" / "clip.mp4")] == expected
    assert capsys.readouterr().err.count("has no sound: an mp4 cannot hold pcm_s16le") == 1
