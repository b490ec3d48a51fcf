"""The command line: flowdet detect, flowdet models."""

import ctypes
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from glob import has_magic
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from cyclopts import App, Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

import flowdet
from flowdet.annotate import annotate
from flowdet.checkpoint import read_system, save_native
from flowdet.download import Progress as Report
from flowdet.download import download as fetch
from flowdet.download import download_log
from flowdet.errors import ConfigError, FlowdetError
from flowdet.loading import DEFAULT_SYSTEM, load, weights_of
from flowdet.recipes import recipe
from flowdet.system import VideoDetector
from flowdet.video.reader import Video, open_video
from flowdet.video.results import read_finished
from flowdet.zoo import PUBLISHED, SHIPPED

__all__ = ["main"]

app = App(
    name="flowdet", version=flowdet.__version__, help="Object detection in video.", suppress_keyboard_interrupt=False
)
models = App(name="models", help="List the systems; download and convert their weights.")
app.command(models)

_out = Console(soft_wrap=True, highlight=False)
_err = Console(stderr=True, soft_wrap=True, highlight=False)

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


@app.command
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
            _complain(error)
    return 1 if failures else 0


def _complain(error: FlowdetError) -> None:
    _err.print(f"[red]flowdet[/red]: {escape(str(error))}")


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
    _out.print(f"{escape(job.source)}: finished before, skipped ({job.results})")
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
        _err.print(f"[yellow]{source}[/yellow]: {escape(problem)}")
    files = " and ".join(str(path) for path in (job.picture, job.results) if path)
    _out.print(f"{source}: {done.detections} detections in {done.frames} frames, {rate:.1f} frames/s, in {files}")


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
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task(video.name, total=video.frame_count, rate=0.0)
        yield lambda done: bar.update(task, completed=done, rate=done / max(time.monotonic() - began, 1e-6))


@models.default
def list_models() -> None:
    """List every system: published AP50 and speed, size, cost, and where its weights are."""
    table = Table("system", "backbone", "AP50", "fps on V100", "parameters", "GFLOP a frame", box=None)
    for own in SHIPPED.values():
        table.add_row(own.system, own.backbone, "-", "-", f"{own.parameters / 1e6:.1f} M", f"{own.gflop:.1f}")
    for row in PUBLISHED.values():
        cost = f"{row.gflop:g}" if row.gflop_key is None else f"{row.gflop:g}, key {row.gflop_key:g}"
        fps = f"{row.fps_v100}" if row.fps_v100 else "-"
        table.add_row(row.system, row.backbone, f"{row.ap50}", fps, f"{row.parameters / 1e6:.1f} M", cost)
    _out.print(table)
    _out.print(
        "\nAP50: ImageNet VID val. fps: forward and post-processing. Both as published with mmtracking 0.14.\n"
        "GFLOP: published systems at 1008x608, lite systems at 512x288.\n\nWeights:"
    )
    for system in (*SHIPPED, *PUBLISHED):
        try:
            where = str(weights_of(system))
        except FlowdetError:
            where = PUBLISHED[system].url
        _out.print(f"  {system:12} {'shipped' if system in SHIPPED else where}")


@models.command
def download(*systems: str, mirror: str | None = None, log: bool = False) -> None:
    """Download published weights.

    Args:
        systems: Names such as fgfa-r50.
        mirror: Address to use in place of https://download.openmmlab.com; also $FLOWDET_MIRROR.
        log: Fetch the training log instead of the weights.
    """
    if not systems:
        raise ConfigError(f"name at least one of {', '.join(PUBLISHED)}")
    for system in systems:
        if system in SHIPPED:
            _out.print(f"{system}: its weights ship with the package")
            continue
        if system not in PUBLISHED:
            raise ConfigError(
                f"there are no published weights of {system!r}; there are those of {', '.join(PUBLISHED)}"
            )
        with _download_bar(system) as progress:
            path = (download_log if log else fetch)(PUBLISHED[system], mirror=mirror, progress=progress)
        _out.print(f"{system}: {path}")


@contextmanager
def _download_bar(system: str) -> Iterator[Report]:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=_err, transient=True, disable=not _err.is_terminal) as bar:
        task = bar.add_task(system, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@models.command
def convert(weights: Path, out: Path, *, system: str, half: bool = False) -> None:
    """Convert a published mmtracking checkpoint to the native format.

    Args:
        weights: The .pth file.
        out: The .safetensors file to write.
        system: Which system it is of.
        half: Store float16.
    """
    if out.suffix != ".safetensors":
        raise ConfigError(f"native weights are written to a .safetensors file, not to {out}")
    save_native(read_system(weights, recipe(system)), out, torch.float16 if half else torch.float32)
    _out.print(f"{weights} -> {out}")


def _keep_memory() -> None:
    """Lets glibc keep large freed blocks, which saves a third of the time of convolutions on a CPU."""
    if not sys.platform.startswith("linux"):
        return
    trim_threshold, top_pad, mmap_max = -1, -2, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2_000_000_000)
    mallopt(top_pad, 64_000_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line; a user's mistake ends with one message and exit code 1, Ctrl-C with 130."""
    _keep_memory()
    try:
        sys.exit(app(arguments, result_action="return_value"))
    except FlowdetError as error:
        _complain(error)
        sys.exit(1)
    except KeyboardInterrupt:
        _err.print("interrupted; what was done is kept")
        sys.exit(130)
