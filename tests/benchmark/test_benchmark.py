from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest

from flowdet.benchmark.benchmark import Contender, alternate, benchmark, ratios
from flowdet.benchmark.clip import moving_images, write_clip
from flowdet.errors import CheckpointError, ConfigError
from flowdet.systems.options import SystemOptions


def contender(system: str | None, size: tuple[int, int] | None = None, **options: bool | str | Path) -> Contender:
    return Contender(SystemOptions(system=system, backend="torch", **options), size)  # type: ignore[arg-type]


def test_streams_take_turns_and_the_first_turn_does_not_count() -> None:
    order: list[str] = []

    def stream(name: str) -> Iterator[int]:
        for number in range(99):
            order.append(name)
            yield number

    found = alternate([stream("a"), stream("b")], [2, 1], 3)
    assert "".join(order) == "baa" + "aab" + "baa" + "aab"
    assert found == [[[2, 3], [4, 5], [6, 7]], [[1], [2], [3]]]


def test_ratios_are_of_means_turn_by_turn() -> None:
    assert ratios([[1, 3], [1, 1]], [[4], [3]]) == [2, 3]


def test_a_video_goes_on_forever(tmp_path: Path) -> None:
    images = moving_images((48, 80), 4)
    assert all(image.shape == (48, 80, 3) for image in images)
    assert all((one != other).any() for one, other in pairwise(images))
    clip = write_clip(tmp_path / "clip.mp4", (48, 80), 4)
    assert clip.size == (48, 80)
    frames = [frame.image.astype(float) for frame in islice(clip, 13)]
    for place, number in enumerate([0, 1, 2, 3, 2, 1]):
        np.testing.assert_array_equal(frames[place], frames[place + 6])
        np.testing.assert_array_equal(frames[place], clip.frames[place].image)
        assert np.abs(frames[place] - images[number]).mean() < 12
    assert [frame.index for frame in clip.preview(3)] == [0, 2, 5]


def test_a_system_without_weights_has_random_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.systems.load.cache_folder", lambda: tmp_path)
    monkeypatch.setattr("flowdet.systems.load.SHIPPED_FOLDER", tmp_path)
    loaded = contender("fgfa-lite", causal=True).load()
    assert loaded.weights == "random"
    assert "random" in loaded.notes[0]
    assert loaded.system.method.lookahead == 0
    again = contender("fgfa-lite").load().system
    assert again.method.lookahead == 5
    for one, other in zip(loaded.system.parameters(), again.parameters(), strict=True):
        assert one.equal(other)


def test_what_cannot_be_measured_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no system 'x'"):
        contender("x").load()
    with pytest.raises(CheckpointError):
        contender("fgfa-lite", weights=tmp_path / "none.safetensors").load()
    with pytest.raises(ConfigError, match="16 to 8192"):
        contender("fgfa-lite", (600, 8))


def test_frames_that_are_computed_together_share_their_costs() -> None:
    report = benchmark(
        contender("dff-nano", (64, 96)), contender("single-nano"), frames=1, threads=1, tell=lambda _: None
    )
    cost, versus = report.system, report.versus
    assert versus
    assert cost.kinds == ("frame", "frame", "frame")
    frame, single = cost.frames["frame"], versus.system.frames["frame"]
    assert frame == cost.mean
    assert frame.count == 3
    assert frame.forward.low > 0
    assert frame.parts["features"].gflop == pytest.approx(single.parts["features"].gflop / 3)
    assert versus.ratio.median > 0


def test_a_system_and_its_variant_in_turn() -> None:
    told: list[str] = []
    report = benchmark(
        contender("dff-lite", (64, 96), key_frame_interval=2),  # type: ignore[arg-type]
        contender("single-lite"),
        frames=1,
        threads=1,
        tell=told.append,
    )
    cost, versus = report.system, report.versus
    assert versus
    assert (cost.system, cost.weights, cost.backend) == ("dff-lite", "shipped", "torch")
    assert (cost.size, cost.padded, versus.system.size) == ((64, 96), (64, 96), (64, 96))
    assert cost.kinds == ("key", "other")
    assert {kind: frame.count for kind, frame in cost.frames.items()} == {"key": 3, "other": 3}
    assert versus.system.frames["frame"].count == 6
    assert "features" not in cost.frames["other"].parts
    assert cost.mean.gflop == pytest.approx((cost.frames["key"].gflop + cost.frames["other"].gflop) / 2)
    assert versus.system.mean.gflop == pytest.approx(versus.system.frames["frame"].gflop)
    assert cost.first.seconds > 0
    assert versus.ratio.median > 0
    assert told
