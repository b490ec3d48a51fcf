"""Deep Feature Flow with key frames where they are needed, instead of every so many frames."""

from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.errors import ConfigError, check_positive
from flowdet.ops.flow import mean_length
from flowdet.ops.warp import WarpConvention, warp
from flowdet.temporal.base import Extract, FlowNet
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.types import ClipBatch, FrameFeatures, NetworkInput, Propagation

__all__ = ["AdaptiveDFF", "AdaptiveDFFConfig", "AdaptiveDFFState"]


@dataclass(frozen=True)
class AdaptiveDFFConfig:
    """When a frame becomes a key frame.

    Attributes:
        longest_flow: Feature cells. A frame whose flow to the key frame is longer in the mean becomes a key frame.
        shortest_interval: Frames from one key frame to the next at least, however long the flow is.
        longest_interval: Frames from one key frame to the next at most, however short the flow is.
        warp: Which sampling grid, see `WarpConvention`.
    """

    longest_flow: float = 0.3
    shortest_interval: int = 2
    longest_interval: int = 10
    warp: WarpConvention = "identity"

    def __post_init__(self) -> None:
        check_positive(self, "shortest_interval", "longest_interval")
        if self.longest_interval < self.shortest_interval:
            raise ConfigError(
                f"key frames are {self.shortest_interval} frames apart at least and {self.longest_interval} at most: "
                "the most must not be less than the least"
            )
        if self.longest_flow < 0:
            raise ConfigError(f"the longest flow is a distance in feature cells, 0 or more, not {self.longest_flow}")


@dataclass(frozen=True, eq=False, slots=True)
class AdaptiveDFFState:
    """How many frames came, and for each stream its key frame: number, features, what the flow net needs of it."""

    received: int
    key_frames: tuple[int, ...]
    features: Tensor | None
    flow_reference: Tensor | None


@dataclass(frozen=True)
class AdaptiveDFF:
    """DFF whose flow decides, stream by stream, when the key frame has been left behind."""

    extract: Extract
    flow_net: FlowNet
    config: AdaptiveDFFConfig

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self) -> AdaptiveDFFState:
        """No key frame yet."""
        return AdaptiveDFFState(0, (), None, None)

    def step(self, inputs: NetworkInput, state: AdaptiveDFFState) -> tuple[list[FrameFeatures], AdaptiveDFFState]:
        """Features of the backbone in the streams where a key frame is due, else those of the key frame, warped."""
        now, flow_input = state.received, self.flow_net.prepare(inputs)
        ages = [now - key for key in state.key_frames]
        if state.features is None or state.flow_reference is None or min(ages) >= self.config.longest_interval:
            return self._all_key_frames(inputs, flow_input, now)
        flow = self.flow_net(self.flow_net.as_current(flow_input), state.flow_reference)
        due = self._due(ages, flow)
        if len(due) == len(ages):
            return self._all_key_frames(inputs, flow_input, now)
        features = warp(state.features, flow, self.config.warp)
        following = AdaptiveDFFState(now + 1, state.key_frames, state.features, state.flow_reference)
        if due:
            rows = torch.tensor(due, device=flow.device)
            fresh = self.extract(inputs.images[rows])
            features, flow = features.index_copy(0, rows, fresh), flow.index_fill(0, rows, 0)
            following = AdaptiveDFFState(
                now + 1,
                tuple(now if row in due else key for row, key in enumerate(state.key_frames)),
                state.features.index_copy(0, rows, fresh),
                state.flow_reference.index_copy(0, rows, self.flow_net.as_reference(flow_input[rows])),
            )
        origin = Propagation(following.key_frames, flow)
        return [FrameFeatures(now, features, inputs.geometries, origin)], following

    def _all_key_frames(
        self, inputs: NetworkInput, flow_input: Tensor, now: int
    ) -> tuple[list[FrameFeatures], AdaptiveDFFState]:
        features = self.extract(inputs.images)
        key_frames = (now,) * len(features)
        output = FrameFeatures(now, features, inputs.geometries, Propagation(key_frames, None))
        return [output], AdaptiveDFFState(now + 1, key_frames, features, self.flow_net.as_reference(flow_input))

    def _due(self, ages: list[int], flow: Tensor) -> list[int]:
        """The streams whose current frame becomes a key frame."""
        config = self.config
        lengths = mean_length(flow).tolist()
        return [
            row
            for row, (age, length) in enumerate(zip(ages, lengths, strict=True))
            if age >= config.longest_interval or (age >= config.shortest_interval and length > config.longest_flow)
        ]

    def flush(self, state: AdaptiveDFFState) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> Tensor:
        """As DFF: when a key frame is due makes no difference in training."""
        return DFF(self.extract, self.flow_net, DFFConfig(warp=self.config.warp)).training_features(clips)
