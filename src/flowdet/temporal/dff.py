"""Deep Feature Flow (CVPR 2017): features of sparse key frames, carried along the flow to the frames between."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.errors import check_positive
from flowdet.ops.warp import WarpConvention, warp
from flowdet.temporal.base import Extract, FlowNet
from flowdet.types import ClipBatch, FrameFeatures, NetworkInput, Propagation

__all__ = ["DFF", "DFFConfig", "DFFState"]


@dataclass(frozen=True)
class DFFConfig:
    """The key frame schedule; the defaults are the published protocol but for the warp.

    Attributes:
        key_frame_interval: Frames from one key frame to the next.
        warp: Which sampling grid, see `WarpConvention`.
    """

    key_frame_interval: int = 10
    warp: WarpConvention = "identity"

    def __post_init__(self) -> None:
        check_positive(self, "key_frame_interval")


@dataclass(frozen=True, eq=False, slots=True)
class DFFState:
    """How many frames came, and the last key frame: its features and what the flow net needs of it as a reference."""

    received: int
    features: Tensor | None
    flow_reference: Tensor | None


@dataclass(frozen=True)
class DFF:
    """Inference as in section 3.1 of the paper, with a fixed key frame schedule and without a scale map."""

    extract: Extract
    flow_net: FlowNet
    config: DFFConfig

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self) -> DFFState:
        """No key frame yet."""
        return DFFState(0, None, None)

    def step(self, inputs: NetworkInput, state: DFFState) -> tuple[list[FrameFeatures], DFFState]:
        """Features of the backbone on a key frame, else those of the last key frame, warped."""
        flow_input = self.flow_net.prepare(inputs)
        if (
            state.features is None
            or state.flow_reference is None
            or state.received % self.config.key_frame_interval == 0
        ):
            features = self.extract(inputs.images)
            origin = Propagation((state.received,) * len(features), None)
            following = DFFState(state.received + 1, features, self.flow_net.as_reference(flow_input))
        else:
            flow = self.flow_net(self.flow_net.as_current(flow_input), state.flow_reference)
            features = warp(state.features, flow, self.config.warp)
            key_frame = state.received - state.received % self.config.key_frame_interval
            origin = Propagation((key_frame,) * len(features), flow)
            following = DFFState(state.received + 1, state.features, state.flow_reference)
        return [FrameFeatures(state.received, features, inputs.geometries, origin)], following

    def flush(self, state: DFFState) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> Tensor:
        """Features of the one reference frame, warped to the current one; unwarped for a still (section 3.3)."""
        (reference,) = clips.references
        features = self.extract(reference.images)
        flow_net = self.flow_net
        flow = flow_net(
            flow_net.as_current(flow_net.prepare(clips.current)), flow_net.as_reference(flow_net.prepare(reference))
        )
        still = torch.tensor(clips.still, device=features.device)[:, None, None, None]
        return torch.where(still, features, warp(features, flow, self.config.warp))
