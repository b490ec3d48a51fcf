"""flowdet evaluate: a system, or a results file, against an annotated data set."""

import json as json_format
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from cyclopts import Parameter

import flowdet
from flowdet.cli import console
from flowdet.cli.arguments import ALONE, DEFAULTS, Options, Sharing, check_outputs
from flowdet.cli.console import progress_bar, status
from flowdet.cli.sources import Names, listed
from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.motion import read_motion_iou
from flowdet.errors import ConfigError, counted, some
from flowdet.evaluation.compute import MetricOptions, compute_metrics
from flowdet.evaluation.report import Counts, Evaluation, SystemRow, headline_rows, write_json, write_report
from flowdet.evaluation.results_file import Results, read_results, results_files, write_results
from flowdet.evaluation.run import detect_data_set
from flowdet.metrics.detections import DetectionTable
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load_system, weights_of
from flowdet.systems.options import SystemOptions
from flowdet.weights.native import weights_digest
from flowdet.weights.zoo import PUBLISHED, SHIPPED
from flowdet.work.cluster import Cluster

__all__ = ["evaluate"]

Protocol = Literal["coco", "ilsvrc", "ilsvrc-motion"]
Protocols = Annotated[tuple[Protocol, ...], Parameter(negative=(), show_default=False)]
Paths = Annotated[tuple[Path, ...], Parameter(negative=(), show_default=False)]

_PICTURES = 12
_SAMPLES = 1000
_LARGE = 3_000_000  # detections; above it the intervals take minutes


@dataclass(frozen=True, eq=False)
class _Result:
    """The detections to evaluate, and where they come from."""

    table: DetectionTable
    title: str
    settings: Mapping[str, Any]
    class_map: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    row: SystemRow | None = None


@dataclass(frozen=True)
class _Running:
    """How a system runs over the data set."""

    images: Path
    folder: Path
    processes: int
    threads: int | None
    cluster: Cluster | None
    class_map: Mapping[str, str]


@dataclass(frozen=True)
class _Measuring:
    """What to measure, as given on the command line."""

    protocols: tuple[Protocol, ...]
    motion_iou: Path | None
    seq_nms: bool
    bootstrap: int | None
    versus: Path | None


def evaluate(
    system: str | None = None,
    *,
    data: Path,
    options: Options = DEFAULTS,
    results: Paths = (),
    images: Path | None = None,
    protocol: Protocols = ("coco",),
    sharing: Sharing = ALONE,
    threads: int | None = None,
    map_classes: Names = (),
    motion_iou: Path | None = None,
    seq_nms: bool = False,
    bootstrap: int | None = None,
    versus: Path | None = None,
    out: Path | None = None,
    json: Path | None = None,
    pictures: int = _PICTURES,
) -> int:
    """Evaluate a system, or a results file, on annotated videos.

    An interrupted evaluation of a system continues where it stopped when it is called again.

    Args:
        system: One of `flowdet models`.
        data: CocoVID or COCO file with the annotations.
        options: Which system, and how it detects.
        results: Evaluate these detections, nothing is detected: a COCO results file; or what `flowdet detect` wrote, a
            file for each video (repeat the option) or their folder.
        images: Folder of the images of the data set. [default: the folder of --data]
        protocol: Repeat the option for several. [default: coco]
        sharing: Who shares the videos.
        threads: Threads of torch in each process or worker. [default: the cores, shared by the processes; 1 in a
            worker]
        map_classes: Classes that mean the same, as system=data, for instance cow=cattle; repeat the option or use
            commas. Well-known names are mapped without it.
        motion_iou: Motion IoUs in place of computed ones: JSON {annotation id: value}, or the authors' .mat.
        seq_nms: Also link and rescore the detections over time, and report the effect.
        bootstrap: Number of resamples of the videos for 95 % intervals; 0: none. [default: 1000; 0 for a large result]
        versus: Another results file on the same data, or a folder of them: report how much better this result is.
        out: Folder of the report. [default: evaluation; with --results: none]
        json: Also write the metrics to this file.
        pictures: Number of pictures of the worst frames.
    """
    options = replace(options, system=system)
    weights = options.weights
    _check_source(results, options)
    cluster = sharing.cluster(options.device)
    if results:
        detecting = {
            "--engine": sharing.engine != "local",
            "--processes": sharing.processes != 1,
            "--threads": threads is not None,
        }
        drawing = {"--images": images is not None, "--pictures": pictures != _PICTURES}
        _check_idle(detecting, {} if out else drawing)
    measuring = _Measuring(tuple(dict.fromkeys(protocol)), motion_iou, seq_nms, bootstrap, versus)
    _check_measuring(measuring)
    class_map = _class_map(listed(map_classes))
    if pictures < 0:
        raise ConfigError(f"--pictures is a number from 0 on, not {pictures}")
    folder = out or (None if results else Path("evaluation"))
    check_outputs(folder, json)
    annotated = read_cocovid(data)
    below = images or data.parent
    if results:
        result = _from_files(results, annotated, class_map)
    else:
        running = _Running(below, (folder or Path()) / "detections", sharing.processes, threads, cluster, class_map)
        result = _detect(
            load_system(options),
            weights,
            annotated,
            running,
        )
    if folder and not results:
        write_results(result.table, annotated, folder / "results.json")
    evaluation = _evaluated(annotated, result, measuring)
    _show(evaluation)
    if json:
        write_json(json, evaluation)
    if folder:
        for sentence in write_report(folder, annotated, result.table, evaluation, images=below, pictures=pictures):
            console.err.print(sentence, style="yellow")
        console.out.print(f"report.md, and what belongs to it, is in {folder}")
    return 0


