"""Average precision as COCO and as ImageNet VID define it, and what every protocol returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.metrics.matching import ClassMatches

__all__ = ["RECALL_POINTS", "Metrics", "area_under_curve", "average_precision", "mean", "sampled_precision"]

RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True, eq=False, slots=True)
class Metrics:
    """The metrics of one protocol, as unrounded shares from 0 to 1; None where there is nothing to measure.

    Attributes:
        protocol: "coco", "ilsvrc" or "ilsvrc-motion".
        headline: The metrics to quote, by name: AP, AP50 and AP75; or mAP; or slow, medium, fast and all.
        per_class: By metric, then by class name: AP50 and AP; or AP; or slow, medium, fast and all.
        document: Everything, as plain values for `json.dump`.
    """

    protocol: str
    headline: Mapping[str, float | None]
    per_class: Mapping[str, Mapping[str, float | None]]
    document: Mapping[str, Any]


def average_precision(matches: ClassMatches, *, sampled: bool) -> float | None:
    """Returns the average precision of a class; None for a class without objects.

    Args:
        matches: The detections of the class.
        sampled: Whether to take COCO's rule; else that of ImageNet VID.
    """
    if not len(matches.objects):
        return None
    # Both rules take the highest precision from a recall on, which is reached at a true positive.
    steps = np.flatnonzero(matches.true_positive)
    right, wrong = np.arange(1, len(steps) + 1), np.cumsum(matches.false_positive)[steps]
    recall, precision = right / len(matches.objects), right / (right + wrong)
    rule = sampled_precision if sampled else area_under_curve
    return float(rule(recall[None], precision[None])[0])


def sampled_precision(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """COCO's rule: the mean, over 101 recalls, of the highest precision at this recall or a higher one.

    Args:
        recall: [s, n] s curves of n points, ascending along each.
        precision: [s, n].

    Returns:
        [s] float64.
    """
    highest = np.zeros((precision.shape[0], precision.shape[1] + 1))
    highest[:, :-1] = _envelope(precision)
    means = [row[np.searchsorted(curve, RECALL_POINTS)].mean() for row, curve in zip(highest, recall, strict=True)]
    return np.array(means)


def area_under_curve(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """ImageNet's rule: the area under the highest precision at each recall or a higher one.

    Args:
        recall: [s, n] s curves of n points, ascending along each.
        precision: [s, n].

    Returns:
        [s] float64.
    """
    area: NDArray[np.float64] = (np.diff(recall, prepend=0, axis=1) * _envelope(precision)).sum(axis=1)
    return area


def _envelope(precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns [s, n] the highest precision from each point on."""
    highest: NDArray[np.float64] = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    return highest


def mean(values: Iterable[float | None]) -> float | None:
    """Returns the mean of the values that are not None; None if all are."""
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
