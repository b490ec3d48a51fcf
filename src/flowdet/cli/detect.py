"""flowdet detect: videos in, annotated videos and results out."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import flowdet
from flowdet.class_names import check_class_names
from flowdet.cli import console
from flowdet.cli.arguments import DEFAULTS, Options
from flowdet.cli.console import progress_bar
from flowdet.cli.sources import Names, expanded, is_still, listed, make_folder, output_name
from flowdet.errors import ConfigError, FlowdetError, VideoError
from flowdet.files import file_sha256, locked
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import SHIPPED_FOLDER, load_system, weight_file
from flowdet.systems.options import SystemOptions
from flowdet.tracking.online import TrackerConfig
from flowdet.video.description import SourceDescription, describe_source
from flowdet.video.reader import check_selection, open_video
from flowdet.video.results import read_finished
from flowdet.work.annotate import Shown, annotate, overlay_of
from flowdet.work.pool import device_of, spread

__all__ = ["detect"]


_NOT_COMPARED = {"flowdet", "source", "weights"}


@dataclass(frozen=True)
class _Settings:
    """What a result depends on beside its source; saved with it."""

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


@dataclass(frozen=True)
class _Outputs:
    """Where results go, and the names that other sources of this call have."""

    folder: Path
    suffix: str
    with_video: bool
    taken: set[str]

    def results(self, name: str) -> Path:
        """The results file of that name."""
        return self.folder / f"{name}.{self.suffix}"

    def video(self, name: str, still: Path | None) -> Path | None:
        """The annotated video of that name, or the picture for a still one; None if none is wanted."""
        if not self.with_video:
            return None
        suffix = ".mp4" if still is None else ".jpg" if still.suffix.lower() in (".jpg", ".jpeg") else ".png"
        return self.folder / f"{name}{suffix}"


@dataclass(frozen=True)
class _Job:
    """One source and the files that are made of it."""

    source: str
    described: SourceDescription
    results: Path
    video: Path | None
    settings: _Settings

    @property
    def record(self) -> dict[str, Any]:
        """What is saved with the results."""
        record = {"source": self.described.label.strip("'"), **asdict(self.settings)}
        if self.described.path:
            state = self.described.path.stat()
            record |= {"source_bytes": state.st_size, "source_modified": state.st_mtime}
        return record


def detect(
    *sources: str,
    system: str | None = None,
    options: Options = DEFAULTS,
    score: float = 0.3,
    classes: Names = (),
    every: int = 1,
    start: float | None = None,
    end: float | None = None,
    out: Path = Path("detections"),
    results: Literal["json", "jsonl", "csv"] = "json",
    video: bool = True,
    show: Names = (),
    track: bool = False,
    across_classes: bool = False,
    rescore: Literal["tracks", "seq-nms"] | None = None,
    trail: float = 0.0,
    overwrite: bool = False,
    processes: int = 1,
    source: Annotated[str | None, Parameter(show=False)] = None,
) -> int:
    """Detect objects in videos.

    Each source becomes an annotated video, or an annotated picture, and a results file. A source that is finished
    already is skipped.

    Args:
        sources: Video files, pictures, folders of frames or videos, patterns such as "frames/*.jpg", camera numbers, or
            rtsp:// and http:// addresses.
        system: One of `flowdet models`. [default: fgfa-nano]
        options: Which system, and how it detects.
        score: Leave out detections below this score.
        classes: Keep only these classes; name several by repeating the option or with commas.
        every: Take every n-th frame.
        start: Begin at this second.
        end: Stop at this second.
        out: Folder of the results.
        results: json is one CocoVID document, jsonl one line a frame while running, csv jsonl and a table of it.
        video: Write the annotated video.
        show: Draw what happens inside into the video: flow, weights (FGFA), key (frames, DFF) or references (SELSA);
            name several by repeating the option or with commas.
        track: Give the same object the same id in all frames.
        across_classes: Let a track go on with another class; with --track.
        rescore: tracks gives a detection the mean score of its track so far, with --track; seq-nms rescores the whole
            video by Seq-NMS before it is written, which a live source cannot have.
        trail: Seconds of its track's past to draw as a line; with --track.
        overwrite: Do finished sources again.
        processes: The number of processes that share the sources, each with one thread.
        source: A mistake that others make; see the error.
    """
    if source is not None:
        raise ConfigError(f"sources are named without an option: `flowdet detect {source}`")
    if options.device.isdecimal():
        raise ConfigError(
            f"a device is cpu, cuda or cuda:{options.device}, not {options.device}; "
            f"a camera is a source: `flowdet detect {options.device}`"
        )
    if not sources:
        raise ConfigError("name at least one source: `flowdet detect clip.mp4`")
    if not 0 <= score <= 1:
        raise ConfigError(f"a score lies between 0 and 1, not at {score}")
    if processes < 1:
        raise ConfigError(f"--processes is a whole number from 1 on, not {processes}")
    check_selection(start, end, every)
    wanted, shown = listed(classes), listed(show)
    if shown and not video:
        raise ConfigError("--show draws into the annotated video; leave --no-video out")
    _check_tracking(track, across_classes, rescore, trail, video)
    if rescore == "seq-nms" and shown:
        raise ConfigError("--rescore seq-nms draws when the whole video was read: leave --show out")
    options = replace(options, system=system)
    file = weight_file(options)
    detector = load_system(options)
    check_class_names(wanted, detector.config.class_names)
    overlay_of(detector.config, shown)
    settings = _Settings(
        flowdet=flowdet.__version__,
        system=detector.config.name,
        weights="shipped" if file.parent == SHIPPED_FOLDER else str(options.weights or file.name),
        weights_sha256=file_sha256(file),
        score=score,
        classes=wanted,
        every=every,
        start=start,
        end=end,
        causal=options.causal,
        variant=options.variant,
        key_frame_interval=options.key_frame_interval,
        flow=options.flow,
        agnostic_nms=options.agnostic_nms,
        backend=detector.backend,
        precision=detector.precision,
        show=shown,
        track=track,
        across_classes=across_classes,
        rescore=rescore,
        trail=trail,
    )
    jobs = _jobs(sources, settings, _Outputs(out, results, video, set()), overwrite=overwrite)
    errors: Iterator[FlowdetError | None]
    if processes == 1:
        errors = (job if isinstance(job, FlowdetError) else _tried(detector, job) for job in jobs)
    else:
        errors = _spread(list(jobs), options, processes)
    failures = 0
    for error in errors:
        if error:
            failures += 1
            console.complain(error)
    return 1 if failures else 0


def _check_tracking(track: bool, across_classes: bool, rescore: str | None, trail: float, video: bool) -> None:
    """Refuses options that would have no effect.

    Raises:
        ConfigError: There is one.
    """
    if not 0 <= trail < float("inf"):
        raise ConfigError(f"--trail is 0 or more seconds, not {trail}")
    if trail and not video:
        raise ConfigError("--trail draws into the annotated video; leave --no-video out")
    needing = {"--across-classes": across_classes, "--rescore tracks": rescore == "tracks", "--trail": trail > 0}
    useless = [name for name, is_given in needing.items() if is_given and not track]
    if useless:
        raise ConfigError(f"{' and '.join(useless)} without effect: add --track")


def _jobs(
    sources: Sequence[str], settings: _Settings, outputs: _Outputs, *, overwrite: bool
) -> Iterator[_Job | FlowdetError]:
    """Yields what is to be done, or why it cannot be."""
    for source in expanded(sources):
        try:
            job = _job(source, settings, outputs)
            if overwrite or not _is_done(job):
                yield job
        except FlowdetError as error:
            yield error
        except OSError as error:  # it vanished meanwhile
            yield VideoError(f"'{source}' cannot be read: {error.strerror}")


def _tried(detector: VideoDetector, job: _Job, *, with_bar: bool = True) -> FlowdetError | None:
    try:
        _detect_one(detector, job, with_bar=with_bar)
    except FlowdetError as error:
        return error
    return None


def _spread(
    jobs: Sequence[_Job | FlowdetError], options: SystemOptions, processes: int
) -> Iterator[FlowdetError | None]:
    yield from (job for job in jobs if isinstance(job, FlowdetError))
    yield from spread([job for job in jobs if isinstance(job, _Job)], partial(_worker, options), processes)


def _worker(options: SystemOptions, number: int) -> Callable[[_Job], list[FlowdetError | None]]:
    """Returns the function that does a job in one of several processes, without a progress bar."""
    console.mend_streams()
    detector = load_system(replace(options, device=str(device_of(options.device, number))))
    return lambda job: [_tried(detector, job, with_bar=False)]


def _job(source: str, settings: _Settings, outputs: _Outputs) -> _Job:
    """The files of a source, numbered where another source of this call has the name.

    Raises:
        ConfigError: A file would be written over the source.
        VideoError: There is no such source.
    """
    described = describe_source(source)
    first = name = output_name(described, source)
    number = 1
    is_rereadable = described.path is not None or described.pattern
    while name.casefold() in outputs.taken or (not is_rereadable and _is_recording(source, outputs.results(name))):
        number += 1
        name = f"{first}-{number}"
    outputs.taken.add(name.casefold())
    still = described.path if described.path and is_still(described.path) else None
    job = _Job(source, described, outputs.results(name), outputs.video(name, still), settings)
    for file in (job.results, job.video):
        if described.path and file and file.exists() and os.path.samefile(described.path, file):
            raise ConfigError(f"the result would replace its source {source}; name another folder with --out")
    return job


def _is_recording(source: str, results: Path) -> bool:
    """Whether this file holds something that went by live and cannot be had again."""
    if not results.exists():
        return False
    with open_video(source) as video:
        return video.is_live


def _is_done(job: _Job) -> bool:
    """Whether the source was finished with the same settings before.

    Raises:
        ConfigError: It was finished with others.
    """
    finished = read_finished(job.results)
    if finished is None or (job.video and not job.video.exists()):
        return False
    before = _in_todays_words(finished["settings"])
    now = job.record
    differing = sorted(key for key in {*before, *now} - _NOT_COMPARED if before.get(key) != now.get(key))
    if differing:
        raise ConfigError(
            f"{job.results} was made with other settings ({', '.join(differing)}); "
            "name another folder with --out, or replace it with --overwrite"
        )
    console.out.print(f"{job.source}: finished before, skipped ({job.results})")
    return True


def _in_todays_words(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a result; version 0.1 said mode and runtime for variant and backend."""
    old = {
        "show": [],
        "mode": "exact",
        "runtime": "torch",
        "key_frame_interval": None,
        "agnostic_nms": False,
        "track": False,
        "across_classes": False,
        "rescore": None,
        "trail": 0.0,
        "precision": "float32",
        **settings,
    }
    mode, runtime = old.pop("mode"), old.pop("runtime")
    return {"variant": None if mode == "exact" else mode, "backend": runtime, **old}


