"""The second stage of Faster R-CNN: classifies proposals and refines their boxes."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import check_positive
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.boxes import Chooser, assign, best_apart, clamp, decode, encode, sample
from flowdet.ops.roi_align import roi_align
from flowdet.types import Geometry, Targets

__all__ = ["RoIHead", "RoIHeadConfig"]

_STDS = (0.2, 0.2, 0.2, 0.2)


@dataclass(frozen=True)
class RoIHeadConfig:
    """The head and what it keeps; the defaults are those of the published FGFA.

    Attributes:
        bins: Along each side of an RoI, to which its features are pooled.
        hidden: Width of the two shared layers.
        class_specific_boxes: One set of box deltas for each class, or one for all.
        score_threshold: Detections below it are dropped.
        nms_iou: IoU above which the weaker of two detections of one class goes.
        max_detections: Kept an image.
        sampled: RoIs an image in the loss, a quarter of them positive at most.
    """

    bins: int = 7
    hidden: int = 1024
    class_specific_boxes: bool = True
    score_threshold: float = 1e-4
    nms_iou: float = 0.5
    max_detections: int = 100
    sampled: int = 256

    def __post_init__(self) -> None:
        check_positive(self, "bins", "hidden", "max_detections", "sampled")


class RoIHead(nn.Module):
    """Two shared layers on RoI features of bins x bins, then class scores and box deltas."""

    def __init__(self, config: RoIHeadConfig, channels: int, classes: int) -> None:
        super().__init__()
        self.config = config
        self.fc1 = nn.Linear(channels * config.bins**2, config.hidden)
        self.fc2 = nn.Linear(config.hidden, config.hidden)
        self.classes = nn.Linear(config.hidden, classes + 1)
        self.deltas = nn.Linear(config.hidden, 4 * (classes if config.class_specific_boxes else 1))
        for layer, std in ((self.classes, 0.01), (self.deltas, 0.001)):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def pool(self, features: Tensor, boxes: Sequence[Tensor]) -> Tensor:
        """RoI features [n, c, bins, bins] of boxes (for each image [k, 4] xyxy px, network input), n in all."""
        return roi_align(features, boxes, self.config.bins, FEATURE_STRIDE)

    def forward(self, features: Tensor, boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Logits [n, classes + 1], background last, and box deltas [n, classes or 1, 4] of the boxes' RoIs."""
        return self.classify(self.pool(features, boxes))

    def classify(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and box deltas, as `forward`, of RoI features [n, c, bins, bins]."""
        x = F.relu(self.fc2(F.relu(self.fc1(pooled.flatten(1)))))
        return self.classes(x), self.deltas(x).unflatten(1, (-1, 4))

    @torch.no_grad()
    def detect(
        self, logits: Tensor, deltas: Tensor, boxes: Sequence[Tensor], geometries: Sequence[Geometry]
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Final boxes [n, 4] xyxy px of the original image, scores [n] and labels [n] of each image, best first."""
        counts = [len(b) for b in boxes]
        return [
            self._detect_one(*parts)
            for parts in zip(logits.split(counts), deltas.split(counts), boxes, geometries, strict=True)
        ]

    def _detect_one(
        self, logits: Tensor, deltas: Tensor, boxes: Tensor, geometry: Geometry
    ) -> tuple[Tensor, Tensor, Tensor]:
        scores = logits.softmax(dim=1)[:, :-1]
        x, y = geometry.scale
        moved = clamp(decode(boxes, deltas, _STDS), geometry.valid) / boxes.new_tensor([x, y, x, y])
        rois, labels = (scores > self.config.score_threshold).nonzero(as_tuple=True)
        scores = scores[rois, labels]
        candidates = moved[rois, labels if self.config.class_specific_boxes else 0]
        scores, order = scores.sort(descending=True, stable=True)
        candidates, labels = candidates[order], labels[order]
        kept = best_apart(candidates, scores, self.config.nms_iou, self.config.max_detections, labels)
        return candidates[kept], scores[kept], labels[kept]

    def losses(
        self,
        features: Tensor,
        proposals: Sequence[Tensor],
        targets: Sequence[Targets],
        choosers: Sequence[Chooser],
    ) -> dict[str, Tensor]:
        """Cross-entropy over the sampled RoIs and smooth L1 of the deltas over the RoIs sampled in an image."""
        rois, labels, wanted, shares = [], [], [], []
        background = self.classes.out_features - 1
        for proposed, target, choose in zip(proposals, targets, choosers, strict=True):
            matches = assign(proposed, target.boxes, positive=0.5, negative=0.5, weakest_positive=0.5)
            # The ground-truth boxes take part as proposals that belong to themselves.
            matches = torch.cat((torch.arange(len(target.boxes), device=matches.device), matches))
            candidates = torch.cat((target.boxes, proposed))
            chosen = sample(matches, self.config.sampled, 0.25, choose)
            truth = matches[chosen.positives]
            rois.append(candidates[torch.cat((chosen.positives, chosen.negatives))])
            labels.append(target.labels[truth])
            labels.append(torch.full_like(chosen.negatives, background))
            wanted.append(encode(candidates[chosen.positives], target.boxes[truth], _STDS))
            count = len(rois[-1])
            shares.append(candidates.new_full((count,), 1 / (max(count, 1) * len(targets))))
        truth = torch.cat(labels)
        logits, deltas = self(features, rois)
        positive = (truth != background).nonzero().flatten()
        moved = deltas[positive, truth[positive] if self.config.class_specific_boxes else 0]
        share = torch.cat(shares)
        boxes = F.smooth_l1_loss(moved, torch.cat(wanted), reduction="none").sum(dim=1)
        return {
            "roi_classes": (F.cross_entropy(logits, truth, reduction="none") * share).sum(),
            "roi_boxes": (boxes * share[positive]).sum(),
        }
