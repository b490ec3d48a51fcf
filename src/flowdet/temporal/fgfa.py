"""Flow-Guided Feature Aggregation (ICCV 2017): maps of nearby frames, warped and averaged by similarity."""

from collections import Counter
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import ConfigError, check_positive
from flowdet.flow.base import FlowNet
from flowdet.inputs import FEATURE_STRIDE
from flowdet.ops.devices import constant
from flowdet.ops.flow import follow, hop
from flowdet.ops.sampling import WarpConvention, warp_maps
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, Overlay
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.similarity import (
    Embed,
    add_weighted,
    aggregate_clips,
    embedding_modules,
    flow_to_references,
    log_odds,
    stack_streams,
    with_modules,
)
from flowdet.types import Aggregation, ClipBatch, FrameFeatures, Geometry, Maps, NetworkInput

__all__ = ["FGFA", "FGFAConfig", "FGFAState", "WindowFrame", "window_slots"]


@dataclass(frozen=True)
class FGFAConfig(MethodConfig):
    """The window and its parts; the defaults are the published protocol but for the warp.

    Attributes:
        past: Reference frames before the current one.
        future: Reference frames after it; 0 is the causal form, which the paper does not have.
        stride: Frames from one reference frame to the next.
        aligns: References are warped along the flow to them, as published; else they are averaged where they are, and
            there is no flow net. Without it neighbours that stand still or that the camera follows are nearly in place.
        warp: Which sampling grid, see `WarpConvention`.
        sharpness: Factor on the similarities before the softmax; with 1, as published, the larger weight of two maps
            is at most e^2 times the other.
        norm_power: Power of an embedding's length, by which the weight is multiplied; 0 as published. Blurred frames
            have shorter maps than sharp ones, so that a power above 0 takes more from the sharp ones.
        embedding_channels: Channels of the maps that are compared for the weights; None: the maps themselves.
        references_at_once: Reference frames that go through flow net and warp together.
        embeds_early: Each frame is embedded once, before the warp, as in the authors' test code; else after it, as
            published.
        composes_flows: Flows beyond the next frame are composed of those between neighbours, two for each frame; else
            each is evaluated directly.
        drift_limit: Cells of 16 px. A composed flow is given up for a direct one when the disagreements of its hops
            with those in the other direction add up to more than that, in the mean over the cells. None: never.
        is_sparse: References stand at distances 1, 2, 4, 8 and so on up to the ends of the window; else at all.
    """

    past: int = 15
    future: int = 15
    stride: int = 1
    aligns: bool = True
    warp: WarpConvention = "identity"
    sharpness: float = 1.0
    norm_power: float = 0.0
    embedding_channels: int | None = 512
    references_at_once: int = 4
    embeds_early: bool = False
    composes_flows: bool = False
    drift_limit: float | None = 3.0
    is_sparse: bool = False

    references = ReferenceSampling(count=2, reach=9, both_sides=True)
    kinds = ("frame",)

    def __post_init__(self) -> None:
        if min(self.past, self.future) < 0:
            raise ConfigError(f"a window has 0 or more frames on each side, not {self.past} and {self.future}")
        if min(self.sharpness, self.norm_power) < 0:
            raise ConfigError(
                "the sharpness of aggregation weights and the power of lengths are 0 or more, "
                f"not {self.sharpness} and {self.norm_power}"
            )
        if self.drift_limit is not None and self.drift_limit < 0:
            raise ConfigError(f"the drift limit is a distance in cells, 0 or more, not {self.drift_limit}")
        if self.composes_flows and not self.aligns:
            raise ConfigError("a window that is not aligned has no flows to compose")
        check_positive(self, "stride", "embedding_channels", "references_at_once")

    @property
    def uses_flow(self) -> bool:
        """Whether references are warped."""
        return self.aligns

    @property
    def overlays(self) -> frozenset[Overlay]:
        """Aggregation weights, and the flow if there is one."""
        return frozenset(("flow", "weights") if self.aligns else ("weights",))

    @property
    def window(self) -> tuple[int, int]:
        """The number of reference frames on each side."""
        return len(self._distances(self.past)), len(self._distances(self.future))

    @property
    def frames_used(self) -> str:
        """The window, and the steps in it."""
        apart = f", {self.stride} apart" if self.stride > 1 else ""
        return f"{super().frames_used}{apart}"

    @property
    def reach(self) -> int:
        """The number of frames to which the window goes back, from a frame just before a multiple of the stride."""
        return (self.past + 1) * self.stride - 1

    def first_needed(self, frame: int) -> int:
        """The first frame of the window, and a multiple of the stride."""
        return max(0, frame - self.reach) // self.stride * self.stride

    def modules(self, channels: Sequence[int]) -> dict[str, nn.Module]:
        """The embedding of each map."""
        return embedding_modules(channels, self.embedding_channels)

    def build(self, parts: MethodParts) -> "FGFA":
        """Returns the method over these parts."""
        flow_net = parts.flow_net if self.aligns else None
        return FGFA(parts.detector, flow_net, with_modules(parts.modules), self)

    def causal(self) -> "FGFAConfig":
        """Returns the same window without frames after the current one; not the published protocol."""
        if self.future == 0:
            raise self._already_causal("this window")
        return replace(self, future=0)

    @property
    def variants(self) -> Mapping[str, MethodConfig]:
        """Early embedding; composed flows as well; few references as well; a recursive memory in place of a window.

        Without alignment: few references; references warped along the flow, which costs more.
        """
        if not self.aligns:
            return {"fast": replace(self, is_sparse=True), "aligned": replace(self, aligns=True)}
        early = replace(self, embeds_early=True)
        composed = replace(early, composes_flows=True)
        recursive = RecursiveConfig(
            warp=self.warp, sharpness=self.sharpness, embedding_channels=self.embedding_channels
        )
        return {
            "early": early,
            "composed": composed,
            "fast": replace(composed, is_sparse=True),
            "recursive": recursive,
        }

    def offsets(self) -> list[int]:
        """The places of the references in the window, in strides from the current frame, without the frame itself."""
        return [*(-d for d in reversed(self._distances(self.past))), *self._distances(self.future)]

    def _distances(self, reach: int) -> list[int]:
        """1, 2, 3 and so on up to the reach, or 1, 2, 4, 8 and so on with the reach as the last."""
        if not self.is_sparse:
            return list(range(1, reach + 1))
        doubled = [2**power for power in range(reach.bit_length()) if 2**power * 3 // 2 < reach]
        return [*doubled, *([reach] if reach else [])]


def window_slots(current: int, last: int, config: FGFAConfig) -> list[int]:
    """Returns the frame in each slot of the current frame's window but its own, repeated at both ends of the video.

    With a stride the references stand on its multiples, and the current frame takes the place of the middle one.

    Args:
        current: Number of the current frame.
        last: Number of the last frame of the video, or any frame not before the end of the window.
        config: The window.
    """
    middle = current // config.stride * config.stride
    return [min(max(middle + offset * config.stride, 0), last) for offset in config.offsets()]


@dataclass(frozen=True, eq=False, slots=True)
class WindowFrame:
    """What is kept of a frame.

    The maps of the published systems at 608x1008 take 4.9 MB, what the flow net needs 1.8 and 9.8 MB, and there are 31
    frames in the window.

    Attributes:
        index: Its number in the stream.
        maps: [b, c_i, h, w], its own.
        warped: What is warped: the maps, each with its embedding beside it if that is early.
        flow_input: What the flow net needs of it, prepared; [b, 0] without a flow net.
        flow_reference: The same in the role of a reference.
        back: [b, 3, h, w] the hop to the frame before; None if there is none or flows are not composed.
        ahead: [b, 3, h, w] the hop from the frame before to this one.
        geometries: As in the network input.
    """

    index: int
    maps: Maps
    warped: Maps
    flow_input: Tensor
    flow_reference: Tensor
    back: Tensor | None
    ahead: Tensor | None
    geometries: tuple[Geometry, ...]


@dataclass(frozen=True, eq=False, slots=True)
class FGFAState:
    """The number of frames that came in and went out, and the frames that a window still needs, oldest first."""

    received: int
    emitted: int
    window: tuple[WindowFrame, ...]


class _Average:
    """The weighted average of one map of the current frame and of its references, added up as they come.

    Weights are against that of the current frame, so that the softmax needs no look at all of them before it begins.

    Args:
        own: [b, c, h, w] map of the current frame.
        query: [b, e, h, w] its embedding.
        slots: The number of slots of the window that the current frame fills.
        config: How weights come from embeddings.
    """

    def __init__(self, own: Tensor, query: Tensor, slots: int, config: FGFAConfig) -> None:
        self._query = query
        self._config = config
        self._odds = [self._odds_of(query[:, None]) * slots]
        self._total = self._odds[0] * own

    def add(self, maps: Tensor, keys: Tensor, repeats: Sequence[int]) -> None:
        """Adds n warped references.

        Args:
            maps: [b, n, c, h, w].
            keys: [b, n, e, h, w] their embeddings.
            repeats: The number of slots that each of them fills.
        """
        odds = self._odds_of(keys)
        if any(count > 1 for count in repeats):
            odds = odds * constant(tuple(repeats), odds.dtype, odds.device)[:, None, None]
        self._odds.append(odds)
        add_weighted(self._total, maps, odds)

    def finish(self) -> tuple[Tensor, Tensor]:
        """Returns the average [b, c, h, w] and the weights [b, 1 + n, h, w], the current frame's first."""
        odds = torch.cat(self._odds, dim=1)
        whole = odds.sum(dim=1, keepdim=True)
        return self._total / whole, odds / whole

    def _odds_of(self, keys: Tensor) -> Tensor:
        """Unnormalised weights [b, n, h, w]; 1 for the current frame itself."""
        return log_odds(self._query, keys, self._config.sharpness, self._config.norm_power).exp()


@dataclass(frozen=True)
class FGFA:
    """Inference as in section 3.3 of the paper; the centred window makes it late."""

    detector: MapSource
    flow_net: FlowNet | None
    embed: Embed
    config: FGFAConfig

    @property
    def lookahead(self) -> int:
        """How far the window reaches beyond the current frame."""
        return self.config.future * self.config.stride

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> FGFAState:
        """An empty window."""
        del preview
        return FGFAState(0, 0, ())

    def step(self, inputs: NetworkInput, state: FGFAState) -> tuple[list[FrameFeatures], FGFAState]:
        """Takes frame t; returns the features of frame t - lookahead once there is one."""
        config = self.config
        window = (*state.window, self._enter(inputs, state))
        received = state.received + 1
        if state.received - state.emitted < self.lookahead:
            return [], FGFAState(received, state.emitted, window)
        output = self._emit(state.emitted, state.received, window)
        following = state.emitted + 1
        # The flows between the last frame and the next one are composed of what is kept of both.
        needed = state.received if config.composes_flows else received
        oldest = min((following // config.stride - config.past) * config.stride, following, needed)
        return [output], FGFAState(received, following, tuple(frame for frame in window if frame.index >= oldest))

    def flush(self, state: FGFAState) -> list[FrameFeatures]:
        """Returns the features of the last frames, whose windows end with the video."""
        last = state.received - 1
        return [self._emit(current, last, state.window) for current in range(state.emitted, state.received)]

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """Returns the warped references, averaged."""
        return aggregate_clips(
            clips,
            self.detector,
            self.flow_net,
            self.embed,
            convention=self.config.warp,
            sharpness=self.config.sharpness,
            norm_power=self.config.norm_power,
        )

    def _enter(self, inputs: NetworkInput, state: FGFAState) -> WindowFrame:
        maps = self.detector.extract(inputs.images)
        flow_input = reference = inputs.images.new_zeros(len(inputs.images), 0)
        if self.flow_net is not None:
            flow_input = self.flow_net.prepare(inputs)
            reference = self.flow_net.as_reference(flow_input)
        warped = maps
        if self.config.embeds_early:
            warped = tuple(torch.cat(pair, dim=1) for pair in zip(maps, self.embed(maps), strict=True))
        back = ahead = None
        if self.config.composes_flows and state.window and any(self.config.window):
            back, ahead = self._hops(flow_input, reference, state.window[-1])
        return WindowFrame(state.received, maps, warped, flow_input, reference, back, ahead, inputs.geometries)

    def _hops(self, flow_input: Tensor, reference: Tensor, before: WindowFrame) -> tuple[Tensor, Tensor]:
        """The hop from a frame to the one before and the one in the other direction, [b, 3, h, w] each."""
        assert self.flow_net is not None
        now = self.flow_net.as_current(flow_input)
        if self.config.drift_limit is None and not self.config.future:
            back = _without_drift(self.flow_net(now, before.flow_reference))
            return back, back  # no path leads ahead
        current = torch.cat((now, self.flow_net.as_current(before.flow_input)))
        back, ahead = self.flow_net(current, torch.cat((before.flow_reference, reference))).chunk(2)
        return hop(back, ahead), hop(ahead, back)

    def _emit(self, current: int, last: int, window: Sequence[WindowFrame]) -> FrameFeatures:
        config, frames = self.config, {frame.index: frame for frame in window}
        now, slots = frames[current], Counter(window_slots(current, last, config))
        # Where flows are evaluated, that from a frame to itself is too, as published.
        own = 1 + (0 if config.aligns and not config.composes_flows else slots.pop(current, 0))
        references = [frames[index] for index in sorted(slots)]
        composed, fallbacks = self._compose(frames, now, references) if config.composes_flows else ({}, None)
        queries = self._split(now.warped, now.maps)[1] if config.embeds_early else self.embed(now.maps)
        averages = [_Average(maps, query, own, config) for maps, query in zip(now.maps, queries, strict=True)]
        flows = [queries[0].new_zeros(len(queries[0]), 0, 2, *queries[0].shape[2:])]
        for start in range(0, len(references), config.references_at_once):
            chunk = references[start : start + config.references_at_once]
            flow = None
            if config.composes_flows:
                flow = torch.stack([composed[frame.index][:, :2] for frame in chunk], dim=1)
            elif self.flow_net is not None:
                query = self.flow_net.as_current(now.flow_input)
                flow = flow_to_references(self.flow_net, query, [frame.flow_reference for frame in chunk])
            if flow is not None:
                flows.append(flow)
            maps, keys = self._warp(now, chunk, flow)
            for average, values, key in zip(averages, maps, keys, strict=True):
                average.add(values, key, [slots[frame.index] for frame in chunk])
        averaged, weights = zip(*(average.finish() for average in averages), strict=True)
        origin = Aggregation(
            references=tuple(frame.index for frame in references),
            weights=_at_stride_of_flow(weights, flows[-1]),
            flows=torch.cat(flows[1:] or flows, dim=1) if config.aligns else None,
            fallbacks=fallbacks,
        )
        return FrameFeatures(current, averaged, now.geometries, origin)

    def _warp(self, now: WindowFrame, chunk: Sequence[WindowFrame], flow: Tensor | None) -> tuple[Maps, Maps]:
        """The maps of n references, warped along flows [b, n, 2, h, w], and their embeddings, [b, n, ...] each."""
        shape = (len(now.geometries), len(chunk))
        warped = tuple(stack_streams(level) for level in zip(*(frame.warped for frame in chunk), strict=True))
        if flow is not None:
            warped = warp_maps(warped, flow.flatten(0, 1), self.config.warp)
        maps, keys = self._split(warped, now.maps) if self.config.embeds_early else (warped, self.embed(warped))
        return tuple(each.unflatten(0, shape) for each in maps), tuple(each.unflatten(0, shape) for each in keys)

    def _split(self, joined: Maps, like: Maps) -> tuple[Maps, Maps]:
        """Maps and the embeddings beside them."""
        maps = tuple(both[:, : own.shape[1]] for both, own in zip(joined, like, strict=True))
        return maps, tuple(both[:, own.shape[1] :] for both, own in zip(joined, like, strict=True))

    def _compose(
        self, frames: Mapping[int, WindowFrame], now: WindowFrame, references: Sequence[WindowFrame]
    ) -> tuple[dict[int, Tensor], Tensor]:
        """The path [b, 3, h, w] from the current frame to each reference, and how often each stream fell back, [b]."""
        wanted = {frame.index for frame in references}
        fallbacks = torch.zeros(len(now.geometries), dtype=torch.int64, device="cpu")
        if self.config.drift_limit is not None and now.flow_input.device.type == "cpu":
            return self._walk(frames, now, wanted, fallbacks), fallbacks
        # One look at all paths, for a GPU makes the host wait at each; most often none has drifted.
        paths = self._walk(frames, now, wanted, None)
        far = [path for index, path in paths.items() if abs(index - now.index) > 1]
        if far and self.config.drift_limit is not None and self._have_drifted(torch.cat(far)).any():
            paths = self._walk(frames, now, wanted, fallbacks)
        return paths, fallbacks

    def _walk(
        self, frames: Mapping[int, WindowFrame], now: WindowFrame, wanted: Set[int], fallbacks: Tensor | None
    ) -> dict[int, Tensor]:
        """The paths to the wanted frames; those that drift are replaced and counted in `fallbacks` [b], if given."""
        paths: dict[int, Tensor] = {}
        for direction in (-1, 1):
            path: Tensor | None = None
            farthest = max((index * direction for index in wanted), default=now.index * direction)
            for distance in range(now.index * direction + 1, farthest + 1):
                index = distance * direction
                following = frames[index].ahead if direction > 0 else frames[index + 1].back
                assert following is not None
                path = following if path is None else follow(path, following)
                if index in wanted:
                    if fallbacks is not None and distance > now.index * direction + 1:
                        path, drifted = self._without_drifted(path, now, frames[index])
                        fallbacks[drifted] += 1
                    paths[index] = path
        return paths

    def _have_drifted(self, paths: Tensor) -> Tensor:
        """Whether each path [b, 3, h, w] has drifted beyond the limit, [b]."""
        assert self.config.drift_limit is not None
        assert self.flow_net is not None
        return paths[:, 2].mean(dim=(1, 2)) * (self.flow_net.stride / FEATURE_STRIDE) > self.config.drift_limit

    def _without_drifted(self, path: Tensor, now: WindowFrame, reference: WindowFrame) -> tuple[Tensor, list[int]]:
        """The path, with a direct flow and no drift so far in the streams where it has drifted too far; and these."""
        drifted = self._have_drifted(path).nonzero().flatten()
        if not len(drifted):
            return path, []
        assert self.flow_net is not None
        current = self.flow_net.as_current(now.flow_input[drifted])
        flow = self.flow_net(current, reference.flow_reference[drifted])
        return path.index_copy(0, drifted, _without_drift(flow)), drifted.tolist()


def _without_drift(flow: Tensor) -> Tensor:
    """A flow [b, 2, h, w] as a path [b, 3, h, w]."""
    return torch.cat((flow, torch.zeros_like(flow[:, :1])), dim=1)


def _at_stride_of_flow(weights: Maps, flow: Tensor) -> Tensor:
    """The weights of the map that has the flow's size, else of the finest."""
    return next((each for each in weights if each.shape[-2:] == flow.shape[-2:]), weights[0])
