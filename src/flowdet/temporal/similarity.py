"""What the methods share that weigh maps by similarity: embeddings, and training (FGFA, sections 3.2 and 3.4)."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from flowdet.flow.base import FlowNet
from flowdet.ops.aggregate import aggregate, cosine_similarity
from flowdet.ops.sampling import WarpConvention, warp_maps
from flowdet.temporal.base import MapSource
from flowdet.types import ClipBatch, FrameFeatures, Maps

__all__ = ["Embed", "aggregate_clips", "embedding_modules", "flow_to_references", "stack_streams", "with_modules"]

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


def aggregate_clips(
    clips: ClipBatch,
    detector: MapSource,
    flow_net: FlowNet | None,
    embed: Embed,
    *,
    convention: WarpConvention,
    sharpness: float,
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
        similarity = sharpness * cosine_similarity(query, keys.unflatten(0, shape))
        averaged.append(aggregate(level.unflatten(0, shape), similarity, similarity.new_ones(len(others)))[0])
    return FrameFeatures(0, tuple(averaged), clips.current.geometries)
