"""The one path from frames to detections: demo, evaluation and benchmark all take it."""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from flowdet.errors import FlowdetError
from flowdet.models.detector import Detector
from flowdet.models.inputs import InputConfig, prepare
from flowdet.temporal.base import TemporalMethod
from flowdet.types import Detections, Frame, FrameFeatures

__all__ = ["detect", "detect_with_features"]


def detect(
    frames: Iterable[Frame],
    method: TemporalMethod[Any],
    detector: Detector,
    inputs: InputConfig,
    class_names: tuple[str, ...],
) -> Iterator[tuple[Frame, Detections]]:
    """Detects objects frame by frame, lazily and in order; holds no more frames than the method looks ahead.

    A frame of another size begins a new stream. An error of the source is raised after the frames before it.

    Args:
        frames: The frames of one video.
        method: Gives each frame its features.
        detector: Its heads turn features into detections.
        inputs: How frames become network inputs.
        class_names: In the order of the labels.

    Returns:
        Every frame with its detections.
    """
    outcomes = detect_with_features(frames, method, detector, inputs, class_names)
    return ((frame, found) for frame, found, _ in outcomes)


def detect_with_features(
    frames: Iterable[Frame],
    method: TemporalMethod[Any],
    detector: Detector,
    inputs: InputConfig,
    class_names: tuple[str, ...],
) -> Iterator[tuple[Frame, Detections, FrameFeatures]]:
    """As `detect`, each frame also beside the features that its objects were found in, which know their origin."""
    device = next(detector.parameters()).device
    waiting: deque[Frame] = deque()
    state = method.initial_state()

    def finish(ready: list[FrameFeatures]) -> Iterator[tuple[Frame, Detections, FrameFeatures]]:
        for features in ready:
            frame = waiting.popleft()
            with torch.inference_mode():
                ((boxes, scores, labels),) = detector.detect(features.features, features.geometries)
            found = Detections(
                frame_index=frame.index,
                time=frame.time,
                boxes=boxes.cpu().numpy(),
                scores=scores.cpu().numpy(),
                labels=labels.cpu().numpy(),
                class_names=class_names,
                image_size=features.geometries[0].original,
            )
            yield frame, found, features

    size, failure = None, None
    source = iter(frames)
    while True:
        try:
            frame = next(source)
        except StopIteration:
            break
        except FlowdetError as error:
            failure = error
            break
        if size not in (None, frame.image.shape):
            yield from finish(_flush(method, state))
            state = method.initial_state()
        size = frame.image.shape
        waiting.append(frame)
        with torch.inference_mode():
            ready, state = method.step(prepare([frame.image], inputs, device), state)
        yield from finish(ready)
    yield from finish(_flush(method, state))
    if failure:
        raise failure


def _flush(method: TemporalMethod[Any], state: object) -> list[FrameFeatures]:
    with torch.inference_mode():
        return method.flush(state)
