"""One video source through a video detector, into an annotated video and a results file."""

from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

from flowdet.errors import ConfigError, VideoError
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.video.reader import Video, read_ahead
from flowdet.video.results import ResultsWriter
from flowdet.video.views import View, draw_view
from flowdet.video.writer import VideoWriter

__all__ = ["Annotated", "annotate", "view_of"]

_PARTS = {"flow": "flow", "weights": "aggregation weights", "key": "key frames"}
_BARE = View(frozenset(), 0, 0)


@dataclass(frozen=True)
class Annotated:
    """What came of one source: how many frames and detections, and what was found damaged."""

    frames: int
    detections: int
    problems: tuple[str, ...]


def view_of(config: SystemConfig, parts: Collection[str]) -> View:
    """How the inside of a system is drawn.

    Args:
        config: Of the system.
        parts: What to show: "flow", "weights" (FGFA only), "key" (DFF only); may be empty.

    Raises:
        ConfigError: There is no such part, or the system has none.
    """
    method = config.method
    view = View(method.overlays, *method.window)
    for part in parts:
        if part not in _PARTS:
            raise ConfigError(f"there is no {part!r} to show; name some of {', '.join(_PARTS)}")
        if part not in view.parts:
            others = " and ".join(sorted(view.parts)) or "nothing"
            raise ConfigError(f"{config.name} has no {_PARTS[part]} to show; what it can show is {others}")
    return replace(view, parts=view.parts & set(parts))


def annotate(
    system: VideoDetector,
    video: Video,
    *,
    results: Path,
    video_path: Path | None,
    settings: dict[str, Any],
    score: float = 0.0,
    classes: Collection[str] | None = None,
    view: View = _BARE,
    progress: Callable[[int], None] = lambda frames: None,
) -> Annotated:
    """Detects, draws and writes frame by frame; decoding runs ahead in its own thread.

    Whatever ends the run, the frames done so far are in a playable video and a valid results file.

    Args:
        system: Detects.
        video: Is read once.
        results: ".json" or ".jsonl" file to write.
        video_path: Annotated ".mp4" video to write; None: none.
        settings: What made the result, saved with it.
        score: Detections below it are left out.
        classes: Names of the classes to keep; all if not given.
        view: What to draw beside the detections, see `view_of`.
        progress: Told after every frame how many are done.

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
        writer = None
        if video_path:
            size = view.picture_size((first.image.shape[0], first.image.shape[1]))
            writer = stack.enter_context(VideoWriter(video_path, size, video.fps))
        for outcome in system.detect_many([chain([first], frames)], score=score, classes=classes):
            frame, detections = outcome.frame, outcome.detections
            lines.write(detections)
            if writer:
                writer.write(draw_view(frame.image, detections, outcome.features, view), frame.time)
            done += 1
            found += len(detections)
            progress(done)
    return Annotated(done, found, tuple(video.problems))
