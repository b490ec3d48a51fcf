"""flowdet evaluate: a system, or a results file, against an annotated data set."""

import json as json_format
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from cyclopts import Parameter

import flowdet
from flowdet.cli.outcome import bar, check_outputs, show, status, write_folder
from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.motion import read_motion_iou
from flowdet.errors import ConfigError
from flowdet.evaluation.report import Counts, Evaluation, SystemRow, write_json
from flowdet.evaluation.results_file import read_results, write_results
from flowdet.evaluation.run import detect_data_set
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.judging import Questions, judge
from flowdet.systems.config import SystemConfig, config_to_json
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load_system, weights_of
from flowdet.systems.options import SystemOptions
from flowdet.weights.native import weights_digest
from flowdet.weights.zoo import PUBLISHED, SHIPPED

__all__ = ["evaluate"]

Options = Annotated[SystemOptions, Parameter(name="*")]
Protocol = Literal["coco", "ilsvrc", "ilsvrc-motion"]
Protocols = Annotated[tuple[Protocol, ...], Parameter(negative=(), show_default=False)]

_DEFAULTS = SystemOptions()
_PICTURES = 12
_SAMPLES = 1000
_LARGE = 3_000_000  # detections; above it the intervals take minutes


@dataclass(frozen=True, eq=False)
class _Result:
    """The detections to judge, and what is known of where they come from."""

    table: DetectionTable
    title: str
    settings: Mapping[str, Any]
    notes: Sequence[str] = ()
    row: SystemRow | None = None


@dataclass(frozen=True)
class _Running:
    """How a system is run over the data set."""

    images: Path
    folder: Path
    processes: int
    threads: int | None


@dataclass(frozen=True)
class _Judging:
    """How the outcome is judged, as given."""

    protocols: tuple[Protocol, ...]
    motion_iou: Path | None
    seq_nms: bool
    bootstrap: int | None
    versus: Path | None


