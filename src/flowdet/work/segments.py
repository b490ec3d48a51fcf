"""Long videos in segments, which several workers detect at the same time and which are joined to the whole."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from itertools import chain, takewhile
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from flowdet.errors import ConfigError, VideoError
from flowdet.files import replacing
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load_system
from flowdet.systems.options import SystemOptions
from flowdet.types import Detections, Frame
from flowdet.video.reader import Video, open_video, read_ahead
from flowdet.work.detection import Detected, SourceJob, detect_source
from flowdet.work.jobs import Advance
from flowdet.work.pool import device_of

__all__ = ["Segment", "SegmentDetector", "SegmentJoiner", "joined", "kept_of", "segments_of"]

_MARGIN = 1.0  # seconds before the first frame that is wanted at which reading begins, for clocks that are not exact
_FAR = 10**9


@dataclass(frozen=True)
class Segment:
    """Some of the frames of a source, counted from its first one.

    Attributes:
        job: The source.
        first: The number of the first frame.
        last: The number of the frame after the last one; None: it goes to the end.
        path: Where its detections are kept until they are joined.
    """

    job: SourceJob
    first: int
    last: int | None
    path: Path

    @property
    def record(self) -> str:
        """What its detections depend on."""
        return json.dumps([self.job.record, self.first, self.last], sort_keys=True)


def segments_of(job: SourceJob, seconds: float) -> tuple[Segment, ...]:
    """Returns the segments of a source; none if it is not longer than one, or of a length that is not known.

    Raises:
        VideoError: It cannot be opened.
    """
    with open_video(job.source, start=job.settings.start, end=job.settings.end) as video:
        frames, fps = video.frame_count, video.fps
        if video.is_live or not frames or not fps:
            return ()
    length = max(1, round(seconds * fps))
    # The count is often an estimate, so the last segment is no shorter than half of the others.
    count = (frames + length // 2) // length
    if count < 2:
        return ()
    firsts = [number * length for number in range(count)]
    folder = job.results.parent / ".segments"
    return tuple(
        Segment(job, first, last, folder / f"{job.results.stem}-{first}.npz")
        for first, last in zip(firsts, [*firsts[1:], None], strict=True)
    )


class SegmentDetector:
    """What a worker is: loads a system, then detects in one segment after the other.

    Args:
        options: The system.
        number: The number of the worker.

    Raises:
        FlowdetError: The system cannot be loaded here.
    """

    def __init__(self, options: SystemOptions, number: int) -> None:
        self._system = load_system(replace(options, device=str(device_of(options.device, number))))

    def __call__(self, segment: Segment, advance: Advance) -> None:
        """Detects in a segment and keeps what was found.

        Raises:
            FlowdetError: The source cannot be read, or the file not be written.
        """
        if kept_of(segment) is not None:
            return
        began = time.monotonic()
        found: list[Detections] = []
        shown = segment.job.settings.shown(self._system.config)
        with _frames(segment, self._system) as (origin, video, frames):
            wanted = range(origin + segment.first, origin + (_FAR if segment.last is None else segment.last))
            for outcome in self._system.detect_many(
                [frames], score=shown.least_score, classes=shown.classes, ahead=True
            ):
                if outcome.detections.frame_index in wanted:
                    found.append(outcome.detections)
                    advance(1)
            _keep(segment, found, video.problems, time.monotonic() - began)


class SegmentJoiner:
    """What a worker is: joins the segments of one source after the other, and detects in those that have none.

    Args:
        options: The system.
        patience: See `SourceDetector`.
        seconds: The length of the segments.
        number: The number of the worker.

    Raises:
        FlowdetError: The system cannot be loaded here.
    """

    def __init__(self, options: SystemOptions, patience: float, seconds: float, number: int) -> None:
        self._system = load_system(replace(options, device=str(device_of(options.device, number))))
        self._patience = patience
        self._seconds = seconds

    def __call__(self, job: SourceJob, advance: Advance) -> Detected:
        """Does a job; see `detect_source`."""
        segments = segments_of(job, self._seconds)
        kept = [kept_of(segment) for segment in segments]
        found = joined(kept, self._system.config.class_names)

        def watch(video: Video) -> AbstractContextManager[Callable[[int], None]]:
            return nullcontext(lambda done: advance(1 if found is None else 0))  # they were told when they were found

        before = sum(float(each["seconds"]) for each in kept if each) if found is not None else 0.0
        done = detect_source(self._system, job, watch, patience=self._patience, found=found)
        _forget(segments)
        return replace(done, seconds=before + done.seconds)


def joined(segments: Sequence[dict[str, Any] | None], class_names: tuple[str, ...]) -> list[Detections] | None:
    """Returns the detections of a whole source; None if its segments are not what the whole would have been.

    That is so where there are none, where one is missing, where frames are damaged, and where their size changes.

    Args:
        segments: What was kept of each, in their order.
        class_names: Of the system.
    """
    found: list[Detections] = []
    for kept in segments:
        if kept is None or len(kept["problems"]):
            return None
        ends = kept["counts"].cumsum()
        for place, (index, stamp, size) in enumerate(zip(kept["index"], kept["time"], kept["size"], strict=True)):
            rows = slice(ends[place] - kept["counts"][place], ends[place])
            boxes, scores, labels = (kept[name][rows] for name in ("boxes", "scores", "labels"))
            shape = int(size[0]), int(size[1])
            found.append(Detections(int(index), float(stamp), boxes, scores, labels, class_names, shape))
    numbers = [each.frame_index for each in found]
    is_whole = numbers == list(range(numbers[0], numbers[0] + len(numbers))) if numbers else False
    return found if is_whole and len({each.image_size for each in found}) == 1 else None


def _forget(segments: Sequence[Segment]) -> None:
    """Removes what was kept of segments."""
    with suppress(OSError):
        for segment in segments:
            segment.path.unlink(missing_ok=True)
        if segments:
            segments[0].path.parent.rmdir()


@contextmanager
def _frames(segment: Segment, system: VideoDetector) -> Iterator[tuple[int, Video, Iterator[Frame]]]:
    """Yields the index of the source's first frame, the open video, and the frames that the segment needs."""
    job, settings = segment.job, segment.job.settings
    with open_video(job.source, start=settings.start, end=settings.end) as video:
        origin = next(iter(video)).index
        fps = video.fps or 1.0
    begin = origin + system.config.method.first_needed(segment.first)
    end = origin + (_FAR if segment.last is None else segment.last + system.method.lookahead)
    earliest, margin = settings.start or 0.0, _MARGIN
    while True:
        start = max(earliest, earliest + (begin - origin) / fps - margin)
        with ExitStack() as stack:
            video = stack.enter_context(open_video(job.source, start=start, end=settings.end))
            frames = stack.enter_context(closing(read_ahead(video)))
            first = next(frames, None)
            if first is None:
                raise VideoError(f"{video.name} holds no frame")
            if first.index <= begin or start == earliest:
                needed = (frame for frame in chain([first], frames) if frame.index >= begin)
                yield origin, video, takewhile(lambda frame: frame.index < end, needed)
                return
        margin *= 4  # the frame rate varies


