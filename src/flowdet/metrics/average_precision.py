"""Average precision as COCO and as ImageNet VID define it, from judged detections."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from flowdet.metrics.matching import Judged

__all__ = ["RECALL_POINTS", "area_under_curve", "average_precision", "mean", "sampled_precision"]

RECALL_POINTS = np.linspace(0, 1, 101)


def average_precision(judged: Judged, *, sampled: bool) -> float | None:
    """The average precision of a class; None without a box.

    Args:
        judged: Its detections.
        sampled: By COCO's rule, else by that of ImageNet VID.
    """
    if not len(judged.boxes):
        return None
    # Both rules look at the highest precision from a recall on, and that is where a detection is right.
    steps = np.flatnonzero(judged.right)
    right, wrong = np.arange(1, len(steps) + 1), np.cumsum(judged.wrong)[steps]
    recall, precision = right / len(judged.boxes), right / (right + wrong)
    rule = sampled_precision if sampled else area_under_curve
    return float(rule(recall[None], precision[None])[0])


def sampled_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's rule: the mean precision at 101 recalls, each the highest of any recall from there on.

    Args:
        recall: [s, n] of s curves, not falling along each.
        precision: [s, n].

    Returns:
        [s] float64.
    """
    highest = np.zeros((precision.shape[0], precision.shape[1] + 1))
    highest[:, :-1] = _falling(precision)
    means = [row[np.searchsorted(curve, RECALL_POINTS)].mean() for row, curve in zip(highest, recall, strict=True)]
    return np.array(means)


def area_under_curve(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """ImageNet's rule: the area under the highest precision of any recall from there on; as `sampled_precision`."""
    area: NDArray[np.float64] = (np.diff(recall, prepend=0, axis=1) * _falling(precision)).sum(axis=1)
    return area


def _falling(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    highest: NDArray[np.float64] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return highest


def mean(values: Iterable[float | None]) -> float | None:
    """The mean of those that are defined; None for none."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
