"""The rules of ImageNet VID and Seq-NMS box by box, as slow and plain as they can be written."""

from collections.abc import Sequence

import numpy as np

from tests.metrics.fixtures import Box, Made

__all__ = ["motion_figures", "seq_nms_scores"]

RANGES = {"slow": (0.9, 1.0), "medium": (0.7, 0.9), "fast": (0.0, 0.7), "all": (0.0, 1.0)}


def iou(one: Box, other: Box, edge: int) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0]) + edge
    height = min(one[3], other[3]) - max(one[1], other[1]) + edge
    if width <= 0 or height <= 0:
        return 0.0
    areas = [(box[2] - box[0] + edge) * (box[3] - box[1] + edge) for box in (one, other)]
    return width * height / (sum(areas) - width * height)


def threshold(box: Box) -> float:
    width, height = box[2] - box[0] + 1, box[3] - box[1] + 1
    return min(0.5, width * height / ((width + 10) * (height + 10)))


def motion_figures(made: Made, values: Sequence[float]) -> dict[str, dict[str, float | None]]:
    """The average precision of each class for each range of motion IoU."""
    empty = [image for image in range(len(made.frames)) if all(one[0] != image for one in made.objects)]
    entries = [*values, *(0.0 for _ in empty)]
    figures: dict[str, dict[str, float | None]] = {}
    for name, (low, high) in RANGES.items():
        counts = [low <= value <= high for value in values]
        empty_weight = sum(low <= value <= high for value in entries) / len(entries)
        judged = judge(made, counts, empty_weight)
        figures[name] = {
            class_name: area(
                [(right, wrong) for one, right, wrong in judged if one == label],
                sum(counts[number] for number, thing in enumerate(made.objects) if thing[1] == label),
            )
            for label, class_name in enumerate(made.classes)
        }
    return figures


def judge(made: Made, counts: Sequence[bool], empty_weight: float) -> list[tuple[int, float, float]]:
    """Label, right and wrong of each detection, highest score first."""
    taken: set[int] = set()
    judged = []
    for image, label, box, _ in sorted(made.found, key=lambda one: -one[3]):
        here = [number for number, thing in enumerate(made.objects) if thing[0] == image]
        overlap = {number: iou(box, made.objects[number][2], 1) for number in here}
        best = None
        for number in here:
            fits = made.objects[number][1] == label and number not in taken
            if fits and overlap[number] >= threshold(made.objects[number][2]):
                best = number if best is None or overlap[number] > overlap[best] else best
        if best is not None:
            taken.add(best)
            judged.append((label, float(counts[best]), 0.0))
            continue
        inside = max((overlap[number] for number in here if counts[number]), default=-1)
        outside = max((overlap[number] for number in here if not counts[number]), default=-1)
        if not here:
            wrong = empty_weight
        elif inside == outside:
            wrong = sum(not counts[number] for number in here) / len(here)
        else:
            wrong = float(inside > outside)
        judged.append((label, 0.0, wrong))
    return judged


def area(judged: Sequence[tuple[float, float]], boxes: int) -> float | None:
    """The area under the highest precision of any recall from there on."""
    if not boxes:
        return None
    right, wrong = np.cumsum([one[0] for one in judged]), np.cumsum([one[1] for one in judged])
    total = 0.0
    for place, (step, _) in enumerate(judged):
        later = [r / (r + w) for r, w in zip(right[place:], wrong[place:], strict=True) if r + w > 0]
        total += step / boxes * max(later, default=0.0)
    return float(total)


def seq_nms_scores(
    frames: Sequence[int], boxes: Sequence[Box], scores: Sequence[float], rescore: str
) -> list[float | None]:
    """The new scores of one class of one video, None for boxes that leave; every sequence is looked for afresh."""
    there = set(range(len(boxes)))
    new: list[float | None] = [None] * len(boxes)
    while there:
        best: dict[int, tuple[float, list[int]]] = {}
        for box in sorted(there, key=lambda one: -frames[one]):
            linked = [one for one in there if frames[one] == frames[box] + 1 and iou(boxes[box], boxes[one], 0) > 0.5]
            rest = max((best[one] for one in linked), default=(0.0, []))
            best[box] = (scores[box] + rest[0], [box, *rest[1]])
        sequence = max(best.values())[1]
        chosen = [scores[one] for one in sequence]
        for one in sequence:
            new[one] = max(chosen) if rescore == "max" else sum(chosen) / len(chosen)
        there -= set(sequence)
        there -= {
            one
            for one in there
            for box in sequence
            if frames[one] == frames[box] and iou(boxes[one], boxes[box], 0) > 0.3
        }
    return new
