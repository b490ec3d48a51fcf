"""Segments of a video find what the whole finds, for every method that can be split."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.systems.options import SystemOptions
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.types import Detections
from flowdet.video.description import describe_source
from flowdet.video.reader import open_video
from flowdet.weights.native import save_native
from flowdet.work.detection import Settings, SourceJob
from flowdet.work.segments import SegmentDetector, joined, kept_of, segments_of
from tests.command import exit_code
from tests.tiny import lite_config, lite_flow_config
from tests.video.clips import damage_packets, make_clip, noise

FGFA = FGFAConfig(past=2, future=3, embedding_channels=4)
METHODS = {
    "single": SingleFrameConfig(),
    "dff": DFFConfig(key_frame_interval=4),
    "dff bidirectional": DFFConfig(key_frame_interval=5, bidirectional=True),
    "fgfa": FGFA,
    "fgfa strided": replace(FGFA, stride=3),
    "fgfa fast": FGFA.variants["fast"],
}


def system_of(method: MethodConfig) -> VideoDetector:
    torch.manual_seed(0)
    return build(replace(lite_config(), method=method, flow_net=lite_flow_config() if method.uses_flow else None))


def job_of(clip: Path, start: float | None = None) -> SourceJob:
    settings = Settings(
        *("", "", "", "", 0.0, [], 1, start, None, False, None, None, None, False, "torch", "float32", []),
        *(False, False, None, 0.0),
    )
    return SourceJob(str(clip), describe_source(clip), clip.with_suffix(".json"), None, settings)


def whole(system: VideoDetector, job: SourceJob) -> list[Detections]:
    with open_video(job.source, start=job.settings.start) as video:
        return [outcome.detections for outcome in system.detect_many([video], score=0.0)]


@pytest.mark.parametrize("start", [None, 0.5])
@pytest.mark.parametrize("method", METHODS)
def test_segments_are_joined_to_the_whole(method: str, start: float | None, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", noise(40), key_every=7, b_frames=2)
    system = system_of(METHODS[method])
    save_native(system, tmp_path / "weights.safetensors")
    job = job_of(clip, start)
    segments = segments_of(job, 11 / 25)
    assert len(segments) == (4 if start is None else 2)
    assert all(one.last == other.first for one, other in pairwise(segments))
    detect = SegmentDetector(SystemOptions(weights=tmp_path / "weights.safetensors", backend="torch"), 0)
    assert joined([kept_of(each) for each in segments], system.config.class_names) is None
    told: list[int] = []
    for segment in reversed(segments):
        detect(segment, told.append)
    found = joined([kept_of(each) for each in segments], system.config.class_names)
    wanted = whole(system, job)
    assert sum(told) == len(wanted)
    assert found is not None
    assert [each.frame_index for each in found] == [each.frame_index for each in wanted]
    assert sum(map(len, wanted)) > len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.time == other.time
        assert one.image_size == other.image_size
        for name in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    detect(segments[0], told.append)  # kept
    assert sum(told) == len(wanted)


def test_a_damaged_video_is_not_joined(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", noise(40), key_every=7)
    damage_packets(clip, [20])
    system = system_of(SingleFrameConfig())
    save_native(system, tmp_path / "weights.safetensors")
    segments = segments_of(job_of(clip), 0.5)
    detect = SegmentDetector(SystemOptions(weights=tmp_path / "weights.safetensors", backend="torch"), 0)
    for segment in segments:
        detect(segment, lambda frames: None)
    assert all(segment.path.exists() for segment in segments)
    assert joined([kept_of(each) for each in segments], system.config.class_names) is None


def test_a_short_video_has_no_segments(tmp_path: Path) -> None:
    job = job_of(make_clip(tmp_path / "clip.mp4", noise(30)))
    assert segments_of(job, 1.0) == ()
    assert [(segment.first, segment.last) for segment in segments_of(job, 0.8)] == [(0, 20), (20, None)]


def test_methods_that_remember_everything_begin_at_the_first_frame() -> None:
    assert RecursiveConfig(embedding_channels=4).first_needed(100) == 0
    assert SELSAConfig().first_needed(100) == 0
    assert DFFConfig(key_frame_interval=10).first_needed(19) == 10
    assert FGFAConfig(past=15, future=15).first_needed(10) == 0
    assert FGFAConfig(past=15, future=15).first_needed(100) == 85


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--segment", "1"], "--segment without effect: add --processes or --engine ray"),
        (["--segment", "0", "--processes", "2"], "--segment is a number of seconds above 0, not 0.0"),
        (["--segment", "1", "--processes", "2", "--every", "2"], "--segment goes without --every"),
        (["--segment", "1", "--processes", "2", "--show", "key"], "--segment goes without --show"),
    ],
)
def test_what_cannot_be_split_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert exit_code("detect", "clip.mp4", "--out", str(tmp_path / "o"), *options) == 1
    assert message in " ".join(capsys.readouterr().err.split())
