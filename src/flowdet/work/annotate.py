"""One source through a video detector, into an annotated video or picture and a results file."""

from collections import deque
from collections.abc import Callable, Collection, Iterator
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
from flowdet.systems.stream import Outcome
from flowdet.types import Frame
from flowdet.video.overlay import Overlay, draw_overlay
from flowdet.video.reader import Video, read_ahead
from flowdet.video.results import ResultsWriter
from flowdet.video.writer import VideoWriter, write_picture

__all__ = ["Annotated", "annotate", "overlay_of"]

_PARTS = {"flow": "flow", "weights": "aggregation weights", "key": "key frames"}
_BARE = Overlay(frozenset(), 0, 0)
_Write = Callable[[NDArray[np.uint8], float], None]


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
        parts: What to show: "flow", "weights", "key"; may be empty.

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


def annotate(
    system: VideoDetector,
    video: Video,
    *,
    results: Path,
    video_path: Path | None,
    settings: dict[str, Any],
    score: float = 0.0,
    classes: Collection[str] | None = None,
    overlay: Overlay = _BARE,
    progress: Callable[[int], None] = lambda frames: None,
) -> Annotated:
    """Detects, draws and writes frame by frame; decoding runs ahead and writing behind, each in its own thread.

    Whatever ends the run, the frames done so far are in a playable video and a valid results file.

    Args:
        system: The detector.
        video: The source; a file may be read a second time for the preview of the method.
        results: The ".json" or ".jsonl" file to write.
        video_path: The annotated ".mp4" video to write, or ".png" or ".jpg" picture of a still source; None: none.
        settings: What made the result, saved with it.
        score: Detections below it are left out.
        classes: Names of the classes to keep; all if not given.
        overlay: What to draw beside the detections, see `overlay_of`.
        progress: Is called after every frame with the number of frames done.

    Raises:
        VideoError: The video holds no frame or ends in an error, or a file cannot be written.
    """
    done = found = 0
    with ExitStack() as stack:
        frames = stack.enter_context(closing(read_ahead(video, drop_oldest=video.is_live)))
        first = next(frames, None)
        if first is None:
            raise VideoError(f"{video.name} holds no frame")
        lines = stack.enter_context(
            ResultsWriter(results, video=video, class_names=system.config.class_names, settings=settings)
        )
        write = _writer(video_path, overlay.picture_size((first.image.shape[0], first.image.shape[1])), video, stack)
        behind = stack.enter_context(_behind())
        outcomes = system.detect_many(
            [_Frames(video, chain([first], frames))], score=score, classes=classes, ahead=not video.is_live
        )
        for outcome in outcomes:
            detections = outcome.detections
            lines.write(detections)
            if write:
                behind(partial(_draw, write, outcome, overlay))
            done += 1
            found += len(detections)
            progress(done)
    return Annotated(done, found, tuple(video.problems))


def _draw(write: _Write, outcome: Outcome, overlay: Overlay) -> None:
    frame = outcome.frame
    write(draw_overlay(frame.image, outcome.detections, outcome.features, overlay), frame.time)


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


def _writer(path: Path | None, size: tuple[int, int], video: Video, stack: ExitStack) -> _Write | None:
    """Returns what writes a drawn frame of this (height, width) and its time; None if nothing is to be written."""
    if path is None:
        return None
    if path.suffix in (".png", ".jpg"):
        return lambda image, time: write_picture(path, image)
    return stack.enter_context(VideoWriter(path, size, video.fps)).write
