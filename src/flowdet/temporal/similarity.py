"""What the methods share that weigh maps by similarity: embeddings, averages, training (FGFA, sections 3.2 and 3.4)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from flowdet.flow.base import FlowNet
from flowdet.ops.devices import full_precision
from flowdet.ops.sampling import WarpConvention, warp_maps
from flowdet.temporal.base import MapSource
from flowdet.types import ClipBatch, FrameFeatures, Maps

__all__ = [
    "Embed",
    "add_weighted",
    "aggregate",
    "aggregate_clips",
    "cosine_similarity",
    "embedding_modules",
    "flow_to_references",
    "log_odds",
    "stack_streams",
    "with_modules",
]

_LEAST_LENGTH = 1e-12
_LARGEST_RATIO = 1e3

Embed = Callable[[Maps], Maps]
"""Maps to the maps whose cosine similarity weighs them, one for one."""


def embedding_modules(channels: Sequence[int], width: int | None) -> dict[str, nn.Module]:
    """Returns a 3x3 convolution for each map; none if maps are compared as they are.

    Args:
        channels: The number of channels of each map.
        width: The number of channels of an embedding; None: maps are their own embeddings.
    """
    if width is None:
        return {}
    names = ["embedding"] if len(channels) == 1 else [f"embedding_{level}" for level in range(len(channels))]
    return {name: nn.Conv2d(count, width, 3, padding=1) for name, count in zip(names, channels, strict=True)}


def with_modules(modules: Mapping[str, Callable[..., Tensor]]) -> Embed:
    """Returns the function that embeds with `embedding_modules`."""
    if not modules:
        return lambda maps: maps
    return lambda maps: tuple(module(each) for module, each in zip(modules.values(), maps, strict=True))


def stack_streams(maps: Sequence[Tensor]) -> Tensor:
    """Returns maps [b, ...] of n frames as one [b * n, ...], stream by stream."""
    return maps[0] if len(maps) == 1 else torch.stack(tuple(maps), dim=1).flatten(0, 1)


def flow_to_references(flow_net: FlowNet, current: Tensor, references: Sequence[Tensor]) -> Tensor:
    """Returns the flows [b, n, 2, h, w] to n references.

    Args:
        flow_net: Computes them together.
        current: [b, ...] as `FlowNet.as_current` returns it.
        references: [b, ...] each, as `FlowNet.as_reference` returns them.
    """
    shape = (len(current), len(references))
    # For a single stream this is a view.
    repeated = current[:, None].expand(-1, shape[1], *current.shape[1:]).flatten(0, 1)
    flow: Tensor = flow_net(repeated, stack_streams(references)).unflatten(0, shape)
    return flow


def cosine_similarity(query: Tensor, keys: Tensor) -> Tensor:
    """Returns the cosine between the embedding of the current frame and those of n other maps, cell by cell.

    Args:
        query: [b, e, h, w] embedding of the current frame.
        keys: [b, n, e, h, w] embeddings of the maps to compare it with.

    Returns:
        [b, n, h, w] in [-1, 1]; 0 where an embedding is zero.
    """
    query, keys = full_precision(query), full_precision(keys)  # squares soon exceed the largest float16, 65504
    with torch.autocast(query.device.type, enabled=False):
        dot: Tensor = torch.linalg.vecdot(query[:, None], keys, dim=2)
        lengths: Tensor = query.norm(dim=1).unsqueeze(1) * keys.norm(dim=2)
        return dot / lengths.clamp(min=_LEAST_LENGTH)


def log_odds(query: Tensor, keys: Tensor, sharpness: float, norm_power: float = 0.0) -> Tensor:
    """Returns the logarithm of the weight of n maps against that of the current frame, cell by cell.

    It is sharpness * (cos - 1) + norm_power * log(|key| / |query|), so 0 for the current frame itself.

    Args:
        query: [b, e, h, w] embedding of the current frame.
        keys: [b, n, e, h, w] embeddings of the maps to compare it with.
        sharpness: Factor on the cosine similarity.
        norm_power: Power of the ratio of lengths, which is limited so that no weight overflows.

    Returns:
        [b, n, h, w].
    """
    odds = sharpness * (cosine_similarity(query, keys) - 1)
    if norm_power:
        own, others = query.norm(dim=1).unsqueeze(1), keys.norm(dim=2)
        ratio = others.clamp(min=_LEAST_LENGTH) / own.clamp(min=_LEAST_LENGTH)
        odds = odds + norm_power * ratio.clamp(1 / _LARGEST_RATIO, _LARGEST_RATIO).log()
    return odds


def add_weighted(total: Tensor, maps: Tensor, weights: Tensor) -> None:
    """Adds n weighted maps to a total in place; the maps of a window need not all exist at once.

    Args:
        total: [b, c, h, w].
        maps: [b, n, c, h, w] features.
        weights: [b, n, h, w].
    """
    for each, weight in zip(maps.unbind(dim=1), weights.unbind(dim=1), strict=True):
        total.addcmul_(each, weight[:, None])


def aggregate(maps: Tensor, similarity: Tensor, multiplicity: Tensor) -> tuple[Tensor, Tensor]:
    """Averages maps with the softmax of their similarities (FGFA, section 3.2, equations 2 and 3).

    A map that fills several slots of the window comes once, with its number of slots as multiplicity.

    Args:
        maps: [b, n, c, h, w] features.
        similarity: [b, n, h, w].
        multiplicity: [n] float, how many slots of the window each map fills.

    Returns:
        The average [b, c, h, w] and the weights [b, n, h, w] that sum to one over n.
    """
    weights = torch.softmax(similarity + multiplicity.log()[:, None, None], dim=1)
    return torch.einsum("bnchw,bnhw->bchw", maps, weights), weights


def aggregate_clips(
    clips: ClipBatch,
    detector: MapSource,
    flow_net: FlowNet | None,
    embed: Embed,
    *,
    convention: WarpConvention,
    sharpness: float,
    norm_power: float = 0.0,
) -> FrameFeatures:
    """Returns the warped references, averaged; the current frame is only compared (section 3.4, temporal dropout).

    Without a flow net they are averaged where they are.
    """
    inputs = (clips.current, *clips.references)
    together = detector.extract(torch.cat([each.images for each in inputs]))
    own, *others = zip(*(level.chunk(len(inputs)) for level in together), strict=True)
    warped = tuple(stack_streams(level) for level in zip(*others, strict=True))
    if flow_net is not None:
        prepared, *references = [flow_net.prepare(each) for each in inputs]
        flow = flow_to_references(
            flow_net, flow_net.as_current(prepared), [flow_net.as_reference(each) for each in references]
        )
        warped = warp_maps(warped, flow.flatten(0, 1), convention)
    averaged = []
    for query, keys, level in zip(embed(own), embed(warped), warped, strict=True):
        shape = (len(query), len(others))
        odds = log_odds(query, keys.unflatten(0, shape), sharpness, norm_power)
        averaged.append(aggregate(level.unflatten(0, shape), odds, odds.new_ones(len(others)))[0])
    return FrameFeatures(0, tuple(averaged), clips.current.geometries)
