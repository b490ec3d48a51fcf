"""Boxes as tensors: coding against anchors, clamping, assignment by overlap, sampling."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchvision.ops import box_iou, nms

from flowdet.ops.devices import constant, upload

__all__ = [
    "Chooser",
    "Sample",
    "assign",
    "best_apart",
    "choose_randomly",
    "clamp",
    "decode",
    "encode",
    "sample",
    "seeded_choosers",
]

_BOXES_AT_ONCE = 500
_LARGEST_LOG_SIZE_DELTA = abs(math.log(16 / 1000))

Chooser = Callable[[Tensor, int], Tensor]
"""Takes indices [n] and a count k < n; returns k of them."""


def encode(boxes: Tensor, targets: Tensor, stds: Sequence[float]) -> Tensor:
    """Returns the deltas that lead from boxes to targets (Faster R-CNN, section 3.1.2).

    Args:
        boxes: [n, 4] xyxy px.
        targets: [n, 4] xyxy px.
        stds: Divisors of the four deltas.

    Returns:
        [n, 4] deltas (dx, dy, dw, dh).
    """
    size = boxes[:, 2:] - boxes[:, :2]
    target_size = targets[:, 2:] - targets[:, :2]
    shift = ((targets[:, :2] + targets[:, 2:]) - (boxes[:, :2] + boxes[:, 2:])) * 0.5 / size
    return torch.cat((shift, (target_size / size).log()), dim=1) / constant(tuple(stds), boxes.dtype, boxes.device)


def decode(boxes: Tensor, deltas: Tensor, stds: Sequence[float]) -> Tensor:
    """Moves boxes by deltas: the inverse of `encode`, except that the change of size is limited.

    Args:
        boxes: [n, 4] xyxy px.
        deltas: [n, k, 4], k deltas for each box.
        stds: Factors of the four deltas.

    Returns:
        [n, k, 4] xyxy px.
    """
    deltas = deltas * constant(tuple(stds), deltas.dtype, deltas.device)
    size = (boxes[:, 2:] - boxes[:, :2])[:, None]
    centre = ((boxes[:, :2] + boxes[:, 2:]) * 0.5)[:, None] + size * deltas[..., :2]
    half = size * deltas[..., 2:].clamp(-_LARGEST_LOG_SIZE_DELTA, _LARGEST_LOG_SIZE_DELTA).exp() * 0.5
    return torch.cat((centre - half, centre + half), dim=-1)


def clamp(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Returns boxes [..., 4] xyxy px, cut to an image of this (height, width)."""
    height, width = size
    limit = constant((width, height, width, height), boxes.dtype, boxes.device)
    return torch.minimum(boxes.clamp(min=0), limit)


def assign(boxes: Tensor, ground_truth: Tensor, *, positive: float, negative: float, weakest_positive: float) -> Tensor:
    """Assigns each box to the ground-truth box that it overlaps most.

    Boxes below `negative` become background, boxes from `positive` on belong to their best ground-truth box, and each
    ground-truth box claims the boxes that overlap it most if that overlap is at least `weakest_positive`; a later
    ground-truth box takes what an earlier one has claimed.

    Args:
        boxes: [n, 4] xyxy px.
        ground_truth: [m, 4] xyxy px; m may be 0.
        positive: Lowest IoU of a match.
        negative: IoU below which a box is background.
        weakest_positive: Lowest IoU of a ground-truth box's best box.

    Returns:
        [n] int64: the number of the ground-truth box, -1 for background, -2 for neither.
    """
    if len(ground_truth) == 0 or len(boxes) == 0:
        return torch.full((len(boxes),), -1, dtype=torch.int64, device=boxes.device)
    overlaps: Tensor = box_iou(ground_truth, boxes)
    best, matches = overlaps.max(dim=0)
    matches[best < positive] = -2
    matches[best < negative] = -1
    best_of_truth = overlaps.max(dim=1, keepdim=True).values
    claims = (overlaps == best_of_truth) & (best_of_truth >= weakest_positive)
    numbers = torch.arange(len(ground_truth), device=boxes.device)[:, None]
    claimed = torch.where(claims, numbers, -1).amax(dim=0)
    return torch.where(claimed >= 0, claimed, matches)


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """The boxes that take part in a loss: indices [p] of positive and [q] of background boxes."""

    positives: Tensor
    negatives: Tensor