def _class_map(pairs: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, other = (part.strip() for part in pair.partition("="))
        if not (name and equals and other):
            raise ConfigError(f"--map-classes is system=data, for instance cow=cattle, not {pair!r}")
        if name in found:
            raise ConfigError(f"--map-classes maps {name!r} twice, to {found[name]!r} and to {other!r}")
        found[name] = other
    return found


def _check_source(results: Paths, options: SystemOptions) -> None:
    if not results and options.system is None and options.weights is None:
        raise ConfigError(
            "name a system, as in `flowdet evaluate fgfa-lite --data val.json`, or a results file with --results"
        )
    if results and options != DEFAULTS:
        raise ConfigError("--results evaluates detections that are there already: leave out the system and its options")


def _check_idle(detecting: dict[str, bool], drawing: dict[str, bool]) -> None:
    """Refuses options without effect on a results file."""
    idle = [option for option, is_given in (detecting | drawing).items() if is_given]
    if idle:
        add = ", or add --out for pictures" if any(drawing.values()) else ""
        raise ConfigError(
            f"--results evaluates detections that are there already, which {' and '.join(idle)} cannot change: leave "
            f"out what has no effect{add}"
        )


def _check_measuring(measuring: _Measuring) -> None:
    if measuring.motion_iou and "ilsvrc-motion" not in measuring.protocols:
        raise ConfigError("--motion-iou has an effect on one protocol only: add --protocol ilsvrc-motion")
    if measuring.bootstrap is not None and measuring.bootstrap < 0:
        raise ConfigError(f"--bootstrap is a number of resamples from 0 on, not {measuring.bootstrap}")
    if measuring.versus and measuring.bootstrap == 0:
        raise ConfigError("--versus needs resamples for its interval: leave out --bootstrap 0")


def _from_files(paths: Sequence[Path], data: CocoVID, class_map: Mapping[str, str]) -> _Result:
    found = _read(paths, data, class_map)
    if class_map and not found.class_names:
        raise ConfigError(
            "--map-classes has no effect on COCO results files: their categories are those of the data set already"
        )
    notes = [*found.notes, *_class_notes(found.class_names, data, found.renamed, found.left_out)]
    title = f"{', '.join(path.name for path in paths)} on {data.path.name}"
    settings = {"results": ", ".join(map(str, paths)), "map_classes": dict(found.renamed)}
    return _Result(found.table, title, settings, class_map, notes)


def _read(paths: Sequence[Path], data: CocoVID, class_map: Mapping[str, str]) -> Results:
    files = [file for path in paths for file in results_files(path)]
    size = sum(file.stat().st_size for file in files if file.is_file())
    with progress_bar(f"reading {paths[0].name}", size, "bytes") as move:
        return read_results(files, data, class_map=class_map, progress=move)


def _detect(detector: VideoDetector, weights: Path | None, data: CocoVID, running: _Running) -> _Result:
    config = detector.config
    with progress_bar(config.name, len(data.images), "frames") as move:
        found = detect_data_set(
            detector,
            data,
            running.images,
            running.folder,
            processes=running.processes,
            threads=running.threads,
            cluster=running.cluster,
            class_map=running.class_map,
            progress=move,
        )
    device = next(detector.parameters()).device
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    settings = {
        "system": config.name,
        "weights": _weights(config.name, weights),
        "weights_digest": weights_digest(detector),
        "config": json_format.loads(config_to_json(config)),
        "images": str(running.images),
        "device": machine,
        "backend": detector.backend,
        "precision": detector.precision,
        "processes": running.processes,
        "threads": running.threads,
        "map_classes": dict(found.renamed),
    }
    notes = _class_notes(config.class_names, data, found.renamed, found.left_out)
    shared = f"{running.processes} processes at once" if running.processes > 1 else "one process"
    if running.cluster:
        shared = "several workers at once"
    row = _row(config, weights, found.seconds_per_frame, f"{machine}, {shared}")
    title = f"{config.name} on {data.path.name}"
    return _Result(found.table, title, settings, running.class_map, notes, row)


def _weights(system: str, weights: Path | None) -> str:
    return str(weights) if weights else "shipped" if system in SHIPPED else weights_of(system).name


def _class_notes(
    class_names: Sequence[str], data: CocoVID, renamed: Mapping[str, str], left_out: Mapping[str, int]
) -> list[str]:
    """Returns sentences about classes that the system and the data set call differently, or do not share."""
    if not class_names:
        return []
    notes = []
    if renamed:
        notes.append(f"Classes of other names were mapped: {', '.join(f'{a} = {b}' for a, b in renamed.items())}.")
    if left_out:
        most = sorted(left_out, key=left_out.__getitem__, reverse=True)
        counts = some([f"{name} {left_out[name]}" for name in most], kind="classes")
        foreign = counted(
            sum(left_out.values()),
            "detection of a class that the data set does not have was",
            "detections of classes that the data set does not have were",
        )
        notes.append(f"{foreign} left out: {counts}.")
    annotated = {data.class_names[label] for label in np.unique(data.objects.labels)}
    unknown = sorted(annotated - {renamed.get(name, name) for name in class_names})
    if unknown:
        notes.append(f"The system does not know {', '.join(unknown)}: these classes count with an AP of 0.")
    return notes


def _row(config: SystemConfig, weights: Path | None, seconds: float, machine: str) -> SystemRow:
    file = Path(_weights(config.name, weights)).name
    published = next((row for row in PUBLISHED.values() if row.file_name == file), None)
    return SystemRow(
        backbone=config.detector.label,
        style="pytorch" if published else "",
        schedule="7e" if published else "",
        memory_gb=published.training_memory_gb if published else None,
        seconds_per_frame=seconds,
        machine=machine,
        config=config.name,
        download=f"[model]({published.url})" if published else file,
    )


def _evaluated(data: CocoVID, result: _Result, measuring: _Measuring) -> Evaluation:
    table, notes, samples = result.table, list(result.notes), measuring.bootstrap
    if samples is None:
        is_large = len(table) > _LARGE and not measuring.versus
        samples = 0 if is_large else _SAMPLES
        if is_large:
            notes.append(f"No confidence intervals: {len(table)} detections are many; --bootstrap 1000 computes them.")
    options = MetricOptions(
        protocols=measuring.protocols,
        motion_iou=read_motion_iou(measuring.motion_iou, data) if measuring.motion_iou else None,
        seq_nms=measuring.seq_nms,
        samples=samples,
        versus=_read([measuring.versus], data, result.class_map).table if measuring.versus else None,
    )
    with status() as tell:
        metrics = compute_metrics(data, table, options, tell=tell)
    settings = {
        "flowdet": flowdet.__version__,
        "data": str(data.path),
        **result.settings,
        "motion_iou": str(measuring.motion_iou) if measuring.motion_iou else "from the track numbers",
        "bootstrap": samples,
        "versus": str(measuring.versus) if measuring.versus else None,
    }
    counts = Counts(len(data.videos), len(data.images), int((~data.objects.crowds).sum()), len(table))
    return Evaluation(result.title, counts, metrics, settings, notes, result.row)


def _show(evaluation: Evaluation) -> None:
    """Prints the metrics to quote, each with its protocol."""
    titles, rows = headline_rows(evaluation.metrics)
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    console.out.print(f"{evaluation.title}: {evaluation.counts.sentence}")
    for row in (titles, *rows):
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        console.out.print("  ".join(cells).rstrip())
    for note in evaluation.notes:
        console.err.print(note, style="yellow")
