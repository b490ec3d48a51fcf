"""One source through a video detector, into an annotated video or picture and a results file."""

from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import ConfigError, VideoError
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.tracking.online import TrackerConfig, TrackerState, step
from flowdet.tracking.seq_nms import seq_nms_video
from flowdet.types import Detections, Frame, FrameFeatures
from flowdet.video.draw import Trails, draw_detections
from flowdet.video.overlay import Overlay, Strip, draw_overlay
from flowdet.video.reader import Video, read_ahead
from flowdet.video.results import ResultsWriter
from flowdet.video.sound import Sound
from flowdet.video.writer import VideoWriter, write_picture
from flowdet.work.attended import References

__all__ = ["Annotated", "Shown", "annotate", "overlay_of"]

_PARTS = {"flow": "flow", "weights": "aggregation weights", "key": "key frames", "references": "references"}
_BARE = Overlay(frozenset(), 0, 0)
_SEQ_NMS_SCORE = 0.01  # Seq-NMS raises the scores of what is weak for a few frames
_Write = Callable[[NDArray[np.uint8], float], None]
_Found = tuple[Frame | None, Detections, FrameFeatures | None]


@dataclass(frozen=True)
class Annotated:
    """What came of one source: the numbers of frames and detections, and what was found damaged."""

    frames: int
    detections: int
    problems: tuple[str, ...]


def overlay_of(config: SystemConfig, parts: Collection[str]) -> Overlay:
    """Returns how the inside of a system is drawn.

    Args:
        config: The system's configuration.
        parts: What to show: "flow", "weights", "key", "references"; may be empty.

    Raises:
        ConfigError: There is no such part, or the system has none.
    """
    method = config.method
    overlay = Overlay(method.overlays, *method.window)
    for part in parts:
        if part not in _PARTS:
            raise ConfigError(f"there is no {part!r} to show; name some of {', '.join(_PARTS)}")
        if part not in overlay.parts:
            alone = ", for every frame stands for itself" if method.references is None else ""
            others = " and ".join(sorted(overlay.parts)) or f"nothing{alone}"
            raise ConfigError(f"{config.name} has no {_PARTS[part]} to show; what it can show is {others}")
    return replace(overlay, parts=overlay.parts & set(parts))


@dataclass(frozen=True)
class Shown:
    """Which detections become results, and what is drawn.

    Attributes:
        score: Detections below it are left out, after rescoring if there is any.
        classes: Names of the classes to keep; all if not given.
        tracker: Gives detections their track ids; None: they get none.
        seq_nms: Whether Seq-NMS rescores the detections of the whole video before the first is written.
        overlay: What to draw beside the detections, see `overlay_of`.
        trail: Seconds of a track's past that are drawn as a line.
    """

    score: float = 0.0
    classes: Collection[str] | None = None
    tracker: TrackerConfig | None = None
    seq_nms: bool = False
    overlay: Overlay = _BARE
    trail: float = 0.0

    @property
    def least_score(self) -> float:
        """The score from which on detections are looked at."""
        if self.seq_nms:
            return min(self.score, _SEQ_NMS_SCORE)
        return self.score if self.tracker is None else min(self.score, self.tracker.low_score)


def annotate(
    system: VideoDetector,
    video: Video,
    *,
    results: Path,
    video_path: Path | None,
    settings: dict[str, Any],
    shown: Shown | None = None,
    progress: Callable[[int], None] = lambda frames: None,
    found: Sequence[Detections] | None = None,
) -> Annotated:
    """Detects, draws and writes frame by frame; decoding runs ahead and writing behind, each in its own thread.

    Whatever ends the run, the frames done so far are in a playable video and a valid results file. With Seq-NMS the
    video is read twice, and nothing is written before it was read once.

    Args:
        system: The detector.
        video: The source; a file may be read a second time for the preview of the method.
        results: The ".json", ".jsonl" or ".csv" file to write.
        video_path: The annotated ".mp4" video to write, or ".png" or ".jpg" picture of a still source; None: none.
        settings: What made the result, saved with it.
        shown: Which detections become results, and what is drawn; by default all, and they alone.
        progress: Is called after every frame with the number of frames done; with Seq-NMS both passes count.
        found: What was found in the frames before, one by one; nothing is detected then, and the frames are read only
            if they are drawn.

    Raises:
        ConfigError: Seq-NMS is asked for with an overlay, or for a live source; or the method wants a preview of one.
        VideoError: The video holds no frame or ends in an error, or a file cannot be written.
    """
    shown = shown or Shown()
    if shown.seq_nms and (video.is_live or shown.overlay.parts):
        reason = f"{video.name} is live" if video.is_live else "an overlay shows the video as it is read"
        raise ConfigError(f"Seq-NMS looks at the whole video before it writes, but {reason}")
    if system.config.method.preview and video.is_live:
        raise ConfigError(
            f"{system.config.name} first looks at frames of the whole video, but {video.name} is live and can be read "
            "only once: take the causal form (--causal, in Python causal=True)"
        )
    looked_at = frames_done = objects = 0
    trails = _Trails(shown.trail)
    first: Frame | None
    with ExitStack() as stack:
        if found is None:
            first, frames = _opened(video, stack)
            source = _Frames(video, frames)
            outcomes: Iterator[_Found] = (
                (outcome.frame, outcome.detections, outcome.features)
                for outcome in system.detect_many(
                    [source], score=shown.least_score, classes=shown.classes, ahead=not video.is_live
                )
            )
            if shown.seq_nms:
                found = []
                for _, detections, _ in outcomes:
                    found.append(detections)
                    progress(len(found))
                looked_at = len(found)
        if found is not None:
            found = seq_nms_video(found) if shown.seq_nms else found
            first, outcomes = _found_before(video, found, stack, reads=video_path is not None)
        lines = stack.enter_context(
            ResultsWriter(results, video=video, class_names=system.config.class_names, settings=settings)
        )
        references = References(system, video) if "references" in shown.overlay.parts and video_path else None
        size = shown.overlay.picture_size((first.image.shape[0], first.image.shape[1])) if first else (0, 0)
        sound = video.open_sound() if video_path and video_path.suffix == ".mp4" else None
        write = _writer(video_path, size, video, sound, stack)
        behind = stack.enter_context(_behind())
        state = TrackerState()
        for frame, plain, features in outcomes:
            tracked, state = step(plain, state, shown.tracker) if shown.tracker else (plain, state)
            detections = tracked.select(shown.score)
            lines.write(detections)
            if write:
                strips = references.strips(frame, detections, features) if references and frame and features else ()
                drawn = (frame, detections, features)
                behind(partial(_draw, write, drawn, shown.overlay, trails.after(detections), strips))
            frames_done += 1
            objects += len(detections)
            progress(looked_at + frames_done)
    silent = (sound.problem,) if sound and sound.problem else ()
    return Annotated(frames_done, objects, (*video.problems, *silent))


