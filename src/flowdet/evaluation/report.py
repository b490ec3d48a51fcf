"""An evaluation as a document: JSON with all metrics, and Markdown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowdet.data.cocovid import CocoVID
from flowdet.errors import ConfigError, DataError, counted
from flowdet.evaluation.compute import AllMetrics, Intervals
from flowdet.evaluation.curves import precision_recall, save_curves, save_summary
from flowdet.evaluation.plotting import check_plotting
from flowdet.evaluation.worst_frames import save_mistakes, worst_frames
from flowdet.files import write_text
from flowdet.metrics.average_precision import Metrics
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.intervals import Interval

__all__ = [
    "Counts",
    "Evaluation",
    "SystemRow",
    "headline_rows",
    "percent",
    "to_json",
    "to_markdown",
    "write_json",
    "write_report",
]


@dataclass(frozen=True, slots=True)
class Counts:
    """The size of the data set and of the result."""

    videos: int
    frames: int
    boxes: int
    detections: int

    @property
    def sentence(self) -> str:
        """All of them with their nouns."""
        of_data = counted(self.videos, "video"), counted(self.frames, "frame"), counted(self.boxes, "box", "boxes")
        return ", ".join((*of_data, counted(self.detections, "detection")))


@dataclass(frozen=True, slots=True)
class SystemRow:
    """The columns of the published tables beside AP50; None or "" where unknown.

    Attributes:
        backbone: For instance "R-50-DC5".
        style: "pytorch": strides in the 3x3 convolutions.
        schedule: For instance "7e", 7 epochs.
        memory_gb: Peak GPU memory of the training.
        seconds_per_frame: Measured in this evaluation: preprocessing, network and postprocessing.
        machine: The machine that this was measured on.
        config: Name of the configuration.
        download: Link to the weights.
    """

    backbone: str
    style: str
    schedule: str
    memory_gb: float | None
    seconds_per_frame: float
    machine: str
    config: str
    download: str


@dataclass(frozen=True, eq=False, slots=True)
class Evaluation:
    """One evaluated result.

    Attributes:
        title: The system or results, and the data set.
        counts: The size of the data set and of the result.
        metrics: The metrics.
        settings: What the metrics depend on.
        notes: Sentences that a reader should know.
        row: The row of the published tables; None for a results file.
    """

    title: str
    counts: Counts
    metrics: AllMetrics
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    row: SystemRow | None = None


def percent(value: float | None) -> str:
    """Returns a share as percent with one decimal; "-" for None."""
    return "-" if value is None else f"{100 * value:.1f}"


def headline_rows(metrics: AllMetrics) -> tuple[list[str], list[list[str]]]:
    """Returns the metrics to quote as a table: the titles of the columns, and a row for each protocol and metric."""
    titles = ["protocol", "metric", "percent"]
    titles += ["95 % interval"] if metrics.intervals else []
    titles += ["with Seq-NMS", "change"] if metrics.seq_nms else []
    titles += ["better than the other by", "95 % interval of that"] if metrics.versus else []
    return titles, list(_headline(metrics))


def _headline(found: AllMetrics) -> Iterator[list[str]]:
    for protocol, metrics in found.by_protocol.items():
        for name, value in metrics.headline.items():
            row = [protocol, name, percent(value)]
            if found.intervals:
                row.append(_range(found.intervals[protocol].get(name)))
            if found.seq_nms:
                linked = found.seq_nms[protocol].headline[name]
                change = None if value is None or linked is None else linked - value
                row += [percent(linked), _signed(change)]
            if found.versus:
                difference = found.versus[protocol].get(name)
                row += [_signed(difference.value if difference else None), _range(difference)]
            yield row


def _range(interval: Interval | None) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}" if interval else "-"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Returns all metrics, as unrounded shares from 0 to 1, by protocol.

    Further keys are "intervals", "seq_nms", "versus", "data", "settings", "notes" and "seconds_per_frame".
    """
    return {
        **{protocol: dict(metrics.document) for protocol, metrics in evaluation.metrics.by_protocol.items()},
        "intervals": _plain(evaluation.metrics.intervals),
        "seq_nms": {protocol: dict(metrics.document) for protocol, metrics in evaluation.metrics.seq_nms.items()},
        "versus": _plain(evaluation.metrics.versus),
        "data": asdict(evaluation.counts),
        "seconds_per_frame": evaluation.row.seconds_per_frame if evaluation.row else None,
        "settings": dict(evaluation.settings),
        "notes": list(evaluation.notes),
    }


