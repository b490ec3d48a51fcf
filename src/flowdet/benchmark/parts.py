"""A system taken apart: what each part of it costs in seconds, or in arithmetic."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from flowdet.detectors.faster_rcnn import Detector
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.adaptive_dff import AdaptiveDFF
from flowdet.temporal.base import Embed, Extract, FlowNet, TemporalMethod
from flowdet.temporal.dff import DFF
from flowdet.temporal.fast_fgfa import FastFGFA
from flowdet.temporal.fgfa import FGFA
from flowdet.temporal.recursive import Recursive
from flowdet.temporal.single import SingleFrame
from flowdet.types import FrameFeatures, Geometry, NetworkInput

__all__ = ["Meter", "MeteredDetector", "MeteredMethod", "metered"]


class Meter:
    """Adds up what parts cost. The cost of a part within another one is counted for the inner one only.

    Args:
        read: The total cost so far: a clock, or a counter of operations.
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self._read = read
        self._costs: dict[str, float] = {}
        self._inner: list[float] = []

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Counts what happens in this `with` statement as that part's."""
        self._inner.append(0.0)
        began = self._read()
        yield
        cost = self._read() - began
        self._costs[name] = self._costs.get(name, 0.0) + cost - self._inner.pop()
        if self._inner:
            self._inner[-1] += cost

    def take(self) -> Mapping[str, float]:
        """The costs by part since they were taken last."""
        costs, self._costs = self._costs, {}
        return costs


class _Warps(TorchFunctionMode):
    """Sees the sampling of a warp, which happens in the middle of a method."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func not in (F.grid_sample, F.embedding_bag):
            return func(*args, **(kwargs or {}))
        with self._meter.part("warp"):
            return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _MeteredFlow:
    """A flow net whose steps are metered."""

    flow_net: FlowNet
    meter: Meter

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """As the flow net."""
        with self.meter.part("flow"):
            return self.flow_net.prepare(inputs)

    def as_current(self, prepared: Tensor) -> Tensor:
        """As the flow net."""
        with self.meter.part("flow"):
            return self.flow_net.as_current(prepared)

    def as_reference(self, prepared: Tensor) -> Tensor:
        """As the flow net."""
        with self.meter.part("flow"):
            return self.flow_net.as_reference(prepared)

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """As the flow net."""
        with self.meter.part("flow"):
            return self.flow_net(current, reference)


@dataclass(frozen=True)
class MeteredMethod:
    """A temporal method that gives the same features and meters what it does.

    Attributes:
        method: Its callables are metered.
        rest: The part that all else within the method belongs to.
        meter: Takes the costs.
    """

    method: TemporalMethod[Any]
    rest: str
    meter: Meter

    def step(self, inputs: NetworkInput, state: Any) -> tuple[list[FrameFeatures], Any]:
        """As the method."""
        with self.meter.part(self.rest), _Warps(self.meter):
            return self.method.step(inputs, state)


@dataclass(frozen=True)
class MeteredDetector:
    """The steps of a detector, each metered; the results are the same.

    "rpn" and "roi_head" are the networks, RoIAlign included; "proposals" is what follows the former (choice of the best
    anchors, decoding, non-maximum suppression), "nms" what follows the latter.
    """

    detector: Detector
    meter: Meter

    def extract(self, images: Tensor) -> Tensor:
        """As the detector."""
        with self.meter.part("backbone"):
            maps = self.detector.backbone(images)
        if isinstance(self.detector.neck, nn.Identity):
            return maps  # type: ignore[no-any-return]  # a runtime computed both at once
        with self.meter.part("neck"):
            features: Tensor = self.detector.neck(maps)
        return features

    def detect(self, features: Tensor, geometries: Sequence[Geometry]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """As the detector."""
        rpn, roi_head = self.detector.rpn, self.detector.roi_head
        with self.meter.part("rpn"):
            objectness, deltas = rpn(features)
        with self.meter.part("proposals"):
            proposals = rpn.propose(objectness, deltas, geometries, rpn.config.post_nms_top_n)
        with self.meter.part("roi_head"):
            logits, moves = roi_head(features, proposals)
        with self.meter.part("nms"):
            return roi_head.detect(logits, moves, proposals, geometries)


def metered(system: VideoDetector, meter: Meter) -> tuple[MeteredMethod, MeteredDetector]:
    """The method and the detector of a system with a meter on each part; the system stays as it is."""
    detector = MeteredDetector(system.parts.detector, meter)
    method, rest = _metered_method(system.method, detector.extract, meter)
    return MeteredMethod(method, rest, meter), detector


def _metered_method(method: TemporalMethod[Any], extract: Extract, meter: Meter) -> tuple[TemporalMethod[Any], str]:
    match method:
        case FGFA() | FastFGFA() | Recursive():
            flow_net, embed = _MeteredFlow(method.flow_net, meter), _metered_embedding(method.embed, meter)
            return replace(method, extract=extract, flow_net=flow_net, embed=embed), "aggregation"
        case DFF() | AdaptiveDFF():
            return replace(method, extract=extract, flow_net=_MeteredFlow(method.flow_net, meter)), "warp"
        case SingleFrame():
            return replace(method, extract=extract), "other"
        case _:
            raise TypeError(f"it is not known what {type(method).__name__} is made of")


def _metered_embedding(embed: Embed, meter: Meter) -> Embed:
    def metered_embed(features: Tensor) -> Tensor:
        with meter.part("aggregation"):
            return embed(features)

    return metered_embed
