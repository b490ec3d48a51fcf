"""Precision and recall of each class, for plots."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.average_precision import average_precision
from flowdet.metrics.coco import judge_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import Judged

__all__ = ["Curve", "precision_recall"]


@dataclass(frozen=True, eq=False, slots=True)
class Curve:
    """Precision and recall of one class at IoU 0.5, one point a detection, highest score first.

    Attributes:
        class_name: The class.
        recall: [n] share of the class's boxes found with at least this score, not falling.
        precision: [n] share of right ones among the detections with at least this score, as measured (it goes up and
            down; the AP is taken under its highest values to the right).
        scores: [n].
        ap50: As the coco protocol has it; None for a class without boxes.
        boxes: How many boxes the class has, crowds not counted.
    """

    class_name: str
    recall: NDArray[np.float64]
    precision: NDArray[np.float64]
    scores: NDArray[np.float64]
    ap50: float | None
    boxes: int


def precision_recall(data: CocoVID, detections: DetectionTable) -> list[Curve]:
    """The curves of every class of a data set, in its order, by the rule of the coco protocol at IoU 0.5."""
    return [_curve(data, detections, judged) for judged in judge_coco(data, detections)]


def _curve(data: CocoVID, detections: DetectionTable, judged: Judged) -> Curve:
    right, wrong = np.cumsum(judged.right), np.cumsum(judged.wrong)
    return Curve(
        class_name=data.class_names[judged.label],
        recall=right / max(1, len(judged.boxes)),
        # A detection of a crowd before any other is neither right nor wrong.
        precision=np.divide(right, right + wrong, out=np.ones(len(right)), where=right + wrong > 0),
        scores=detections.scores[judged.rows],
        ap50=average_precision(judged, sampled=True),
        boxes=len(judged.boxes),
    )
