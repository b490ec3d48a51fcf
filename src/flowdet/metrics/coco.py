"""The coco protocol: the metrics of pycocotools, and the matches at IoU 0.5."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.average_precision import Metrics, average_precision, mean
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import ClassMatches, Pairs, match_greedily, matched_any, overlaps, pair_up, ranks_within

__all__ = ["evaluate_coco", "match_coco"]

_IOUS: Final = np.linspace(0.5, 0.95, 10)
_MOST_DETECTIONS: Final = (100, 300, 1000)  # of a class in an image
_SIZES: Final = ("", "_s", "_m", "_l")
_AREAS: Final = ((0, 1e10), (0, 32**2), (32**2, 96**2), (96**2, 1e10))  # px, both limits included


def evaluate_coco(data: CocoVID, detections: DetectionTable) -> Metrics:
    """Returns the metrics of pycocotools, with at most 100, 300 and 1000 detections of a class in an image.

    A small object has at most 32 x 32 px, a large one at least 96 x 96 px, by the area in the file. A detection of a
    crowd is neither a true nor a false positive.
    """
    scores = [_score_class(candidates, data) for candidates in _candidates(data, detections)]
    ap, recall = np.stack([score.ap for score in scores]), np.stack([score.recall for score in scores])
    # pycocotools takes its AP at 100 detections and all other metrics at 1000.
    headline = {
        "AP": _mean(np.stack([score.ap_of_few for score in scores])),
        "AP50": _mean(ap[:, 0, 0]),
        "AP75": _mean(ap[:, 0, 5]),
    }
    per_class = {
        "AP50": {name: _mean(values[0, :1]) for name, values in zip(data.class_names, ap, strict=True)},
        "AP": {name: _mean(values[0]) for name, values in zip(data.class_names, ap, strict=True)},
    }
    document = {
        **dict(zip(("bbox_mAP", "bbox_mAP_50", "bbox_mAP_75"), headline.values(), strict=True)),
        **{f"bbox_mAP{_SIZES[size]}": _mean(ap[:, size]) for size in (1, 2, 3)},
        **{f"AR@{most}": _mean(recall[:, 0, :, place]) for place, most in enumerate(_MOST_DETECTIONS)},
        **{f"AR{_SIZES[size]}@{_MOST_DETECTIONS[-1]}": _mean(recall[:, size, :, -1]) for size in (1, 2, 3)},
        **{f"per_class_{name}": values for name, values in per_class.items()},
    }
    return Metrics("coco", headline, per_class, document)


def _mean(values: NDArray[np.float64]) -> float | None:
    return mean(values[~np.isnan(values)].tolist())


def match_coco(data: CocoVID, detections: DetectionTable) -> Iterator[ClassMatches]:
    """Yields the matches of each class at IoU 0.5, as pycocotools does.

    A detection takes the free object that it overlaps most. It takes a crowd only if no other object is left, and is
    then neither a true nor a false positive.
    """
    for candidates in _candidates(data, detections):
        found = _match(candidates, _IOUS[0], data.objects.crowds, data.objects.crowds)
        yield _matches(candidates, found, data.objects.crowds, found < 0)


@dataclass(frozen=True, eq=False, slots=True)
class _Candidates:
    """The detections of one class, highest score first, with the objects that they could find.

    Attributes:
        label: The class.
        rows: [n] rows of the detection table.
        images: [n] the image of each detection.
        ranks: [n] the number of detections of the class with higher scores in the same image.
        areas: [n] px, areas of the boxes.
        objects: [m] positions of the objects of the class.
        pairs: Detections and objects with an IoU of at least 0.5.
        iou: [p] IoU of the pairs.
    """

    label: int
    rows: NDArray[np.int64]
    images: NDArray[np.int64]
    ranks: NDArray[np.int64]
    areas: NDArray[np.float64]
    objects: NDArray[np.int64]
    pairs: Pairs
    iou: NDArray[np.float64]


def _candidates(data: CocoVID, detections: DetectionTable) -> Iterator[_Candidates]:
    # Equal scores are ordered by the id of the image, then as in the table.
    id_order = np.argsort(np.argsort([image.id for image in data.images]))
    for label in range(len(data.class_names)):
        rows = np.flatnonzero(detections.labels == label)
        rows = rows[np.lexsort((id_order[detections.images[rows]], -detections.scores[rows]))]
        ranks = ranks_within(detections.images[rows])
        rows, ranks = (column[ranks < _MOST_DETECTIONS[-1]] for column in (rows, ranks))
        images, boxes = detections.images[rows], detections.boxes[rows]
        objects = np.flatnonzero(data.objects.labels == label)
        pairs = pair_up(images, objects, data.objects.images)
        crowds = data.objects.crowds[pairs.objects]
        iou = overlaps(boxes[pairs.detections], data.objects.boxes[pairs.objects], crowds=crowds)
        near = iou >= _IOUS[0]
        yield _Candidates(label, rows, images, ranks, _areas(boxes), objects, pairs.select(near), iou[near])


def _areas(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    areas: NDArray[np.float64] = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)
    return areas


def _match(
    candidates: _Candidates, least: float, ignored: NDArray[np.bool_], crowds: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Returns [n] the object that each detection takes, -1 for none; ignored objects only if no other is left."""
    near = candidates.iou >= least
    pairs = candidates.pairs.select(near)
    preference = (~ignored[pairs.objects], candidates.iou[near], pairs.objects)
    return match_greedily(candidates.images, pairs, preference, crowds[pairs.objects])


def _matches(
    candidates: _Candidates, found: NDArray[np.int64], ignored: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> ClassMatches:
    return ClassMatches(
        label=candidates.label,
        rows=candidates.rows,
        true_positive=matched_any(~ignored, found).astype(np.float64),
        false_positive=wrong.astype(np.float64),
        matched=found,
        objects=candidates.objects[~ignored[candidates.objects]],
    )


@dataclass(frozen=True, eq=False, slots=True)
class _ClassScore:
    """AP and recall of one class; NaN without an object.

    Attributes:
        ap: [4, 10] by size and IoU.
        ap_of_few: [10] by IoU, with at most 100 detections in an image.
        recall: [4, 10, 3] by size, IoU and number of detections in an image.
    """

    ap: NDArray[np.float64]
    ap_of_few: NDArray[np.float64]
    recall: NDArray[np.float64]


def _score_class(candidates: _Candidates, data: CocoVID) -> _ClassScore:
    score = _ClassScore(np.full((4, 10), np.nan), np.full(10, np.nan), np.full((4, 10, 3), np.nan))
    for size, (lowest, highest) in enumerate(_AREAS):
        ignored = data.objects.crowds | (data.objects.areas < lowest) | (data.objects.areas > highest)
        outside = (candidates.areas < lowest) | (candidates.areas > highest)
        if ignored[candidates.objects].all():
            continue
        for place, least in enumerate(_IOUS):
            found = _match(candidates, least, ignored, data.objects.crowds)
            matches = _matches(candidates, found, ignored, (found < 0) & ~outside)
            score.ap[size, place] = average_precision(matches, sampled=True)
            for column, most in enumerate(_MOST_DETECTIONS):
                right = matches.true_positive[candidates.ranks < most]
                score.recall[size, place, column] = right.sum() / len(matches.objects)
            if size == 0:
                few = candidates.ranks < _MOST_DETECTIONS[0]
                score.ap_of_few[place] = average_precision(matches.select(few), sampled=True)
    return score