def _detect_one(detector: VideoDetector, job: _Job, *, with_bar: bool = True) -> None:
    """Does one job.

    Raises:
        FlowdetError: The source or a result cannot be used, or another run writes this result.
    """
    make_folder(job.results.parent)
    busy = f"another run (process {{holder}}) writes {job.results}; wait for it, or name another folder with --out"
    try:
        with locked(job.results.with_suffix(""), busy):
            _detect_locked(detector, job, with_bar=with_bar)
    except OSError as error:
        raise VideoError(f"{job.described.label}: {error.strerror or error}") from error


def _detect_locked(detector: VideoDetector, job: _Job, *, with_bar: bool) -> None:
    settings = job.settings
    began = time.monotonic()
    with (
        open_video(job.source, start=settings.start, end=settings.end, every=settings.every) as video,
        progress_bar(video.name, video.frame_count, "frames", is_shown=with_bar) as progress,
    ):
        done = annotate(
            detector,
            video,
            results=job.results,
            video_path=job.video,
            settings=job.record,
            shown=Shown(
                score=settings.score,
                classes=settings.classes or None,
                tracker=settings.tracker,
                seq_nms=settings.rescore == "seq-nms",
                overlay=overlay_of(detector.config, settings.show),
                trail=settings.trail,
            ),
            progress=progress,
        )
    rate = done.frames / max(time.monotonic() - began, 1e-6)
    source = job.described.label
    for problem in done.problems:
        console.err.print(f"{source}: {problem}", style="yellow")
    files = " and ".join(str(path) for path in (job.video, job.results) if path)
    console.out.print(
        f"{source}: {done.detections} detections in {done.frames} frames, {rate:.1f} frames/s, in {files}"
    )
