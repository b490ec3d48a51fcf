"""The ilsvrc-motion protocol: mAP of slow, medium and fast objects, as in FGFA, section 5.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.data.motion import FAST_BELOW, SLOW_ABOVE, motion_iou
from flowdet.errors import ConfigError, DataError
from flowdet.metrics.average_precision import Metrics, average_precision, mean
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.ilsvrc import EDGE, match_ilsvrc
from flowdet.metrics.matching import ClassMatches, Pairs, matched_any, overlaps, pair_up

__all__ = ["RANGES", "empty_weights", "evaluate_motion", "in_range", "match_motion", "motion_entries", "motion_of"]

# The lowest and the highest motion IoU, both included.
RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "slow": (SLOW_ABOVE, 1),
    "medium": (FAST_BELOW, SLOW_ABOVE),
    "fast": (0, FAST_BELOW),
    "all": (0, 1),
}


def evaluate_motion(data: CocoVID, detections: DetectionTable, values: NDArray[np.float64] | None = None) -> Metrics:
    """Returns the ilsvrc metrics of slow, medium and fast objects, and of all objects.

    Objects of another speed count neither as found nor as missed. The weight of a false detection for a speed follows
    the authors' program:

    - 1 if the object that it overlaps most, of any class, has this speed; 0 if that object has another speed;
    - if it overlaps no object, the share of objects of other speeds in its frame;
    - in a frame without objects, the share of this speed in the data set, where each frame without objects counts as
      one fast object.

    Args:
        data: The annotated data set.
        detections: The detections to evaluate.
        values: [n] motion IoU of each object; computed from the track numbers if not given.

    Raises:
        DataError: No motion IoUs are given and an object has no track number.
        ConfigError: The number of motion IoUs differs from that of objects.
    """
    values = motion_of(data, values)
    per_class: dict[str, dict[str, float | None]] = {name: {} for name in RANGES}
    for by_range in match_motion(data, detections, values):
        for name, matches in by_range.items():
            per_class[name][data.class_names[matches.label]] = average_precision(matches, sampled=False)
    headline = {name: mean(per_class[name].values()) for name in RANGES}
    weights = empty_weights(data, values)
    document = {name: _block(name, headline[name], per_class[name], values, weights[name]) for name in RANGES}
    return Metrics("ilsvrc-motion", headline, per_class, document)


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
    """Returns the motion IoUs [n] of the objects: the given ones, or else computed ones.

    Raises:
        DataError: No motion IoUs are given and an object has no track number.
        ConfigError: The number of motion IoUs differs from that of objects.
    """
    if values is None:
        values = motion_iou(data)
        missing = int(np.isnan(values).sum())
        if missing:
            raise DataError(
                f"{data.path}: {missing} of {len(values)} objects have no track number (instance_id) in a video, so "
                f"their motion is not known; add track numbers, give motion IoUs in a file, or use the protocol "
                f"ilsvrc, which needs neither"
            )
    elif values.shape != (len(data.objects),) or not ((values >= 0) & (values <= 1)).all():
        raise ConfigError(f"motion IoUs are one number from 0 to 1 for each of the {len(data.objects)} objects")
    return values


def empty_weights(data: CocoVID, values: NDArray[np.float64]) -> dict[str, float]:
    """Returns for each range the weight of a false detection in a frame without objects."""
    _, entries = motion_entries(data, values)
    return {name: float(in_range(entries, name).mean()) for name in RANGES}


def motion_entries(data: CocoVID, values: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Returns the image [e] and the motion IoU [e] of every object, then a 0 for each frame without objects.

    That is how the authors' program counts the entries of a motion file.
    """
    empty = np.setdiff1d(np.arange(len(data.images)), data.objects.images)
    return np.concatenate([data.objects.images, empty]), np.concatenate([values, np.zeros(len(empty))])


def in_range(values: NDArray[np.float64], name: str) -> NDArray[np.bool_]:
    """Returns [n] whether each motion IoU [n] lies in a range."""
    lowest, highest = RANGES[name]
    return (values >= lowest) & (values <= highest)


def match_motion(
    data: CocoVID, detections: DetectionTable, values: NDArray[np.float64]
) -> Iterator[dict[str, ClassMatches]]:
    """Yields the matches of each class, by range of speeds."""
    weights = empty_weights(data, values)
    everyone = np.arange(len(data.objects))
    for matches in match_ilsvrc(data, detections):
        images, boxes = detections.images[matches.rows], detections.boxes[matches.rows]
        pairs = pair_up(images, everyone, data.objects.images)
        # Only a detection that found nothing can be a false positive.
        pairs = pairs.select(matches.false_positive[pairs.detections] > 0)
        iou = overlaps(boxes[pairs.detections], data.objects.boxes[pairs.objects], edge=EDGE)
        in_empty = np.ones(len(images), dtype=np.bool_)
        in_empty[pairs.detections] = False
        in_empty &= matches.false_positive > 0
        for_range = {name: in_range(values, name) for name in RANGES}
        yield {
            name: replace(
                matches,
                true_positive=matched_any(counts, matches.matched).astype(np.float64),
                false_positive=_false_positive(np.where(in_empty, weights[name], 0), pairs, iou, counts),
                objects=matches.objects[counts[matches.objects]],
                in_empty_frame=in_empty,
            )
            for name, counts in for_range.items()
        }


def _false_positive(
    in_empty: NDArray[np.float64], pairs: Pairs, iou: NDArray[np.float64], counts: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Returns [n] the weight of each detection as a false positive, when only some objects count.

    Args:
        in_empty: [n] the weights of the false detections in frames without objects, 0 elsewhere.
        pairs: The other false detections, with all objects of their frames.
        iou: [p] IoU of the pairs.
        counts: [m] bool, whether each object of the data set counts.
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
