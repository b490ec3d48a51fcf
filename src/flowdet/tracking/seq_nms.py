"""Seq-NMS: linking the detections of a video over time and rescoring them."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import Pairs, overlaps, pair_up
from flowdet.types import Detections

__all__ = ["seq_nms", "seq_nms_video"]

_NONE: Final = -1
_PUBLISHED_IOUS = (0.5, 0.3)  # above the first boxes are linked, above the second removed


def seq_nms_video(frames: Sequence[Detections]) -> list[Detections]:
    """Returns what `seq_nms` makes of the detections of one video, frame by frame, highest score first."""
    counts = [len(frame) for frame in frames]
    if not sum(counts):
        return list(frames)
    table = DetectionTable(
        np.repeat(np.arange(len(frames)), counts),
        np.concatenate([frame.labels for frame in frames]),
        np.concatenate([frame.boxes for frame in frames]).astype(np.float64),
        np.concatenate([frame.scores for frame in frames]).astype(np.float64),
    )
    scores = _rescored(table, table.images, len(frames[0].class_names), _PUBLISHED_IOUS, "average")
    return [_rescore(frame, part) for frame, part in zip(frames, np.split(scores, np.cumsum(counts)[:-1]), strict=True)]


def _rescore(frame: Detections, scores: NDArray[np.float64]) -> Detections:
    """The detections with these new scores [n], without those whose score is NaN."""
    order = np.argsort(-scores, kind="stable")[: int((~np.isnan(scores)).sum())]
    return replace(frame, boxes=frame.boxes[order], scores=scores[order].astype(np.float32), labels=frame.labels[order])


def seq_nms(
    data: CocoVID,
    detections: DetectionTable,
    *,
    link_iou: float = _PUBLISHED_IOUS[0],
    suppress_iou: float = _PUBLISHED_IOUS[1],
    rescore: Literal["average", "max"] = "average",
    progress: Callable[[int], None] = lambda videos: None,
) -> DetectionTable:
    """Links detections of a class over the frames of a video and rescores them: Seq-NMS (Han et al. 2016), section 3.

    Boxes of adjacent frames that overlap enough are linked. The sequence of linked boxes with the highest sum of scores
    is selected; its boxes get one score, and the boxes that overlap them in their frames are removed. This repeats
    until every box is in a sequence, perhaps alone, or removed. Frames are adjacent if they follow each other in the
    data set, whatever their numbers.

    Args:
        data: The data set, for its videos.
        detections: The detections; the paper takes those before non-maximum suppression.
        link_iou: Boxes of a class in adjacent frames are linked if their IoU is larger.
        suppress_iou: Boxes of a class are removed if their IoU with the selected box of their frame is larger.
        rescore: How the one score of a sequence follows from the scores of its boxes.
        progress: Called with 1 after every video.

    Returns:
        The remaining detections in their order, with new scores; detections on stills are unchanged.
    """
    scores = detections.scores.copy()
    keep = np.ones(len(detections), dtype=np.bool_)
    videos = np.array([_NONE if image.video is None else image.video for image in data.images], dtype=np.int64)
    order = np.argsort(videos[detections.images], kind="stable")
    ends = np.searchsorted(videos[detections.images[order]], np.arange(len(data.videos) + 1))
    numbers = np.zeros(len(data.images), dtype=np.int64)
    for video, (first, last) in zip(data.videos, pairwise(ends), strict=True):
        numbers[list(video.frames)] = np.arange(len(video.frames))
        rows = order[first:last]
        rows = rows[np.argsort(numbers[detections.images[rows]], kind="stable")]
        found = detections.select(rows)
        new = _rescored(found, numbers[found.images], len(data.class_names), (link_iou, suppress_iou), rescore)
        scores[rows], keep[rows] = new, ~np.isnan(new)
        progress(1)
    kept = detections.select(keep)
    return DetectionTable(kept.images, kept.labels, kept.boxes, scores[keep])


def _rescored(
    found: DetectionTable,
    frames: NDArray[np.int64],
    classes: int,
    ious: tuple[float, float],
    rescore: Literal["average", "max"],
) -> NDArray[np.float64]:
    """Returns the new scores of the detections of one video, NaN for removed ones.

    Args:
        found: Its detections, frame by frame.
        frames: The number of the frame of each.
        classes: The number of classes.
        ious: Above the first boxes are linked, above the second removed.
        rescore: As in `seq_nms`.
    """
    # A group is a class in a frame; the same class in the next frame is `groups` + the number of classes.
    groups = frames * classes + found.labels
    links = _overlapping(found.boxes, groups + classes, groups, ious[0])
    rivals = _overlapping(found.boxes, groups, groups, ious[1])
    return _Sequences(found.scores.tolist(), links, rivals).rescored(rescore)


def _overlapping(
    boxes: NDArray[np.float64], wanted: NDArray[np.int64], groups: NDArray[np.int64], least: float
) -> Pairs:
    """Returns the pairs of a box and another box of its wanted group, with an IoU above `least`."""
    pairs = pair_up(wanted, np.arange(len(boxes)), groups)
    pairs = pairs.select(pairs.detections != pairs.objects)
    return pairs.select(overlaps(boxes[pairs.detections], boxes[pairs.objects]) > least)


class _Sequences:
    """The best sequences of linked boxes, updated while boxes are removed.

    Boxes are numbered by frame. `best[i]` is the highest sum of scores of a sequence that starts with box i, and
    `following[i]` is the second box of that sequence. A removal changes only the sums of boxes whose best sequence
    contains the removed box.

    Args:
        scores: [n] scores of the boxes.
        links: Pairs of a box and a box of the next frame.
        rivals: Pairs of boxes of the same frame.
    """

    def __init__(self, scores: list[float], links: Pairs, rivals: Pairs) -> None:
        count = len(scores)
        self.scores = scores
        self.later = _lists(count, links.detections, links.objects)
        self.earlier = _lists(count, links.objects, links.detections)
        self.rivals = _lists(count, rivals.detections, rivals.objects)
        self.is_there = [True] * count
        self.best = list(scores)
        self.following = [_NONE] * count
        for box in reversed(range(count)):
            self._extend(box)

    def _extend(self, box: int) -> None:
        self.best[box], self.following[box] = self.scores[box], _NONE
        there = [other for other in self.later[box] if self.is_there[other]]
        if there:
            following = max(there, key=self.best.__getitem__)
            self.best[box] += self.best[following]
            self.following[box] = following

    def rescored(self, rescore: Literal["average", "max"]) -> NDArray[np.float64]:
        """Returns [n] the new scores of the boxes, NaN for removed ones; call it once."""
        new = np.full(len(self.scores), np.nan)
        waiting = [(-best, box) for box, best in enumerate(self.best)]
        heapq.heapify(waiting)
        while waiting:
            best, box = heapq.heappop(waiting)
            # A box whose sum changed is in the heap a second time, with its new sum.
            if not self.is_there[box] or -best != self.best[box]:
                continue
            sequence = self._sequence(box)
            chosen = [self.scores[one] for one in sequence]
            new[sequence] = max(chosen) if rescore == "max" else sum(chosen) / len(chosen)
            for changed in self._remove(sequence):
                heapq.heappush(waiting, (-self.best[changed], changed))
        return new

    def _sequence(self, box: int) -> list[int]:
        boxes = []
        while box != _NONE:
            boxes.append(box)
            box = self.following[box]
        return boxes

    def _remove(self, sequence: list[int]) -> list[int]:
        """Removes the boxes of a sequence and their rivals; returns the boxes whose sums changed."""
        gone = set(sequence)
        for box in sequence:
            gone.update(self.rivals[box])
        gone = {box for box in gone if self.is_there[box]}
        for box in gone:
            self.is_there[box] = False
        changed: list[int] = []
        # Later boxes first, since the sums of earlier boxes depend on theirs.
        waiting = [-before for box in gone for before in self._led_by(box)]
        heapq.heapify(waiting)
        seen = set()
        while waiting:
            box = -heapq.heappop(waiting)
            if box not in seen:
                seen.add(box)
                self._extend(box)
                changed.append(box)
                for before in self._led_by(box):
                    heapq.heappush(waiting, -before)
        return changed

    def _led_by(self, box: int) -> list[int]:
        """Returns the remaining boxes whose best sequence continues with this box."""
        return [before for before in self.earlier[box] if self.following[before] == box and self.is_there[before]]


def _lists(count: int, keys: NDArray[np.int64], values: NDArray[np.int64]) -> list[list[int]]:
    lists: list[list[int]] = [[] for _ in range(count)]
    for key, value in zip(keys.tolist(), values.tolist(), strict=True):
        lists[key].append(value)
    return lists