def _keep(segment: Segment, found: Sequence[Detections], problems: Sequence[str], seconds: float) -> None:
    arrays: dict[str, Any] = {
        "index": [each.frame_index for each in found],
        "time": [each.time for each in found],
        "size": [each.image_size for each in found],
        "counts": np.array([len(each) for each in found], dtype=np.int64),
        "boxes": np.concatenate([np.zeros((0, 4), np.float32), *(each.boxes for each in found)]),
        "scores": np.concatenate([np.zeros(0, np.float32), *(each.scores for each in found)]),
        "labels": np.concatenate([np.zeros(0, np.int64), *(each.labels for each in found)]),
        "problems": np.array(problems, dtype=np.str_),
        "seconds": np.array(seconds),
        "record": np.array(segment.record),
    }
    try:
        segment.path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {segment.path.parent} cannot be made: {error.strerror}") from error
    with replacing(segment.path) as partial, partial.open("wb") as file:
        np.savez(file, **arrays)


def kept_of(segment: Segment) -> dict[str, Any] | None:
    """Returns what was kept of a segment; None if nothing was, or it is another's."""
    try:
        with np.load(segment.path) as file:
            arrays = dict(file)
        return arrays if str(arrays["record"]) == segment.record else None
    except (OSError, ValueError, KeyError, EOFError, BadZipFile):
        return None
