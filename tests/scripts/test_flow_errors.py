import math

import numpy as np
import pytest
import torch
from torch import Tensor

from flowdet.data.synthetic.benchmark import Benchmark
from flowdet.inputs import InputConfig
from flowdet.types import NetworkInput
from scripts.flow_errors import FlowPair, ZeroFlow, end_point_errors, error_differences, flow_pairs, pair_errors

INPUTS = InputConfig(long_side=320, short_side=192, enlarge=False)
SIZE = (32, 48)


class Constant:
    """The same flow everywhere, in cells of this stride."""

    def __init__(self, flow: tuple[float, float], stride: int = 16) -> None:
        self.flow = flow
        self.stride = stride

    def prepare(self, inputs: NetworkInput) -> Tensor:
        return inputs.images[:, :2, :: self.stride, :: self.stride]

    def as_current(self, prepared: Tensor) -> Tensor:
        return prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        return prepared

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        return torch.tensor(self.flow)[None, :, None, None].expand(len(current), 2, *current.shape[2:])


def pair(flow: Tensor, visible: Tensor | None = None, gap: int = 1) -> FlowPair:
    image = np.zeros((*SIZE, 3), np.uint8)
    return FlowPair(gap, image, image, flow, torch.ones(SIZE, dtype=torch.bool) if visible is None else visible)


def even(x: float, y: float) -> Tensor:
    return torch.tensor([x, y], dtype=torch.float32)[:, None, None].repeat(1, *SIZE)


def test_the_error_is_the_distance_in_pixels_of_the_image() -> None:
    pairs = [pair(even(3, 4)), pair(even(0, 0)), pair(even(16, -32), gap=4)]
    found = end_point_errors(ZeroFlow(), INPUTS, pairs)
    assert list(found) == [1, 4]
    assert found[1].everywhere == pytest.approx(2.5)
    assert found[1].visible == pytest.approx(2.5)
    assert (found[1].pairs, found[4].pairs) == (2, 1)
    for exact in (Constant((1, -2)), Constant((2, -4), stride=8)):
        assert end_point_errors(exact, INPUTS, pairs[2:])[4].everywhere == pytest.approx(0, abs=1e-5)


def test_the_difference_of_two_flow_nets_is_paired() -> None:
    # The flow net is 2 px better on every pair, however large the errors of the pairs are.
    pairs = [pair(even(x, 0)) for x in (10, 20, 40, 80)]
    one, other = (pair_errors(net, INPUTS, pairs) for net in (Constant((2 / 16, 0)), ZeroFlow()))
    assert one[1].shape == (4, 2, 2)
    assert error_differences(one, other)[1] == pytest.approx((-2, -2, -2), abs=1e-4)
    difference, low, high = error_differences(one, pair_errors(Constant((1, 0)), INPUTS, pairs))[1]
    assert low < difference < high


def test_a_cell_is_compared_with_its_mean_flow() -> None:
    flow = even(0, 0)
    flow[0, :, ::2] = 8
    assert end_point_errors(Constant((0.25, 0)), INPUTS, [pair(flow)])[1].everywhere == pytest.approx(0, abs=1e-5)
    assert end_point_errors(ZeroFlow(), INPUTS, [pair(flow)])[1].everywhere == pytest.approx(4)


def test_hidden_pixels_count_in_one_of_the_two_figures_only() -> None:
    flow, visible = even(2, 0), torch.ones(SIZE, dtype=torch.bool)
    visible[:16, :16] = False
    visible[:4, 16:32] = False
    flow[0][~visible] = 100
    errors = end_point_errors(ZeroFlow(), INPUTS, [pair(flow, visible)])[1]
    assert errors.visible == pytest.approx(2)
    cells = [100, (100 * 4 + 2 * 12) / 16, 2, 2, 2, 2]
    assert errors.everywhere == pytest.approx(sum(cells) / 6)
    # A cell counts with the number of its visible pixels.
    flow[0, :16, 16:32] = 10
    mixed = end_point_errors(ZeroFlow(), INPUTS, [pair(flow, visible)])[1]
    assert mixed.visible == pytest.approx((10 * 0.75 + 2 * 4) / 4.75)


def test_a_pair_of_which_nothing_can_be_seen_counts_where_it_can() -> None:
    hidden = pair(even(5, 0), torch.zeros(SIZE, dtype=torch.bool))
    errors = end_point_errors(ZeroFlow(), INPUTS, [hidden, pair(even(1, 0))])[1]
    assert errors.everywhere == pytest.approx(3)
    assert errors.visible == pytest.approx(1)
    assert math.isnan(end_point_errors(ZeroFlow(), INPUTS, [hidden])[1].visible)


@pytest.mark.parametrize("inputs", [InputConfig(), InputConfig(320, 192, multiple=64, enlarge=False)])
def test_frames_keep_their_size(inputs: InputConfig) -> None:
    with pytest.raises(ValueError, match="not resized or padded"):
        end_point_errors(ZeroFlow(), inputs, [pair(even(0, 0))])


def test_pairs_are_those_of_the_benchmark() -> None:
    benchmark = Benchmark("val", ("car", "dog"))
    pairs = list(flow_pairs(benchmark, [0, 3], gaps=(1, 9)))
    assert [each.gap for each in pairs] == [1, 9, 1, 9]
    clip = benchmark.clip(3)
    assert torch.equal(pairs[3].flow, clip.flow(17, 26).flow)
    assert torch.equal(pairs[3].visible, clip.flow(17, 26).visible)
    np.testing.assert_array_equal(pairs[3].current, clip.frame(17).image)
    np.testing.assert_array_equal(pairs[3].reference, clip.frame(26).image)
    found = end_point_errors(ZeroFlow(), INPUTS, pairs)
    assert found[9].everywhere > found[1].everywhere > 0
