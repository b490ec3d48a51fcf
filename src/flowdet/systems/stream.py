"""The one path from frames to detections: demo, evaluation and benchmark all take it, with one stream or many."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from flowdet.detectors.faster_rcnn import Detector
from flowdet.errors import FlowdetError
from flowdet.inputs import InputConfig, prepare
from flowdet.temporal.base import TemporalMethod
from flowdet.temporal.rows import select_features, select_state
from flowdet.types import Detections, Frame, FrameFeatures

__all__ = ["Outcome", "detect", "detect_many", "detect_with_features"]


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """A frame of one of many sources, and what came of it.

    Attributes:
        source: Number of the source.
        frame: As it came.
        detections: Its objects.
        features: That they were found in; they know their origin.
    """

    source: int
    frame: Frame
    detections: Detections
    features: FrameFeatures


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
    outcomes = detect_many([frames], method, detector, inputs, class_names)
    return ((outcome.frame, outcome.detections) for outcome in outcomes)


def detect_with_features(
    frames: Iterable[Frame],
    method: TemporalMethod[Any],
    detector: Detector,
    inputs: InputConfig,
    class_names: tuple[str, ...],
) -> Iterator[tuple[Frame, Detections, FrameFeatures]]:
    """As `detect`, each frame also beside the features that its objects were found in, which know their origin."""
    outcomes = detect_many([frames], method, detector, inputs, class_names)
    return ((outcome.frame, outcome.detections, outcome.features) for outcome in outcomes)


def detect_many(
    sources: Sequence[Iterable[Frame]],
    method: TemporalMethod[Any],
    detector: Detector,
    inputs: InputConfig,
    class_names: tuple[str, ...],
) -> Iterator[Outcome]:
    """Detects objects in many videos at once, the frames of equal size in batches.

    Each source is asked for one frame in turn, and its frames come out in order, as if it were alone; which other
    sources there are, how long they go on and how large their frames are makes no difference but in the rounding of
    batched arithmetic. An error of a source ends it; it is raised when all others have ended.

    Args:
        sources: The frames of a video each.
        method: As in `detect`.
        detector: As in `detect`.
        inputs: As in `detect`.
        class_names: As in `detect`.
    """
    heads = _Heads(detector, class_names)
    groups: list[_Group] = []
    failures: list[FlowdetError] = []
    live = dict(enumerate(map(iter, sources)))
    while live:
        arrived: dict[int, Frame] = {}
        for number in list(live):
            try:
                arrived[number] = next(live[number])
            except StopIteration:
                del live[number]
            except FlowdetError as error:
                failures.append(error)
                del live[number]
        for group in groups:
            yield from heads.finish(*group.leave(method, arrived))
        groups = [group for group in groups if group.streams] + _new_groups(method, groups, arrived)
        for group in groups:
            yield from heads.finish(group.streams, group.step(method, inputs, heads.device, arrived))
    if failures:
        raise failures[0]


@dataclass(frozen=True, eq=False, slots=True)
class _Stream:
    """A source since its frames have had this size, with the frames whose detections are not ready."""

    source: int
    shape: tuple[int, ...]
    waiting: deque[Frame] = field(default_factory=deque)


class _Group:
    """Streams that began together with frames of one size, and are in lock step ever since."""

    def __init__(self, streams: list[_Stream], state: object) -> None:
        self.streams = streams
        self.state = state

    def leave(
        self, method: TemporalMethod[Any], arrived: Mapping[int, Frame]
    ) -> tuple[list[_Stream], list[FrameFeatures]]:
        """Parts with the streams that have ended, and gives them with the features that they waited for."""
        rows: dict[bool, list[int]] = {True: [], False: []}
        for row, stream in enumerate(self.streams):
            frame = arrived.get(stream.source)
            rows[frame is not None and frame.image.shape == stream.shape].append(row)
        if not rows[False]:
            return [], []
        left = [self.streams[row] for row in rows[False]]
        with torch.inference_mode():
            ready = method.flush(select_state(self.state, rows[False]) if rows[True] else self.state)
            self.state = select_state(self.state, rows[True]) if rows[True] else None
        self.streams = [self.streams[row] for row in rows[True]]
        return left, ready

    def step(
        self, method: TemporalMethod[Any], inputs: InputConfig, device: torch.device, arrived: Mapping[int, Frame]
    ) -> list[FrameFeatures]:
        """Takes a frame of each stream; gives the features that are now ready."""
        frames = [arrived[stream.source] for stream in self.streams]
        for stream, frame in zip(self.streams, frames, strict=True):
            stream.waiting.append(frame)
        with torch.inference_mode():
            ready, self.state = method.step(prepare([frame.image for frame in frames], inputs, device), self.state)
        return ready


def _new_groups(method: TemporalMethod[Any], groups: Sequence[_Group], arrived: Mapping[int, Frame]) -> list[_Group]:
    """A group for each size of the frames whose sources have no stream yet."""
    known = {stream.source for group in groups for stream in group.streams}
    by_shape: dict[tuple[int, ...], list[_Stream]] = {}
    for source, frame in arrived.items():
        if source not in known:
            by_shape.setdefault(frame.image.shape, []).append(_Stream(source, frame.image.shape))
    return [_Group(streams, method.initial_state()) for streams in by_shape.values()]


@dataclass(frozen=True, eq=False)
class _Heads:
    """Turns features into detections."""

    detector: Detector
    class_names: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        """Where the detector runs."""
        return next(self.detector.parameters()).device

    def finish(self, streams: Sequence[_Stream], ready: Sequence[FrameFeatures]) -> Iterator[Outcome]:
        """The outcomes of frames whose features are ready, for streams in the order of their rows."""
        for features in ready:
            with torch.inference_mode():
                found = self.detector.detect(features.features, features.geometries)
                own = [select_features(features, row) for row in range(len(found))] if len(found) > 1 else [features]
            for stream, part, (boxes, scores, labels) in zip(streams, own, found, strict=True):
                frame = stream.waiting.popleft()
                detections = Detections(
                    frame_index=frame.index,
                    time=frame.time,
                    boxes=boxes.cpu().numpy(),
                    scores=scores.cpu().numpy(),
                    labels=labels.cpu().numpy(),
                    class_names=self.class_names,
                    image_size=part.geometries[0].original,
                )
                yield Outcome(stream.source, frame, detections, part)