def evaluate(
    system: str | None = None,
    *,
    data: Path,
    options: Options = _DEFAULTS,
    results: Path | None = None,
    images: Path | None = None,
    protocol: Protocols = ("coco",),
    processes: int = 1,
    threads: int | None = None,
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
        results: Judge this COCO results file; nothing is detected.
        images: Folder that the file names of the annotations lie below. [default: the folder of --data]
        protocol: Repeat the option for several. [default: coco]
        processes: How many share the videos.
        threads: Of torch in each process. [default: the cores, shared by the processes]
        motion_iou: Motion IoUs in place of computed ones: JSON {annotation id: value}, or the authors' .mat.
        seq_nms: Also link and rescore the detections over time, and report the effect.
        bootstrap: Draw the videos so many times for 95 % intervals; 0: none. [default: 1000; 0 for a large result]
        versus: Another results file on the same data: report how much better this one is.
        out: Folder of the report. [default: evaluation; with --results: none]
        json: Also write the figures to this file.
        pictures: Draw so many of the worst frames.
    """
    options = replace(options, system=system)
    weights = options.weights
    _check_source(results, options)
    if results:
        detecting = {"--processes": processes != 1, "--threads": threads is not None}
        drawing = {"--images": images is not None, "--pictures": pictures != _PICTURES}
        _check_idle(detecting, {} if out else drawing)
    judging = _Judging(tuple(dict.fromkeys(protocol)), motion_iou, seq_nms, bootstrap, versus)
    _check_judging(judging)
    if pictures < 0:
        raise ConfigError(f"--pictures is a number from 0 on, not {pictures}")
    folder = out or (None if results else Path("evaluation"))
    check_outputs(folder, json)
    annotated = read_cocovid(data)
    below = images or data.parent
    if results:
        result = _Result(_read(results, annotated), f"{results.name} on {data.name}", {"results": str(results)})
    else:
        running = _Running(below, (folder or Path()) / "detections", processes, threads)
        result = _detect(
            load_system(options),
            weights,
            annotated,
            running,
        )
    if folder and not results:
        write_results(result.table, annotated, folder / "results.json")
    evaluation = _judged(annotated, result, judging)
    show(evaluation)
    if json:
        write_json(json, evaluation)
    if folder:
        write_folder(folder, annotated, result.table, evaluation, images=below, pictures=pictures)
    return 0


def _check_source(results: Path | None, options: SystemOptions) -> None:
    if results is None and options.system is None and options.weights is None:
        raise ConfigError(
            "name a system, as in `flowdet evaluate fgfa-lite --data val.json`, or a results file with --results"
        )
    if results is not None and options != _DEFAULTS:
        raise ConfigError("--results judges detections that are there already: leave out the system and its options")


def _check_idle(detecting: dict[str, bool], drawing: dict[str, bool]) -> None:
    """Refuses options that change nothing where a results file is judged."""
    idle = [option for option, is_given in (detecting | drawing).items() if is_given]
    if idle:
        add = ", or add --out for pictures" if any(drawing.values()) else ""
        raise ConfigError(
            f"--results judges detections that are there already, which {' and '.join(idle)} cannot change: leave out "
            f"what has no effect{add}"
        )


def _check_judging(judging: _Judging) -> None:
    if judging.motion_iou and "ilsvrc-motion" not in judging.protocols:
        raise ConfigError("--motion-iou has an effect on one protocol only: add --protocol ilsvrc-motion")
    if judging.bootstrap is not None and judging.bootstrap < 0:
        raise ConfigError(f"--bootstrap is a number of resamples from 0 on, not {judging.bootstrap}")
    if judging.versus and judging.bootstrap == 0:
        raise ConfigError("--versus needs resamples for its interval: leave out --bootstrap 0")


def _read(path: Path, data: CocoVID) -> DetectionTable:
    with bar(f"reading {path.name}", path.stat().st_size if path.is_file() else None, "bytes") as move:
        return read_results(path, data, progress=lambda count: move(advance=count))


def _detect(detector: VideoDetector, weights: Path | None, data: CocoVID, running: _Running) -> _Result:
    config = detector.config
    with bar(config.name, len(data.images), "frames") as move:
        found = detect_data_set(
            detector,
            data,
            running.images,
            running.folder,
            processes=running.processes,
            threads=running.threads,
            progress=lambda done: move(completed=done),
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
        "processes": running.processes,
        "threads": running.threads,
    }
    notes = _notes(config.class_names, data, found.left_out)
    shared = f"{running.processes} processes at once" if running.processes > 1 else "one process"
    row = _row(config, weights, found.seconds_per_frame, f"{machine}, {shared}")
    return _Result(found.table, f"{config.name} on {data.path.name}", settings, notes, row)


def _weights(system: str, weights: Path | None) -> str:
    return str(weights) if weights else "shipped" if system in SHIPPED else weights_of(system).name


def _notes(class_names: Sequence[str], data: CocoVID, left_out: Mapping[str, int]) -> list[str]:
    notes = []
    if left_out:
        counts = ", ".join(f"{name} {count}" for name, count in left_out.items())
        notes.append(
            f"{sum(left_out.values())} detections of classes that the data set does not have were left out: {counts}."
        )
    annotated = {data.class_names[label] for label in np.unique(data.objects.labels)}
    unknown = sorted(annotated - set(class_names))
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


def _judged(data: CocoVID, result: _Result, judging: _Judging) -> Evaluation:
    table, notes, samples = result.table, list(result.notes), judging.bootstrap
    if samples is None:
        is_large = len(table) > _LARGE and not judging.versus
        samples = 0 if is_large else _SAMPLES
        if is_large:
            notes.append(f"No confidence intervals: {len(table)} detections are many; --bootstrap 1000 computes them.")
    questions = Questions(
        protocols=judging.protocols,
        motion_iou=read_motion_iou(judging.motion_iou, data) if judging.motion_iou else None,
        seq_nms=judging.seq_nms,
        samples=samples,
        versus=_read(judging.versus, data) if judging.versus else None,
    )
    with status() as tell:
        judgement = judge(data, table, questions, tell=tell)
    settings = {
        "flowdet": flowdet.__version__,
        "data": str(data.path),
        **result.settings,
        "motion_iou": str(judging.motion_iou) if judging.motion_iou else "from the track numbers",
        "bootstrap": samples,
        "versus": str(judging.versus) if judging.versus else None,
    }
    counts = Counts(len(data.videos), len(data.images), int((~data.objects.crowds).sum()), len(table))
    return Evaluation(result.title, counts, judgement, settings, notes, result.row)
