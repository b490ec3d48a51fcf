"""End-point errors of flow nets, on clips whose flow is known exactly."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
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

__all__ = [
    "EndPointErrors",
    "FlowPair",
    "ZeroFlow",
    "end_point_errors",
    "error_differences",
    "flow_pairs",
    "pair_errors",
]


@dataclass(frozen=True, eq=False, slots=True)
class FlowPair:
    """Two frames of a clip, and the flow from the current to the reference frame.

    Attributes:
        gap: Frames from the current to the reference frame.
        current: [h, w, 3] uint8 RGB.
        reference: [h, w, 3] uint8 RGB.
        flow: [2, h, w] (dx, dy) px.
        visible: [h, w] bool, whether the reference frame shows the point as well.
    """

    gap: int
    current: NDArray[np.uint8]
    reference: NDArray[np.uint8]
    flow: Tensor
    visible: Tensor


@dataclass(frozen=True, slots=True)
class EndPointErrors:
    """Mean end-point errors of a flow net, px of the image.

    Attributes:
        everywhere: Over all pixels.
        visible: Over the pixels that both frames show; NaN if there are none.
        pairs: The number of pairs of frames.
    """

    everywhere: float
    visible: float
    pairs: int


class ZeroFlow:
    """Predicts that nothing moves; every flow net must be better."""

    stride = FEATURE_STRIDE

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
    """Renders one pair for each clip and gap; all pairs of a clip start in its middle.

    Args:
        benchmark: The split to render, "val" for a flow net trained on the training split.
        numbers: The numbers of the clips.
        gaps: Frames from the current to the reference frame, at most half a clip.
    """
    now = FRAMES[benchmark.split] // 2
    for clip in map(benchmark.clip, numbers):
        current = clip.frame(now).image
        for gap in gaps:
            exact = clip.flow(now, now + gap)
            yield FlowPair(gap, current, clip.frame(now + gap).image, exact.flow, exact.visible)


def end_point_errors(flow_net: FlowNet, inputs: InputConfig, pairs: Iterable[FlowPair]) -> dict[int, EndPointErrors]:
    """Returns the mean end-point errors of a flow net by gap, see `pair_errors`."""
    return {gap: EndPointErrors(*_means(sums), len(sums)) for gap, sums in pair_errors(flow_net, inputs, pairs).items()}


def error_differences(
    one: Mapping[int, Tensor], other: Mapping[int, Tensor], samples: int = 2000, seed: int = 0
) -> dict[int, tuple[float, float, float]]:
    """Returns how much larger the mean error of one flow net is than that of another, everywhere, by gap.

    Args:
        one: As `pair_errors` returns them.
        other: The same of the other flow net on the same pairs.
        samples: Number of resamples of the pairs.
        seed: Of the resampling.

    Returns:
        The difference px, and the ends of its 95 % interval, by paired bootstrap.
    """
    rng = np.random.default_rng(seed)
    found = {}
    for gap, sums in one.items():
        draws = torch.from_numpy(rng.integers(len(sums), size=(samples, len(sums))))
        whole = _means(sums)[0] - _means(other[gap])[0]
        drawn = [_means(sums[rows])[0] - _means(other[gap][rows])[0] for rows in draws]
        low, high = np.quantile(drawn, (0.025, 0.975))
        found[gap] = whole, float(low), float(high)
    return found


@torch.inference_mode()
def pair_errors(flow_net: FlowNet, inputs: InputConfig, pairs: Iterable[FlowPair]) -> dict[int, Tensor]:
    """Returns the end-point errors of a flow net by gap, measured at the feature cells of 16x16 pixels.

    The flow of a cell is compared with the mean true flow of its pixels, or of its visible pixels, and weighted by the
    number of these pixels.

    Args:
        flow_net: The flow net, in evaluation mode.
        inputs: How frames are prepared for it; they must keep their size.
        pairs: The pairs of frames.

    Returns:
        [n, 2, 2] of the n pairs of each gap: everywhere and where both frames show the point, the sum of the errors px
        of the cells, weighted by their counted shares, and the sum of the shares.

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
        found = F.avg_pool2d(flow_net(*prepared)[0], FEATURE_STRIDE // flow_net.stride) * flow_net.stride
        counted = torch.stack((torch.ones_like(pair.visible), pair.visible))
        sums[pair.gap].append(torch.stack([_sums(found, pair.flow, each) for each in counted]))
    return {gap: torch.stack(of_pairs) for gap, of_pairs in sums.items()}


def _sums(found: Tensor, flow: Tensor, counted: Tensor) -> Tensor:
    """Returns the sum of the errors px of the cells, weighted by their counted shares, and the sum of the shares."""
    shares = F.avg_pool2d(counted[None].float(), FEATURE_STRIDE)
    means = F.avg_pool2d(flow * counted, FEATURE_STRIDE) / shares.clamp(min=1e-6)
    return torch.stack((((found - means).norm(dim=0) * shares[0]).sum(), shares.sum()))


def _means(of_pairs: Tensor) -> tuple[float, float]:
    everywhere, visible = of_pairs.sum(dim=0)
    return float(everywhere[0] / everywhere[1]), float(visible[0] / visible[1])
