"""The region proposal network (Faster R-CNN, section 3.1) on one feature map of stride 16."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import ConfigError, check_positive
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.boxes import Chooser, assign, best_apart, clamp, decode, encode, sample
from flowdet.types import Geometry, Targets

__all__ = ["RPN", "RPNConfig"]

_STDS = (1.0, 1.0, 1.0, 1.0)
_SMOOTH_L1_BETA = 1 / 9


@dataclass(frozen=True)
class RPNConfig:
    """Anchors, and how many proposals are kept; the defaults are those of the published FGFA.

    Attributes:
        channels: Of the 3x3 convolution.
        scales: Sides of the square anchors in cells.
        ratios: Heights over widths of the anchors.
        pre_nms_top_n: Best-scored anchors that enter the non-maximum suppression.
        post_nms_top_n: Proposals kept after it, at test.
        training_post_nms_top_n: Proposals kept after it, in training.
        nms_iou: IoU above which the weaker of two proposals goes.
        sampled: Anchors an image in the loss, at most half of them positive.
    """

    channels: int = 512
    scales: tuple[float, ...] = (4.0, 8.0, 16.0, 32.0)
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    pre_nms_top_n: int = 6000
    post_nms_top_n: int = 300
    training_post_nms_top_n: int = 600
    nms_iou: float = 0.7
    sampled: int = 256

    def __post_init__(self) -> None:
        check_positive(self, "channels", "pre_nms_top_n", "post_nms_top_n", "training_post_nms_top_n", "sampled")
        if not self.scales or not self.ratios or min(*self.scales, *self.ratios) <= 0:
            raise ConfigError(f"anchors need scales and ratios above 0, not {self.scales} and {self.ratios}")


class RPN(nn.Module):
    """Scores anchors and moves them to where objects may be."""

    def __init__(self, config: RPNConfig, channels: int) -> None:
        super().__init__()
        self.config = config
        anchors = len(config.scales) * len(config.ratios)
        self.conv = nn.Conv2d(channels, config.channels, 3, padding=1)
        self.objectness = nn.Conv2d(config.channels, anchors, 1)
        self.deltas = nn.Conv2d(config.channels, anchors * 4, 1)
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.normal_(parameter, std=0.01)
            else:
                nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Features [b, c, h, w] to logits [b, a, h, w] and deltas [b, 4 a, h, w] of a anchors a cell."""
        x = F.relu(self.conv(features))
        return self.objectness(x), self.deltas(x)

    def anchors(self, height: int, width: int, device: torch.device) -> Tensor:
        """Anchors [height * width * a, 4] xyxy px, network input; cell (j, i) has its centre at (16 j, 16 i)."""
        ratios = torch.tensor(self.config.ratios, device=device).sqrt()[:, None]
        side = torch.tensor(self.config.scales, device=device) * FEATURE_STRIDE
        half = torch.stack(((side / ratios).flatten(), (side * ratios).flatten()), dim=1) / 2
        y, x = torch.meshgrid(
            torch.arange(height, device=device) * FEATURE_STRIDE,
            torch.arange(width, device=device) * FEATURE_STRIDE,
            indexing="ij",
        )
        centres = torch.stack((x, y), dim=-1).reshape(-1, 1, 2)
        return torch.cat((centres - half, centres + half), dim=-1).reshape(-1, 4)

    @torch.no_grad()
    def propose(self, objectness: Tensor, deltas: Tensor, geometries: Sequence[Geometry], count: int) -> list[Tensor]:
        """The best `count` boxes of each image at most, [n, 4] xyxy px, network input, best first."""
        anchors = self.anchors(objectness.shape[-2], objectness.shape[-1], objectness.device)
        proposals = []
        for logits, moves, geometry in zip(_by_anchor(objectness, 1), _by_anchor(deltas, 4), geometries, strict=True):
            scores = logits.flatten().sigmoid()
            scores, order = scores.sort(descending=True)
            order = order[: self.config.pre_nms_top_n]
            boxes = clamp(decode(anchors[order], moves[order, None], _STDS)[:, 0], geometry.valid)
            solid = (boxes[:, 2:] > boxes[:, :2]).all(dim=1)
            boxes, scores = boxes[solid], scores[: self.config.pre_nms_top_n][solid]
            proposals.append(boxes[best_apart(boxes, scores, self.config.nms_iou, count)])
        return proposals

    def losses(
        self,
        objectness: Tensor,
        deltas: Tensor,
        geometries: Sequence[Geometry],
        targets: Sequence[Targets],
        choosers: Sequence[Chooser],
    ) -> dict[str, Tensor]:
        """Cross-entropy of the objectness and smooth L1 of the deltas over an image's sampled anchors."""
        all_anchors = self.anchors(objectness.shape[-2], objectness.shape[-1], objectness.device)
        objectness_losses, delta_losses = [], []
        for logits, moves, geometry, target, choose in zip(
            _by_anchor(objectness, 1), _by_anchor(deltas, 4), geometries, targets, choosers, strict=True
        ):
            height, width = geometry.valid
            limit = all_anchors.new_tensor([width, height])
            inside = ((all_anchors[:, :2] >= 0) & (all_anchors[:, 2:] < limit)).all(dim=1)
            anchors = all_anchors[inside]
            matches = assign(anchors, target.boxes, positive=0.7, negative=0.3, weakest_positive=0.3)
            chosen = sample(matches, self.config.sampled, 0.5, choose)
            scores = logits[inside].flatten()
            picked = torch.cat((scores[chosen.positives], scores[chosen.negatives]))
            truth = torch.zeros_like(picked)
            truth[: len(chosen.positives)] = 1
            count = max(len(picked), 1)
            objectness_losses.append(F.binary_cross_entropy_with_logits(picked, truth, reduction="sum") / count)
            boxes = target.boxes[matches[chosen.positives]]
            wanted = encode(anchors[chosen.positives], boxes, _STDS)
            moved = moves[inside][chosen.positives]
            delta_losses.append(F.smooth_l1_loss(moved, wanted, beta=_SMOOTH_L1_BETA, reduction="sum") / count)
        return {"rpn_objectness": torch.stack(objectness_losses).mean(), "rpn_boxes": torch.stack(delta_losses).mean()}


def _by_anchor(maps: Tensor, values: int) -> Tensor:
    """[b, a * values, h, w] to [b, h * w * a, values]."""
    return maps.permute(0, 2, 3, 1).reshape(len(maps), -1, values)
