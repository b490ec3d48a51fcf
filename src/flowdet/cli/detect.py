"""flowdet detect: videos in, annotated videos and results out."""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

import flowdet
from flowdet.annotate import annotate
from flowdet.cli import console
from flowdet.errors import ConfigError, FlowdetError
from flowdet.loading import DEFAULT_SYSTEM, load
from flowdet.system import VideoDetector
from flowdet.video.reader import Video, open_video
from flowdet.video.results import read_finished

__all__ = ["detect"]

Names = Annotated[tuple[str, ...], Parameter(negative=())]


@dataclass(frozen=True)
class _Settings:
    """What a result depends on beside its source; saved with it."""

    flowdet: str
    system: str | None
    weights: str | None
    score: float
    classes: list[str]
    every: int
    start: float | None
    end: float | None
    causal: bool


@dataclass(frozen=True)
class _Job:
    """One source and the files it becomes."""

    source: str
    results: Path
    picture: Path | None
    settings: _Settings

    @property
    def record(self) -> dict[str, Any]:
        """What is saved with the results."""
        return {"source": self.source, **asdict(self.settings)}


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
    out: Path = Path("detections"),
    results: Literal["json", "jsonl"] = "json",
    video: bool = True,
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
        out: Folder of the results.
        results: json is one CocoVID document, jsonl one line a frame while running.
        video: Write the annotated video.
        overwrite: Do finished sources again.
    """
    if not sources:
        raise ConfigError("name at least one source: `flowdet detect clip.mp4`")
    settings = _Settings(
        flowdet=flowdet.__version__,
        system=system or (None if weights else DEFAULT_SYSTEM),
        weights=str(weights) if weights else None,
        score=score,
        classes=[name for part in classes for name in part.split(",")],
        every=every,
        start=start,
        end=end,
        causal=causal,
    )
    jobs = [job for job in _jobs(sources, settings, out, results, video) if overwrite or not _is_done(job)]
    if not jobs:
        return 0
    detector = load(system, weights=weights, device=device, causal=causal)
    detector.check_classes(settings.classes)
    _make_folder(out)
    failures = 0
    for job in jobs:
        try:
            _detect_one(detector, job)
        except FlowdetError as error:
            failures += 1
            console.complain(error)
    return 1 if failures else 0


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"the folder {folder} cannot be made: {error.strerror}; name another with --out") from error


def _jobs(sources: Sequence[str], settings: _Settings, out: Path, suffix: str, video: bool) -> Iterator[_Job]:
    """The files of each source, numbered where two sources have one name."""
    taken: Counter[str] = Counter()
    for source in sources:
        path = Path(source)
        stem = (path.parent.name if has_magic(path.name) else path.stem) or "video"
        taken[stem] += 1
        name = stem if taken[stem] == 1 else f"{stem}-{taken[stem]}"
        yield _Job(source, out / f"{name}.{suffix}", out / f"{name}.mp4" if video else None, settings)


def _is_done(job: _Job) -> bool:
    """Whether the source was finished with the same settings before.

    Raises:
        ConfigError: It was finished with others.
    """
    finished = read_finished(job.results)
    if finished is None or (job.picture and not job.picture.exists()):
        return False
    before, now = finished["settings"], job.record
    differing = sorted(key for key in {*before, *now} if before.get(key) != now.get(key))
    if differing:
        raise ConfigError(
            f"{job.results} was made with other settings ({', '.join(differing)}); "
            "name another folder with --out, or replace it with --overwrite"
        )
    console.out.print(f"{escape(job.source)}: finished before, skipped ({job.results})")
    return True


def _detect_one(detector: VideoDetector, job: _Job) -> None:
    settings = job.settings
    began = time.monotonic()
    with (
        open_video(job.source, start=settings.start, end=settings.end, every=settings.every) as video,
        _progress(video) as progress,
    ):
        done = annotate(
            detector,
            video,
            results=job.results,
            picture=job.picture,
            settings=job.record,
            score=settings.score,
            classes=settings.classes or None,
            progress=progress,
        )
    rate = done.frames / max(time.monotonic() - began, 1e-6)
    source = escape(job.source)
    for problem in done.problems:
        console.err.print(f"[yellow]{source}[/yellow]: {escape(problem)}")
    files = " and ".join(str(path) for path in (job.picture, job.results) if path)
    console.out.print(
        f"{source}: {done.detections} detections in {done.frames} frames, {rate:.1f} frames/s, in {files}"
    )


@contextmanager
def _progress(video: Video) -> Iterator[Callable[[int], None]]:
    """A bar with frames, frames a second and time left."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]:.1f} frames/s"),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console.err, transient=True, disable=not console.err.is_terminal) as bar:
        task = bar.add_task(video.name, total=video.frame_count, rate=0.0)
        yield lambda done: bar.update(task, completed=done, rate=done / max(time.monotonic() - began, 1e-6))
