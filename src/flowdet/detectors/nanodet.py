"""NanoDet-g (RangiLyu, github.com/RangiLyu/nanodet): an anchor-free detector of 3.8 M parameters for processors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import generalized_box_iou_loss

from flowdet.detectors.one_stage import PRIOR_LOGIT, Cells, OneStage, OneStageConfig, assign_sim_ota
from flowdet.types import Targets

__all__ = ["NanoDet", "NanoDetConfig", "split_predictions"]

# Width and number of blocks of each stage; a stage puts out twice its width.
_STAGES = ((32, 1), (64, 2), (128, 2), (256, 3))
_CHANNELS = 128
_BINS = 11


@dataclass(frozen=True)
class NanoDetConfig(OneStageConfig):
    """NanoDet-g has one size; the thresholds are those of its authors."""

    nms_iou: float = 0.6

    def build_one_stage(self, classes: int) -> "NanoDet":
        """Returns the detector with random weights."""
        return NanoDet(self, classes)

    @property
    def label(self) -> str:
        """The name of the network."""
        return "NanoDet-g"

    @property
    def classifier(self) -> Mapping[str, int]:
        """Returns the layers of the class logits; one row belongs to each class."""
        return {f"head.classes.{level}": 1 for level in range(len(OneStage.strides))}


class _ConvLeaky(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, padding=1)
        self.activation = nn.LeakyReLU(0.1, inplace=True)


class _Block(nn.Module):
    """Two convolutions of half the width, both results side by side."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = _ConvLeaky(channels, channels // 2)
        self.second = _ConvLeaky(channels // 2, channels // 2)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        return torch.cat((self.second(first), first), dim=1)


class _Stage(nn.Module):
    """A cross-stage partial stage: what the blocks make of its first convolution, beside that convolution's result."""

    def __init__(self, inputs: int, width: int, blocks: int, stride: int) -> None:
        super().__init__()
        self.first = _ConvLeaky(inputs, width, stride)
        self.blocks = nn.Sequential(*(_Block(width) for _ in range(blocks)))
        self.last = _ConvLeaky(width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return torch.cat((self.last(self.blocks(x)), x), dim=1)


class _Body(nn.Module):
    """Backbone and path aggregation neck."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = _ConvLeaky(3, 32, stride=2)
        stages, inputs = [], 32
        for number, (width, blocks) in enumerate(_STAGES):
            stages.append(_Stage(inputs, width, blocks, stride=2 if number else 1))
            inputs = 2 * width
        self.stages = nn.ModuleList(stages)
        self.laterals = nn.ModuleList(nn.Conv2d(2 * width, _CHANNELS, 1) for width, _ in _STAGES[1:])

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [b, 3, H, W] to maps [b, 128, H / s, W / s] of the strides s = 8, 16 and 32."""
        x = F.max_pool2d(self.stem(images), 3, 2, padding=1)
        outputs = []
        for stage in self.stages:
            x = stage(x)
            outputs.append(x)
        fine, middle, coarse = (lateral(x) for lateral, x in zip(self.laterals, outputs[1:], strict=True))
        middle = middle + F.interpolate(coarse, scale_factor=2.0, mode="bilinear")
        fine = fine + F.interpolate(middle, scale_factor=2.0, mode="bilinear")
        # Bilinear resizing to half the size is the mean of two by two cells.
        middle = middle + F.avg_pool2d(fine, 2)
        coarse = coarse + F.avg_pool2d(middle, 2)
        return fine, middle, coarse


class _Head(nn.Module):
    """In every cell class logits and, for each of the four sides, logits of its distance."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.convs = nn.ModuleList(_ConvLeaky(_CHANNELS, _CHANNELS) for _ in _STAGES[1:])
        self.classes = nn.ModuleList(nn.Conv2d(_CHANNELS, classes, 1) for _ in _STAGES[1:])
        self.distances = nn.ModuleList(nn.Conv2d(_CHANNELS, 4 * _BINS, 1) for _ in _STAGES[1:])
        for name, parameter in self.classes.named_parameters():
            if name.endswith("bias"):
                nn.init.constant_(parameter, PRIOR_LOGIT)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Maps [b, 128, h, w] to predictions [b, 4 * 11 + classes, h, w], the distances first."""
        shared = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        levels = zip(shared, self.distances, self.classes, strict=True)
        return tuple(torch.cat((distances(x), classes(x)), dim=1) for x, distances, classes in levels)


class NanoDet(OneStage):
    """NanoDet-g: in each cell class scores and the distances to the four sides of the box, as distributions."""

    def __init__(self, config: NanoDetConfig, classes: int) -> None:
        super().__init__(config, _Body(), _Head(classes), (_CHANNELS,) * 3, 4 * _BINS + classes)

    def scores(self, predictions: Tensor) -> Tensor:
        """Returns the sigmoid of the class logits."""
        return split_predictions(predictions)[1].sigmoid()

    def boxes(self, predictions: Tensor, cells: Cells) -> Tensor:
        """Returns boxes from the expected distances, which are predicted in strides."""
        logits = split_predictions(predictions)[0]
        bins = torch.arange(_BINS, device=logits.device, dtype=logits.dtype)
        before, after = ((logits.softmax(dim=-1) @ bins) * cells.strides).split(2, dim=-1)
        return torch.cat((cells.centres - before, cells.centres + after), dim=-1)

    def image_losses(self, predictions: Tensor, cells: Cells, targets: Targets) -> dict[str, Tensor]:
        """Returns the losses of generalised focal loss (Li et al. 2020) with SimOTA instead of ATSS as assignment.

        Those are the quality focal loss of the classes over all cells, wanted is the IoU of the predicted box; the GIoU
        loss of the boxes (weight 2); and the distribution focal loss of the distances (weight 0.25).
        """
        boxes, scores = self.boxes(predictions, cells), self.scores(predictions)
        assigned = assign_sim_ota(boxes, scores, cells, targets)
        wanted_boxes = targets.boxes[assigned.objects]
        logits, classes = split_predictions(predictions)
        wanted = torch.zeros_like(classes)
        wanted[assigned.cells, targets.labels[assigned.objects]] = assigned.ious
        focal = F.binary_cross_entropy_with_logits(classes, wanted, reduction="none") * (wanted - scores).abs() ** 2
        own = cells.at(assigned.cells)
        distances = torch.cat((own.centres - wanted_boxes[:, :2], wanted_boxes[:, 2:] - own.centres), dim=1)
        distances = (distances / own.strides).clamp(0, _BINS - 1.01)
        giou = generalized_box_iou_loss(boxes[assigned.cells], wanted_boxes, reduction="sum")
        count = max(len(assigned.cells), 1)
        return {
            "classes": focal.sum() / count,
            "boxes": 2 * giou / count,
            "distances": 0.25 * _distribution_focal_loss(logits[assigned.cells], distances).sum() / (4 * count),
        }


def split_predictions(predictions: Tensor) -> tuple[Tensor, Tensor]:
    """Returns distance logits [..., 4, 11] and class logits [..., classes]."""
    return predictions[..., : 4 * _BINS].unflatten(-1, (4, _BINS)), predictions[..., 4 * _BINS :]


def _distribution_focal_loss(logits: Tensor, wanted: Tensor) -> Tensor:
    """Returns the cross-entropy [...] of logits [..., bins] with the two bins around wanted [...], the nearer more."""
    lower = wanted.floor()
    log = logits.log_softmax(dim=-1)
    bins = torch.stack((lower, lower + 1), dim=-1).long()
    shares = torch.stack((lower + 1 - wanted, wanted - lower), dim=-1)
    return -(log.gather(-1, bins) * shares).sum(dim=-1)
