"""Precision-recall curves as pictures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import ConfigError
from flowdet.metrics.curves import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["check_plotting", "precision_at", "save_curves", "save_summary"]

_RECALLS = np.linspace(0, 1, 101)
_COLUMNS = 5
_POINTS = 400  # a curve on a few hundred pixels needs no more
_BLUE, _GREY = "#0072b2", "#999999"


def check_plotting() -> None:
    """Passes if plots can be drawn.

    Raises:
        ConfigError: Matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401, PLC0415  (an optional extra)
    except ImportError as error:
        raise ConfigError("plots need Matplotlib: pip install 'flowdet[eval]'") from error


def precision_at(curve: Curve, recalls: NDArray[np.float64]) -> NDArray[np.float64]:
    """The best precision that a class reaches at these recalls or higher ones; 0 beyond its last."""
    best = np.maximum.accumulate(curve.precision[::-1])[::-1]
    return np.append(best, 0.0)[np.searchsorted(curve.recall, recalls, side="left")]


def save_curves(curves: Sequence[Curve], path: Path) -> None:
    """Draws the curve of every class that has boxes, each in its own field, into a PNG file.

    The line is the best precision at this recall or higher, under which the AP is taken; the dots are as measured.

    Raises:
        ConfigError: Matplotlib is not installed, or the file cannot be written.
    """
    check_plotting()
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = [curve for curve in curves if curve.boxes]
    columns = max(1, min(_COLUMNS, len(shown)))
    rows = max(1, math.ceil(len(shown) / columns))
    figure = Figure(figsize=(2.6 * columns + 0.4, 2.5 * rows + 0.4), layout="constrained")
    fields = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat
    for axes in fields[len(shown) :]:
        axes.set_visible(False)
    for axes, curve in zip(fields, shown, strict=False):
        _draw(axes, curve)
    figure.supxlabel("recall at IoU 0.5")
    figure.supylabel("precision")
    _save(figure, path)


def save_summary(curves: Sequence[Curve], path: Path) -> None:
    """Draws all classes in one field with their mean, and a bar for the AP50 of each, into a PNG file.

    Raises:
        ConfigError: Matplotlib is not installed, or the file cannot be written.
    """
    check_plotting()
    from matplotlib.figure import Figure  # noqa: PLC0415

    shown = sorted((curve for curve in curves if curve.boxes), key=lambda curve: curve.ap50 or 0.0)
    figure = Figure(figsize=(11, max(4.5, 0.26 * len(shown) + 1)), layout="constrained")
    left, right = figure.subplots(1, 2)
    lines = [precision_at(curve, _RECALLS) for curve in shown]
    for line in lines:
        left.plot(_RECALLS, line, color=_GREY, linewidth=0.8, alpha=0.6)
    if lines:
        left.plot(_RECALLS, np.mean(lines, axis=0), color=_BLUE, linewidth=2.5, label="mean of the classes")
        left.legend(loc="lower left")
    left.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="recall at IoU 0.5", ylabel="precision")
    left.grid(alpha=0.3)
    values = [100 * (curve.ap50 or 0.0) for curve in shown]
    bars = right.barh([_plain(curve.class_name) for curve in shown], values, color=_BLUE)
    right.bar_label(bars, fmt="%.1f", padding=3)
    right.set(xlim=(0, 112), xlabel="AP50, percent (coco)")
    _save(figure, path)


def _draw(axes: Axes, curve: Curve) -> None:
    chosen = np.unique(np.linspace(0, max(len(curve.recall) - 1, 0), _POINTS).astype(np.int64))
    if len(curve.recall):
        axes.plot(curve.recall[chosen], curve.precision[chosen], ".", color=_GREY, markersize=1.5)
    line = precision_at(curve, _RECALLS)
    axes.plot(_RECALLS, line, color=_BLUE, linewidth=1.8)
    axes.fill_between(_RECALLS, line, color=_BLUE, alpha=0.12)
    axes.set(xlim=(0, 1), ylim=(0, 1.02))
    axes.grid(alpha=0.3)
    axes.set_title(f"{_plain(curve.class_name)}: AP50 {100 * (curve.ap50 or 0.0):.1f}\n{curve.boxes} boxes", fontsize=9)


def _plain(name: str) -> str:
    """A name in which Matplotlib sees no formula."""
    return name.replace("$", r"\$")


def _save(figure: Figure, path: Path) -> None:
    partial = path.with_name(path.name + ".part")
    try:
        figure.savefig(partial, format="png", dpi=120)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from error
