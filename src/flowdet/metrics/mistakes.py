"""The frames in which a result is most wrong, to be looked at."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.coco import judge_coco
from flowdet.metrics.detections import DetectionTable

__all__ = ["FrameMistakes", "worst_frames"]


@dataclass(frozen=True, eq=False, slots=True)
class FrameMistakes:
    """What is wrong in one frame.

    Attributes:
        image: Position in the data set's images.
        cost: Number of missed objects plus the scores of the false detections.
        missed: [m] int64, positions in the data set's objects.
        false: [f] int64, rows of the detections, highest score first.
        found: [k] int64, rows of the detections that are right, highest score first.
    """

    image: int
    cost: float
    missed: NDArray[np.int64]
    false: NDArray[np.int64]
    found: NDArray[np.int64]


def worst_frames(
    data: CocoVID, detections: DetectionTable, count: int, *, score: float = 0.3, per_video: int = 2
) -> list[FrameMistakes]:
    """The frames that are most wrong: objects missed and false detections, at IoU 0.5 by the rule of COCO.

    Args:
        data: What is annotated.
        detections: What was found.
        count: How many frames at most; fewer if fewer have a mistake.
        score: Detections below it do not count.
        per_video: How many frames of one video at most.
    """
    sure = np.flatnonzero(detections.scores >= score)
    judged = list(judge_coco(data, detections.select(sure)))
    right, wrong, found = (
        np.concatenate([getattr(one, name) for one in judged]) for name in ("right", "wrong", "found")
    )
    rows = sure[np.concatenate([one.rows for one in judged])]
    counted = np.concatenate([one.boxes for one in judged])
    missed = np.setdiff1d(counted, found)
    cost = np.bincount(data.objects.images[missed], minlength=len(data.images)).astype(np.float64) + np.bincount(
        detections.images[rows], weights=wrong * detections.scores[rows], minlength=len(data.images)
    )
    return [
        FrameMistakes(
            image=image,
            cost=float(cost[image]),
            missed=missed[data.objects.images[missed] == image],
            false=_of_image(detections, rows[wrong > 0], image),
            found=_of_image(detections, rows[right > 0], image),
        )
        for image in _choose(data, cost, count, per_video)
    ]


def _of_image(detections: DetectionTable, rows: NDArray[np.int64], image: int) -> NDArray[np.int64]:
    """Those rows that are of an image, highest score first."""
    rows = rows[detections.images[rows] == image]
    return rows[np.argsort(-detections.scores[rows], kind="stable")]


def _choose(data: CocoVID, cost: NDArray[np.float64], count: int, per_video: int) -> list[int]:
    """The images of the highest cost, not too many of a video."""
    chosen: list[int] = []
    taken: Counter[int] = Counter()
    for image in np.argsort(-cost, kind="stable").tolist():
        if len(chosen) == count or cost[image] <= 0:
            break
        video = data.images[image].video
        if video is None or taken[video] < per_video:
            chosen.append(image)
            taken.update([] if video is None else [video])
    return chosen
