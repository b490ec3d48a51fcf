"""SELSA (Wu et al., ICCV 2019): RoIs of the current frame attend to those of frames from the whole video."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.data.sampling import ReferenceSampling
from flowdet.detectors.base import RoIAttention
from flowdet.errors import ConfigError, check_positive, counted
from flowdet.ops.devices import full_precision
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, Overlay
from flowdet.types import Attention, ClipBatch, FrameFeatures, Maps, NetworkInput, RoIs

__all__ = ["SELSA", "SELSAAttention", "SELSAConfig", "SELSAState", "Support"]


@dataclass(frozen=True)
class SELSAConfig(MethodConfig):
    """Where the references come from; the defaults are the published protocol.

    Attributes:
        memory: The number of references, or the most of them.
        source: "video": frames spread over the whole video, seen beforehand. "past": frames that have gone by.
        stride: With "past", frames from one reference to the next; 0: they are spread over all that has gone by.
        heads: The number of attention heads.
    """

    memory: int = 14
    source: Literal["video", "past"] = "video"
    stride: int = 0
    heads: int = 16

    uses_flow = False
    references = ReferenceSampling(count=2, reach=9, both_sides=True)
    kinds = ("frame",)
    overlays: ClassVar[frozenset[Overlay]] = frozenset(("references",))
    window = (6, 0)  # of the references, those with the largest weights
    keeps_maps: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_positive(self, "memory", "heads")
        if self.stride < 0 or (self.stride and self.source == "video"):
            raise ConfigError(f"a stride of 1 or more goes with references of the past, not {self.stride}")

    @property
    def frames_used(self) -> str:
        """Where the references come from."""
        if self.source == "video":
            return f"{counted(self.memory, 'frame')} of the whole video beside the current one"
        past = f"{self.stride} apart" if self.stride else "spread over all that went by"
        return f"{counted(self.memory, 'frame')} before the current one, {past}"

    @property
    def reach(self) -> int:
        """As many frames of the past as there are references, or strides between them; 0 if the whole video is seen."""
        return self.memory * max(self.stride, 1) if self.source == "past" else 0

    @property
    def preview(self) -> int:
        """All references, if they come from the whole video."""
        return self.memory if self.source == "video" else 0

    @property
    def attention(self) -> Callable[[Sequence[int]], RoIAttention]:
        """Attention after each layer of the RoI head."""
        return lambda widths: SELSAAttention(widths[1:], self.heads)

    def build(self, parts: MethodParts) -> "SELSA":
        """Returns the method over these parts."""
        return SELSA(parts.detector, self)

    def causal(self) -> Self:
        """References of the past only, spread over all that has gone by; not published."""
        if self.source == "past":
            raise self._already_causal("this system")
        return replace(self, source="past")


@dataclass(frozen=True, eq=False, slots=True)
class Support:
    """What the RoIs of the current frame attend to.

    Attributes:
        memory: [b, m, 2 d_i] keys and values of the m reference RoIs after each layer of the head.
        mask: [b, m] bool, False where a place is empty.
        origin: The RoIs themselves.
        maps: [b, c, h, w] of each reference, if the method keeps them.
        with_own: Whether the current frame is the last of the references.
    """

    memory: tuple[Tensor, ...]
    mask: Tensor
    origin: Attention
    maps: Maps
    with_own: bool = True


@dataclass(frozen=True, eq=False, slots=True)
class SELSAState:
    """The number of frames so far, the references of the past with their numbers, and all references as one."""

    received: int
    past: tuple[tuple[int, Support], ...]
    support: Support | None


@dataclass(frozen=True)
class SELSA:
    """Inference as in section 3.2 of the paper; what is computed of a reference is computed once."""

    detector: MapSource
    config: SELSAConfig

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> SELSAState:
        """References of the whole video; those that repeat in a short one weigh as often, and are computed once."""
        references: list[Support] = []
        for number, inputs in enumerate(preview):
            if number and torch.equal(inputs.images, preview[number - 1].images):
                references.append(references[-1])
            else:
                references.append(self._seen(number, inputs))
        return SELSAState(0, (), _joined(references) if references else None)

    def step(self, inputs: NetworkInput, state: SELSAState) -> tuple[list[FrameFeatures], SELSAState]:
        """Returns the maps of this frame with the references as support; the frame attends to itself, too."""
        now, maps = state.received, self.detector.extract(inputs.images)
        rois = self.detector.rois(maps, inputs.geometries)
        past, support = state.past, state.support or _none(inputs.images)
        output = FrameFeatures(now, maps, inputs.geometries, support.origin, support, rois)
        if self.config.source == "past":
            past = self._with_past(now, past, self._reference(now, maps, rois))
            support = support if past is state.past else _joined([each for _, each in past])
        return [output], SELSAState(now + 1, past, support)

    def flush(self, state: SELSAState) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """Returns the maps of the current frames, with the reference frames alone as support."""
        maps = self.detector.extract(clips.current.images)
        references = [self._seen(number, each) for number, each in enumerate(clips.references)]
        support = replace(_joined(references), with_own=False)
        return FrameFeatures(0, maps, clips.current.geometries, support=support)

    def _seen(self, number: int, inputs: NetworkInput) -> Support:
        maps = self.detector.extract(inputs.images)
        return self._reference(number, maps, self.detector.rois(maps, inputs.geometries))

    def _reference(self, number: int, maps: Maps, rois: RoIs) -> Support:
        origin = Attention(torch.full_like(rois.mask, number, dtype=torch.int64), rois.boxes)
        return Support(rois.memory, rois.mask, origin, maps if self.config.keeps_maps else ())

    def _with_past(
        self, now: int, past: tuple[tuple[int, Support], ...], reference: Support
    ) -> tuple[tuple[int, Support], ...]:
        """The references after this frame.

        Without a stride it is doubled, and every second reference dropped, whenever there would be too many.
        """
        most, spacing = self.config.memory, self.config.stride
        if not spacing:
            spacing = 1
            while now // spacing >= most:
                spacing *= 2
        if now % spacing:
            return past
        kept = [(index, each) for index, each in past if index % spacing == 0]
        return (*kept, (now, reference))[-most:]


def _joined(references: Sequence[Support]) -> Support:
    memory = zip(*(each.memory for each in references), strict=True)
    return Support(
        tuple(torch.cat(layer, dim=1) for layer in memory),
        torch.cat([each.mask for each in references], dim=1),
        Attention(
            torch.cat([each.origin.frames for each in references], dim=1),
            torch.cat([each.origin.boxes for each in references], dim=1),
        ),
        tuple(maps for each in references for maps in each.maps),
    )


def _none(images: Tensor) -> Support:
    """No references: a frame attends to itself."""
    frames = torch.zeros(len(images), 0, dtype=torch.int64, device=images.device)
    return Support((), frames.bool(), Attention(frames, images.new_zeros(len(images), 0, 4)), ())


class _Aggregator(nn.Module):
    """Attention between RoIs: the similarity and the aggregation of section 3.2, with h heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.output = nn.Linear(width, width)
        self._heads = heads

    def remember(self, features: Tensor) -> Tensor:
        """Returns keys and values [n, 2 d], side by side."""
        return torch.cat((self.key(features), self.value(features)), dim=1)

    def forward(
        self, features: Tensor, counts: Sequence[int], seen: Sequence[Tensor], masks: Sequence[Tensor]
    ) -> Tensor:
        """Returns what RoI features [n, d] of b images find in the keys and values [m, 2 d] and masks [m] of each."""
        queries = self.query(features).split(list(counts))
        found = [self._read(*each) for each in zip(queries, seen, masks, strict=True)]
        output: Tensor = self.output(torch.cat(found))
        return output

    def _read(self, queries: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """A mask that is False throughout finds zeros."""
        if not queries.numel() or not seen.numel():
            return torch.zeros_like(queries)
        query, key, value = (self._by_head(each)[None] for each in (queries, *seen.chunk(2, dim=1)))
        found = F.scaled_dot_product_attention(query, key, value, mask[None, None, None])
        return found[0].transpose(0, 1).flatten(1)

    def weights(self, features: Tensor, seen: Tensor, mask: Tensor) -> Tensor:
        """Returns the weights [n, m] with which RoI features [n, d] of an image read [m, 2 d], mean over the heads."""
        query, key = self._by_head(self.query(features)), self._by_head(seen.chunk(2, dim=1)[0])
        logits = query @ key.transpose(1, 2) / query.shape[2] ** 0.5
        weights: Tensor = full_precision(logits).masked_fill(~mask, -torch.inf).softmax(dim=2).mean(dim=0)
        return weights

    def _by_head(self, features: Tensor) -> Tensor:
        """[n, d] to [heads, n, d / heads]."""
        by_head: Tensor = features.unflatten(1, (self._heads, -1)).transpose(0, 1)
        return by_head


class SELSAAttention(RoIAttention):
    """Adds to RoI features a weighted sum of those of all references, after each layer of the head.

    Args:
        widths: Those of the layers.
        heads: The number of attention heads.
    """

    def __init__(self, widths: Sequence[int], heads: int) -> None:
        super().__init__()
        if any(width % heads for width in widths):
            raise ConfigError(f"{heads} heads do not divide the width of the RoI head, {max(widths)}")
        self.aggregators = nn.ModuleList(_Aggregator(width, heads) for width in widths)

    def remember(self, layer: int, features: Tensor) -> Tensor:
        """Returns keys and values [n, 2 d], side by side."""
        return self._aggregator(layer).remember(features)

    def attend(self, layer: int, features: Tensor, own: Tensor, counts: Sequence[int], support: Any) -> Tensor:
        """Returns the features with what they found in the support."""
        found: Tensor = self._aggregator(layer)(features, counts, *_seen(layer, own, counts, support))
        return features + found

    def weights(self, features: Tensor, own: Tensor, support: Any) -> Tensor:
        """Returns the weights of the first attention, mean over its heads."""
        (seen,), (mask,) = _seen(0, own, [len(own)], support)
        return self._aggregator(0).weights(features, seen, mask)

    def _aggregator(self, layer: int) -> _Aggregator:
        aggregator = self.aggregators[layer]
        assert isinstance(aggregator, _Aggregator)
        return aggregator


def _seen(layer: int, own: Tensor, counts: Sequence[int], support: Support) -> tuple[list[Tensor], list[Tensor]]:
    """Keys and values [m, 2 d] and masks [m] of all RoIs that those of each image attend to, its own ones last."""
    nothing = own.new_zeros(0, own.shape[1])
    seen = list(support.memory[layer]) if support.memory else [nothing] * len(counts)
    masks = list(support.mask)
    if support.with_own:
        seen = [torch.cat(pair) for pair in zip(seen, own.split(list(counts)), strict=True)]
        masks = [F.pad(mask, (0, count), value=True) for mask, count in zip(masks, counts, strict=True)]
    return seen, masks
