"""How far a flow net is from flow that is known exactly."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowdet.data.synthetic.benchmark import FRAMES, Benchmark
from flowdet.flow.base import FlowNet
from flowdet.inputs import FEATURE_STRIDE, InputConfig, prepare
from flowdet.types import NetworkInput

__all__ = ["EndPointErrors", "FlowPair", "ZeroFlow", "end_point_errors", "flow_pairs"]


@dataclass(frozen=True, eq=False, slots=True)
class FlowPair:
    """Two frames of a clip, and where the points of the current one are in the reference.

    Attributes:
        gap: Frames from the current to the reference frame.
        current: [h, w, 3] uint8 RGB.
        reference: [h, w, 3] uint8 RGB.
        flow: [2, h, w] (dx, dy) px.
        visible: [h, w] bool, whether the reference frame shows the same point.
    """

    gap: int
    current: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    flow: Tensor
    visible: Tensor


@dataclass(frozen=True, slots=True)
class EndPointErrors:
    """Mean distance between a flow net's end points and the true ones, px of the image.

    Attributes:
        everywhere: Over all pixels.
        visible: Over those that both frames show; not a number if there are none.
        pairs: How many pairs of frames it is the mean of.
    """

    everywhere: float
    visible: float
    pairs: int


class ZeroFlow:
    """Nothing moves: what every flow net must be better than."""

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """One value a feature cell, [b, 1, H / 16, W / 16]."""
        return inputs.images[:, :1, ::FEATURE_STRIDE, ::FEATURE_STRIDE]

    def as_current(self, prepared: Tensor) -> Tensor:
        """The same: a frame is compared as it is."""
        return prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        """The same: a frame is compared as it is."""
        return prepared

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Flow [b, 2, H / 16, W / 16] of zeros."""
        del reference
        return torch.zeros_like(current).repeat(1, 2, 1, 1)


def flow_pairs(benchmark: Benchmark, numbers: Iterable[int], gaps: Sequence[int]) -> Iterator[FlowPair]:
    """Renders one pair for each clip and gap; all pairs of a clip begin in its middle.

    Args:
        benchmark: The validation split, for a flow net that is trained on drawings of the training split.
        numbers: Which clips.
        gaps: Frames from the current to the reference frame, at most half a clip.
    """
    now = FRAMES[benchmark.split] // 2
    for clip in map(benchmark.clip, numbers):
        current = clip.frame(now).image
        for gap in gaps:
            exact = clip.flow(now, now + gap)
            yield FlowPair(gap, current, clip.frame(now + gap).image, exact.flow, exact.visible)


@torch.inference_mode()
def end_point_errors(flow_net: FlowNet, inputs: InputConfig, pairs: Iterable[FlowPair]) -> dict[int, EndPointErrors]:
    """Measures a flow net where systems use it, once for each feature cell of 16x16 pixels.

    A cell is compared with the mean of the true flow in it, or in its visible part, and counts with the number of
    those pixels.

    Args:
        flow_net: In evaluation mode.
        inputs: How frames are prepared for it; must leave them at their size.
        pairs: What it is measured on.

    Returns:
        The errors by gap, in the order of their first pairs.

    Raises:
        ValueError: Frames would be resized or padded.
    """
    sums: defaultdict[int, list[Tensor]] = defaultdict(list)
    for pair in pairs:
        current, reference = (prepare([image], inputs) for image in (pair.current, pair.reference))
        (geometry,) = current.geometries
        if not geometry.original == geometry.valid == geometry.padded:
            raise ValueError(f"flow is measured on frames that are not resized or padded, unlike {geometry}")
        prepared = flow_net.as_current(flow_net.prepare(current)), flow_net.as_reference(flow_net.prepare(reference))
        found = flow_net(*prepared)[0] * FEATURE_STRIDE
        counted = torch.stack((torch.ones_like(pair.visible), pair.visible))
        sums[pair.gap].append(torch.stack([_sums(found, pair.flow, each) for each in counted]))
    return {gap: EndPointErrors(*_means(of_pairs), len(of_pairs)) for gap, of_pairs in sums.items()}


def _sums(found: Tensor, flow: Tensor, counted: Tensor) -> Tensor:
    """Sum of the errors px in cells [2, h, w], each times the counted share of its cell, and sum of the shares."""
    shares = F.avg_pool2d(counted[None].float(), FEATURE_STRIDE)
    means = F.avg_pool2d(flow * counted, FEATURE_STRIDE) / shares.clamp(min=1e-6)
    return torch.stack((((found - means).norm(dim=0) * shares[0]).sum(), shares.sum()))


def _means(of_pairs: list[Tensor]) -> tuple[float, float]:
    everywhere, visible = torch.stack(of_pairs).sum(dim=0)
    return float(everywhere[0] / everywhere[1]), float(visible[0] / visible[1])
