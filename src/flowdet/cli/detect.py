"""flowdet detect: videos in, annotated videos and results out."""

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from glob import glob
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn

import flowdet
from flowdet.annotate import annotate, view_of
from flowdet.cli import console
from flowdet.download import file_sha256
from flowdet.errors import ConfigError, FlowdetError, VideoError
from flowdet.loading import DEFAULT_SYSTEM, load, weights_of
from flowdet.modes import Mode
from flowdet.system import VideoDetector
from flowdet.types import check_class_names
from flowdet.video.images import IMAGE_SUFFIXES
from flowdet.video.reader import SourceDescription, Video, check_selection, describe_source, open_video
from flowdet.video.results import read_finished
from flowdet.zoo import SHIPPED

__all__ = ["detect"]

Names = Annotated[tuple[str, ...], Parameter(negative=())]

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
    mode: Mode
    flow: str | None
    runtime: str
    show: list[str]


@dataclass(frozen=True)
class _Outputs:
    """Where results go, and the names that sources of this call have already."""

    folder: Path
    suffix: str
    with_video: bool
    taken: set[str]

    def results(self, name: str) -> Path:
        """The results file of that name."""
        return self.folder / f"{name}.{self.suffix}"

    def video(self, name: str) -> Path | None:
        """The annotated video of that name, if one is wanted."""
        return self.folder / f"{name}.mp4" if self.with_video else None


@dataclass(frozen=True)
class _Job:
    """One source and the files it becomes."""

    source: str
    described: SourceDescription
    results: Path
    video: Path | None
    settings: _Settings

    @property
    def record(self) -> dict[str, Any]:
        """What is saved with the results."""
        record = {"source": self.described.label, **asdict(self.settings)}
        if self.described.path:
            state = self.described.path.stat()
            record |= {"source_bytes": state.st_size, "source_modified": state.st_mtime}
        return record


def detect(
    *sources: str,
    system: str | None = None,
    weights: Path | None = None,
    score: float = 0.3,
    classes: Names = (),
    every: int = 1,
    start: float | None = None,
    end: float | None = None,
    device: str = "cpu",
    causal: bool = False,
    mode: Mode = "exact",
    flow: Literal["dis"] | None = None,
    runtime: str = "auto",
    out: Path = Path("detections"),
    results: Literal["json", "jsonl"] = "json",
    video: bool = True,
    show: Names = (),
    overwrite: bool = False,
) -> int:
    """Detect objects in videos.

    Each source becomes an annotated video and a results file. A source that is finished already is skipped.

    Args:
        sources: Video files, folders of frames, patterns such as "frames/*.jpg", camera numbers, or rtsp:// and
            http:// addresses.
        system: One of `flowdet models`. [default: fgfa-lite]
        weights: A weight file of your own: native (.safetensors) or an mmtracking checkpoint (.pth).
        score: Leave out detections below this score.
        classes: Keep only these classes; name several by repeating the option or with commas.
        every: Take every Nth frame.
        start: Begin at this second.
        end: Stop at this second.
        device: Where the model runs, "cuda" for instance.
        causal: FGFA for live video: no waiting for later frames. Not the published protocol.
        mode: Less arithmetic for other numbers: early, composed, fast or recursive, see docs/modes.md.
        flow: Take this flow in place of the system's own: dis is OpenCV's, which was never trained.
        runtime: torch, openvino, a folder of `flowdet quantise`, or auto: the fastest that is installed.
        out: Folder of the results.
        results: json is one CocoVID document, jsonl one line a frame while running.
        video: Write the annotated video.
        show: Draw what happens inside into the video: flow, weights (FGFA) or key (frames, DFF); name several by
            repeating the option or with commas.
        overwrite: Do finished sources again.
    """
    if not sources:
        raise ConfigError("name at least one source: `flowdet detect clip.mp4`")
    if not 0 <= score <= 1:
        raise ConfigError(f"a score lies between 0 and 1, not at {score}")
    check_selection(start, end, every)
    wanted, shown = _listed(classes), _listed(show)
    if shown and not video:
        raise ConfigError("--show draws into the annotated video; leave --no-video out")
    file = weights or weights_of(system or DEFAULT_SYSTEM)
    detector = load(system, weights=file, device=device, causal=causal, mode=mode, flow=flow, runtime=runtime)
    check_class_names(wanted, detector.config.class_names)
    view_of(detector.config, shown)
    settings = _Settings(
        flowdet=flowdet.__version__,
        system=detector.config.name,
        weights=str(weights) if weights else "shipped" if detector.config.name in SHIPPED else file.name,
        weights_sha256=file_sha256(file),
        score=score,
        classes=wanted,
        every=every,
        start=start,
        end=end,
        causal=causal,
        mode=mode,
        flow=flow,
        runtime=detector.runtime,
        show=shown,
    )
    failures = 0
    outputs = _Outputs(out, results, video, set())
    for source in _expanded(sources):
        try:
            job = _job(source, settings, outputs)
            if overwrite or not _is_done(job):
                _detect_one(detector, job)
        except FlowdetError as error:
            failures += 1
            console.complain(error)
    return 1 if failures else 0


