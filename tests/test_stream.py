from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch

from flowdet.build import build
from flowdet.errors import ConfigError, VideoError
from flowdet.stream import detect, detect_with_features
from flowdet.temporal.base import TemporalMethod
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.temporal.single_frame import SingleFrame
from flowdet.types import Detections, Frame
from tests.tiny import INPUTS, Extract, Flow, embed, frames_of, lite_config, tiny_detector, tiny_system, video

CLASSES = ("cat", "dog", "fox")
METHODS: dict[str, Callable[[], TemporalMethod[Any]]] = {
    "single frame": lambda: SingleFrame(Extract()),
    "DFF": lambda: DFF(Extract(), Flow(), DFFConfig(4)),
    "FGFA": lambda: FGFA(Extract(), Flow(), embed, FGFAConfig(3, 2)),
    "FGFA causal": lambda: FGFA(Extract(), Flow(), embed, FGFAConfig(3, 0)),
}
EVERY_METHOD = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())
Maker = Callable[[], TemporalMethod[Any]]


def found_in(frames: Iterator[Frame], method: TemporalMethod[Any]) -> list[tuple[Frame, Detections]]:
    return list(detect(frames, method, tiny_detector(), INPUTS, CLASSES))


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
def test_features_come_beside_their_frame_and_change_no_detection(make: Maker) -> None:
    parts = [*video(6), *video(4, seed=1, size=(64, 48))]
    pairs = found_in(frames_of(parts), make())
    triples = list(detect_with_features(frames_of(parts), make(), tiny_detector(), INPUTS, CLASSES))
    assert [features.index for _, _, features in triples] == [*range(6), *range(4)]
    for (frame, one), (same, other, features) in zip(pairs, triples, strict=True):
        assert frame.index == same.index
        assert features.geometries[0].original == other.image_size
        np.testing.assert_array_equal(one.boxes, other.boxes)
        np.testing.assert_array_equal(one.scores, other.scores)


@EVERY_METHOD
def test_frames_are_taken_one_by_one_and_no_earlier_than_needed(make: Maker) -> None:
    method, taken = make(), []

    def camera() -> Iterator[Frame]:
        for frame in frames_of(video(9)):
            taken.append(frame.index)
            yield frame

    results = detect(camera(), method, tiny_detector(), INPUTS, CLASSES)
    assert taken == []
    for number, _ in enumerate(results):
        assert len(taken) == min(number + 1 + method.lookahead, 9)


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

    results = detect(broken(), make(), tiny_detector(), INPUTS, CLASSES)
    assert [next(results)[0].index for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(VideoError, match="cable"):
        next(results)


@EVERY_METHOD
def test_no_frames_no_detections(make: Maker) -> None:
    assert found_in(iter(()), make()) == []


@EVERY_METHOD
def test_stopping_early_leaves_the_method_as_it_was(make: Maker) -> None:
    method = make()
    results = detect(frames_of(video(9)), method, tiny_detector(), INPUTS, CLASSES)
    next(results)
    results.close()  # type: ignore[attr-defined]
    for (_, one), (_, other) in zip(
        found_in(frames_of(video(9)), method), found_in(frames_of(video(9)), make()), strict=True
    ):
        np.testing.assert_array_equal(one.boxes, other.boxes)


def test_nothing_is_kept_for_gradients_and_the_mode_of_the_caller_is_untouched() -> None:
    for _ in detect(frames_of(video(2)), METHODS["FGFA"](), tiny_detector(), INPUTS, CLASSES):
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
