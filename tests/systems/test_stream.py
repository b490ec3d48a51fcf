from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from flowdet.errors import ConfigError, VideoError
from flowdet.systems.build import build
from flowdet.systems.stream import Outcome, stream
from flowdet.temporal.base import TemporalMethod
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.single import SingleFrame, SingleFrameConfig
from flowdet.types import Detections, Frame, Maps
from tests.tiny import INPUTS, Extract, frames_of, lite_config, parts_for, tiny_detector, tiny_system, video

CLASSES = ("cat", "dog", "fox")
CONFIGS = {
    "single frame": SingleFrameConfig(),
    "DFF": DFFConfig(4),
    "DFF bidirectional": DFFConfig(5, bidirectional=True),
    "FGFA": FGFAConfig(3, 2, embedding_channels=4),
    "FGFA causal": FGFAConfig(3, 0, embedding_channels=4),
    "FGFA composed": FGFAConfig(3, 2, embedding_channels=4, embeds_early=True, composes_flows=True),
    "recursive": RecursiveConfig(3, embedding_channels=4),
    "SELSA causal": SELSAConfig(source="past", memory=3),
}
Maker = Callable[[], TemporalMethod[Any]]
METHODS: dict[str, Maker] = {
    name: lambda config=config: config.build(parts_for(config))  # type: ignore[misc]
    for name, config in CONFIGS.items()
}
EVERY_METHOD = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())


def outcomes_of(frames: Iterable[Frame], method: TemporalMethod[Any]) -> Iterator[Outcome]:
    return stream([frames], method, tiny_detector(), INPUTS, CLASSES)


def found_in(frames: Iterable[Frame], method: TemporalMethod[Any]) -> list[tuple[Frame, Detections]]:
    return [(outcome.frame, outcome.detections) for outcome in outcomes_of(frames, method)]


@EVERY_METHOD
def test_every_frame_comes_out_in_order_beside_its_own_detections(make: Maker) -> None:
    frames = [Frame(7 + 2 * number, number / 3, image) for number, image in enumerate(video(9))]
    results = found_in(iter(frames), make())
    assert [id(frame) for frame, _ in results] == [id(frame) for frame in frames]
    for frame, found in results:
        assert (found.frame_index, found.time, found.image_size) == (frame.index, frame.time, (48, 80))
        assert found.class_names == CLASSES
        assert len(found) > 10
        assert (np.diff(found.scores) <= 0).all()
        assert [part.dtype.name for part in (found.boxes, found.scores, found.labels)] == [
            "float32",
            "float32",
            "int64",
        ]


@EVERY_METHOD
def test_features_come_beside_their_frame(make: Maker) -> None:
    parts = [*video(6), *video(4, seed=1, size=(64, 48))]
    outcomes = list(outcomes_of(frames_of(parts), make()))
    assert [outcome.features.index for outcome in outcomes] == [*range(6), *range(4)]
    for outcome in outcomes:
        assert outcome.features.geometries[0].original == outcome.detections.image_size


@EVERY_METHOD
def test_frames_are_taken_one_by_one_and_no_earlier_than_needed(make: Maker) -> None:
    method, taken = make(), []

    def camera() -> Iterator[Frame]:
        for frame in frames_of(video(9)):
            taken.append(frame.index)
            yield frame

    results = outcomes_of(camera(), method)
    assert taken == []
    for number, _ in enumerate(results):
        assert number + 1 <= len(taken) <= min(number + 1 + method.lookahead, 9)


@EVERY_METHOD
def test_a_frame_of_another_size_begins_a_new_stream(make: Maker) -> None:
    parts = [video(5), video(6, seed=1, size=(64, 48)), video(1, seed=2), video(2, seed=3, size=(48, 88))]
    joined = found_in(frames_of([image for part in parts for image in part]), make())
    apart = [found for part in parts for _, found in found_in(frames_of(part), make())]
    assert [found.frame_index for _, found in joined] == list(range(14))
    for (_, one), other in zip(joined, apart, strict=True):
        assert one.image_size == other.image_size
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)


