"""What one-stage detectors share: cells of all levels, detections from predictions, SimOTA assignment for training."""

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal

import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from flowdet.detectors.base import Computed, Detector, DetectorConfig, Found, RoIAttention, Run, shallow_copy
from flowdet.errors import ConfigError, check_positive
from flowdet.ops.boxes import Chooser, best_apart, clamp
from flowdet.ops.devices import constant, full_precision
from flowdet.types import FrameFeatures, Geometry, Maps, Targets

__all__ = ["PRIOR_LOGIT", "Assignment", "Cells", "OneStage", "OneStageConfig", "assign_sim_ota"]

PRIOR_LOGIT = math.log(0.01 / 0.99)
"""Bias of score logits before training, with which each score is 0.01 (RetinaNet, section 3.3)."""

_CENTRE_RADIUS = 1.5
_IOU_COST = 3.0
_MOST_CELLS = 10


@dataclass(frozen=True)
class OneStageConfig(DetectorConfig):
    """Which predictions become detections.

    Attributes:
        score_threshold: Detections at or below it are dropped.
        nms_iou: IoU above which the weaker of two detections is dropped.
        class_agnostic_nms: Whether detections of different classes suppress each other, too.
        max_detections: The largest number of detections in an image.
        maps: What a temporal method carries or averages: the "features" of the body, or the "predictions" of the head.
            With these DFF leaves out the head, too, between its key frames.
    """

    score_threshold: float = 0.01
    nms_iou: float = 0.6
    class_agnostic_nms: bool = False
    max_detections: int = 100
    maps: Literal["features", "predictions"] = "features"

    def __post_init__(self) -> None:
        check_positive(self, "max_detections")
        if self.maps not in {"features", "predictions"}:
            raise ConfigError(f'the maps of a one-stage detector are "features" or "predictions", not {self.maps!r}')

    def build(self, classes: int, attention: Callable[[Sequence[int]], RoIAttention] | None = None) -> "OneStage":
        """Returns the detector with random weights.

        Raises:
            ConfigError: There is an attention; a one-stage detector has no RoI head.
        """
        if attention is not None:
            raise ConfigError("RoI-level methods need a two-stage detector; a one-stage detector has no RoI head")
        return self.build_one_stage(classes)

    def with_agnostic_nms(self) -> "OneStageConfig":
        """Returns the detector in which detections of different classes suppress each other, too."""
        return replace(self, class_agnostic_nms=True)

    @abstractmethod
    def build_one_stage(self, classes: int) -> "OneStage":
        """Returns the detector with random weights."""


@dataclass(frozen=True, eq=False, slots=True)
class Cells:
    """The n cells of all maps, finest map first, row by row.

    Attributes:
        centres: [n, 2] (x, y) px, network input.
        strides: [n, 1] px, network input.
    """

    centres: Tensor
    strides: Tensor

    def at(self, places: Tensor) -> "Cells":
        """Returns the cells at these places [m]."""
        return Cells(self.centres[places], self.strides[places])


@dataclass(frozen=True, eq=False, slots=True)
class Assignment:
    """The p positive cells of an image.

    Attributes:
        cells: [p] their numbers.
        objects: [p] the number of the object that each belongs to.
        ious: [p] IoU of each cell's predicted box and its object.
    """

    cells: Tensor
    objects: Tensor
    ious: Tensor


