"""The one path from frames to detections: demo, evaluation and benchmark all take it, with one stream or many."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from flowdet.detectors.base import Detector, Found
from flowdet.errors import ConfigError, FlowdetError
from flowdet.inputs import InputConfig, prepare
from flowdet.ops.devices import constant
from flowdet.temporal.base import TemporalMethod
from flowdet.types import Detections, Frame, FrameFeatures, Geometry

__all__ = ["Indexed", "Outcome", "Rereadable", "computing", "fitting", "select_streams", "spread_evenly", "stream"]

Value = TypeVar("Value")


@runtime_checkable
class Rereadable(Protocol):
    """Frames that can be read more than once, as those of a file can."""

    def preview(self, count: int) -> list[Frame]:
        """Returns frames that are spread evenly over the video, its first and last one among them."""


class Indexed(Protocol):
    """Frames that can be had by their number."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Frame: ...


@dataclass(frozen=True, eq=False, slots=True)
class Outcome:
    """A frame of one of many sources, and what was found in it.

    Attributes:
        source: Number of the source.
        frame: As it came.
        detections: Its objects.
        features: What they were found in, with its origin.
    """

    source: int
    frame: Frame
    detections: Detections
    features: FrameFeatures


def stream(
    sources: Sequence[Iterable[Frame]],
    method: TemporalMethod[Any],
    detector: Detector,
    inputs: InputConfig,
    class_names: tuple[str, ...],
    *,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    weight_dtype: torch.dtype = torch.float32,
    score: float = 0.0,
    preview: int = 0,
    ahead: bool = False,
) -> Iterator[Outcome]:
    """Detects objects frame by frame, lazily; frames of equal size go through the network in batches.

    Each source is asked for one frame in turn, and its frames come out in order, as if it were alone; which other
    sources there are, how long they go on and how large their frames are makes no difference but in the rounding of
    batched arithmetic. A frame of another size begins a new stream. No more frames are held than the method looks
    ahead. An error of a source ends it, and is raised when all others have ended.

    Args:
        sources: The frames of a video each.
        method: Turns network inputs into features.
        detector: Turns features into detections.
        inputs: How frames become network inputs.
        class_names: In the order of the labels.
        device: Where the network inputs go.
        dtype: What autocast computes in.
        weight_dtype: The type of the weights, and so of the network inputs.
        score: Detections below it are not wanted.
        preview: The number of frames of the whole video that the method sees first.
        ahead: On a GPU, start the next frame before the detections of this one are fetched, so that it computes while
            the host decodes and resizes. They come one frame later; not for live sources.

    Raises:
        ConfigError: The method wants a preview, and a source can be read only once.
    """
    device = torch.device(device)
    in_mode = partial(computing, device, dtype)
    detect = partial(detector.detect, score=score)
    lag = 1 if ahead and device.type == "cuda" else 0
    started: deque[list[_Started]] = deque()
    groups: list[_Group] = []
    failures: list[FlowdetError] = []
    live = {number: iter(source) for number, source in enumerate(sources)}
    previews = {number: _preview(source, preview) for number, source in enumerate(sources)} if preview else {}
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
        with in_mode():
            started.append([group.leave(method, arrived) for group in groups])
        groups = [group for group in groups if group.streams]
        for streams in _new_streams(groups, arrived, previews):
            with in_mode():
                shown = [prepare(images, inputs, device, weight_dtype) for images in _previews_of(streams, previews)]
                groups.append(_Group(streams, method.initial_state(shown)))
        for group in groups:
            frames = [arrived[each.source] for each in group.streams]
            with in_mode():
                network_input = prepare([frame.image for frame in frames], inputs, device, weight_dtype)
                features, group.state = method.step(network_input, group.state)
            for each, frame in zip(group.streams, frames, strict=True):
                each.waiting.append(frame)
            started[-1].append((group.streams, features))
        while len(started) > (lag if live else 0):
            for streams, features in started.popleft():
                yield from _finish(streams, features, detect, class_names, in_mode)
    if failures:
        raise failures[0]


