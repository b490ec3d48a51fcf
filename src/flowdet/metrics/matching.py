"""Which detection found which object: overlaps, and the greedy choice that both rules share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Judged", "Pairs", "match_greedily", "of_found", "overlaps", "pair_up", "places_within"]


@dataclass(frozen=True, eq=False, slots=True)
class Judged:
    """The detections of one class, highest score first, judged by the rule of a protocol.

    Attributes:
        label: Position of the class in the data set's class names.
        rows: [n] int64, their rows in the table.
        right: [n] float64, 1 for a detection that found an object which counts, else 0.
        wrong: [n] float64, how much of a false detection it is, from 0 to 1. Neither right nor wrong: it found an
            object that does not count.
        found: [n] int64, position of the object it found, counting or not; -1 for none.
        boxes: [m] int64, the objects that count, positions in the data set's objects.
        in_empty: [n] bool, the detections of frames without any object, where a rule weighs these by a share
            that depends on the whole data set; else None.
    """

    label: int
    rows: NDArray[np.int64]
    right: NDArray[np.float64]
    wrong: NDArray[np.float64]
    found: NDArray[np.int64]
    boxes: NDArray[np.int64]
    in_empty: NDArray[np.bool_] | None = None

    def select(self, mask: NDArray[np.bool_]) -> Judged:
        """The same with only the detections [n] of a mask."""
        columns = {name: getattr(self, name)[mask] for name in ("rows", "right", "wrong", "found")}
        return replace(self, **columns, in_empty=None if self.in_empty is None else self.in_empty[mask])


@dataclass(frozen=True, eq=False, slots=True)
class Pairs:
    """Detections with the objects of the same image.

    Attributes:
        detections: [p] int64, not falling.
        objects: [p] int64, positions in the data set's objects.
    """

    detections: NDArray[np.int64]
    objects: NDArray[np.int64]

    def select(self, mask: NDArray[np.bool_]) -> Pairs:
        """The pairs [p] of a mask."""
        return Pairs(self.detections[mask], self.objects[mask])


def pair_up(detection_images: NDArray[np.int64], objects: NDArray[np.int64], object_images: NDArray[np.int64]) -> Pairs:
    """Every pair of a detection and an object in one image.

    Args:
        detection_images: [n] the image of each detection.
        objects: [m] positions of the objects that take part.
        object_images: The image of each object of the data set.

    Returns:
        The pairs, detections as positions in `detection_images`.
    """
    objects = objects[np.argsort(object_images[objects], kind="stable")]
    images = object_images[objects]
    first = np.searchsorted(images, detection_images, "left")
    counts = np.searchsorted(images, detection_images, "right") - first
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
    """IoU of boxes [n, 4] xyxy px with boxes [n, 4], one by one.

    Args:
        first: Detections.
        second: Objects.
        edge: Pixels that the right and lower edge add to a box: 0 as COCO, 1 as ImageNet measures.
        crowds: [n] objects whose IoU is the share of the detection that they cover.
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
    liking: tuple[NDArray[Any], ...],
    shared: NDArray[np.bool_],
) -> NDArray[np.int64]:
    """Lets detections choose objects, the highest score first; an object is taken once.

    Args:
        images: [n] the image of each detection, highest score first.
        pairs: Those detections and objects that overlap enough.
        liking: Keys [p] that say which pair a detection prefers, the most important one first: the highest.
        shared: [p] objects that any number of detections may take.

    Returns:
        [n] int64, the position of the object, -1 for none.
    """
    found = np.full(len(images), -1, dtype=np.int64)
    if not len(pairs.detections):
        return found
    competing, place = np.unique(pairs.detections, return_inverse=True)
    turns = places_within(images[competing])[place]
    order = np.lexsort((*reversed(liking), pairs.detections, turns))
    detections, objects, shared = pairs.detections[order], pairs.objects[order], shared[order]
    starts = np.searchsorted(turns[order], np.arange(turns.max() + 2))
    taken = np.zeros(objects.max() + 1, dtype=np.bool_)
    # Detections that have the same turn are in different images, so they do not compete.
    for start, end in pairwise(starts):
        free = start + np.flatnonzero(~taken[objects[start:end]])
        who = detections[free]
        best = free[np.append(who[1:] != who[:-1], True)[: len(who)]]
        found[detections[best]] = objects[best]
        taken[objects[best]] = ~shared[best]
    return found


def places_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """[n] for each entry of `groups` [n]: how many equal ones come before it."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    places = np.empty(len(groups), dtype=np.int64)
    places[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered, "left")
    return places


def of_found(mask: NDArray[np.bool_], found: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[n] whether each detection found an object of a mask [m]; `found` [n] has their positions, -1 for none."""
    chosen = np.zeros(len(found), dtype=np.bool_)
    some = np.flatnonzero(found >= 0)
    chosen[some] = mask[found[some]]
    return chosen