def _listed(names: Names) -> list[str]:
    """What was named by repeating an option or with commas, each once."""
    return sorted({name.strip() for part in names for name in part.split(",")} - {""})


def _expanded(sources: Sequence[str]) -> Iterator[str]:
    """The sources, with each video that a pattern matches as a source of its own."""
    for source in sources:
        matches: list[str] = []
        with suppress(VideoError):  # told when its turn comes
            if describe_source(source).pattern:
                matches = sorted(glob(source, recursive=True))
        videos = [match for match in matches if Path(match).suffix.lower() not in IMAGE_SUFFIXES]
        yield from videos or [source]


def _job(source: str, settings: _Settings, outputs: _Outputs) -> _Job:
    """The files of a source, numbered where another source of this call has the name.

    Raises:
        ConfigError: A file would be written over the source.
        VideoError: There is no such source.
    """
    described = describe_source(source)
    name, number = described.name, 1
    is_rereadable = described.path is not None or described.pattern
    while name.casefold() in outputs.taken or (not is_rereadable and _is_recording(source, outputs.results(name))):
        number += 1
        name = f"{described.name}-{number}"
    outputs.taken.add(name.casefold())
    job = _Job(source, described, outputs.results(name), outputs.video(name), settings)
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
    before = {"show": [], "mode": "exact", "runtime": "torch", **finished["settings"]}
    now = job.record
    differing = sorted(key for key in {*before, *now} - _NOT_COMPARED if before.get(key) != now.get(key))
    if differing:
        raise ConfigError(
            f"{job.results} was made with other settings ({', '.join(differing)}); "
            "name another folder with --out, or replace it with --overwrite"
        )
    console.out.print(f"{job.source}: finished before, skipped ({job.results})")
    return True


def _detect_one(detector: VideoDetector, job: _Job) -> None:
    settings = job.settings
    _make_folder(job.results.parent)
    began = time.monotonic()
    with (
        open_video(job.source, start=settings.start, end=settings.end, every=settings.every) as video,
        _progress(video) as progress,
    ):
        done = annotate(
            detector,
            video,
            results=job.results,
            video_path=job.video,
            settings=job.record,
            score=settings.score,
            classes=settings.classes or None,
            view=view_of(detector.config, settings.show),
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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; name another with --out") from error


@contextmanager
def _progress(video: Video) -> Iterator[Callable[[int], None]]:
    """A bar with frames, frames a second and time left."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} frames/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with console.progress(*columns) as bar:
        task = bar.add_task(video.name, total=video.frame_count, rate=0.0)
        yield lambda done: bar.update(task, completed=done, rate=done / max(time.monotonic() - began, 1e-6))