class OneStage(Detector):
    """A detector that predicts scores and a box in each cell of three maps.

    Args:
        config: Which predictions become detections.
        body: Images [b, 3, H, W] to three maps.
        head: Three maps to three maps of k predictions, [b, k, h, w].
        channels: The number of channels of each map of the body.
        predictions: k.
    """

    strides = (8, 16, 32)

    def __init__(
        self, config: OneStageConfig, body: nn.Module, head: nn.Module, channels: tuple[int, ...], predictions: int
    ) -> None:
        super().__init__()
        self.config = config
        self.body = body
        self.head = head
        self.channels = channels if config.maps == "features" else (predictions,) * len(channels)

    @abstractmethod
    def scores(self, predictions: Tensor) -> Tensor:
        """Returns scores [..., classes] of predictions [..., k]."""

    @abstractmethod
    def boxes(self, predictions: Tensor, cells: Cells) -> Tensor:
        """Returns boxes [n, 4] xyxy px, network input, of the predictions [n, k] in these n cells."""

    @abstractmethod
    def image_losses(self, predictions: Tensor, cells: Cells, targets: Targets) -> dict[str, Tensor]:
        """Returns losses by name of one image's predictions [n, k]."""

    def extract(self, images: Tensor) -> Maps:
        """Returns three maps of images [b, 3, H, W], at the strides 8, 16 and 32; H and W are multiples of 32."""
        maps: Maps = self.body(images)
        if self.config.maps == "predictions":
            maps = self.head(*maps)
        return maps

    @torch.no_grad()
    def detect(self, features: FrameFeatures, score: float = 0.0) -> list[Found]:
        """Returns the detections of each of the b images that have at least this score."""
        predictions, cells = self.predict(features.maps)
        return [self._select(p, cells, g, score) for p, g in zip(predictions, features.geometries, strict=True)]

    def losses(
        self, features: FrameFeatures, targets: Sequence[Targets], choosers: Sequence[Chooser]
    ) -> dict[str, Tensor]:
        """Returns losses by name, each the mean over the images; nothing is sampled.

        The published trainings divide by the number of positive cells of the whole batch, here each image's losses are
        divided by its own, at least 1, so that a batch means the same in one process as in many.
        """
        del choosers
        predictions, cells = self.predict(features.maps)
        images = [self.image_losses(p, cells, t) for p, t in zip(predictions, targets, strict=True)]
        return {name: torch.stack([losses[name] for losses in images]).mean() for name in images[0]}

    def parts(self) -> dict[str, nn.Module]:
        """Returns the body as "features" and the head."""
        return {"features": self.body, "head": self.head}

    def with_parts(self, runs: Mapping[str, Run]) -> "OneStage":
        """Returns the same detector, in which these functions compute the parts of these names."""
        other = shallow_copy(self)
        other.body = Computed(runs["features"]) if "features" in runs else self.body
        other.head = Computed(runs["head"]) if "head" in runs else self.head
        return other

    def predict(self, maps: Maps) -> tuple[Tensor, Cells]:
        """Returns predictions [b, n, k] and their cells."""
        levels: Maps = maps if self.config.maps == "predictions" else self.head(*maps)
        predictions = full_precision(torch.cat([level.flatten(2) for level in levels], dim=2).transpose(1, 2))
        sizes = tuple((level.shape[-2], level.shape[-1]) for level in levels)
        return predictions, _cells(sizes, self.strides, predictions.device)

    def _select(self, predictions: Tensor, cells: Cells, geometry: Geometry, score: float) -> Found:
        config, scores = self.config, self.scores(predictions)
        if scores.device.type == "cpu":  # a GPU decodes all cells sooner than it tells the host which ones are needed
            best = scores.amax(dim=1)
            strong = ((best > config.score_threshold) & (best >= score)).nonzero().flatten()
            predictions, cells, scores = predictions[strong], cells.at(strong), scores[strong]
        boxes = self.boxes(predictions, cells)
        places, labels = ((scores > config.score_threshold) & (scores >= score)).nonzero(as_tuple=True)
        scores, order = scores[places, labels].sort(descending=True, stable=True)
        boxes, labels = boxes[places[order]], labels[order]
        apart = None if config.class_agnostic_nms else labels
        kept = best_apart(boxes, scores, config.nms_iou, config.max_detections, apart)
        x, y = geometry.scale
        boxes = clamp(boxes[kept], geometry.valid) / constant((x, y, x, y), boxes.dtype, boxes.device)
        return boxes, scores[kept], labels[kept]


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # training may use what detection has made
def _cells(sizes: tuple[tuple[int, int], ...], strides: tuple[int, ...], device: torch.device) -> Cells:
    """The cells of maps of these (height, width)."""
    centres, sides = [], []
    for size, stride in zip(sizes, strides, strict=True):
        y, x = (torch.arange(side, dtype=torch.float32, device=device) + 0.5 for side in size)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)
        centres.append(grid * stride)
        sides.append(torch.full_like(grid[:, :1], stride))
    return Cells(torch.cat(centres), torch.cat(sides))


@torch.no_grad()
def assign_sim_ota(boxes: Tensor, scores: Tensor, cells: Cells, targets: Targets) -> Assignment:
    """Assigns cells to objects by SimOTA (YOLOX, section 2.1; OTA, Ge et al. 2021).

    Candidates of an object are the cells whose centre lies within 1.5 strides of its own, along both axes. Their cost
    is the binary cross-entropy of the scores, summed over the classes, plus 3 times -log IoU. An object takes its k
    cheapest candidates; k is the sum of its 10 largest IoUs with any object's candidates, rounded down, at least 1.
    A cell that several objects take belongs to the one for which it is cheapest.

    Args:
        boxes: [n, 4] xyxy px, network input, predicted in each cell.
        scores: [n, classes] in [0, 1].
        cells: The n cells.
        targets: The m objects of the image; m may be 0.
    """
    centres = (targets.boxes[:, :2] + targets.boxes[:, 2:]) / 2
    near = ((cells.centres - centres[:, None]).abs() < _CENTRE_RADIUS * cells.strides).all(dim=2)
    rows = near.any(dim=0).nonzero().flatten()
    if len(rows) == 0:
        return Assignment(rows, rows, boxes.new_zeros(0))
    near = near[:, rows]
    ious: Tensor = box_iou(targets.boxes, boxes[rows])
    log, log_of_rest = (values[rows].log().clamp(min=-100) for values in (scores, 1 - scores))
    classification = (log_of_rest - log)[:, targets.labels].T - log_of_rest.sum(dim=1)
    cost = (classification - _IOU_COST * (ious + 1e-8).log()).masked_fill(~near, torch.inf)
    counts = ious.topk(min(_MOST_CELLS, len(rows)), dim=1).values.sum(dim=1).int().clamp(min=1)
    taken = (cost.argsort(dim=1).argsort(dim=1) < counts[:, None]) & near
    objects = torch.where(taken.sum(dim=0) > 1, cost.argmin(dim=0), taken.int().argmax(dim=0))
    positive = taken.any(dim=0).nonzero().flatten()
    objects = objects[positive]
    return Assignment(rows[positive], objects, ious[objects, positive])
