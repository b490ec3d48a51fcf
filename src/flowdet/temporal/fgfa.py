"""Flow-Guided Feature Aggregation (ICCV 2017): the features of nearby frames, warped and averaged by similarity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.errors import ConfigError, check_positive
from flowdet.ops.aggregate import add_weighted, aggregate, cosine_similarity
from flowdet.ops.warp import WarpConvention, warp
from flowdet.temporal.base import Embed, Extract, FlowNet
from flowdet.types import Aggregation, ClipBatch, FrameFeatures, Geometry, NetworkInput

__all__ = ["FGFA", "FGFAConfig", "FGFAState", "WindowFrame", "window_slots"]


@dataclass(frozen=True)
class FGFAConfig:
    """The window and its parts; the defaults are the published protocol but for the warp.

    Attributes:
        past: Reference frames before the current one.
        future: Reference frames after it; 0 is the causal mode, which the paper does not have.
        stride: Frames from one reference frame to the next.
        warp: Which sampling grid, see `WarpConvention`.
        sharpness: Factor on the similarities before the softmax; with 1, as published, the largest weight of two maps
            is at most e^2 times the other.
        embedding_channels: Of the map whose similarity gives the weights.
        references_at_once: Reference frames that go through flow net and warp together.
    """

    past: int = 15
    future: int = 15
    stride: int = 1
    warp: WarpConvention = "identity"
    sharpness: float = 1.0
    embedding_channels: int = 512
    references_at_once: int = 4

    def __post_init__(self) -> None:
        if min(self.past, self.future) < 0:
            raise ConfigError(f"a window has 0 or more frames on each side, not {self.past} and {self.future}")
        if self.sharpness < 0:
            raise ConfigError(f"the sharpness of aggregation weights is 0 or more, not {self.sharpness}")
        check_positive(self, "stride", "embedding_channels", "references_at_once")


def window_slots(current: int, last: int, config: FGFAConfig) -> list[int]:
    """The frame in each slot of the current frame's window, repeated at both ends of the video.

    With a stride the references stand on its multiples, and the current frame takes the place of the middle one.

    Args:
        current: Number of the current frame.
        last: Number of the last frame of the video, or any frame not before the end of the window.
        config: Past, future and stride of the window.
    """
    middle = current // config.stride * config.stride
    offsets = range(-config.past, config.future + 1)
    slots = [min(max(middle + offset * config.stride, 0), last) for offset in offsets]
    slots[config.past] = current
    return slots


@dataclass(frozen=True, eq=False, slots=True)
class WindowFrame:
    """What is kept of a frame: its own features, and what the flow net needs of it, at all and as a reference.

    Of the published systems at 608x1008 that is 4.9, 1.8 and 9.8 MB, and there are 31 frames in the window.
    """

    index: int
    features: Tensor
    flow_input: Tensor
    flow_reference: Tensor
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True, eq=False, slots=True)
class FGFAState:
    """How many frames came and went out, and the frames that a window still needs, oldest first."""

    received: int
    emitted: int
    window: tuple[WindowFrame, ...]


@dataclass(frozen=True)
class FGFA:
    """Inference as in section 3.3 of the paper, embedding after the warp; the centred window makes it late."""

    extract: Extract
    flow_net: FlowNet
    embed: Embed
    config: FGFAConfig

    @property
    def lookahead(self) -> int:
        """Frames after the current one that its window reaches."""
        return self.config.future * self.config.stride

    def initial_state(self) -> FGFAState:
        """An empty window."""
        return FGFAState(0, 0, ())

    def step(self, inputs: NetworkInput, state: FGFAState) -> tuple[list[FrameFeatures], FGFAState]:
        """Takes frame t; gives the features of frame t - lookahead once there is one."""
        entry = self._window_frame(state.received, self.extract(inputs.images), inputs)
        window = (*state.window, entry)
        if state.received - state.emitted < self.lookahead:
            return [], FGFAState(state.received + 1, state.emitted, window)
        output = self._emit(state.emitted, state.received, window)
        following = state.emitted + 1
        oldest = (following // self.config.stride - self.config.past) * self.config.stride
        window = tuple(frame for frame in window if frame.index >= min(oldest, following))
        return [output], FGFAState(state.received + 1, following, window)

    def flush(self, state: FGFAState) -> list[FrameFeatures]:
        """The features of the last frames, whose windows end with the video."""
        last = state.received - 1
        return [self._emit(current, last, state.window) for current in range(state.emitted, state.received)]

    def _emit(self, current: int, last: int, window: Sequence[WindowFrame]) -> FrameFeatures:
        frames = {frame.index: frame for frame in window}
        slots = window_slots(current, last, self.config)
        del slots[self.config.past]
        repeats = Counter(slots)
        references = [frames[index] for index in sorted(repeats)]
        counts = [repeats[frame.index] for frame in references]
        features, origin = self.aggregate(frames[current], references, counts)
        return FrameFeatures(current, features, frames[current].geometries, origin)

    def _window_frame(self, index: int, features: Tensor, inputs: NetworkInput) -> WindowFrame:
        flow_input = self.flow_net.prepare(inputs)
        return WindowFrame(index, features, flow_input, self.flow_net.as_reference(flow_input), inputs.geometries)

    def aggregate(
        self, current: WindowFrame, references: Sequence[WindowFrame], repeats: Sequence[int]
    ) -> tuple[Tensor, Aggregation]:
        """Averages the current frame's own features and the warped ones of its references.

        Args:
            current: The current frame; its own features fill one slot.
            references: Each frame of the other slots once.
            repeats: How many slots each of them fills.

        Returns:
            Features [b, c, h, w], and the flows and weights that led to them.
        """
        query, flow_current = self.embed(current.features), self.flow_net.as_current(current.flow_input)
        own = self._odds(query, query[:, None])
        features, odds = own * current.features, [own]
        flows = [query.new_empty(len(query), 0, 2, *query.shape[2:])]
        for start in range(0, len(references), self.config.references_at_once):
            chunk = slice(start, start + self.config.references_at_once)
            flow, warped, keys = self._warp(flow_current, references[chunk])
            flows.append(flow)
            odds.append(self._odds(query, keys) * query.new_tensor(repeats[chunk])[:, None, None])
            add_weighted(features, warped, odds[-1])
        weights = torch.cat(odds, dim=1)
        total = weights.sum(dim=1, keepdim=True)
        origin = Aggregation(tuple(frame.index for frame in references), torch.cat(flows, dim=1), weights / total)
        return features / total, origin

    def _odds(self, query: Tensor, keys: Tensor) -> Tensor:
        """The weights [b, n, h, w] but for a common factor; 1, the largest, for the query itself."""
        return (self.config.sharpness * (cosine_similarity(query, keys) - 1)).exp()

    def _warp(self, current: Tensor, references: Sequence[WindowFrame]) -> tuple[Tensor, Tensor, Tensor]:
        """Flows [b, n, 2, h, w] to n references, their warped features [b, n, c, h, w] and the embeddings of these.

        Args:
            current: What the flow net needs of the current frame.
            references: The n references.
        """
        shape = (len(current), len(references))
        # For a single stream this is a view.
        repeated = current[:, None].expand(-1, shape[1], *current.shape[1:]).flatten(0, 1)
        flow = self.flow_net(repeated, _together([frame.flow_reference for frame in references]))
        warped = warp(_together([frame.features for frame in references]), flow, self.config.warp)
        return flow.unflatten(0, shape), warped.unflatten(0, shape), self.embed(warped).unflatten(0, shape)

    def training_features(self, clips: ClipBatch) -> Tensor:
        """The warped references, averaged; the current frame gives only the query (section 3.4, temporal dropout)."""
        inputs = (clips.current, *clips.references)
        features = self.extract(torch.cat([i.images for i in inputs])).chunk(len(inputs))
        current, *references = (
            self._window_frame(index, maps, i) for index, (maps, i) in enumerate(zip(features, inputs, strict=True))
        )
        _, warped, keys = self._warp(self.flow_net.as_current(current.flow_input), references)
        similarity = self.config.sharpness * cosine_similarity(self.embed(current.features), keys)
        return aggregate(warped, similarity, similarity.new_ones(len(references)))[0]


def _together(maps: Sequence[Tensor]) -> Tensor:
    """Maps [b, ...] of n frames as one [b * n, ...]."""
    return maps[0] if len(maps) == 1 else torch.stack(tuple(maps), dim=1).flatten(0, 1)
