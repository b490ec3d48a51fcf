"""FGFA at a fraction of the cost: embedding before the warp, flows composed of short ones, few references."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.errors import ConfigError, check_positive
from flowdet.ops.aggregate import add_weighted, cosine_similarity
from flowdet.ops.flow import follow, hop
from flowdet.ops.warp import WarpConvention, warp
from flowdet.temporal.base import Embed, Extract, FlowNet
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.types import Aggregation, ClipBatch, FrameFeatures, Geometry, NetworkInput

__all__ = ["FastFGFA", "FastFGFAConfig", "FastFGFAState", "FastFrame"]


@dataclass(frozen=True)
class FastFGFAConfig:
    """Which frames are aggregated and where the flows to them come from.

    Attributes:
        offsets: Where the reference frames stand, in frames after the current one (negative: before), ascending.
        composed: Whether flows beyond the next frame are composed of those between neighbours, two for each frame; else
            each is evaluated by itself.
        drift_limit: Feature cells. A composed flow is given up for a direct one when the disagreements of its hops
            with those in the other direction add up to more than that, in the mean over the cells. None: never.
        warp: Which sampling grid, see `WarpConvention`.
        sharpness: Factor on the similarities before the softmax, 40 at most.
        embedding_channels: Of the map whose similarity gives the weights.
        references_at_once: Reference frames that go through flow net and warp together.
    """

    offsets: tuple[int, ...] = (-15, -8, -4, -2, -1, 1, 2, 4, 8, 15)
    composed: bool = True
    drift_limit: float | None = 3.0
    warp: WarpConvention = "identity"
    sharpness: float = 1.0
    embedding_channels: int = 512
    references_at_once: int = 4

    def __post_init__(self) -> None:
        if 0 in self.offsets or list(self.offsets) != sorted(set(self.offsets)):
            raise ConfigError(f"offsets ascend, each once, without 0, the current frame: not {list(self.offsets)}")
        if self.drift_limit is not None and self.drift_limit < 0:
            raise ConfigError(f"the drift limit is a distance in feature cells, 0 or more, not {self.drift_limit}")
        if not 0 <= self.sharpness <= 40:
            raise ConfigError(f"the sharpness of aggregation weights lies between 0 and 40, not at {self.sharpness}")
        check_positive(self, "embedding_channels", "references_at_once")

    @property
    def past(self) -> int:
        """How many frames back the window reaches."""
        return max(0, -min(self.offsets, default=0))

    @property
    def future(self) -> int:
        """How many frames ahead the window reaches."""
        return max(0, *self.offsets, 0)


@dataclass(frozen=True, eq=False, slots=True)
class FastFrame:
    """What is kept of a frame.

    Attributes:
        index: Its number in the stream.
        maps: [b, c + e, h, w], its features and their embedding, which are warped together.
        channels: c.
        flow_input: What the flow net needs of it, prepared.
        flow_reference: The same as of a reference frame.
        back: [b, 3, h, w] the hop to the frame before, None if there is none or flows are not composed.
        ahead: [b, 3, h, w] the hop from the frame before to this one.
        geometries: As in the network input.
    """

    index: int
    maps: Tensor
    channels: int
    flow_input: Tensor
    flow_reference: Tensor
    back: Tensor | None
    ahead: Tensor | None
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True, eq=False, slots=True)
class FastFGFAState:
    """How many frames came and went out, and the frames that a window still needs, oldest first."""

    received: int
    emitted: int
    window: tuple[FastFrame, ...]


@dataclass(frozen=True)
class FastFGFA:
    """FGFA with every frame embedded once, before the warp, as its authors' test code does."""

    extract: Extract
    flow_net: FlowNet
    embed: Embed
    config: FastFGFAConfig

    @property
    def lookahead(self) -> int:
        """Frames after the current one that its window reaches."""
        return self.config.future

    def initial_state(self) -> FastFGFAState:
        """An empty window."""
        return FastFGFAState(0, 0, ())

    def step(self, inputs: NetworkInput, state: FastFGFAState) -> tuple[list[FrameFeatures], FastFGFAState]:
        """Takes frame t; gives the features of frame t - lookahead once there is one."""
        window = (*state.window, self._enter(inputs, state))
        received = state.received + 1
        if state.received - state.emitted < self.lookahead:
            return [], FastFGFAState(received, state.emitted, window)
        output = self._emit(state.emitted, state.received, window)
        oldest = state.emitted + 1 - self.config.past
        # The last frame stays whatever the window, for the flows between it and the next one.
        window = tuple(frame for frame in window if frame.index >= min(oldest, state.received))
        return [output], FastFGFAState(received, state.emitted + 1, window)

    def flush(self, state: FastFGFAState) -> list[FrameFeatures]:
        """The features of the last frames, whose windows end with the video."""
        last = state.received - 1
        return [self._emit(current, last, state.window) for current in range(state.emitted, state.received)]

    def _enter(self, inputs: NetworkInput, state: FastFGFAState) -> FastFrame:
        features, flow_input = self.extract(inputs.images), self.flow_net.prepare(inputs)
        reference = self.flow_net.as_reference(flow_input)
        maps = torch.cat((features, self.embed(features)), dim=1)
        back = ahead = None
        if self.config.composed and self.config.offsets and state.window:
            back, ahead = self._hops(flow_input, reference, state.window[-1])
        return FastFrame(state.received, maps, features.shape[1], flow_input, reference, back, ahead, inputs.geometries)

    def _hops(self, flow_input: Tensor, reference: Tensor, before: FastFrame) -> tuple[Tensor, Tensor]:
        """The hop from a frame to the one before and the one in the other direction, [b, 3, h, w] each."""
        now = self.flow_net.as_current(flow_input)
        if self.config.drift_limit is None and not self.config.future:
            flow = self.flow_net(now, before.flow_reference)
            back = torch.cat((flow, torch.zeros_like(flow[:, :1])), dim=1)
            return back, back  # nobody goes ahead
        current = torch.cat((now, self.flow_net.as_current(before.flow_input)))
        back, ahead = self.flow_net(current, torch.cat((before.flow_reference, reference))).chunk(2)
        return hop(back, ahead), hop(ahead, back)

    def _emit(self, current: int, last: int, window: Sequence[FastFrame]) -> FrameFeatures:
        """Aggregates; slots beyond the video are filled by its first and last frame, as in FGFA."""
        frames = {frame.index: frame for frame in window}
        slots = Counter(min(max(current + offset, 0), last) for offset in self.config.offsets)
        own = 1 + slots.pop(current, 0)
        references = sorted(slots)
        flows, fallbacks = self._flows(frames, current, references)
        features, weights = self._aggregate(frames, current, own, slots, flows)
        now = frames[current]
        shape = (len(now.maps), len(references), 2, *now.maps.shape[2:])
        stacked = torch.stack([flows[r] for r in references], dim=1) if flows else now.maps.new_empty(shape)
        origin = Aggregation(tuple(references), stacked, weights, fallbacks)
        return FrameFeatures(current, features, now.geometries, origin)

    def _flows(
        self, frames: Mapping[int, FastFrame], current: int, references: Sequence[int]
    ) -> tuple[dict[int, Tensor], tuple[int, ...]]:
        """Flow [b, 2, h, w] from the current frame to each reference frame, and how often each stream fell back."""
        if not self.config.composed:
            return self._direct(frames, current, references), ()
        flows: dict[int, Tensor] = {}
        fallbacks = [0] * len(frames[current].maps)
        for direction in (-1, 1):
            wanted = [r for r in references if (r - current) * direction > 0]
            found, drifted = self._composed(frames, current, wanted, direction)
            flows |= found
            for row in drifted:
                fallbacks[row] += 1
        return flows, tuple(fallbacks)

    def _direct(self, frames: Mapping[int, FastFrame], current: int, references: Sequence[int]) -> dict[int, Tensor]:
        flows: dict[int, Tensor] = {}
        now = self.flow_net.as_current(frames[current].flow_input)
        at_once = self.config.references_at_once
        for start in range(0, len(references), at_once):
            chunk = references[start : start + at_once]
            reference = torch.cat([frames[r].flow_reference for r in chunk])
            found = self.flow_net(torch.cat([now] * len(chunk)), reference)
            flows |= dict(zip(chunk, found.chunk(len(chunk)), strict=True))
        return flows

    def _composed(
        self, frames: Mapping[int, FastFrame], current: int, wanted: Sequence[int], direction: int
    ) -> tuple[dict[int, Tensor], list[int]]:
        """From hop to hop to the farthest reference frame in one direction (-1 or 1); a stream for each fallback."""
        flows: dict[int, Tensor] = {}
        path, fallbacks = None, list[int]()
        farthest = max((r * direction for r in wanted), default=current * direction)
        for distance in range(current * direction + 1, farthest + 1):
            index = distance * direction
            following = frames[index].ahead if direction > 0 else frames[index + 1].back
            assert following is not None
            path = following if path is None else follow(path, following)
            if index in wanted:
                path, drifted = self._checked(path, frames[current], frames[index])
                fallbacks += drifted
                flows[index] = path[:, :2]
        return flows, fallbacks

    def _checked(self, path: Tensor, current: FastFrame, reference: FastFrame) -> tuple[Tensor, list[int]]:
        """The path, with a direct flow and no drift so far in the streams where it has drifted too far; and these."""
        if self.config.drift_limit is None or abs(reference.index - current.index) == 1:
            return path, []
        drifted = (path[:, 2].mean(dim=(1, 2)) > self.config.drift_limit).nonzero().flatten()
        if not len(drifted):
            return path, []
        now = self.flow_net.as_current(current.flow_input[drifted])
        flow = self.flow_net(now, reference.flow_reference[drifted])
        direct = torch.cat((flow, torch.zeros_like(flow[:, :1])), dim=1)
        return path.index_copy(0, drifted, direct), drifted.tolist()

    def _aggregate(
        self,
        frames: Mapping[int, FastFrame],
        current: int,
        own: int,
        slots: Mapping[int, int],
        flows: Mapping[int, Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Features [b, c, h, w] and weights [b, 1 + n, h, w]; no more warped maps at a time than go through together.

        No similarity exceeds 1, so the softmax needs no look at all of them before it begins.
        """
        config, now, channels = self.config, frames[current], frames[current].channels
        features, query = now.maps[:, :channels], now.maps[:, channels:]
        odds = [self._odds(query, query[:, None], [own])]
        total = features * odds[0]
        references = sorted(slots)
        for start in range(0, len(references), config.references_at_once):
            chunk = references[start : start + config.references_at_once]
            stacked = torch.cat([frames[r].maps for r in chunk])
            warped = warp(stacked, torch.cat([flows[r] for r in chunk]), config.warp)
            warped = warped.unflatten(0, (len(chunk), -1)).transpose(0, 1)
            odds.append(self._odds(query, warped[:, :, channels:], [slots[r] for r in chunk]))
            add_weighted(total, warped[:, :, :channels], odds[-1])
        everything = torch.cat(odds, dim=1)
        whole = everything.sum(dim=1, keepdim=True)
        return total / whole, everything / whole

    def _odds(self, query: Tensor, keys: Tensor, repeats: Sequence[int]) -> Tensor:
        """[b, n, h, w], in the proportions of the weights."""
        similarity = cosine_similarity(query, keys)
        return (self.config.sharpness * (similarity - 1)).exp() * similarity.new_tensor(repeats)[:, None, None]

    def training_features(self, clips: ClipBatch) -> Tensor:
        """As FGFA: it is for FGFA's weights, and has no training of its own."""
        config = FGFAConfig(
            warp=self.config.warp,
            sharpness=self.config.sharpness,
            embedding_channels=self.config.embedding_channels,
        )
        return FGFA(self.extract, self.flow_net, self.embed, config).training_features(clips)