def _draw(write: _Write, found: _Found, overlay: Overlay, trails: Trails, strips: Sequence[Strip]) -> None:
    frame, detections, features = found
    assert frame is not None
    if features is None:
        write(draw_detections(frame.image, detections, trails), frame.time)
    else:
        write(draw_overlay(frame.image, detections, features, overlay, trails=trails, strips=strips), frame.time)


def _opened(video: Video, stack: ExitStack) -> tuple[Frame, Iterator[Frame]]:
    """Returns the first frame of a video, and all of them."""
    frames = stack.enter_context(closing(read_ahead(video, drop_oldest=video.is_live)))
    first = next(frames, None)
    if first is None:
        raise VideoError(f"{video.name} holds no frame")
    return first, chain([first], frames)


def _found_before(
    video: Video, found: Sequence[Detections], stack: ExitStack, *, reads: bool
) -> tuple[Frame | None, Iterator[_Found]]:
    """Returns the first frame of a video, and its frames with what is known of them; no frames unless it is read."""
    if not reads:
        return None, ((None, each, None) for each in found)
    first, frames = _opened(video, stack)
    # A file that was cut meanwhile ends earlier.
    return first, ((frame, each, None) for frame, each in zip(frames, found, strict=False))


class _Trails:
    """Where the tracks have been in the last seconds."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._points: dict[int, deque[tuple[float, float, float]]] = {}

    def after(self, detections: Detections) -> Trails:
        """Takes the next frame; returns the centres (x, y) of each of its tracks, oldest first."""
        if not self._seconds or detections.track_ids is None:
            return {}
        for number, (x1, y1, x2, y2) in zip(detections.track_ids.tolist(), detections.boxes.tolist(), strict=True):
            self._points.setdefault(number, deque()).append((detections.time, (x1 + x2) / 2, (y1 + y2) / 2))
        for number, points in list(self._points.items()):
            while points and points[0][0] < detections.time - self._seconds:
                points.popleft()
            if not points:
                del self._points[number]
        seen = detections.track_ids.tolist()
        return {number: [(x, y) for _, x, y in self._points[number]] for number in seen}


@contextmanager
def _behind(most: int = 4) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yields what runs jobs in their order in one thread; the error of a job is raised by a later call or at the end.

    Args:
        most: Jobs that wait before the caller has to; each holds its pictures.
    """
    waiting: deque[Future[None]] = deque()

    def run(job: Callable[[], None]) -> None:
        waiting.append(thread.submit(job))
        if len(waiting) > most:
            waiting.popleft().result()

    with ThreadPoolExecutor(1, "flowdet-write-behind") as thread:
        yield run
        for job in waiting:
            job.result()


@dataclass(frozen=True)
class _Frames:
    """The frames of a video, read ahead, and its preview for the methods that want one."""

    video: Video
    frames: Iterator[Frame]

    def __iter__(self) -> Iterator[Frame]:
        return self.frames

    def preview(self, count: int) -> list[Frame]:
        return self.video.preview(count)


def _writer(
    path: Path | None, size: tuple[int, int], video: Video, sound: Sound | None, stack: ExitStack
) -> _Write | None:
    """Returns what writes a drawn frame of this (height, width) and its time; None if nothing is to be written."""
    if path is None:
        return None
    if path.suffix in (".png", ".jpg"):
        return lambda image, time: write_picture(path, image)
    return stack.enter_context(VideoWriter(path, size, video.fps, sound=sound)).write
