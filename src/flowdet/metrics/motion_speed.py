"""The ilsvrc-motion protocol: the rule of ImageNet VID for slow, medium and fast objects, as in FGFA, section 5.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.data.motion import FAST_BELOW, SLOW_ABOVE, motion_iou
from flowdet.errors import ConfigError, DataError
from flowdet.metrics.average_precision import average_precision, mean
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.figures import Figures
from flowdet.metrics.ilsvrc import EDGE, judge_ilsvrc
from flowdet.metrics.matching import Judged, Pairs, of_found, overlaps, pair_up

__all__ = ["RANGES", "empty_weights", "evaluate_motion", "in_range", "judge_motion", "motion_entries", "motion_of"]

# From the lowest to the highest motion IoU, both included.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "slow": (SLOW_ABOVE, 1),
    "medium": (FAST_BELOW, SLOW_ABOVE),
    "fast": (0, FAST_BELOW),
    "all": (0, 1),
}


def evaluate_motion(data: CocoVID, detections: DetectionTable, values: NDArray[np.float64] | None = None) -> Figures:
    """The ilsvrc figures of slow, medium and fast objects, and of all.

    An object of another speed counts neither when it is found nor when it is missed. A false detection counts if the
    object that it overlaps most, of whatever class, has the speed; one that overlaps nothing counts by the share of
    boxes of other speeds in its frame, and in a frame without objects by the share of the speed in the data set, with
    every frame without objects taken for one fast object. That is what the authors' program does.

    Args:
        data: What is annotated.
        detections: What was found.
        values: [n] motion IoUs of the objects; without them they are computed from the track numbers.

    Raises:
        DataError: There are none given and an object has no track number.
        ConfigError: There are not as many as objects.
    """
    values = motion_of(data, values)
    per_class: dict[str, dict[str, float | None]] = {name: {} for name in RANGES}
    for by_range in judge_motion(data, detections, values):
        for name, judged in by_range.items():
            per_class[name][data.class_names[judged.label]] = average_precision(judged, sampled=False)
    headline = {name: mean(per_class[name].values()) for name in RANGES}
    weights = empty_weights(data, values)
    document = {name: _block(name, headline[name], per_class[name], values, weights[name]) for name in RANGES}
    return Figures("ilsvrc-motion", headline, per_class, document)


def _block(
    name: str, map_: float | None, per_class: Mapping[str, float | None], values: NDArray[np.float64], weight: float
) -> dict[str, Any]:
    boxes = int(in_range(values, name).sum())
    return {
        "range": list(RANGES[name]),
        "mAP": map_,
        "per_class_AP": per_class,
        "boxes": boxes,
        "share_of_boxes": boxes / len(values) if len(values) else None,
        "empty_frame_weight": weight,
    }


def motion_of(data: CocoVID, values: NDArray[np.float64] | None) -> NDArray[np.float64]:
    """The motion IoUs of a data set's objects: those given, or computed ones.

    Raises:
        DataError: There are none given and an object has no track number.
        ConfigError: There are not as many as objects.
    """
    if values is None:
        values = motion_iou(data)
        missing = int(np.isnan(values).sum())
        if missing:
            raise DataError(
                f"{data.path}: {missing} of {len(values)} objects have no track number (instance_id) in a video, so "
                f"that their motion is not known; add track numbers, give motion IoUs in a file, or use the protocol "
                f"ilsvrc, which needs neither"
            )
    elif values.shape != (len(data.objects),) or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"motion IoUs are one number from 0 to 1 for each of the {len(data.objects)} objects")
    return values


def empty_weights(data: CocoVID, values: NDArray[np.float64]) -> dict[str, float]:
    """For each range the weight of a false detection in a frame without objects."""
    _, entries = motion_entries(data, values)
    return {name: float(in_range(entries, name).mean()) for name in RANGES}


def motion_entries(data: CocoVID, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The entries of a motion file as the authors' program counts them: a 0 stands for a frame without objects.

    Returns:
        [e] the image of each entry and [e] its value.
    """
    empty = np.setdiff1d(np.arange(len(data.images)), data.objects.images)
    return np.concatenate([data.objects.images, empty]), np.concatenate([values, np.zeros(len(empty))])


def in_range(values: NDArray[np.float64], name: str) -> NDArray[np.bool_]:
    """Which motion IoUs [n] are in the range of that name."""
    lowest, highest = RANGES[name]
    return (values >= lowest) & (values <= highest)


def judge_motion(data: CocoVID, detections: DetectionTable, values: NDArray[np.float64]) -> Iterator[dict[str, Judged]]:
    """Yields the detections of each class, judged by the rule for each range of speeds."""
    weights = empty_weights(data, values)
    everyone = np.arange(len(data.objects))
    for judged in judge_ilsvrc(data, detections):
        images, boxes = detections.images[judged.rows], detections.boxes[judged.rows]
        pairs = pair_up(images, everyone, data.objects.images)
        # Only what found nothing can be wrong.
        pairs = pairs.select(judged.wrong[pairs.detections] > 0)
        iou = overlaps(boxes[pairs.detections], data.objects.boxes[pairs.objects], edge=EDGE)
        in_empty = np.ones(len(images), dtype=np.bool_)
        in_empty[pairs.detections] = False
        in_empty &= judged.wrong > 0
        for_range = {name: in_range(values, name) for name in RANGES}
        yield {
            name: replace(
                judged,
                right=of_found(counts, judged.found).astype(np.float64),
                wrong=_wrong(np.where(in_empty, weights[name], 0), pairs, iou, counts),
                boxes=judged.boxes[counts[judged.boxes]],
                in_empty=in_empty,
            )
            for name, counts in for_range.items()
        }


def _wrong(
    in_empty: NDArray[np.float64], pairs: Pairs, iou: NDArray[np.float64], counts: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """[n] how much of a false detection each is when only some objects count.

    Args:
        in_empty: [n] the weights of the false detections in frames without objects, 0 elsewhere.
        pairs: The other false detections with all objects of their frames.
        iou: [p] of the pairs.
        counts: [m] whether an object of the data set counts.
    """
    wrong = in_empty.copy()
    if len(pairs.detections):
        starts = np.flatnonzero(np.diff(pairs.detections, prepend=-1))
        inside = counts[pairs.objects]
        best_inside = np.maximum.reduceat(np.where(inside, iou, -1), starts)
        best_outside = np.maximum.reduceat(np.where(inside, -1, iou), starts)
        share_outside = np.add.reduceat(~inside, starts, dtype=np.float64) / np.diff(starts, append=len(inside))
        by_overlap = (best_inside > best_outside).astype(np.float64)
        wrong[pairs.detections[starts]] = np.where(best_inside == best_outside, share_outside, by_overlap)
    return wrong
