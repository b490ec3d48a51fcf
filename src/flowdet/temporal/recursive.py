"""Sparse recursive aggregation (Towards High Performance Video Object Detection, 2018): a memory that key frames share.

Section 3.1 of the paper, with a fixed schedule of key frames and without its learnt flow quality.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Never

import torch
from torch import Tensor, nn

from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import ConfigError, check_positive
from flowdet.flow.base import FlowNet
from flowdet.ops.devices import constant
from flowdet.ops.sampling import WarpConvention, warp_maps
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, Overlay
from flowdet.temporal.similarity import (
    Embed,
    aggregate,
    aggregate_clips,
    cosine_similarity,
    embedding_modules,
    with_modules,
)
from flowdet.types import Aggregation, ClipBatch, FrameFeatures, Maps, NetworkInput, Propagation

__all__ = ["Recursive", "RecursiveConfig", "RecursiveState"]


@dataclass(frozen=True)
class RecursiveConfig(MethodConfig):
    """The key frame schedule, and how the memory is weighed.

    Attributes:
        key_frame_interval: Frames from one key frame to the next.
        memory: The number of frames that the memory counts for beside the key frame, if both are alike.
        warp: Which sampling grid, see `WarpConvention`.
        sharpness: Factor on the similarities before the softmax.
        embedding_channels: Channels of the maps that are compared for the weights; None: the maps themselves.
    """

    key_frame_interval: int = 2
    memory: float = 1.0
    warp: WarpConvention = "identity"
    sharpness: float = 1.0
    embedding_channels: int | None = 512

    uses_flow = True
    references = ReferenceSampling(count=2, reach=9, both_sides=True)
    overlays: ClassVar[frozenset[Overlay]] = frozenset(("flow", "weights", "key"))

    def __post_init__(self) -> None:
        check_positive(self, "key_frame_interval", "embedding_channels")
        if self.memory < 0 or self.sharpness < 0:
            raise ConfigError(f"memory and sharpness are 0 or more, not {self.memory} and {self.sharpness}")

    @property
    def kinds(self) -> tuple[str, ...]:
        """A key frame, then the others."""
        return ("key", *["other"] * (self.key_frame_interval - 1))

    @property
    def frames_used(self) -> str:
        """All key frames."""
        return f"all key frames so far; one frame in {self.key_frame_interval} is a key frame"

    def modules(self, channels: Sequence[int]) -> dict[str, nn.Module]:
        """The embedding of each map, as FGFA's."""
        return embedding_modules(channels, self.embedding_channels)

    def build(self, parts: MethodParts) -> "Recursive":
        """Returns the method over these parts."""
        return Recursive(parts.detector, parts.flow_net, with_modules(parts.modules), self)

    def causal(self) -> Never:
        """The memory holds earlier frames only."""
        raise self._already_causal("recursive aggregation")


@dataclass(frozen=True, eq=False, slots=True)
class RecursiveState:
    """The number of frames so far, the memory at the last key frame, and what the flow net needs of that frame."""

    received: int
    memory: Maps
    flow_reference: Tensor | None


@dataclass(frozen=True)
class Recursive:
    """Key frames are averaged with the memory of those before, warped; the frames between take the memory, warped."""

    detector: MapSource
    flow_net: FlowNet
    embed: Embed
    config: RecursiveConfig

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> RecursiveState:
        """No memory yet."""
        del preview
        return RecursiveState(0, (), None)

    def step(self, inputs: NetworkInput, state: RecursiveState) -> tuple[list[FrameFeatures], RecursiveState]:
        """Takes the next frame and returns its features at once."""
        now, flow_input = state.received, self.flow_net.prepare(inputs)
        origin: Aggregation | Propagation
        if state.flow_reference is None:
            maps = self.detector.extract(inputs.images)
            origin = Propagation(now)
            following = RecursiveState(now + 1, maps, self.flow_net.as_reference(flow_input))
        else:
            past = now % self.config.key_frame_interval
            flow = self.flow_net(self.flow_net.as_current(flow_input), state.flow_reference)
            maps = warp_maps(state.memory, flow, self.config.warp)
            origin = Propagation(now - past, flow)
            following = RecursiveState(now + 1, state.memory, state.flow_reference)
            if past == 0:
                maps, weights = self._renew(self.detector.extract(inputs.images), maps)
                origin = Aggregation((now - self.config.key_frame_interval,), weights[0], flow[:, None])
                following = RecursiveState(now + 1, maps, self.flow_net.as_reference(flow_input))
        return [FrameFeatures(now, maps, inputs.geometries, origin)], following

    def flush(self, state: RecursiveState) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def _renew(self, own: Maps, carried: Maps) -> tuple[Maps, Maps]:
        """The averages of a key frame's own maps and the memory, and their weights [b, 2, h, w]."""
        pairs = []
        for query, key, mine, memory in zip(self.embed(own), self.embed(carried), own, carried, strict=True):
            similarity = self.config.sharpness * cosine_similarity(query, torch.stack((query, key), dim=1))
            shares = constant((1, self.config.memory), mine.dtype, mine.device)
            pairs.append(aggregate(torch.stack((mine, memory), dim=1), similarity, shares))
        averages, weights = zip(*pairs, strict=True)
        return averages, weights

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """As FGFA, whose weights it takes: the method has no training of its own."""
        return aggregate_clips(
            clips,
            self.detector,
            self.flow_net,
            self.embed,
            convention=self.config.warp,
            sharpness=self.config.sharpness,
        )