@contextmanager
def computing(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Without gradients, and in this type whatever autocast the caller is in."""
    with torch.inference_mode(), torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
        yield


@dataclass(frozen=True, eq=False, slots=True)
class _Stream:
    """A source since its frames have had this size, with the frames whose detections are not ready."""

    source: int
    shape: tuple[int, ...]
    waiting: deque[Frame] = field(default_factory=deque)


@dataclass(eq=False, slots=True)
class _Group:
    """Streams that began together with frames of one size, and have been in lock step ever since."""

    streams: list[_Stream]
    state: Any

    def leave(
        self, method: TemporalMethod[Any], arrived: Mapping[int, Frame]
    ) -> tuple[list[_Stream], list[FrameFeatures]]:
        """Parts with the streams that have ended; returns them with the features that they waited for."""
        rows: dict[bool, list[int]] = {True: [], False: []}
        for row, each in enumerate(self.streams):
            frame = arrived.get(each.source)
            rows[frame is not None and frame.image.shape == each.shape].append(row)
        if not rows[False]:
            return [], []
        left = [self.streams[row] for row in rows[False]]
        ready = method.flush(select_streams(self.state, rows[False]) if rows[True] else self.state)
        self.state = select_streams(self.state, rows[True]) if rows[True] else None
        self.streams = [self.streams[row] for row in rows[True]]
        return left, ready


_Started = tuple[list[_Stream], list[FrameFeatures]]
"""Features whose computation was started, and the streams that they are of, in the order of their rows."""


def _new_streams(
    groups: Sequence[_Group], arrived: Mapping[int, Frame], previews: Mapping[int, Sequence[Frame]]
) -> list[list[_Stream]]:
    """Streams for the frames whose sources have none yet, grouped by size and by whether a preview fits them."""
    known = {each.source for group in groups for each in group.streams}
    alike: dict[tuple[tuple[int, ...], bool], list[_Stream]] = {}
    for source, frame in arrived.items():
        if source not in known:
            shape = frame.image.shape
            key = (shape, bool(fitting(previews.get(source, ()), shape)))
            alike.setdefault(key, []).append(_Stream(source, shape))
    return list(alike.values())


def _preview(source: Iterable[Frame], count: int) -> list[Frame]:
    if isinstance(source, Rereadable):
        return source.preview(count)
    if isinstance(source, Sequence):
        return spread_evenly(source, count) if source else []
    raise ConfigError(
        "this method sees frames of the whole video first, and this source can be read only once: name a file, or take "
        "the causal form (--causal, in Python causal=True)"
    )


def spread_evenly(frames: Indexed, count: int) -> list[Frame]:
    """Returns the frames round(i (n - 1) / (count - 1)) of n, for i from 0 to count - 1; each is taken once."""
    places = [round(number * (len(frames) - 1) / max(count - 1, 1)) for number in range(count)]
    taken = {place: frames[place] for place in dict.fromkeys(places)}
    return [taken[place] for place in places]


def _previews_of(streams: Sequence[_Stream], previews: Mapping[int, Sequence[Frame]]) -> list[list[Any]]:
    """The images of each preview frame, one of each stream; none if no frame has the size of the streams."""
    if not previews:
        return []
    rows = [fitting(previews[each.source], each.shape) for each in streams]
    return [[frame.image for frame in frames] for frames in zip(*rows, strict=True)]


def fitting(preview: Sequence[Frame], shape: tuple[int, ...]) -> list[Frame]:
    """Returns as many frames as the preview has, those of another shape replaced; none if no frame has this shape."""
    same = [frame for frame in preview if frame.image.shape == shape]
    return [same[number * len(same) // len(preview)] for number in range(len(preview))] if same else []


def _finish(
    streams: Sequence[_Stream],
    ready: Sequence[FrameFeatures],
    detect: Callable[[FrameFeatures], list[Found]],
    class_names: tuple[str, ...],
    in_mode: Callable[[], AbstractContextManager[None]],
) -> Iterator[Outcome]:
    """The outcomes of frames whose features are ready, for streams in the order of their rows."""
    for features in ready:
        with in_mode():
            found = _to_host(detect(features))
            rows = [select_streams(features, [row]) for row in range(len(found))] if len(found) > 1 else [features]
        for each, own, (boxes, scores, labels) in zip(streams, rows, found, strict=True):
            frame = each.waiting.popleft()
            detections = Detections(
                frame_index=frame.index,
                time=frame.time,
                boxes=boxes.float().numpy(),
                scores=scores.float().numpy(),
                labels=labels.numpy(),
                class_names=class_names,
                image_size=own.geometries[0].original,
            )
            yield Outcome(each.source, frame, detections, own)


def _to_host(found: Sequence[Found]) -> list[Found]:
    """The detections of all images in one copy from the device; labels are exact in float32 up to 2^24."""
    if found[0][0].device.type == "cpu":
        return list(found)
    rows = [torch.cat((boxes, scores[:, None], labels[:, None].float()), dim=1) for boxes, scores, labels in found]
    together = torch.cat(rows).cpu()
    ends = [0, *accumulate(len(row) for row in rows)]
    parts = [together[begin:end] for begin, end in pairwise(ends)]
    return [(part[:, :4], part[:, 4], part[:, 5].long()) for part in parts]


def select_streams(value: Value, rows: Sequence[int]) -> Value:
    """Returns what belongs to some of the streams that run in lock step, as if the others had never been there.

    Args:
        value: A state or features of b streams: tensors with b rows and tuples of b geometries, in dataclasses and
            tuples; all else is the same for all streams.
        rows: Which of the b to keep.
    """
    selected: Value = _select(value, list(rows))
    return selected


def _select(value: Any, rows: list[int]) -> Any:
    if isinstance(value, Tensor):
        return value.index_select(0, constant(tuple(rows), torch.int64, value.device))
    if isinstance(value, tuple):
        if value and isinstance(value[0], Geometry):
            return tuple(value[row] for row in rows)
        return tuple(_select(part, rows) for part in value)
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: _select(getattr(value, part.name), rows) for part in fields(value)})
    return value
