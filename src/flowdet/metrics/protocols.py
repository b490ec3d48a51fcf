"""The three protocols by their names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import ConfigError
from flowdet.metrics.coco import evaluate_coco, judge_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.figures import Figures
from flowdet.metrics.ilsvrc import evaluate_ilsvrc, judge_ilsvrc
from flowdet.metrics.matching import Judged
from flowdet.metrics.motion_speed import evaluate_motion, judge_motion, motion_of

__all__ = ["PROTOCOLS", "evaluate", "judge_by"]

PROTOCOLS: Final = ("coco", "ilsvrc", "ilsvrc-motion")


def evaluate(
    data: CocoVID, detections: DetectionTable, protocol: str, *, motion_iou: NDArray[np.float64] | None = None
) -> Figures:
    """Compares detections with the annotated objects by one of the protocols.

    Args:
        data: What is annotated; every image counts, with or without detections.
        detections: What was found.
        protocol: "coco" (AP, AP50, AP75), "ilsvrc" (the official rule of ImageNet VID) or "ilsvrc-motion"
            (the same for slow, medium and fast objects).
        motion_iou: [n] one value an object, for "ilsvrc-motion" in place of those that are computed from
            the track numbers.

    Raises:
        ConfigError: There is no such protocol, or there are not as many motion IoUs as objects.
        DataError: "ilsvrc-motion" lacks motion IoUs and the objects lack track numbers.
    """
    match protocol:
        case "coco":
            return evaluate_coco(data, detections)
        case "ilsvrc":
            return evaluate_ilsvrc(data, detections)
        case "ilsvrc-motion":
            return evaluate_motion(data, detections, motion_iou)
    raise _unknown(protocol)


def judge_by(
    data: CocoVID, detections: DetectionTable, protocol: str, *, motion_iou: NDArray[np.float64] | None = None
) -> Iterator[dict[str, Judged]]:
    """Yields for each class its detections as a protocol judges them, for each figure that is a mean over classes.

    The figures are AP50, mAP, or slow, medium, fast and all. Arguments and errors are those of `evaluate`.
    """
    match protocol:
        case "coco":
            return ({"AP50": judged} for judged in judge_coco(data, detections))
        case "ilsvrc":
            return ({"mAP": judged} for judged in judge_ilsvrc(data, detections))
        case "ilsvrc-motion":
            return judge_motion(data, detections, motion_of(data, motion_iou))
    raise _unknown(protocol)


def _unknown(protocol: str) -> ConfigError:
    return ConfigError(f"there is no protocol {protocol!r}; the protocols are {', '.join(PROTOCOLS)}")
