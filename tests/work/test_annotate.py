from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import av
import psutil
import pytest
import torch

from flowdet.errors import ConfigError, VideoError
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.types import Frame
from flowdet.video.reader import Video, open_video
from flowdet.video.streams import LiveSource
from flowdet.work.annotate import Shown, annotate
from tests.tiny import lite_config, lite_flow_config
from tests.video.clips import make_clip, quadrants


@pytest.fixture
def system() -> VideoDetector:
    torch.manual_seed(0)
    method = FGFAConfig(past=2, future=2, embedding_channels=4)
    return build(replace(lite_config(), method=method, flow_net=lite_flow_config()))


def test_memory_does_not_grow_with_the_video(system: VideoDetector, tmp_path: Path) -> None:
    make_clip(tmp_path / "long.mp4", (quadrants() for _ in range(600)))
    process = psutil.Process()
    seen: list[int] = []
    with open_video(tmp_path / "long.mp4") as video:
        done = annotate(
            system,
            video,
            results=tmp_path / "long.json",
            video_path=tmp_path / "annotated.mp4",
            settings={},
            progress=lambda _: seen.append(process.memory_info().rss),
        )
    assert done.frames == 600
    assert seen[-1] - seen[200] < 20e6


def test_progress_is_told_in_both_passes_of_seq_nms(system: VideoDetector, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 3)
    told: list[int] = []
    with open_video(tmp_path / "clip.mp4") as video:
        annotate(
            system,
            video,
            results=tmp_path / "r.json",
            video_path=None,
            settings={},
            shown=Shown(seq_nms=True),
            progress=told.append,
        )
    assert told == [1, 2, 3, 4, 5, 6]


def test_a_live_source_needs_the_causal_form_of_a_method_that_sees_the_whole_video(tmp_path: Path) -> None:
    method = SELSAConfig(heads=4)
    clip = make_clip(tmp_path / "clip.mp4", [quadrants()] * 5)
    results = tmp_path / "results.json"
    with open_video(clip) as whole:
        for each, expected in ((method, "tiny first looks at .* camera0 is live .*--causal"), (method.causal(), None)):
            live = Video(LiveSource(lambda: av.open(str(clip)), "camera 0", "camera0"), whole._selection)
            system = build(replace(lite_config(), method=each))
            with live, pytest.raises(ConfigError, match=expected) if expected else nullcontext():
                annotate(system, live, results=results, video_path=None, settings={})
            assert results.exists() == (expected is None)


def test_a_source_that_fails_leaves_every_frame_before(
    system: VideoDetector, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 6)
    video = open_video(tmp_path / "clip.mp4")
    whole = list(video)

    def failing(_: object) -> Iterator[Frame]:
        yield from whole[:4]
        raise VideoError("the camera was unplugged")

    monkeypatch.setattr(type(video), "__iter__", failing)
    with pytest.raises(VideoError, match="unplugged"):
        annotate(system, video, results=tmp_path / "r.jsonl", video_path=tmp_path / "annotated.mp4", settings={})
    with av.open(str(tmp_path / "annotated.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4
    assert '"complete": false' in (tmp_path / "r.jsonl").read_text().splitlines()[-1]
