"""Precision-recall curves of each class, and their plots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import counted
from flowdet.evaluation.plotting import check_plotting, readable_names
from flowdet.files import replacing
from flowdet.metrics.average_precision import RECALL_POINTS, average_precision
from flowdet.metrics.coco import match_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import ClassMatches

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["Curve", "precision_at", "precision_recall", "save_curves", "save_summary"]

_COLUMNS = 5
_POINTS = 400  # of a curve; more cannot be seen on a few hundred pixels
_BLUE, _GREY = "#0072b2", "#999999"


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """Precision and recall of one class at IoU 0.5, one point for each detection, highest score first.

    Attributes:
        class_name: The class.
        recall: [n] share of the boxes found by detections of at least this score, ascending.
        precision: [n] share of true positives among the detections of at least this score. It rises and falls; the AP
            is the area under its envelope, see `precision_at`.
        scores: [n].
        ap50: AP50 of the coco protocol; None for a class without boxes.
        boxes: The number of boxes of the class, without crowds.
    """

    class_name: str
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    ap50: float | None
    boxes: int


def precision_recall(data: CocoVID, detections: DetectionTable) -> list[Curve]:
    """Returns the curves of all classes of a data set, in its order, by the coco protocol at IoU 0.5."""
    return [_curve(data, detections, matches) for matches in match_coco(data, detections)]


def _curve(data: CocoVID, detections: DetectionTable, matches: ClassMatches) -> Curve:
    right, wrong = np.cumsum(matches.true_positive), np.cumsum(matches.false_positive)
    return Curve(
        class_name=data.class_names[matches.label],
        recall=right / max(1, len(matches.objects)),
        # 0 / 0 where detections of crowds come first: they are neither true nor false positives.
        precision=np.divide(right, right + wrong, out=np.ones(len(right)), where=right + wrong > 0),
        scores=detections.scores[matches.rows],
        ap50=average_precision(matches, sampled=True),
        boxes=len(matches.objects),
    )


def precision_at(curve: Curve, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the highest precision at each recall or a higher one; 0 beyond the last recall of the curve."""
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return np.append(best, 0.0)[np.searchsorted(curve.recall, recalls, side="left")]


def save_curves(curves: Sequence[Curve], path: Path) -> None:
    """Plots the curve of each class that has boxes, one panel a class, into a PNG file.

    The dots are the measured points, the line is their envelope, whose area is the AP.

    Raises:
        ConfigError: Matplotlib is not installed, or the file cannot be written.
    """
    check_plotting()
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = [curve for curve in curves if curve.boxes]
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.5 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel("recall at IoU 0.5")
    figure.supylabel("precision")
    with readable_names(curve.class_name for curve in shown) as named:
        for axes, curve in zip(panels, shown, strict=False):
            _draw(axes, curve, named(curve.class_name))
        _save(figure, path)


def save_summary(curves: Sequence[Curve], path: Path) -> None:
    """Plots the curves of all classes with their mean, and the AP50 of each class as a bar, into a PNG file.

    Raises:
        ConfigError: Matplotlib is not installed, or the file cannot be written.
    """
    check_plotting()
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = sorted((curve for curve in curves if curve.boxes), key=lambda curve: curve.ap50 or 0.0)
    figure = Figure(figsize=(11, max(4.5, 0.26 * len(shown) + 1)), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [precision_at(curve, RECALL_POINTS) for curve in shown]
    for line in lines:
        left.plot(RECALL_POINTS, line, color=_GREY, linewidth=0.8, alpha=0.6)
    if lines:
        left.plot(RECALL_POINTS, np.mean(lines, axis=0), color=_BLUE, linewidth=2.5, label="mean of the classes")
        left.legend(loc="lower left")
    left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall at IoU 0.5", ylabel="precision")
    left.grid(alpha=0.3)
    values = [100 * (curve.ap50 or 0.0) for curve in shown]
    bars = right.barh(range(len(shown)), values, color=_BLUE)
    right.bar_label(bars, fmt="%.1f", padding=3)
    right.set(xlim=(0, 112), xlabel="AP50, percent (coco)")
    with readable_names(curve.class_name for curve in shown) as named:
        right.set_yticks(range(len(shown)), [named(curve.class_name) for curve in shown])
        _save(figure, path)


def _draw(axes: Axes, curve: Curve, name: str) -> None:
    chosen = np.unique(np.linspace(0, max(len(curve.recall) - 1, 0), _POINTS).astype(np.int64))
    if len(curve.recall):
        axes.plot(curve.recall[chosen], curve.precision[chosen], ".", color=_GREY, markersize=1.5)
    line = precision_at(curve, RECALL_POINTS)
    axes.plot(RECALL_POINTS, line, color=_BLUE, linewidth=1.8)
    axes.fill_between(RECALL_POINTS, line, color=_BLUE, alpha=0.12)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.set_title(f"{name}: AP50 {100 * (curve.ap50 or 0.0):.1f}\n{counted(curve.boxes, 'box', 'boxes')}", fontsize=9)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=120)
