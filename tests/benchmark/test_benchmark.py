from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from flowdet.benchmark.benchmark import alternate, ratios
from flowdet.benchmark.clip import frames_forever, moving_images, there_and_back, write_clip
from flowdet.benchmark.lane import frame_costs, open_lane
from flowdet.benchmark.subject import Subject, build_subject
from flowdet.errors import CheckpointError, ConfigError
from flowdet.temporal.dff import DFFConfig
from tests.benchmark.systems import narrow_system


def test_streams_take_turns() -> None:
    order: list[str] = []

    def stream(name: str) -> Iterator[int]:
        for number in range(99):
            order.append(name)
            yield number

    found = alternate([stream("a"), stream("b")], [2, 1], 3)
    assert "".join(order) == "aabbaaaab"
    assert found == [[[0, 1], [2, 3], [4, 5]], [[0], [1], [2]]]


def test_ratios_are_of_means_turn_by_turn() -> None:
    assert ratios([[1, 3], [1, 1]], [[4], [3]]) == [2, 3]


def test_a_video_goes_on_forever(tmp_path: Path) -> None:
    images = moving_images((48, 80), 4)
    assert all(image.shape == (48, 80, 3) for image in images)
    assert all((one != other).any() for one, other in pairwise(images))
    shown = there_and_back(images)
    assert [next(k for k, image in enumerate(images) if image is each) for each in shown] == [0, 1, 2, 3, 2, 1]
    write_clip(tmp_path / "clip.mp4", shown)
    frames = [frame.image.astype(float) for frame in islice(frames_forever(tmp_path / "clip.mp4"), 13)]
    assert len(frames) == 13
    np.testing.assert_array_equal(frames[0], frames[6])
    assert np.abs(frames[3] - images[3]).mean() < 12


def test_a_lane_gives_the_costs_of_each_kind_of_frame(tmp_path: Path) -> None:
    system = narrow_system(DFFConfig(key_frame_interval=3))
    images = moving_images((64, 96), 3)
    write_clip(tmp_path / "clip.mp4", images)
    with open_lane(system, images, tmp_path / "clip.mp4", tmp_path / "out.mp4") as lane:
        assert lane.padded == (64, 96)
        forward, stages = list(islice(lane.forward, 6)), list(islice(lane.stages, 3))
        assert set(stages[0]) == {"decode", "preparation", "forward", "drawing", "encoding"}
        assert min(min(each.values()) for each in stages) > 0
        costs = frame_costs(lane, [1, 2, 3, 7, 8, 9], stages)
    assert min(forward) > 0
    assert (tmp_path / "out.mp4").stat().st_size > 0
    assert costs["key"].forward.median == 4
    assert costs["other"].forward.median == 5.5
    assert costs["other"].count == 4
    assert costs["key"].everything.median == pytest.approx(sum(stages[0].values()))
    assert costs["key"].parts["backbone"].gflop > 0
    assert "backbone" not in costs["other"].parts
    # Of the first layer, a key frame computes the half of a reference frame.
    assert costs["other"].parts["flow"].gflop > costs["key"].parts["flow"].gflop > 0
    assert list(costs["other"].parts) == [
        *("decode", "preparation", "flow", "warp", "rpn", "proposals", "roi_head", "nms", "other"),
        *("drawing", "encoding"),
    ]


def test_a_system_without_weights_has_random_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.systems.load.cache_folder", lambda: tmp_path)
    monkeypatch.setattr("flowdet.systems.load._SHIPPED_FOLDER", tmp_path)
    built = build_subject(Subject("fgfa-lite", causal=True), "cpu")
    assert built.weights == "random"
    assert "random" in built.notes[0]
    assert built.system.method.lookahead == 0
    again = build_subject(Subject("fgfa-lite"), "cpu").system
    assert again.method.lookahead == 5
    for one, other in zip(built.system.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no system 'x'"):
        build_subject(Subject("x"), "cpu")
    with pytest.raises(CheckpointError):
        build_subject(Subject("fgfa-lite", weights=tmp_path / "none.safetensors"), "cpu")
    with pytest.raises(ConfigError, match="16 to 8192"):
        Subject("fgfa-lite", size=(600, 8))
