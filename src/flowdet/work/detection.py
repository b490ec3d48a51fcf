"""One source to its files: what a worker does, whichever engine runs it."""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from flowdet.errors import VideoError
from flowdet.files import locked
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load_system
from flowdet.systems.options import SystemOptions
from flowdet.tracking.online import TrackerConfig
from flowdet.types import Detections
from flowdet.video.description import SourceDescription
from flowdet.video.reader import Video, open_video
from flowdet.work.annotate import Shown, annotate, overlay_of
from flowdet.work.jobs import Advance
from flowdet.work.pool import device_of

__all__ = ["Detected", "Settings", "SourceDetector", "SourceJob", "detect_source"]

Watch = Callable[[Video], AbstractContextManager[Callable[[int], None]]]
"""Is called with the open source; what its context yields is called with the number of frames done."""


@dataclass(frozen=True)
class Settings:
    """What a result depends on beside its source, the same however it was asked for; saved with it."""

    flowdet: str
    system: str
    weights: str
    weights_sha256: str
    score: float
    classes: list[str]
    every: int
    start: float | None
    end: float | None
    causal: bool
    variant: str | None
    key_frame_interval: int | None
    flow: str | None
    agnostic_nms: bool
    backend: str
    precision: str
    show: list[str]
    track: bool
    across_classes: bool
    rescore: str | None
    trail: float

    @property
    def tracker(self) -> TrackerConfig | None:
        """How detections are tracked; None: not at all."""
        if not self.track:
            return None
        return TrackerConfig.from_score(
            self.score, across_classes=self.across_classes, rescores=self.rescore == "tracks"
        )

    def shown(self, config: SystemConfig) -> Shown:
        """Returns which detections of a system become results, and what is drawn."""
        return Shown(
            score=self.score,
            classes=self.classes or None,
            tracker=self.tracker,
            seq_nms=self.rescore == "seq-nms",
            overlay=overlay_of(config, self.show),
            trail=self.trail,
        )


@dataclass(frozen=True)
class SourceJob:
    """One source and the files that are made of it."""

    source: str
    described: SourceDescription
    results: Path
    video: Path | None
    settings: Settings

    @property
    def name(self) -> str:
        """How records call the source."""
        return self.described.text

    @property
    def record(self) -> dict[str, Any]:
        """What is saved with the results."""
        record = {"source": self.name, **asdict(self.settings)}
        if self.described.path:
            state = self.described.path.stat()
            record |= {"source_bytes": state.st_size, "source_modified": state.st_mtime}
        return record


@dataclass(frozen=True)
class Detected:
    """What came of a source: numbers of frames and detections, what was found damaged, how long it took."""

    frames: int
    detections: int
    problems: tuple[str, ...]
    seconds: float


class SourceDetector:
    """What a worker is: loads a system, then detects in one source after the other.

    Args:
        options: The system.
        patience: Seconds to wait for a lock: a worker whose driver was killed holds its own a little longer.
        number: The number of the worker.

    Raises:
        FlowdetError: The system cannot be loaded here.
    """

    def __init__(self, options: SystemOptions, patience: float, number: int) -> None:
        self._system = load_system(replace(options, device=str(device_of(options.device, number))))
        self._patience = patience

    def __call__(self, job: SourceJob, advance: Advance) -> Detected:
        """Does a job; see `detect_source`."""
        return detect_source(
            self._system, job, lambda video: nullcontext(lambda done: advance(1)), patience=self._patience
        )


def detect_source(
    system: VideoDetector,
    job: SourceJob,
    watch: Watch,
    *,
    patience: float = 0.0,
    found: Sequence[Detections] | None = None,
) -> Detected:
    """Detects in a source and writes its files.

    Args:
        system: The detector.
        job: The source and the files, whose folder exists.
        watch: Is told of every frame.
        patience: Seconds to wait while another run writes this result.
        found: What was found in its frames before; nothing is detected then.

    Raises:
        FlowdetError: The source or a result cannot be used, or another run writes this result.
    """
    busy = f"another run (process {{holder}}) writes {job.results}; wait for it, or name another folder with --out"
    try:
        with locked(job.results.with_suffix(""), busy, patience=patience):
            return _detect_locked(system, job, watch, found)
    except OSError as error:
        raise VideoError(f"{job.described.label}: {error.strerror or error}") from error


def _detect_locked(system: VideoDetector, job: SourceJob, watch: Watch, found: Sequence[Detections] | None) -> Detected:
    settings = job.settings
    began = time.monotonic()
    with (
        open_video(job.source, start=settings.start, end=settings.end, every=settings.every) as video,
        watch(video) as progress,
    ):
        done = annotate(
            system,
            video,
            results=job.results,
            video_path=job.video,
            settings=job.record,
            shown=settings.shown(system.config),
            progress=progress,
            found=found,
        )
    return Detected(done.frames, done.detections, done.problems, time.monotonic() - began)
