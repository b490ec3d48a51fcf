"""The three protocols by name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import ConfigError
from flowdet.metrics.average_precision import Metrics
from flowdet.metrics.coco import evaluate_coco, match_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.ilsvrc import evaluate_ilsvrc, match_ilsvrc
from flowdet.metrics.matching import ClassMatches
from flowdet.metrics.motion_speed import evaluate_motion, match_motion, motion_of

__all__ = ["PROTOCOLS", "evaluate", "match_by"]

PROTOCOLS: Final = ("coco", "ilsvrc", "ilsvrc-motion")


def evaluate(
    data: CocoVID, detections: DetectionTable, protocol: str, *, motion_iou: NDArray[np.float64] | None = None
) -> Metrics:
    """Returns the metrics of detections by one protocol.

    Args:
        data: The annotated data set; every image counts, with or without detections.
        detections: The detections to evaluate.
        protocol: "coco" (AP, AP50, AP75), "ilsvrc" (the official rule of ImageNet VID) or "ilsvrc-motion"
            (the same for slow, medium and fast objects).
        motion_iou: [n] motion IoU of each object, for "ilsvrc-motion"; computed from the track numbers if not given.

    Raises:
        ConfigError: There is no such protocol, or the number of motion IoUs differs from that of objects.
        DataError: "ilsvrc-motion" has neither motion IoUs nor track numbers.
    """
    match protocol:
        case "coco":
            return evaluate_coco(data, detections)
        case "ilsvrc":
            return evaluate_ilsvrc(data, detections)
        case "ilsvrc-motion":
            return evaluate_motion(data, detections, motion_iou)
    raise _unknown(protocol)


def match_by(
    data: CocoVID, detections: DetectionTable, protocol: str, *, motion_iou: NDArray[np.float64] | None = None
) -> Iterator[dict[str, ClassMatches]]:
    """Yields the matches of each class, by the metric that is a mean over classes: AP50; mAP; or slow, medium, ...

    Arguments and errors are those of `evaluate`.
    """
    match protocol:
        case "coco":
            return ({"AP50": matches} for matches in match_coco(data, detections))
        case "ilsvrc":
            return ({"mAP": matches} for matches in match_ilsvrc(data, detections))
        case "ilsvrc-motion":
            return match_motion(data, detections, motion_of(data, motion_iou))
    raise _unknown(protocol)


def _unknown(protocol: str) -> ConfigError:
    return ConfigError(f"there is no protocol {protocol!r}; the protocols are {', '.join(PROTOCOLS)}")
