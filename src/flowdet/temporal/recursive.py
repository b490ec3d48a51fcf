"""Sparse recursive aggregation (Towards High Performance Video Object Detection, 2018): a memory that key frames share.

Section 3.1 of the paper, with a fixed schedule of key frames and without its learnt flow quality.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.errors import ConfigError, check_positive
from flowdet.ops.aggregate import aggregate, cosine_similarity
from flowdet.ops.warp import WarpConvention, warp
from flowdet.temporal.base import Embed, Extract, FlowNet
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.types import Aggregation, ClipBatch, FrameFeatures, NetworkInput, Propagation

__all__ = ["Recursive", "RecursiveConfig", "RecursiveState"]


@dataclass(frozen=True)
class RecursiveConfig:
    """The key frame schedule, and how the memory is weighed.

    Attributes:
        key_frame_interval: Frames from one key frame to the next.
        memory: How many frames the memory counts for beside the key frame's own features, if both are alike.
        warp: Which sampling grid, see `WarpConvention`.
        sharpness: Factor on the similarities before the softmax.
        embedding_channels: Of the map whose similarity gives the weights.
    """

    key_frame_interval: int = 2
    memory: float = 1.0
    warp: WarpConvention = "identity"
    sharpness: float = 1.0
    embedding_channels: int = 512

    def __post_init__(self) -> None:
        check_positive(self, "key_frame_interval", "embedding_channels")
        if self.memory < 0 or self.sharpness < 0:
            raise ConfigError(f"memory and sharpness are 0 or more, not {self.memory} and {self.sharpness}")


@dataclass(frozen=True, eq=False, slots=True)
class RecursiveState:
    """How many frames came, and the last key frame: the memory as it left it, and what the flow net needs of it."""

    received: int
    memory: Tensor | None
    flow_reference: Tensor | None


@dataclass(frozen=True)
class Recursive:
    """Key frames are averaged with the memory of those before, warped; the frames between take the memory, warped."""

    extract: Extract
    flow_net: FlowNet
    embed: Embed
    config: RecursiveConfig

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self) -> RecursiveState:
        """No memory yet."""
        return RecursiveState(0, None, None)

    def step(self, inputs: NetworkInput, state: RecursiveState) -> tuple[list[FrameFeatures], RecursiveState]:
        """Takes the next frame and gives its features at once."""
        now, flow_input = state.received, self.flow_net.prepare(inputs)
        origin: Aggregation | Propagation
        if state.memory is None or state.flow_reference is None:
            features = self.extract(inputs.images)
            origin = Propagation((now,) * len(features), None)
            following = RecursiveState(now + 1, features, self.flow_net.as_reference(flow_input))
        else:
            past = now % self.config.key_frame_interval
            flow = self.flow_net(self.flow_net.as_current(flow_input), state.flow_reference)
            carried = warp(state.memory, flow, self.config.warp)
            if past:
                features, origin = carried, Propagation((now - past,) * len(carried), flow)
                following = RecursiveState(now + 1, state.memory, state.flow_reference)
            else:
                features, weights = self._renew(self.extract(inputs.images), carried)
                origin = Aggregation((now - self.config.key_frame_interval,), flow[:, None], weights)
                following = RecursiveState(now + 1, features, self.flow_net.as_reference(flow_input))
        return [FrameFeatures(now, features, inputs.geometries, origin)], following

    def flush(self, state: RecursiveState) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def _renew(self, own: Tensor, carried: Tensor) -> tuple[Tensor, Tensor]:
        """The average [b, c, h, w] of a key frame's own features and the memory, and their weights [b, 2, h, w]."""
        query = self.embed(own)
        keys = torch.stack((query, self.embed(carried)), dim=1)
        similarity = self.config.sharpness * cosine_similarity(query, keys)
        return aggregate(torch.stack((own, carried), dim=1), similarity, own.new_tensor([1, self.config.memory]))

    def training_features(self, clips: ClipBatch) -> Tensor:
        """As FGFA: it is for FGFA's weights, and has no training of its own."""
        config = FGFAConfig(warp=self.config.warp, sharpness=self.config.sharpness)
        return FGFA(self.extract, self.flow_net, self.embed, config).training_features(clips)
