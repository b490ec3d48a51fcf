"""Deep Feature Flow (CVPR 2017): maps of sparse key frames, carried along the flow to the frames between."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Never

import torch
from torch import Tensor

from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import check_positive
from flowdet.flow.base import FlowNet
from flowdet.ops.devices import constant
from flowdet.ops.sampling import WarpConvention, warp_maps
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, Overlay
from flowdet.types import ClipBatch, FrameFeatures, Maps, NetworkInput, Propagation

__all__ = ["DFF", "DFFConfig", "DFFState"]


@dataclass(frozen=True)
class DFFConfig(MethodConfig):
    """The key frame schedule; the defaults are the published protocol but for the warp.

    Attributes:
        key_frame_interval: Frames from one key frame to the next.
        warp: Which sampling grid, see `WarpConvention`.
    """

    key_frame_interval: int = 10
    warp: WarpConvention = "identity"

    uses_flow = True
    references = ReferenceSampling(count=1, reach=9, itself=True)
    overlays: ClassVar[frozenset[Overlay]] = frozenset(("flow", "key"))

    def __post_init__(self) -> None:
        check_positive(self, "key_frame_interval")

    @property
    def kinds(self) -> tuple[str, ...]:
        """A key frame, then the others."""
        return ("key", *["other"] * (self.key_frame_interval - 1))

    @property
    def frames_used(self) -> str:
        """The last key frame."""
        return f"the last key frame; one frame in {self.key_frame_interval} is a key frame"

    def first_needed(self, frame: int) -> int:
        """The last key frame."""
        return frame - frame % self.key_frame_interval

    def build(self, parts: MethodParts) -> "DFF":
        """Returns the method over these parts."""
        return DFF(parts.detector, parts.flow_net, self)

    def causal(self) -> Never:
        """DFF is causal as it is."""
        raise self._already_causal("DFF")


@dataclass(frozen=True, eq=False, slots=True)
class DFFState:
    """The number of frames so far, and the last key frame: its maps, and what the flow net needs of it."""

    received: int
    maps: Maps
    flow_reference: Tensor | None


@dataclass(frozen=True)
class DFF:
    """Inference as in section 3.1 of the paper, with a fixed key frame schedule and without a scale map."""

    detector: MapSource
    flow_net: FlowNet
    config: DFFConfig

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> DFFState:
        """No key frame yet."""
        del preview
        return DFFState(0, (), None)

    def step(self, inputs: NetworkInput, state: DFFState) -> tuple[list[FrameFeatures], DFFState]:
        """Returns the maps of the backbone on a key frame, else those of the last key frame, warped."""
        now, flow_input = state.received, self.flow_net.prepare(inputs)
        past = now % self.config.key_frame_interval
        if past == 0 or state.flow_reference is None:
            maps = self.detector.extract(inputs.images)
            output = FrameFeatures(now, maps, inputs.geometries, Propagation(now))
            return [output], DFFState(now + 1, maps, self.flow_net.as_reference(flow_input))
        flow = self.flow_net(self.flow_net.as_current(flow_input), state.flow_reference)
        maps = warp_maps(state.maps, flow, self.config.warp)
        output = FrameFeatures(now, maps, inputs.geometries, Propagation(now - past, flow))
        return [output], DFFState(now + 1, state.maps, state.flow_reference)

    def flush(self, state: DFFState) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """Returns the maps of the one reference frame, warped to the current one unless it is a still (section 3.3)."""
        (reference,) = clips.references
        maps, flow_net = self.detector.extract(reference.images), self.flow_net
        flow = flow_net(
            flow_net.as_current(flow_net.prepare(clips.current)), flow_net.as_reference(flow_net.prepare(reference))
        )
        still = constant(tuple(clips.still), torch.bool, flow.device)[:, None, None, None]
        moved = warp_maps(maps, flow, self.config.warp)
        warped = tuple(torch.where(still, own, other) for own, other in zip(maps, moved, strict=True))
        return FrameFeatures(0, warped, clips.current.geometries)
