from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode

from flowdet.backends.choice import with_backend
from flowdet.benchmark.clip import Clip, write_clip
from flowdet.benchmark.meter import Meter, MeteredStream, count_gflop, metered, warm_up
from flowdet.systems.recipes import RECIPES
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.video.writer import VideoWriter
from tests.benchmark.systems import narrow_system
from tests.temporal.toys import LastRoIsConfig, MeanOfPastConfig
from tests.tiny import frames_of, video

HEADS = {"rpn", "roi_head"}


def _methods() -> Mapping[str, MethodConfig]:
    """Each method of the recipes with its variants, and two that the package does not know."""
    found: dict[str, MethodConfig] = {"mean of past": MeanOfPastConfig(), "last RoIs": LastRoIsConfig()}
    for name, recipe in RECIPES.items():
        if name.endswith("-lite"):
            method = recipe().method
            found |= {name: method, **{f"{name}, {variant}": each for variant, each in method.variants.items()}}
    return found


METHODS = _methods()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Clip:
    return write_clip(tmp_path_factory.mktemp("clip") / "clip.mp4", (64, 96), 4)


def test_all_that_the_clock_advances_is_charged_to_one_part_after_the_other() -> None:
    readings: Iterator[int] = iter([10, 11, 13, 16, 20, 25, 31])
    meter = Meter(lambda: next(readings))
    meter.by_part = True
    meter.start("decode")
    meter.enter("preparation")
    with meter.part("a"):
        pass
    with meter.part("b"):
        pass
    assert meter.stop() == {"decode": 1, "preparation": 2, "a": 3, "after a": 4, "b": 5, "after b": 6}


def test_parts_that_are_not_told_apart_are_forward_from_the_first_one_on() -> None:
    readings: Iterator[int] = iter([10, 11, 13, 16])
    meter = Meter(lambda: next(readings))
    meter.start("decode")
    meter.enter("preparation")
    for name in ("a", "b"):
        with meter.part(name):
            pass
    assert meter.stop() == {"decode": 1, "preparation": 2, "forward": 3}


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("by_part", [True, False])
def test_metered_results_are_the_same(name: str, *, by_part: bool) -> None:
    system = narrow_system(METHODS[name])
    meter = Meter(iter(range(10**6)).__next__)
    meter.by_part = by_part
    meter.start("decode")
    frames, found = list(frames_of(video(6))), 0
    for ours, theirs in zip(metered(system, meter).detect(frames), system.detect(frames), strict=True):
        np.testing.assert_array_equal(ours.boxes, theirs.boxes)
        np.testing.assert_array_equal(ours.scores, theirs.scores)
        found += len(ours)
    assert found
    parts = {part for part in meter.stop() if not part.startswith("after ")} - {"decode"}
    flow = {"flow"} if system.config.method.uses_flow else set()
    heads = {"rpn"} if system.config.method.attention else HEADS
    assert parts == ({"features"} | heads | flow | set(system.method_modules) if by_part else set())


@pytest.mark.parametrize("backend", ["torch", "optimised"])
def test_the_parts_of_the_backend_are_metered_where_they_are(backend: str) -> None:

    system = with_backend(narrow_system(FGFAConfig(past=1, future=1)), backend)
    other = metered(system, Meter(lambda: 0.0))
    assert other.backend == backend
    ours, theirs = list(other.parts.detector.parameters()), list(system.parts.detector.parameters())
    assert {id(each) for each in ours} == {id(each) for each in theirs}  # the stream asks them for the device


def test_a_stream_in_its_steady_state_tells_kinds_of_frames_apart(clip: Clip, tmp_path: Path) -> None:
    stream = MeteredStream(narrow_system(DFFConfig(key_frame_interval=3)), clip)
    assert stream.padded == (64, 96)
    costs = list(islice(stream.frames(by_part=True), 6))
    assert ["features" in each for each in costs] == [True, False, False, True, False, False]
    assert all("flow" in each for each in costs)
    assert [set(each) for each in islice(stream.frames(), 3)] == [{"decode", "preparation", "forward"}] * 3
    with VideoWriter(tmp_path / "out.mp4", clip.size, 25) as writer:
        (whole,) = islice(stream.frames(writer=writer), 1)
    assert list(whole) == ["decode", "preparation", "forward", "drawing", "encoding"]
    assert min(whole.values()) > 0
    assert (tmp_path / "out.mp4").stat().st_size > 0


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_after_the_warm_up_every_turn_does_the_same_work(method: MethodConfig, clip: Clip) -> None:
    system, kinds = narrow_system(method), method.kinds
    assert warm_up(method) % len(kinds) == 0
    counter = FlopCounterMode(display=False)
    stream = MeteredStream(system, clip, counter.get_total_flops)
    with counter:
        costs = [
            {name: cost for name, cost in each.items() if name in {"features", "flow", "embedding", "rpn"}}
            for each in islice(stream.frames(by_part=True), 2 * len(kinds))
        ]
    for one, other in zip(costs[: len(kinds)], costs[len(kinds) :], strict=True):
        assert one == other


def test_the_arithmetic_of_every_part_is_counted(clip: Clip) -> None:
    method = FGFAConfig(past=2, future=1, embedding_channels=4, references_at_once=2)
    (counted,) = count_gflop(narrow_system(method), clip)
    # The maps are [8, 4, 6]; four embeddings, of three references and the frame itself, with 3x3 kernels to 4 channels.
    assert counted["embedding"] == pytest.approx(4 * 2 * 24 * 4 * 8 * 9 / 1e9)
    assert counted["after roi_head"] == counted["after rpn"] == counted["decode"] == counted["preparation"] == 0
    assert min(counted[name] for name in ("features", "flow", "rpn", "roi_head")) > 0


def test_of_the_first_layer_of_the_flow_net_a_key_frame_computes_the_half_of_a_reference_frame(clip: Clip) -> None:
    key, other, _ = count_gflop(narrow_system(DFFConfig(key_frame_interval=3)), clip)
    assert other["flow"] > key["flow"] > 0
    assert key["features"] > 0
    assert "features" not in other
