"""YOLOX (Ge et al. 2021): an anchor-free detector of six published sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.detectors.backbone import keep_norms_in_evaluation
from flowdet.detectors.one_stage import PRIOR_LOGIT, Cells, OneStage, OneStageConfig, assign_sim_ota
from flowdet.errors import ConfigError
from flowdet.types import Targets

__all__ = ["YOLOX", "YOLOX_SIZES", "YOLOXConfig"]

_LEVELS = 3
_LARGEST_FACTOR = 4


@dataclass(frozen=True)
class YOLOXConfig(OneStageConfig):
    """The defaults are YOLOX-s with the thresholds of its authors.

    Attributes:
        depth: Factor of the number of blocks; 1 in YOLOX-l.
        width: Factor of the number of channels; 1 in YOLOX-l.
        depthwise: Whether 3x3 convolutions are separable, as in YOLOX-nano.
        l1_loss: Whether the box predictions also have an L1 loss, as in the last 15 of the published 300 epochs.
    """

    nms_iou: float = 0.65
    depth: float = 0.33
    width: float = 0.5
    depthwise: bool = False
    l1_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 < self.depth <= _LARGEST_FACTOR and 1 / 64 <= self.width <= _LARGEST_FACTOR):
            raise ConfigError(
                f"YOLOX has a depth and a width of at most {_LARGEST_FACTOR} (1 in YOLOX-l), "
                f"not {self.depth} and {self.width}"
            )

    def build_one_stage(self, classes: int) -> "YOLOX":
        """Returns the detector with random weights."""
        return YOLOX(self, classes)

    @property
    def label(self) -> str:
        """The published size, if it is one."""
        shape = (self.depth, self.width, self.depthwise)
        sizes = (size for size, one in YOLOX_SIZES.items() if (one.depth, one.width, one.depthwise) == shape)
        return f"YOLOX-{next(sizes, f'{self.depth:g}x{self.width:g}')}"

    @property
    def classifier(self) -> Mapping[str, int]:
        """Returns the layers of the class logits; one row belongs to each class."""
        return {f"head.classes.{level}": 1 for level in range(_LEVELS)}


YOLOX_SIZES: Mapping[str, YOLOXConfig] = {
    "nano": YOLOXConfig(depth=0.33, width=0.25, depthwise=True),
    "tiny": YOLOXConfig(depth=0.33, width=0.375),
    "s": YOLOXConfig(depth=0.33, width=0.5),
    "m": YOLOXConfig(depth=0.67, width=0.75),
    "l": YOLOXConfig(depth=1.0, width=1.0),
    "x": YOLOXConfig(depth=1.33, width=1.25),
}
"""The published sizes by name."""


class _ConvNorm(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        # The stem's kernel of 6 with stride 2 is a kernel of 3 over blocks of 2 x 2 pixels, so its border is one block.
        padding = (kernel - stride) // 2 if kernel % 2 == 0 else kernel // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.03)
        self.activation = nn.SiLU(inplace=True)


class _Separable(nn.Sequential):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.depthwise = _ConvNorm(inputs, inputs, 3, stride, groups=inputs)
        self.pointwise = _ConvNorm(inputs, outputs, 1)


def _conv3(inputs: int, outputs: int, stride: int, *, depthwise: bool) -> nn.Module:
    return _Separable(inputs, outputs, stride) if depthwise else _ConvNorm(inputs, outputs, 3, stride)


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, *, residual: bool, depthwise: bool) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, channels, 1)
        self.conv2 = _conv3(channels, channels, 1, depthwise=depthwise)
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv2(self.conv1(x))
        return x + y if self.residual else y


class _CSP(nn.Module):
    """Cross-stage partial blocks: half of the channels pass the bottlenecks, half go past them."""

    def __init__(self, inputs: int, outputs: int, blocks: int, *, residual: bool, depthwise: bool) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1 = _ConvNorm(inputs, half, 1)
        self.conv2 = _ConvNorm(inputs, half, 1)
        self.conv3 = _ConvNorm(outputs, outputs, 1)
        self.blocks = nn.Sequential(*(_Bottleneck(half, residual=residual, depthwise=depthwise) for _ in range(blocks)))

    def forward(self, x: Tensor) -> Tensor:
        inner, outer = self.conv1(x), self.conv2(x)
        y: Tensor = self.conv3(torch.cat((self.blocks(inner), outer), dim=1))
        return y


class _PyramidPooling(nn.Module):
    """A map beside its maxima over 5, 9 and 13 cells squared; pooling over 5 twice is pooling over 9."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = _ConvNorm(channels, channels // 2, 1)
        self.conv2 = _ConvNorm(2 * channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = [self.conv1(x)]
        for _ in range(3):
            pooled.append(F.max_pool2d(pooled[-1], 5, 1, padding=2))
        y: Tensor = self.conv2(torch.cat(pooled, dim=1))
        return y


class _Body(nn.Module):
    """CSPDarknet, and a path aggregation neck whose maps have as many channels as those of the backbone."""

    def __init__(self, config: YOLOXConfig) -> None:
        super().__init__()
        depthwise = config.depthwise
        blocks = max(round(3 * config.depth), 1)
        base = int(64 * config.width)
        widths = [base * 2**stage for stage in range(5)]
        self.stem = _ConvNorm(3, base, 6, 2)
        self.stages = nn.ModuleList()
        for number, (inputs, outputs) in enumerate(pairwise(widths)):
            last = number == len(widths) - 2
            pooling = [_PyramidPooling(outputs)] if last else []
            count = blocks if number == 0 or last else 3 * blocks
            csp = _CSP(outputs, outputs, count, residual=not last, depthwise=depthwise)
            self.stages.append(nn.Sequential(_conv3(inputs, outputs, 2, depthwise=depthwise), *pooling, csp))
        fine, middle, coarse = self.channels = (widths[2], widths[3], widths[4])

        def merge(inputs: int, outputs: int) -> _CSP:
            return _CSP(inputs, outputs, round(3 * config.depth), residual=False, depthwise=depthwise)

        self.laterals = nn.ModuleList((_ConvNorm(coarse, middle, 1), _ConvNorm(middle, fine, 1)))
        self.top_down = nn.ModuleList((merge(2 * middle, middle), merge(2 * fine, fine)))
        self.strided = nn.ModuleList(_conv3(width, width, 2, depthwise=depthwise) for width in (fine, middle))
        self.bottom_up = nn.ModuleList((merge(2 * fine, middle), merge(2 * middle, coarse)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Images [b, 3, H, W] to maps [b, c, H / s, W / s] of the strides s = 8, 16 and 32."""
        x = self.stages[0](self.stem(images))
        fine = self.stages[1](x)
        middle = self.stages[2](fine)
        coarse = self.laterals[0](self.stages[3](middle))
        middle = self.laterals[1](self.top_down[0](torch.cat((_enlarged(coarse), middle), dim=1)))
        fine = self.top_down[1](torch.cat((_enlarged(middle), fine), dim=1))
        middle = self.bottom_up[0](torch.cat((self.strided[0](fine), middle), dim=1))
        coarse = self.bottom_up[1](torch.cat((self.strided[1](middle), coarse), dim=1))
        return fine, middle, coarse


def _enlarged(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2.0, mode="nearest")


class _Head(nn.Module):
    """In every cell a box, its objectness and class logits; classes and boxes have convolutions of their own."""

    def __init__(self, config: YOLOXConfig, channels: tuple[int, ...], classes: int) -> None:
        super().__init__()
        width = int(256 * config.width)

        def branch() -> nn.Sequential:
            return nn.Sequential(*(_conv3(width, width, 1, depthwise=config.depthwise) for _ in range(2)))

        self.stems = nn.ModuleList(_ConvNorm(inputs, width, 1) for inputs in channels)
        self.class_convs = nn.ModuleList(branch() for _ in channels)
        self.box_convs = nn.ModuleList(branch() for _ in channels)
        self.classes = nn.ModuleList(nn.Conv2d(width, classes, 1) for _ in channels)
        self.boxes = nn.ModuleList(nn.Conv2d(width, 4, 1) for _ in channels)
        self.objectness = nn.ModuleList(nn.Conv2d(width, 1, 1) for _ in channels)
        for name, parameter in self.named_parameters():
            if name.startswith(("classes.", "objectness.")) and name.endswith("bias"):
                nn.init.constant_(parameter, PRIOR_LOGIT)

    def forward(self, *maps: Tensor) -> tuple[Tensor, ...]:
        """Maps [b, c, h, w] to predictions [b, 5 + classes, h, w]: x, y, log w, log h, objectness, classes."""
        return tuple(self._level(level, x) for level, x in enumerate(maps))

    def _level(self, level: int, x: Tensor) -> Tensor:
        x = self.stems[level](x)
        classes = self.classes[level](self.class_convs[level](x))
        box = self.box_convs[level](x)
        return torch.cat((self.boxes[level](box), self.objectness[level](box), classes), dim=1)


class YOLOX(OneStage):
    """YOLOX; batch norm never leaves evaluation mode, for the batches of video training are small.

    Images are RGB from 0 to 255, not normalised, 114 in the padding.
    """

    def __init__(self, config: YOLOXConfig, classes: int) -> None:
        body = _Body(config)
        super().__init__(config, body, _Head(config, body.channels, classes), body.channels, 5 + classes)
        self.l1_loss = config.l1_loss

    def train(self, mode: bool = True) -> "YOLOX":
        """Switches the mode of everything but batch norm, whose statistics stay those of the file."""
        super().train(mode)
        keep_norms_in_evaluation(self)
        return self

    def scores(self, predictions: Tensor) -> Tensor:
        """Returns objectness times class probability."""
        return predictions[..., 4:5].sigmoid() * predictions[..., 5:].sigmoid()

    def boxes(self, predictions: Tensor, cells: Cells) -> Tensor:
        """Returns boxes; a centre prediction of 0 is the upper left corner of the cell."""
        centres = (predictions[..., :2] - 0.5) * cells.strides + cells.centres
        half = predictions[..., 2:4].exp() * cells.strides / 2
        return torch.cat((centres - half, centres + half), dim=-1)

    def image_losses(self, predictions: Tensor, cells: Cells, targets: Targets) -> dict[str, Tensor]:
        """Returns the losses of section 2.1 of the paper, each a sum divided by the number of positive cells.

        Those are 1 - IoU^2 of the boxes (weight 5), binary cross-entropy of the objectness over all cells and of the
        classes over the positive ones, wanted is the IoU of the predicted box; on request L1 of the box predictions.
        """
        boxes, scores = self.boxes(predictions, cells), self.scores(predictions)
        assigned = assign_sim_ota(boxes, scores.sqrt(), cells, targets)
        rows = assigned.cells
        wanted_boxes = targets.boxes[assigned.objects]
        objectness, classes = predictions[:, 4], predictions[rows, 5:]
        positive = torch.zeros_like(objectness)
        positive[rows] = 1
        wanted = F.one_hot(targets.labels[assigned.objects], classes.shape[1]) * assigned.ious[:, None]
        count = max(len(rows), 1)
        losses = {
            "boxes": 5 * (1 - _paired_iou(boxes[rows], wanted_boxes) ** 2).sum() / count,
            "objectness": F.binary_cross_entropy_with_logits(objectness, positive, reduction="sum") / count,
            "classes": F.binary_cross_entropy_with_logits(classes, wanted, reduction="sum") / count,
        }
        if self.l1_loss:
            strides = cells.strides[rows]
            size = (wanted_boxes[:, 2:] - wanted_boxes[:, :2]) / strides
            centres = (wanted_boxes[:, :2] + wanted_boxes[:, 2:]) / 2
            codes = torch.cat(((centres - cells.centres[rows]) / strides + 0.5, (size + 1e-8).log()), dim=1)
            losses["boxes_l1"] = F.l1_loss(predictions[rows, :4], codes, reduction="sum") / count
        return losses


def _paired_iou(boxes: Tensor, others: Tensor) -> Tensor:
    """Returns the IoU [n] of boxes [n, 4] and others [n, 4], pair by pair."""
    sides = (torch.minimum(boxes[:, 2:], others[:, 2:]) - torch.maximum(boxes[:, :2], others[:, :2])).clamp(min=0)
    intersection = sides.prod(dim=1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(dim=1) + (others[:, 2:] - others[:, :2]).prod(dim=1)
    return intersection / (areas - intersection + 1e-16)
