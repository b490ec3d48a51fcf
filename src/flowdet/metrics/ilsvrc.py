"""The ilsvrc protocol: the official rule of ImageNet VID, with its lower threshold for small boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.average_precision import Metrics, average_precision, mean
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import ClassMatches, match_greedily, overlaps, pair_up

__all__ = ["EDGE", "evaluate_ilsvrc", "match_ilsvrc"]

EDGE: Final = 1  # px: a box includes the pixel of its right and lower edge
_IOU: Final = 0.5
_TOLERANCE: Final = 10  # px


def evaluate_ilsvrc(data: CocoVID, detections: DetectionTable) -> Metrics:
    """Returns the mean over the classes of the area under the precision-recall curve, as defined for ImageNet VID.

    An object of w x h pixels counts as found from an IoU of min(0.5, w h / ((w + 10) (h + 10))), which tolerates a few
    pixels for small objects. Crowds count like other objects.
    """
    per_class = {
        data.class_names[matches.label]: average_precision(matches, sampled=False)
        for matches in match_ilsvrc(data, detections)
    }
    map_ = mean(per_class.values())
    return Metrics("ilsvrc", {"mAP": map_}, {"AP": per_class}, {"mAP": map_, "per_class_AP": per_class})


def match_ilsvrc(data: CocoVID, detections: DetectionTable) -> Iterator[ClassMatches]:
    """Yields the matches of each class."""
    everything = data.objects
    thresholds = _thresholds(everything.boxes)
    for label in range(len(data.class_names)):
        rows = np.flatnonzero(detections.labels == label)
        rows = rows[np.argsort(-detections.scores[rows], kind="stable")]
        objects = np.flatnonzero(everything.labels == label)
        pairs = pair_up(detections.images[rows], objects, everything.images)
        iou = overlaps(detections.boxes[rows[pairs.detections]], everything.boxes[pairs.objects], edge=EDGE)
        near = iou >= thresholds[pairs.objects]
        pairs, iou = pairs.select(near), iou[near]
        found = match_greedily(
            detections.images[rows], pairs, (iou, -pairs.objects), np.zeros(len(iou), dtype=np.bool_)
        )
        yield ClassMatches(
            label=label,
            rows=rows,
            true_positive=(found >= 0).astype(np.float64),
            false_positive=(found < 0).astype(np.float64),
            matched=found,
            objects=objects,
        )


def _thresholds(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns [n] the IoU from which each box [n, 4] xyxy px counts as found."""
    sizes = boxes[:, 2:] - boxes[:, :2] + EDGE
    thresholds: NDArray[np.float64] = np.minimum(_IOU, (sizes / (sizes + _TOLERANCE)).prod(axis=1))
    return thresholds