def _plain(intervals: Intervals) -> dict[str, dict[str, dict[str, float]]]:
    return {
        protocol: {name: asdict(interval) for name, interval in of_protocol.items()}
        for protocol, of_protocol in intervals.items()
    }


def to_markdown(evaluation: Evaluation) -> str:
    """Returns a Markdown page: the row of the published tables, then all metrics by protocol."""
    parts = [
        f"# {evaluation.title}",
        f"{evaluation.counts.sentence}.",
    ]
    if evaluation.row:
        parts += [_published_table(evaluation, evaluation.row), _footnote(evaluation.row)]
    parts += ["\n".join(f"- {note}" for note in evaluation.notes)] if evaluation.notes else []
    parts += ["## Metrics", _table(*headline_rows(evaluation.metrics))]
    for protocol, metrics in evaluation.metrics.by_protocol.items():
        parts += [f"## Classes, `{protocol}`", _class_table(metrics)]
    return "\n\n".join(parts) + "\n"


def _published_table(evaluation: Evaluation, row: SystemRow) -> str:
    protocol, ap50 = _quoted(evaluation)
    values = {
        "Backbone": row.backbone,
        "Style": row.style,
        "Lr schd": row.schedule,
        "Mem (GB)": f"{row.memory_gb:.2f}" if row.memory_gb else "",
        "Inf time (fps)": f"{1 / row.seconds_per_frame:.1f}",
        f"AP50 ({protocol})": ap50,
        "Config": row.config,
        "Download": row.download,
    }
    return _table(list(values), [[value or "-" for value in values.values()]])


def _footnote(row: SystemRow) -> str:
    return (
        "Mem: GPU memory of the training, where published. "
        f"Inf time: median frame of this evaluation, without reading, on {row.machine}."
    )


def _quoted(evaluation: Evaluation) -> tuple[str, str]:
    """Returns the protocol and the metric for the column AP50: that of COCO, else the metric at the same IoU of 0.5."""
    for protocol, name in (("coco", "AP50"), ("ilsvrc", "mAP"), ("ilsvrc-motion", "all")):
        if protocol in evaluation.metrics.by_protocol:
            return protocol, percent(evaluation.metrics.by_protocol[protocol].headline[name])
    return "-", "-"


def _class_table(metrics: Metrics) -> str:
    names = list(metrics.per_class)
    classes = list(metrics.per_class[names[0]]) if names else []
    rows = [[name, *(percent(metrics.per_class[metric][name]) for metric in names)] for name in classes]
    return _table(["class", *names], [row for row in rows if set(row[1:]) != {"-"}])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_json(path: Path, evaluation: Evaluation) -> None:
    """Writes `to_json` to a file.

    Raises:
        ConfigError: It cannot be written.
    """
    write_text(path, json.dumps(to_json(evaluation), indent=1, allow_nan=False) + "\n")


def write_report(
    folder: Path, data: CocoVID, detections: DetectionTable, evaluation: Evaluation, *, images: Path, pictures: int
) -> Iterator[str]:
    """Writes the report, the metrics, the plots and the pictures; yields a sentence for what cannot be drawn.

    Args:
        folder: An existing folder for all of it.
        data: The annotated data set.
        detections: The detections.
        evaluation: The metrics.
        images: The folder of the data set's images.
        pictures: The largest number of pictures of the worst frames.

    Raises:
        ConfigError: A file cannot be written.
    """
    write_json(folder / "evaluation.json", evaluation)
    write_text(folder / "report.md", to_markdown(evaluation))
    try:
        check_plotting()
    except ConfigError as error:
        yield f"no precision-recall curves: {error}"
    else:
        curves = precision_recall(data, detections)
        save_curves(curves, folder / "precision_recall.png")
        save_summary(curves, folder / "precision_recall_summary.png")
    if pictures:
        try:
            save_mistakes(data, detections, worst_frames(data, detections, pictures), images, folder / "worst")
        except DataError as error:
            yield f"no pictures of the worst frames: {error}; name the folder with --images"
