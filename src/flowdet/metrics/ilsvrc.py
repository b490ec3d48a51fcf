"""The ilsvrc protocol: the official rule of ImageNet VID, with its lower threshold for small boxes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.average_precision import average_precision, mean
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.figures import Figures
from flowdet.metrics.matching import Judged, match_greedily, overlaps, pair_up

__all__ = ["EDGE", "evaluate_ilsvrc", "judge_ilsvrc"]

EDGE: Final = 1  # px: a box includes the pixel of its right and lower edge
_IOU: Final = 0.5
_TOLERANCE: Final = 10  # px


def evaluate_ilsvrc(data: CocoVID, detections: DetectionTable) -> Figures:
    """The mean over the classes of the area under the precision-recall curve, as the organisers of ImageNet VID had it.

    A box counts as found from an IoU of min(0.5, w h / ((w + 10) (h + 10))), so that a few pixels do not decide about
    a small one. The rule knows no crowds: a box is a box.
    """
    per_class = {
        data.class_names[judged.label]: average_precision(judged, sampled=False)
        for judged in judge_ilsvrc(data, detections)
    }
    map_ = mean(per_class.values())
    return Figures("ilsvrc", {"mAP": map_}, {"AP": per_class}, {"mAP": map_, "per_class_AP": per_class})


def judge_ilsvrc(data: CocoVID, detections: DetectionTable) -> Iterator[Judged]:
    """Yields the detections of each class, judged by the rule."""
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
        yield Judged(
            label=label,
            rows=rows,
            right=(found >= 0).astype(np.float64),
            wrong=(found < 0).astype(np.float64),
            found=found,
            boxes=objects,
        )


def _thresholds(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n] the IoU from which a box [n, 4] xyxy px counts as found."""
    sizes = boxes[:, 2:] - boxes[:, :2] + EDGE
    thresholds: NDArray[np.float64] = np.minimum(_IOU, (sizes / (sizes + _TOLERANCE)).prod(axis=1))
    return thresholds