@EVERY_METHOD
def test_an_error_of_the_source_comes_after_the_frames_before_it(make: Maker) -> None:
    def broken() -> Iterator[Frame]:
        yield from frames_of(video(5))
        raise VideoError("the cable came off")

    results = outcomes_of(broken(), make())
    assert [next(results).frame.index for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(VideoError, match="cable"):
        next(results)


@EVERY_METHOD
def test_no_frames_no_detections(make: Maker) -> None:
    assert found_in(iter(()), make()) == []


@EVERY_METHOD
def test_stopping_early_leaves_the_method_as_it_was(make: Maker) -> None:
    method = make()
    results = outcomes_of(frames_of(video(9)), method)
    next(results)
    results.close()  # type: ignore[attr-defined]
    for (_, one), (_, other) in zip(
        found_in(frames_of(video(9)), method), found_in(frames_of(video(9)), make()), strict=True
    ):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_nothing_is_kept_for_gradients_and_the_mode_of_the_caller_is_untouched() -> None:
    for _ in outcomes_of(frames_of(video(2)), METHODS["FGFA"]()):
        assert not torch.is_inference_mode_enabled()
        assert torch.is_grad_enabled()


def test_scores_and_classes_are_filtered() -> None:
    system = tiny_system()
    whole = list(system.detect(frames_of(video(3))))
    score = float(np.median(whole[0].scores))
    for every, some in zip(whole, system.detect(frames_of(video(3)), score=score, classes=["fox", "cat"]), strict=True):
        kept = (every.scores >= score) & (every.labels != 1)
        assert 0 < kept.sum() < (every.scores >= score).sum() < len(every)
        np.testing.assert_array_equal(some.boxes, every.boxes[kept])
        np.testing.assert_array_equal(some.scores, every.scores[kept])


def test_no_class_wanted_means_none() -> None:
    assert [len(found) for found in tiny_system().detect(frames_of(video(2)), classes=())] == [0, 0]


def test_an_unknown_class_is_said_at_once() -> None:
    never = (pytest.fail("a frame was read") for _ in range(1))
    with pytest.raises(ConfigError, match="did you mean fox"):
        tiny_system().detect(never, classes=["cat", "foxx"])
    with pytest.raises(ConfigError, match="as a list"):
        tiny_system().detect(never, classes="cat")
    with pytest.raises(ConfigError, match=r"no class 'gnu'; the classes are cat, dog, fox"):
        tiny_system().detect(never, classes=["gnu", "cat", "bird"])


def test_training_mode_changes_no_detection() -> None:
    system = build(lite_config())
    (before,), (after,) = (list(system.train(mode).detect(frames_of(video(1)))) for mode in (False, True))
    assert len(before) > 10
    np.testing.assert_array_equal(before.boxes, after.boxes)
    np.testing.assert_array_equal(before.scores, after.scores)


def together(sources: list[Iterable[Frame]], method: TemporalMethod[Any]) -> list[list[Outcome]]:
    found: list[list[Outcome]] = [[] for _ in sources]
    for outcome in stream(sources, method, tiny_detector(), INPUTS, CLASSES):
        found[outcome.source].append(outcome)
    return found


@EVERY_METHOD
def test_a_stream_does_not_depend_on_its_neighbours(make: Maker) -> None:
    """Neighbours that end sooner, have frames of another size, change it on the way, or have no frames at all."""
    sources = [
        video(9),
        video(4, seed=1),
        video(7, seed=2, size=(64, 48)),
        [*video(3, seed=3), *video(5, seed=4, size=(64, 48))],
        [],
        video(9, seed=5),
    ]
    found = together([frames_of(images) for images in sources], make())
    for images, outcomes in zip(sources, found, strict=True):
        alone = list(outcomes_of(frames_of(images), make()))
        assert [outcome.frame.index for outcome in outcomes] == list(range(len(images)))
        for wanted, outcome in zip(alone, outcomes, strict=True):
            detections = wanted.detections
            assert outcome.detections.frame_index == detections.frame_index
            assert outcome.detections.image_size == detections.image_size
            assert outcome.features.index == wanted.features.index
            np.testing.assert_array_equal(outcome.detections.labels, detections.labels)
            np.testing.assert_allclose(outcome.detections.scores, detections.scores, atol=1e-4)
            np.testing.assert_allclose(outcome.detections.boxes, detections.boxes, atol=1e-2)


def test_frames_of_equal_size_go_through_the_backbone_together() -> None:
    batches = []

    class Counting(Extract):
        def extract(self, images: Tensor) -> Maps:
            batches.append(len(images))
            return super().extract(images)

    lengths = (5, 2, 5)
    together([frames_of(video(length, seed=length)) for length in lengths], SingleFrame(Counting()))
    assert batches == [3, 3, 2, 2, 2]


@EVERY_METHOD
def test_the_error_of_a_source_waits_for_the_others(make: Maker) -> None:
    def broken() -> Iterator[Frame]:
        yield from frames_of(video(3))
        raise VideoError("the cable was pulled")

    found: dict[int, list[int]] = {0: [], 1: []}
    outcomes = stream([broken(), frames_of(video(6))], make(), tiny_detector(), INPUTS, CLASSES)

    def collect() -> None:
        for outcome in outcomes:
            found[outcome.source].append(outcome.frame.index)

    with pytest.raises(VideoError, match="cable"):
        collect()
    assert found == {0: [0, 1, 2], 1: [0, 1, 2, 3, 4, 5]}


def test_a_system_detects_in_many_videos_with_a_score_and_classes() -> None:
    system = tiny_system()
    sources = [list(frames_of(video(3, seed=seed, size=(64, 96)))) for seed in (0, 1)]
    for outcome in system.detect_many(sources, score=0.5, classes=["dog"]):
        found = outcome.detections
        alone = list(system.detect(sources[outcome.source], score=0.5, classes=["dog"]))[outcome.frame.index]
        assert (found.scores >= 0.5).all()
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-2)
    with pytest.raises(ConfigError, match="no class 'dgo'"):
        system.detect_many(sources, classes=["dgo"])
