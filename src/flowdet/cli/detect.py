"""flowdet detect: videos in, annotated videos and results out."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

import flowdet
from flowdet.class_names import check_class_names
from flowdet.cli import console
from flowdet.cli.arguments import ALONE, DEFAULTS, Options, Sharing
from flowdet.cli.console import progress_bar
from flowdet.cli.source_report import SourceReport
from flowdet.cli.sources import Names, each_once, expanded, is_still, listed, make_folder, output_name, sources_in
from flowdet.errors import ConfigError, FlowdetError, VideoError, some
from flowdet.files import file_sha256
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import SHIPPED_FOLDER, load_system, weight_file
from flowdet.systems.options import SystemOptions
from flowdet.video.description import SourceDescription, describe_source, public_name
from flowdet.video.parquet import need_parquet
from flowdet.video.reader import Video, check_selection, open_video
from flowdet.video.remote import is_remote
from flowdet.video.results import RESULTS_SUFFIXES, read_finished
from flowdet.work.annotate import overlay_of
from flowdet.work.cluster import Cluster, spread_over
from flowdet.work.detection import Settings, SourceDetector, SourceJob, detect_source
from flowdet.work.jobs import Advanced, Failed, Finished, guarded, hear
from flowdet.work.manifest import open_manifest
from flowdet.work.pool import spread
from flowdet.work.segments import Segment, SegmentDetector, SegmentJoiner, segments_of

__all__ = ["detect"]


_NOT_COMPARED = {"flowdet", "source", "weights"}
_FAR = 10**9  # frames
_PATIENCE = 30.0  # seconds; a worker whose driver was killed is gone sooner


@dataclass(frozen=True)
class _Outputs:
    """Where results go, and the names that other sources of this call have.

    Attributes:
        folder: Their folder.
        suffix: That of the results files.
        with_video: Whether there are annotated videos.
        absolute: Whether paths are whole, for other machines that see the same files.
        taken: The names, without upper case, each with the last number that was tried for it.
    """

    folder: Path
    suffix: str
    with_video: bool
    absolute: bool
    taken: dict[str, int] = field(default_factory=dict)

    def results(self, name: str) -> Path:
        """The results file of that name."""
        return self.folder / f"{name}.{self.suffix}"

    def video(self, name: str, still: Path | None) -> Path | None:
        """The annotated video of that name, or the picture for a still one; None if none is wanted."""
        if not self.with_video:
            return None
        suffix = ".mp4" if still is None else ".jpg" if still.suffix.lower() in (".jpg", ".jpeg") else ".png"
        return self.folder / f"{name}{suffix}"


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
    results: Literal["json", "jsonl", "csv", "parquet"] = "json",
    video: bool = True,
    show: Names = (),
    track: bool = False,
    across_classes: bool = False,
    rescore: Literal["tracks", "seq-nms"] | None = None,
    trail: float = 0.0,
    overwrite: bool = False,
    list_: Annotated[Path | None, Parameter(name="--list", show_default=False)] = None,
    sharing: Sharing = ALONE,
    segment: Annotated[float | None, Parameter(show_default=False)] = None,
    json_progress: Annotated[bool, Parameter(negative=())] = False,
    source: Annotated[str | None, Parameter(show=False)] = None,
) -> int:
    """Detect objects in videos.

    Each source becomes an annotated video, or an annotated picture, and a results file. A source that is finished
    already is skipped.

    Args:
        sources: Video files, pictures, folders of frames or videos, patterns such as "frames/*.jpg", camera numbers, or
            addresses: rtsp://, http://, and s3://, gs:// and others that fsspec knows.
        system: One of `flowdet models`, or hf://owner/name on the Hugging Face Hub. [default: fgfa-nano]
        options: Which system, and how it detects.
        score: Leave out detections below this score.
        classes: Keep only these classes; name several by repeating the option or with commas.
        every: Take every n-th frame.
        start: Begin at this second.
        end: Stop at this second.
        out: Folder of the results.
        results: json is one CocoVID document, jsonl one line a frame while running, csv jsonl and a table of it; the
            parquet files of a folder are one data set, with a row a detection.
        video: Write the annotated video.
        show: Draw what happens inside into the video: flow, weights (FGFA), key (frames, DFF) or references (SELSA);
            name several by repeating the option or with commas.
        track: Give the same object the same id in all frames.
        across_classes: Let a track go on with another class; with --track.
        rescore: tracks gives a detection the mean score of its track so far, with --track; seq-nms rescores the whole
            video by Seq-NMS before it is written, which a live source cannot have.
        trail: Seconds of its track's past to draw as a line; with --track.
        overwrite: Do finished sources again.
        list_: Also take the sources in this file: a line each, or the column "source" of a .csv or .parquet file.
        sharing: Who shares the sources; each worker has one thread.
        segment: Let several workers share a video that is longer than this many seconds; what they find is what one
            worker finds.
        json_progress: Print JSON lines for machines in place of text and bar; docs/many-machines.md describes them.
        source: A mistake that others make; see the error.
    """
    if source is not None:
        raise ConfigError(f"sources are named without an option: `flowdet detect {source}`")
    if options.device.isdecimal():
        raise ConfigError(
            f"a device is cpu, cuda or cuda:{options.device}, not {options.device}; "
            f"a camera is a source: `flowdet detect {options.device}`"
        )
    cluster = sharing.cluster(options.device)
    is_shared = cluster is not None or sharing.processes > 1
    if segment is not None:
        _check_segments(segment, is_shared, shown=bool(listed(show)), every=every)
    if results == "parquet":
        need_parquet()
    if list_ is not None:
        sources = (*sources, *sources_in(list_))
    if not sources:
        raise ConfigError("name at least one source: `flowdet detect clip.mp4`")
    if not 0 <= score <= 1:
        raise ConfigError(f"a score lies between 0 and 1, not at {score}")
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
    interval = len(detector.config.method.kinds)
    settings = Settings(
        flowdet=flowdet.__version__,
        system=detector.config.name,
        weights="shipped" if file.parent == SHIPPED_FOLDER else str(options.weights or file.name),
        weights_sha256=file_sha256(file),
        score=score,
        classes=wanted,
        every=every,
        start=start or None,
        end=end,
        causal=options.causal,
        variant=options.variant,
        key_frame_interval=interval if interval > 1 else None,
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
    if segment is not None and detector.config.method.first_needed(_FAR) == 0:
        raise ConfigError(f"{detector.config.name} remembers all that went by, so --segment cannot split its work")
    make_folder(out)
    outputs = _Outputs(out.absolute() if cluster else out, results, video, absolute=cluster is not None)
    everything = _each_once(expanded(sources))
    with ExitStack() as stack:
        manifest = stack.enter_context(open_manifest(out)) if is_shared else None
        report = stack.enter_context(SourceReport(len(everything), manifest, as_json=json_progress))
        jobs = _jobs(everything, settings, outputs, report, overwrite=overwrite)
        if is_shared:
            _share(jobs, options, report, processes=sharing.processes, cluster=cluster, segment=segment)
        else:
            _do_alone(detector, jobs, report, with_bars=not json_progress)
    return 1 if report.failures else 0


def _each_once(sources: Iterable[str]) -> list[str]:
    """Returns the sources without repetitions, and tells of these."""
    kept, again = each_once(sources)
    if again:
        console.err.print(f"named more than once, done once: {some(list(map(public_name, again)))}", style="yellow")
    return kept


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


def _share(
    jobs: Iterable[SourceJob],
    options: SystemOptions,
    report: SourceReport,
    *,
    processes: int,
    cluster: Cluster | None,
    segment: float | None,
) -> None:
    """Does the jobs in several processes or workers; the segments of long sources first, if these are split."""
    share = partial(spread_over, cluster) if cluster else partial(spread, processes=processes)
    options = options.absolute() if cluster else options
    if segment is None:
        hear(share(jobs, partial(SourceDetector, options, _PATIENCE)), report.tell)
    else:
        todo = list(jobs)
        hear(share(_segments(todo, segment), partial(SegmentDetector, options)), report.tell_segment)
        hear(share(todo, partial(SegmentJoiner, options, _PATIENCE, segment)), report.tell)


def _check_segments(segment: float, is_shared: bool, *, shown: bool, every: int) -> None:
    """Refuses what segments cannot be made of.

    Raises:
        ConfigError: It is.
    """
    if not 0 < segment < float("inf"):
        raise ConfigError(f"--segment is a number of seconds above 0, not {segment}")
    if not is_shared:
        raise ConfigError("--segment without effect: add --processes or --engine ray")
    if shown or every != 1:
        raise ConfigError(f"--segment goes without {'--show' if shown else '--every'}: leave one of them out")


def _segments(jobs: Iterable[SourceJob], seconds: float) -> Iterator[Segment]:
    for job in jobs:
        with suppress(FlowdetError):  # told when the source is done
            yield from segments_of(job, seconds)


def _jobs(
    sources: Sequence[str], settings: Settings, outputs: _Outputs, report: SourceReport, *, overwrite: bool
) -> Iterator[SourceJob]:
    """Yields what is to be done; tells of what was done before or cannot be."""
    for source in sources:
        try:
            job = _job(source, settings, outputs)
            frames = None if overwrite else _frames_done(job)
        except FlowdetError as error:
            report.failed(public_name(source), error)
        except OSError as error:  # it vanished meanwhile
            shown = public_name(source)
            report.failed(shown, VideoError(f"'{shown}' cannot be read: {error.strerror}"))
        else:
            if frames is None:
                yield job
            else:
                report.skipped(job, frames)


def _do_alone(detector: VideoDetector, jobs: Iterable[SourceJob], report: SourceReport, *, with_bars: bool) -> None:
    """Does the jobs in this process."""

    def watch(video: Video) -> AbstractContextManager[Callable[[int], None]]:
        if with_bars:
            passes = 2 if settings.rescore == "seq-nms" else 1
            return progress_bar(video.name, (video.frame_count or 0) * passes or None, "frames")
        return nullcontext(lambda done: report.tell(Advanced(1)))

    for job in jobs:
        settings = job.settings
        done = guarded(partial(detect_source, detector, job, watch))
        report.tell(Failed(job, done) if isinstance(done, FlowdetError) else Finished(job, done))


def _job(source: str, settings: Settings, outputs: _Outputs) -> SourceJob:
    """The files of a source, numbered where another source of this call has the name.

    Raises:
        ConfigError: A file would be written over the source.
        VideoError: There is no such source.
    """
    described = describe_source(source)
    first = name = output_name(described, source)
    number = outputs.taken.get(first.casefold(), 1)
    while name.casefold() in outputs.taken or _is_of_another(source, described, outputs.results(name)):
        number += 1
        name = f"{first}-{number}"
    outputs.taken.update({name.casefold(): 1, first.casefold(): number})
    still = described.path if described.path and is_still(described.path) else None
    if outputs.absolute and "://" not in source and (described.path or described.pattern):
        source = str(Path(source).expanduser().absolute())
    job = SourceJob(source, described, outputs.results(name), outputs.video(name, still), settings)
    for file in (job.results, job.video):
        if described.path and file and file.exists() and os.path.samefile(described.path, file):
            raise ConfigError(f"the result would replace its source {source}; name another folder with --out")
    return job


def _is_of_another(source: str, described: SourceDescription, results: Path) -> bool:
    """Whether this file holds what another address or pattern shows, or what went by live and cannot be had again."""
    if described.path or not results.exists():
        return False
    if described.pattern or is_remote(source):
        finished = read_finished(results)
        return finished is not None and finished["settings"].get("source", described.text) != described.text
    with open_video(source) as video:
        return video.is_live


def _frames_done(job: SourceJob) -> int | None:
    """Returns the number of frames of a source that was finished with the same settings before; None if it was not.

    Raises:
        ConfigError: It was finished with others.
    """
    if job.video and not job.video.exists():
        return None
    # The video belongs to the results of every format.
    suffixes = RESULTS_SUFFIXES if job.video else (job.results.suffix,)
    beside = {path: read_finished(path) for path in map(job.results.with_suffix, suffixes)}
    for path, finished in beside.items():
        if finished is None:
            continue
        before = _in_todays_words(finished["settings"])
        now = job.record
        differing = sorted(key for key in {*before, *now} - _NOT_COMPARED if before.get(key) != now.get(key))
        if differing:
            raise ConfigError(
                f"{path} was made with other settings ({', '.join(differing)}); "
                "name another folder with --out, or replace it with --overwrite"
            )
    own = beside[job.results]
    return int(own["frames"]) if own else None


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
