"""Deep Feature Flow (CVPR 2017): maps of sparse key frames, carried along the flow to the frames between."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import check_positive
from flowdet.flow.base import FlowNet
from flowdet.ops.devices import constant
from flowdet.ops.sampling import WarpConvention, warp_maps
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, Overlay
from flowdet.types import ClipBatch, FrameFeatures, Maps, NetworkInput, Propagation

__all__ = ["DFF", "DFFConfig", "DFFState", "Waiting"]


@dataclass(frozen=True)
class DFFConfig(MethodConfig):
    """The key frame schedule; the defaults are the published protocol but for the warp.

    Attributes:
        key_frame_interval: Frames from one key frame to the next.
        warp: Which sampling grid, see `WarpConvention`.
        bidirectional: Whether a frame between two key frames waits for the second and takes the maps of both, averaged
            with weights that fall linearly with the distance. Not in the paper.
    """

    key_frame_interval: int = 10
    warp: WarpConvention = "identity"
    bidirectional: bool = False

    uses_flow = True
    references = ReferenceSampling(count=1, reach=9, itself=True)
    overlays: ClassVar[frozenset[Overlay]] = frozenset(("flow", "key"))

    def __post_init__(self) -> None:
        check_positive(self, "key_frame_interval")

    @property
    def kinds(self) -> tuple[str, ...]:
        """A key frame, then the others; of one kind if these wait for the next key frame."""
        if self.bidirectional:
            return ("frame",) * self.key_frame_interval
        return ("key", *["other"] * (self.key_frame_interval - 1))

    @property
    def frames_used(self) -> str:
        """The last key frame, or the two around."""
        which = "the last key frame and the next" if self.bidirectional else "the last key frame"
        return f"{which}; one frame in {self.key_frame_interval} is a key frame"

    @property
    def window(self) -> tuple[int, int]:
        """The last key frame, and the next one if that counts too."""
        return 1, int(self.bidirectional)

    def first_needed(self, frame: int) -> int:
        """The last key frame."""
        return frame - frame % self.key_frame_interval

    def build(self, parts: MethodParts) -> "DFF":
        """Returns the method over these parts."""
        return DFF(parts.detector, parts.flow_net, self)

    def causal(self) -> "DFFConfig":
        """Returns the same with the last key frame alone."""
        if not self.bidirectional:
            raise self._already_causal("DFF from the last key frame")
        return replace(self, bidirectional=False)


@dataclass(frozen=True, eq=False, slots=True)
class Waiting:
    """A frame that waits for the next key frame.

    Attributes:
        carried: What it is without that one.
        flow_current: What the flow net needs of it.
    """

    carried: FrameFeatures
    flow_current: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class DFFState:
    """The number of frames so far, the last key frame's maps and what the flow net needs of it, and who waits."""

    received: int
    maps: Maps
    flow_reference: Tensor | None
    waiting: tuple[Waiting, ...] = ()


@dataclass(frozen=True)
class DFF:
    """Inference as in section 3.1 of the paper, with a fixed key frame schedule and without a scale map."""

    detector: MapSource
    flow_net: FlowNet
    config: DFFConfig

    @property
    def lookahead(self) -> int:
        """0, or as many frames as lie between two key frames: the first of them waits longest."""
        return self.config.key_frame_interval - 1 if self.config.bidirectional else 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> DFFState:
        """No key frame yet."""
        del preview
        return DFFState(0, (), None)

    def step(self, inputs: NetworkInput, state: DFFState) -> tuple[list[FrameFeatures], DFFState]:
        """Returns the maps of the backbone on a key frame, after those of who waited; else those carried from the last.

        A frame that waits returns none.
        """
        now, flow_input = state.received, self.flow_net.prepare(inputs)
        past = now % self.config.key_frame_interval
        if past == 0 or state.flow_reference is None:
            maps, reference = self.detector.extract(inputs.images), self.flow_net.as_reference(flow_input)
            key = FrameFeatures(now, maps, inputs.geometries, Propagation(now))
            waited = [self._between(each, key, reference) for each in state.waiting]
            return [*waited, key], DFFState(now + 1, maps, reference)
        current = self.flow_net.as_current(flow_input)
        flow = self.flow_net(current, state.flow_reference)
        maps = warp_maps(state.maps, flow, self.config.warp)
        carried = FrameFeatures(now, maps, inputs.geometries, Propagation(now - past, flow))
        if self.config.bidirectional:
            return [], replace(state, received=now + 1, waiting=(*state.waiting, Waiting(carried, current)))
        return [carried], replace(state, received=now + 1)

    def flush(self, state: DFFState) -> list[FrameFeatures]:
        """Returns what the frames that still wait take from the last key frame, as no other comes."""
        return [each.carried for each in state.waiting]

    def _between(self, frame: Waiting, key: FrameFeatures, flow_reference: Tensor) -> FrameFeatures:
        """The maps of a frame from both key frames around it, the second of which is given."""
        origin, interval = frame.carried.origin, self.config.key_frame_interval
        assert isinstance(origin, Propagation)
        flow = self.flow_net(frame.flow_current, flow_reference)
        others = warp_maps(key.maps, flow, self.config.warp)
        share = (frame.carried.index - origin.key_frame) / interval
        maps = tuple(mine.lerp(other, share) for mine, other in zip(frame.carried.maps, others, strict=True))
        return replace(frame.carried, maps=maps, origin=replace(origin, next_flow=flow, next_key_frame=key.index))

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
