"""An evaluation as a document: JSON with every figure, Markdown to be read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from flowdet.errors import ConfigError
from flowdet.metrics.figures import Figures
from flowdet.metrics.intervals import Interval
from flowdet.metrics.judging import Intervals, Judgement

__all__ = [
    "Counts",
    "Evaluation",
    "SystemRow",
    "headline_rows",
    "percent",
    "to_json",
    "to_markdown",
    "write_json",
    "write_text",
]


@dataclass(frozen=True, slots=True)
class Counts:
    """How much was compared."""

    videos: int
    frames: int
    boxes: int
    detections: int


@dataclass(frozen=True, slots=True)
class SystemRow:
    """What the published tables say of a system beside its AP50; None or "" where it is not known.

    Attributes:
        backbone: "R-50-DC5", for instance.
        style: "pytorch": strides in the 3x3 convolutions.
        schedule: "7e": 7 epochs.
        memory_gb: Of the training, peak on a GPU.
        seconds_per_frame: Of this evaluation: preparing, network and post-processing.
        machine: What that was measured on.
        config: Name of the configuration.
        download: Where the weights are.
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
    """All that is known of one result on one data set.

    Attributes:
        title: What was evaluated on what.
        counts: How much was compared.
        judgement: The figures.
        settings: What they depend on.
        notes: Sentences that a reader should know.
        row: The system; None where only a results file is known.
    """

    title: str
    counts: Counts
    judgement: Judgement
    settings: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    row: SystemRow | None = None


def percent(value: float | None) -> str:
    """A share as percent with one decimal; "-" for none."""
    return "-" if value is None else f"{100 * value:.1f}"


def headline_rows(judgement: Judgement) -> tuple[list[str], list[list[str]]]:
    """The figures to quote as a table: titles of the columns, then a row a figure with its protocol before it."""
    titles = ["protocol", "figure", "percent"]
    titles += ["95 % interval"] if judgement.intervals else []
    titles += ["with Seq-NMS", "change"] if judgement.seq_nms else []
    titles += ["better than the other by", "95 % interval of that"] if judgement.versus else []
    return titles, list(_headline(judgement))


def _headline(judgement: Judgement) -> Iterator[list[str]]:
    for protocol, figures in judgement.figures.items():
        for name, value in figures.headline.items():
            row = [protocol, name, percent(value)]
            if judgement.intervals:
                row.append(_range(judgement.intervals[protocol].get(name)))
            if judgement.seq_nms:
                linked = judgement.seq_nms[protocol].headline[name]
                change = None if value is None or linked is None else linked - value
                row += [percent(linked), _signed(change)]
            if judgement.versus:
                difference = judgement.versus[protocol].get(name)
                row += [_signed(difference.value if difference else None), _range(difference)]
            yield row


def _range(interval: Interval | None) -> str:
    return f"{percent(interval.low)} to {percent(interval.high)}" if interval else "-"


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:+.1f}"


def to_json(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure unrounded, as shares from 0 to 1.

    The protocols' names are keys; beside them are "intervals", "seq_nms", "versus", "data", "settings", "notes" and
    "seconds_per_frame".
    """
    return {
        **{protocol: figures.to_json() for protocol, figures in evaluation.judgement.figures.items()},
        "intervals": _plain(evaluation.judgement.intervals),
        "seq_nms": {protocol: figures.to_json() for protocol, figures in evaluation.judgement.seq_nms.items()},
        "versus": _plain(evaluation.judgement.versus),
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
    """The tables in Markdown: one with the columns of the published tables, then all figures by protocol."""
    counts = evaluation.counts
    parts = [
        f"# {evaluation.title}",
        f"{counts.videos} videos, {counts.frames} frames, {counts.boxes} boxes, {counts.detections} detections.",
    ]
    if evaluation.row:
        parts += [_published_table(evaluation, evaluation.row), _footnote(evaluation.row)]
    parts += ["\n".join(f"- {note}" for note in evaluation.notes)] if evaluation.notes else []
    parts += ["## Figures", _table(*headline_rows(evaluation.judgement))]
    for protocol, figures in evaluation.judgement.figures.items():
        parts += [f"## Classes, `{protocol}`", _class_table(figures)]
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
        "Mem: of the training, where it was published. "
        f"Inf time: from the median frame of this evaluation, on {row.machine}; reading is not counted."
    )


def _quoted(evaluation: Evaluation) -> tuple[str, str]:
    """The figure for the published column and its protocol: AP50 of COCO, else whatever has its threshold of 0.5."""
    for protocol, name in (("coco", "AP50"), ("ilsvrc", "mAP"), ("ilsvrc-motion", "all")):
        if protocol in evaluation.judgement.figures:
            return protocol, percent(evaluation.judgement.figures[protocol].headline[name])
    return "-", "-"


def _class_table(figures: Figures) -> str:
    names = list(figures.per_class)
    classes = list(figures.per_class[names[0]]) if names else []
    rows = [[name, *(percent(figures.per_class[figure][name]) for figure in names)] for name in classes]
    return _table(["class", *names], [row for row in rows if set(row[1:]) != {"-"}])


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [titles, ["---"] * len(titles), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def write_text(path: Path, text: str) -> None:
    """Writes a file that is there in full or not at all.

    Raises:
        ConfigError: It cannot be written.
    """
    partial = path.with_name(path.name + ".part")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error


def write_json(path: Path, evaluation: Evaluation) -> None:
    """Writes `to_json` to a file.

    Raises:
        ConfigError: It cannot be written.
    """
    write_text(path, json.dumps(to_json(evaluation), indent=1, allow_nan=False) + "\n")