def best_apart(
    boxes: Tensor,
    scores: Tensor,
    iou: float,
    count: int,
    labels: Tensor | None = None,
    *,
    valid: Tensor | None = None,
) -> Tensor:
    """Returns the first `count` boxes that non-maximum suppression keeps; it stops when it has them.

    Args:
        boxes: [n, 4] xyxy px, best first.
        scores: [n], descending.
        iou: Boxes that overlap a kept one by more are dropped.
        count: The most to keep.
        labels: [n]; if given, only boxes of one label suppress each other.
        valid: [n] bool; if given, all other boxes are passed over.

    Returns:
        [k] int64 positions, best first.
    """
    if boxes.device.type != "cpu" and iou < 1:
        return _best_apart_at_once(boxes, scores, iou, count, labels=labels, valid=valid)
    if valid is not None:
        places = valid.nonzero().flatten()
        own = None if labels is None else labels[places]
        return places[best_apart(boxes[places], scores[places], iou, count, own)]
    kept = torch.zeros(0, dtype=torch.int64, device=boxes.device)
    separate = boxes
    if labels is not None and len(boxes):
        separate, scores = _by_label(boxes, labels), scores.double()
    for start in range(0, len(boxes), _BOXES_AT_ONCE):
        near = torch.arange(start, min(start + _BOXES_AT_ONCE, len(boxes)), device=boxes.device)
        apart = box_iou(boxes[near], boxes[kept]) <= iou
        if labels is not None:
            apart |= labels[near, None] != labels[kept]
        near = near[apart.all(dim=1)]
        kept = torch.cat((kept, near[nms(separate[near], scores[near], iou)].sort().values))
        if len(kept) >= count:
            break
    return kept[:count]


def _best_apart_at_once(
    boxes: Tensor, scores: Tensor, iou: float, count: int, *, labels: Tensor | None, valid: Tensor | None
) -> Tensor:
    """As `best_apart` for an IoU below 1, with one wait of the host for a GPU, which compares all pairs at once."""
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.int64, device=boxes.device)
    if labels is not None:
        boxes, scores = _by_label(boxes, labels), scores.double()
    # A best box, away from all others; those that are not valid lie on it and are suppressed.
    corner = boxes.min() - 2
    first = torch.stack((corner, corner, corner + 1, corner + 1))[None]
    if valid is not None:
        boxes = torch.where(valid[:, None], boxes, first)
    kept: Tensor = nms(torch.cat((first, boxes)), torch.cat((torch.full_like(scores[:1], torch.inf), scores)), iou)
    return kept[1 : count + 1] - 1


def _by_label(boxes: Tensor, labels: Tensor) -> Tensor:
    """Boxes [n, 4] with those of each label in a place of their own; in double precision that changes no overlap."""
    boxes = boxes.double()
    return boxes + (labels * (boxes.max() - boxes.min() + 1))[:, None]


def choose_randomly(indices: Tensor, count: int) -> Tensor:
    """Picks `count` of the indices at random, from torch's global generator."""
    return indices[torch.randperm(len(indices), device=indices.device)[:count]]


def seeded_choosers(seeds: Sequence[int]) -> list[Chooser]:
    """Returns a chooser for each seed, which picks the same on every device and in every process."""

    def choose(indices: Tensor, count: int, generator: torch.Generator) -> Tensor:
        return indices[upload(torch.randperm(len(indices), generator=generator, device="cpu")[:count], indices.device)]

    return [partial(choose, generator=torch.Generator().manual_seed(seed)) for seed in seeds]


def sample(matches: Tensor, count: int, positive_share: float, choose: Chooser = choose_randomly) -> Sample:
    """Picks at most `count` of the boxes that `assign` matched, at most `positive_share` of them positive."""
    positives = (matches >= 0).nonzero().flatten()
    most = int(count * positive_share)
    if len(positives) > most:
        positives = choose(positives, most)
    negatives = (matches == -1).nonzero().flatten()
    most = count - len(positives)
    if len(negatives) > most:
        negatives = choose(negatives, most)
    return Sample(positives, negatives)
