"""The heavy parts of a system as functions of tensors, and detectors in which something else computes them."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from flowdet.detectors.faster_rcnn import Detector
from flowdet.detectors.roi_head import RoIHead
from flowdet.detectors.rpn import RPN
from flowdet.flow.dis import DISFlow
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.base import FlowNet
from flowdet.types import Geometry, NetworkInput

__all__ = [
    "ANY_NUMBER",
    "PARTS",
    "FlowPreparation",
    "FlowRoles",
    "Other",
    "OtherFlow",
    "Run",
    "heavy_parts",
    "with_runs",
]

Run = Callable[..., tuple[Tensor, ...]]
"""A part: tensors to tensors."""

PARTS = frozenset({"features", "rpn", "roi_head", "flow", "embedding"})
"""The names of `heavy_parts`."""

ANY_NUMBER = frozenset({"roi_head"})
"""The parts whose inputs [n, ...] go through together, however many."""


class FlowPreparation(nn.Module):
    """What the flow net does with each frame once: images [b, 3, H, W] to its input, [b, ...].

    Args:
        flow_net: Of the system.
        geometry: Of all images.
    """

    def __init__(self, flow_net: FlowNet, geometry: Geometry) -> None:
        super().__init__()
        self.flow_net = flow_net
        self.geometry = geometry

    def forward(self, images: Tensor) -> Tensor:
        """As `FlowNet.prepare`."""
        return self.flow_net.prepare(NetworkInput(images, (self.geometry,) * len(images)))


class FlowRoles(nn.Module):
    """What the flow net needs of prepared frames [b, ...] in either role."""

    def __init__(self, flow_net: FlowNet) -> None:
        super().__init__()
        self.flow_net = flow_net

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """As `FlowNet.as_current` and `FlowNet.as_reference`."""
        return self.flow_net.as_current(prepared), self.flow_net.as_reference(prepared)


class _RoILayers(nn.Module):
    """The fully connected layers of the RoI head."""

    def __init__(self, roi_head: RoIHead) -> None:
        super().__init__()
        self.roi_head = roi_head

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """RoI features [n, c, bins, bins] to logits and box deltas."""
        return self.roi_head.classify(pooled)


def heavy_parts(system: VideoDetector) -> dict[str, nn.Module]:
    """The parts by name, each a module of tensors in evaluation mode.

    "features" is backbone and neck, "rpn" the convolutions of the RPN, "roi_head" the layers after RoIAlign; "flow" is
    the flow of a pair in their roles, and "embedding" FGFA's. A part that the system does not have is left out; so is
    DIS, which is OpenCV's.
    """
    detector = system.detector
    parts: dict[str, nn.Module] = {
        "features": nn.Sequential(detector.backbone, detector.neck),
        "rpn": detector.rpn,
        "roi_head": _RoILayers(detector.roi_head),
    }
    if system.flow_net and not isinstance(system.flow_net, DISFlow):
        parts["flow"] = system.flow_net
    if system.embedding:
        parts["embedding"] = system.embedding
    return {name: part.eval() for name, part in parts.items()}


class Other(nn.Module):
    """A module of one input and one output that something else computes."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run

    def forward(self, x: Tensor) -> Tensor:
        """The one output."""
        (found,) = self._run(x)
        return found


class _OtherRPN(RPN):
    """An RPN whose convolutions something else computes; all else is that of the given one."""

    def __init__(self, rpn: RPN, run: Run) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(rpn))
        self._run = run

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """As `RPN`."""
        objectness, deltas = self._run(features)
        return objectness, deltas


class _OtherRoIHead(RoIHead):
    """A RoI head whose layers something else computes; all else is that of the given one."""

    def __init__(self, roi_head: RoIHead, run: Run) -> None:
        nn.Module.__init__(self)
        vars(self).update(vars(roi_head))
        self._run = run

    def classify(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        """As `RoIHead`."""
        logits, deltas = self._run(pooled)
        return logits, deltas


class OtherFlow:
    """A flow net that something else computes, but for its little that depends on the role of a frame.

    Args:
        flow_net: The flow net.
        prepare: Gives the function that prepares images of this geometry.
        pair: Frames in their roles to flow.
    """

    def __init__(self, flow_net: FlowNet, prepare: Callable[[Geometry], Run], pair: Run) -> None:
        self.as_current = flow_net.as_current
        self.as_reference = flow_net.as_reference
        self._prepare = prepare
        self._pair = pair

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """As the flow net."""
        rows = zip(inputs.images.split(1), inputs.geometries, strict=True)
        return torch.cat([self._prepare(geometry)(image)[0] for image, geometry in rows])

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """As the flow net."""
        (flow,) = self._pair(current, reference)
        return flow


def with_runs(detector: Detector, features: Run, rpn: Run, roi_head: Run) -> Detector:
    """A detector in which these functions compute; backbone and neck are one of them, so that the neck is nothing."""
    return Detector(
        Other(features), nn.Identity(), _OtherRPN(detector.rpn, rpn), _OtherRoIHead(detector.roi_head, roi_head)
    ).eval()
