"""One video source through a video detector, into an annotated video and a results file."""

from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from flowdet.errors import VideoError
from flowdet.system import VideoDetector
from flowdet.video.draw import draw_detections
from flowdet.video.reader import Video, read_ahead
from flowdet.video.results import ResultsWriter
from flowdet.video.writer import VideoWriter

__all__ = ["Annotated", "annotate"]


@dataclass(frozen=True)
class Annotated:
    """What came of one source: how many frames and detections, and what was found damaged."""

    frames: int
    detections: int
    problems: tuple[str, ...]


def annotate(
    system: VideoDetector,
    video: Video,
    *,
    results: Path,
    video_path: Path | None,
    settings: dict[str, Any],
    score: float = 0.0,
    classes: Collection[str] | None = None,
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
            height, width = first.image.shape[:2]
            writer = stack.enter_context(VideoWriter(video_path, (height, width), video.fps))
        pairs = system.detect_with_frames(chain([first], frames), score=score, classes=classes)
        for frame, detections in pairs:
            lines.write(detections)
            if writer:
                writer.write(draw_detections(frame.image, detections), frame.time)
            done += 1
            found += len(detections)
            progress(done)
    return Annotated(done, found, tuple(video.problems))
