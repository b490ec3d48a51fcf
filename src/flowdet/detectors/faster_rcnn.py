"""The single-frame detector that every temporal method shares: features on one side, heads on the other."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor, nn

from flowdet.detectors.roi_head import RoIHead, RoIHeadConfig
from flowdet.detectors.rpn import RPN, RPNConfig
from flowdet.ops.boxes import Chooser
from flowdet.types import Geometry, Targets

__all__ = ["Detector", "HeadsConfig"]


@dataclass(frozen=True)
class HeadsConfig:
    """Both stages of the detection heads."""

    rpn: RPNConfig = field(default_factory=RPNConfig)
    roi_head: RoIHeadConfig = field(default_factory=RoIHeadConfig)


class Detector(nn.Module):
    """Faster R-CNN, cut in two: `extract` makes features, `detect` and `losses` use them."""

    def __init__(self, backbone: nn.Module, neck: nn.Module, rpn: RPN, roi_head: RoIHead) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.rpn = rpn
        self.roi_head = roi_head

    def extract(self, images: Tensor) -> Tensor:
        """Images [b, 3, H, W] to features [b, c, H / 16, W / 16]."""
        features: Tensor = self.neck(self.backbone(images))
        return features

    def detect(self, features: Tensor, geometries: Sequence[Geometry]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """Boxes [n, 4] xyxy px of the original image, scores [n] and labels [n] of each image, best first."""
        objectness, deltas = self.rpn(features)
        proposals = self.rpn.propose(objectness, deltas, geometries, self.rpn.config.post_nms_top_n)
        logits, moves = self.roi_head(features, proposals)
        return self.roi_head.detect(logits, moves, proposals, geometries)

    def losses(
        self,
        features: Tensor,
        geometries: Sequence[Geometry],
        targets: Sequence[Targets],
        choosers: Sequence[Chooser],
    ) -> dict[str, Tensor]:
        """The four losses of Faster R-CNN by name, means over the images; `choosers` pick each image's sampled boxes.

        What is sampled in one image does not weigh on another, so a batch means the same in one process as in many.
        """
        objectness, deltas = self.rpn(features)
        losses = self.rpn.losses(objectness, deltas, geometries, targets, choosers)
        proposals = self.rpn.propose(objectness, deltas, geometries, self.rpn.config.training_post_nms_top_n)
        return losses | self.roi_head.losses(features, proposals, targets, choosers)
