"""Matching detections with objects: IoU, and the greedy assignment that all protocols share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import DataError

__all__ = ["ClassMatches", "Pairs", "match_greedily", "matched_any", "overlaps", "pair_up", "ranks_within"]

_MOST_PAIRS = 100_000_000  # ten arrays of as many numbers are 8 GB


@dataclass(frozen=True, eq=False, slots=True)
class ClassMatches:
    """The detections of one class, highest score first, matched by the rule of a protocol.

    Attributes:
        label: Position of the class in the data set's class names.
        rows: [n] int64, rows of the detection table.
        true_positive: [n] float64, 1 where a detection found an object that counts, else 0.
        false_positive: [n] float64, weight of a false detection, from 0 to 1. A detection of an object that does not
            count is neither a true nor a false positive.
        matched: [n] int64, position of the object that each detection found, -1 for none.
        objects: [m] int64, positions of the objects that count.
        in_empty_frame: [n] bool, false detections in frames without any object, for a rule whose weight for these
            depends on the whole data set; None for the other rules.
    """

    label: int
    rows: NDArray[np.int64]
    true_positive: NDArray[np.float64]
    false_positive: NDArray[np.float64]
    matched: NDArray[np.int64]
    objects: NDArray[np.int64]
    in_empty_frame: NDArray[np.bool_] | None = None

    def select(self, mask: NDArray[np.bool_]) -> ClassMatches:
        """Returns the matches of the detections in a mask [n]."""
        columns = {name: getattr(self, name)[mask] for name in ("rows", "true_positive", "false_positive", "matched")}
        in_empty_frame = None if self.in_empty_frame is None else self.in_empty_frame[mask]
        return replace(self, **columns, in_empty_frame=in_empty_frame)


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """Pairs of a detection and an object of the same image.

    Attributes:
        detections: [p] int64, positions of the detections, ascending.
        objects: [p] int64, positions in the data set's objects.
    """

    detections: NDArray[np.int64]
    objects: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> Pairs:
        """Returns the pairs in a mask [p]."""
        return Pairs(self.detections[mask], self.objects[mask])


def pair_up(detection_images: NDArray[np.int64], objects: NDArray[np.int64], object_images: NDArray[np.int64]) -> Pairs:
    """Returns every pair of a detection and an object of the same image.

    Args:
        detection_images: [n] the image of each detection.
        objects: [m] positions of the objects to pair.
        object_images: The image of every object of the data set.

    Raises:
        DataError: There are too many to hold in memory.
    """
    objects = objects[np.argsort(object_images[objects], kind="stable")]
    images = object_images[objects]
    first = np.searchsorted(images, detection_images, "left")
    counts = np.searchsorted(images, detection_images, "right") - first
    if counts.sum() > _MOST_PAIRS:
        raise DataError(
            f"{counts.sum()} pairs of boxes of one image are more than can be compared ({_MOST_PAIRS}); objects or "
            "detections may repeat, or leave out those of low scores"
        )
    detections = np.repeat(np.arange(len(detection_images)), counts)
    within = np.arange(len(detections)) - np.repeat(np.cumsum(counts) - counts, counts)
    return Pairs(detections, objects[np.repeat(first, counts) + within])


def overlaps(
    first: NDArray[np.float64],
    second: NDArray[np.float64],
    *,
    edge: int = 0,
    crowds: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """Returns the IoU [n] of each detection with its object.

    Args:
        first: [n, 4] xyxy px, detections.
        second: [n, 4] xyxy px, objects.
        edge: Pixels added to width and height: 0 for COCO, 1 for ImageNet.
        crowds: [n] bool, objects for which the intersection is divided by the area of the detection alone.
    """
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = (high - low + edge).clip(min=0).prod(axis=1)
    union = (first[:, 2:] - first[:, :2] + edge).prod(axis=1)
    other = (second[:, 2:] - second[:, :2] + edge).prod(axis=1) - common
    union += other if crowds is None else np.where(crowds, 0, other)
    iou: NDArray[np.float64] = np.divide(common, union, out=np.zeros(len(common)), where=common > 0)
    return iou


def match_greedily(
    images: NDArray[np.int64],
    pairs: Pairs,
    preference: tuple[NDArray[Any], ...],
    shared: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Assigns objects to detections, the highest score first; each object is taken once.

    Args:
        images: [n] the image of each detection, highest score first.
        pairs: The detections and objects that overlap enough.
        preference: Sort keys [p], the most important first; a detection takes the free pair with the highest keys.
        shared: [p] bool, objects that several detections may take.

    Returns:
        [n] int64, the position of the object, -1 for none.
    """
    found = np.full(len(images), -1, dtype=np.int64)
    if not len(pairs.detections):
        return found
    competing, place = np.unique(pairs.detections, return_inverse=True)
    turns = ranks_within(images[competing])[place]
    order = np.lexsort((*reversed(preference), pairs.detections, turns))
    detections, objects, shared = pairs.detections[order], pairs.objects[order], shared[order]
    starts = np.searchsorted(turns[order], np.arange(turns.max() + 2))
    taken = np.zeros(objects.max() + 1, dtype=np.bool_)
    # Detections of the same turn are in different images, so they do not compete.
    for start, end in pairwise(starts):
        free = start + np.flatnonzero(~taken[objects[start:end]])
        who = detections[free]
        best = free[np.append(who[1:] != who[:-1], True)[: len(who)]]
        found[detections[best]] = objects[best]
        taken[objects[best]] = ~shared[best]
    return found


def ranks_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Returns [n] for each entry of `groups` [n] the number of equal entries before it."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    ranks = np.empty(len(groups), dtype=np.int64)
    ranks[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered, "left")
    return ranks


def matched_any(mask: NDArray[np.bool_], matched: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Returns [n] whether each detection found an object of a mask [m].

    Args:
        mask: [m] bool, over the objects of the data set.
        matched: [n] position of the object that each detection found, -1 for none.
    """
    chosen = np.zeros(len(matched), dtype=np.bool_)
    some = np.flatnonzero(matched >= 0)
    chosen[some] = mask[matched[some]]
    return chosen
