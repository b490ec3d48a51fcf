"""Two methods that the package does not know, each as whoever adds one would write it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Never

import torch
from torch import Tensor, nn

from flowdet.data.sampling import ReferenceSampling
from flowdet.detectors.base import RoIAttention
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts
from flowdet.types import Aggregation, ClipBatch, FrameFeatures, Maps, NetworkInput

__all__ = ["LastRoIsConfig", "MeanOfPastConfig"]


@dataclass(frozen=True)
class MeanOfPastConfig(MethodConfig):
    """The mean of the maps of the last frames, without flow."""

    frames: int = 3

    uses_flow = False
    references = ReferenceSampling(count=2)
    kinds = ("frame",)
    overlays = frozenset(("weights",))

    @property
    def window(self) -> tuple[int, int]:
        return self.frames - 1, 0

    def build(self, parts: MethodParts) -> "MeanOfPast":
        return MeanOfPast(parts.detector, self.frames)

    def causal(self) -> Never:
        raise self._already_causal("the mean of past frames")


@dataclass(frozen=True, eq=False)
class PastMaps:
    received: int
    window: tuple[Maps, ...]


@dataclass(frozen=True)
class MeanOfPast:
    detector: MapSource
    frames: int
    lookahead: int = 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> PastMaps:
        return PastMaps(0, ())

    def step(self, inputs: NetworkInput, state: PastMaps) -> tuple[list[FrameFeatures], PastMaps]:
        window = (*state.window, self.detector.extract(inputs.images))[-self.frames :]
        maps = tuple(torch.stack(level).mean(dim=0) for level in zip(*window, strict=True))
        count, (height, width) = len(window), maps[-1].shape[-2:]
        weights = torch.full((len(inputs.images), count, height, width), 1 / count)
        origin = Aggregation(tuple(range(state.received - count + 1, state.received)), weights)
        return [FrameFeatures(state.received, maps, inputs.geometries, origin)], PastMaps(state.received + 1, window)

    def flush(self, state: PastMaps) -> list[FrameFeatures]:
        return []

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        frames = [self.detector.extract(each.images) for each in (clips.current, *clips.references)]
        maps = tuple(torch.stack(level).mean(dim=0) for level in zip(*frames, strict=True))
        return FrameFeatures(0, maps, clips.current.geometries)


@dataclass(frozen=True)
class LastRoIsConfig(MethodConfig):
    """The RoIs of the last frame are support, to which the RoI head attends after its first layer."""

    scale: float = 0.5

    uses_flow = False
    references = ReferenceSampling(count=1)
    kinds = ("frame",)
    overlays = frozenset()

    def build(self, parts: MethodParts) -> "LastRoIs":
        return LastRoIs(parts.detector)

    @property
    def attention(self) -> Callable[[Sequence[int]], RoIAttention]:
        return lambda widths: Attention(widths[1], self.scale)

    def causal(self) -> Never:
        raise self._already_causal("attention to the last frame")


class Attention(RoIAttention):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.scale = scale
        self.value = nn.Linear(width, width)

    def attend(self, layer: int, features: Tensor, own: Tensor, counts: Sequence[int], support: object) -> Tensor:
        if layer > 0:
            return features
        assert isinstance(support, LastFrame)
        rows = []
        for row, queries in enumerate(features.split(list(counts))):
            seen = support.layer[row][support.mask[row]]
            odds = (queries @ seen.T / seen.shape[1] ** 0.5).softmax(dim=1)
            rows.append(queries + self.scale * odds @ self.value(seen))
        return torch.cat(rows)


@dataclass(frozen=True, eq=False)
class LastFrame:
    layer: Tensor
    mask: Tensor


@dataclass(frozen=True, eq=False)
class LastRoIsState:
    received: int
    last: LastFrame | None


@dataclass(frozen=True)
class LastRoIs:
    detector: MapSource
    lookahead: int = 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> LastRoIsState:
        return LastRoIsState(0, None)

    def step(self, inputs: NetworkInput, state: LastRoIsState) -> tuple[list[FrameFeatures], LastRoIsState]:
        maps = self.detector.extract(inputs.images)
        own = self._support(maps, inputs)
        output = FrameFeatures(state.received, maps, inputs.geometries, support=state.last or own)
        return [output], LastRoIsState(state.received + 1, own)

    def flush(self, state: LastRoIsState) -> list[FrameFeatures]:
        return []

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        (reference,) = clips.references
        support = self._support(self.detector.extract(reference.images), reference)
        maps = self.detector.extract(clips.current.images)
        return FrameFeatures(0, maps, clips.current.geometries, support=support)

    def _support(self, maps: Maps, inputs: NetworkInput) -> LastFrame:
        rois = self.detector.rois(maps, inputs.geometries)
        return LastFrame(rois.memory[0], rois.mask)
