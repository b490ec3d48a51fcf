from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from flowdet.ops.sampling import WarpConvention, resize_flow, roi_align, taps, warp, weighted_cells


@pytest.fixture(params=["training", "inference"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without gradients a CPU computes the same in another way."""
    with torch.set_grad_enabled(request.param == "training"):
        yield


BOTH_WAYS = pytest.mark.usefixtures("both_ways")


def features(height: int = 6, width: int = 9) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def constant_flow(dx: float, dy: float, height: int = 6, width: int = 9) -> Tensor:
    return torch.tensor([dx, dy], dtype=torch.float32)[None, :, None, None].expand(2, 2, height, width)


def bilinear(image: Tensor, x: float, y: float) -> Tensor:
    """The value [c] of an image [c, h, w] at a place in cells, the border repeated."""
    height, width = image.shape[-2:]
    x, y = min(max(x, 0), width - 1), min(max(y, 0), height - 1)
    left, top = int(x), int(y)
    right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
    upper = image[:, top, left] * (1 - x % 1) + image[:, top, right] * (x % 1)
    lower = image[:, bottom, left] * (1 - x % 1) + image[:, bottom, right] * (x % 1)
    return upper * (1 - y % 1) + lower * (y % 1)


@BOTH_WAYS
def test_zero_flow_is_the_identity() -> None:
    torch.testing.assert_close(warp(features(), constant_flow(0, 0), "identity"), features())


@BOTH_WAYS
def test_whole_cells_shift_and_the_border_repeats() -> None:
    reference = features()
    warped = warp(reference, constant_flow(2, -1), "identity")
    columns = torch.arange(9).add(2).clamp(max=8)
    rows = torch.arange(6).sub(1).clamp(min=0)
    torch.testing.assert_close(warped, reference[:, :, rows][..., columns])


@BOTH_WAYS
def test_flow_far_out_of_the_map_takes_its_border() -> None:
    reference = features()
    warped = warp(reference, constant_flow(1000, -1000), "identity")
    torch.testing.assert_close(warped, reference[:, :, :1, -1:].expand_as(reference))


@BOTH_WAYS
def test_each_cell_has_its_own_flow() -> None:
    reference = features()
    flow = 3 * torch.randn(2, 2, 6, 9, generator=torch.Generator().manual_seed(1))
    warped = warp(reference, flow, "identity")
    for b in range(2):
        for y in range(6):
            for x in range(9):
                dx, dy = flow[b, :, y, x].tolist()
                torch.testing.assert_close(
                    warped[b, :, y, x], bilinear(reference[b], x + dx, y + dy), rtol=1e-4, atol=1e-5
                )


@BOTH_WAYS
def test_the_published_warp_shrinks_by_one_cell_in_the_size_of_the_map() -> None:
    reference = features()
    warped = warp(reference, constant_flow(1.5, 0.25), "published")
    for y in range(6):
        for x in range(9):
            wanted = bilinear(reference[1], (x + 1.5) * 8 / 9, (y + 0.25) * 5 / 6)
            torch.testing.assert_close(warped[1, :, y, x], wanted, rtol=1e-4, atol=1e-5)


@BOTH_WAYS
@pytest.mark.parametrize("shape", [(2, 2, 6, 8), (1, 2, 6, 9), (2, 1, 6, 9)])
def test_flow_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="flow for features"):
        warp(features(), torch.zeros(shape), "identity")


@BOTH_WAYS
@pytest.mark.parametrize("convention", ["identity", "published"])
def test_gradients_reach_features_and_flow(convention: WarpConvention) -> None:
    reference = features().double().requires_grad_()
    flow = (constant_flow(0.3, 0.4).double() + 0.01 * torch.rand(2, 2, 6, 9)).requires_grad_()
    with torch.enable_grad():
        assert torch.autograd.gradcheck(lambda r, f: warp(r, f, convention), (reference, flow))


def test_positions_lie_between_two_cells_and_do_not_leave_the_map() -> None:
    cells, shares = taps(torch.tensor([0.0, 0.25, 2.0, 2.75, 3.0, 7.5, -4.0]), 4)
    assert cells.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3], [3, 3], [3, 3], [0, 1]]
    assert shares.tolist() == [[1, 0], [0.75, 0.25], [1, 0], [0.25, 0.75], [1, 0], [1, 0], [1, 0]]


def test_sums_of_cells_of_all_maps_in_either_layout() -> None:
    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    cells, shares = torch.tensor([[0, 13], [23, 5]]), torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    wanted = torch.stack((maps[0, :, 0, 0] * 0.5 + 2 * maps[1, :, 0, 1], maps[1, :, 2, 3] - maps[0, :, 1, 1]))
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(weighted_cells(maps.to(memory_format=layout), cells, shares), wanted)


# Inside, across the border, beyond it by less and by more than a cell, without area, turned inside out.
BOXES = torch.tensor(
    [
        [10.0, 10, 60, 50],
        [0, 0, 96, 64],
        [-40, -30, 20, 90],
        [90, 60, 100, 75],
        [300, 300, 400, 400],
        [20, 20, 20, 20],
        [50, 40, 30, 20],
    ]
)


def both(features: Tensor, boxes: list[Tensor], window: int) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        found = roi_align(features, boxes, window, 16)
    return found, roi_align(features.detach().requires_grad_(), boxes, window, 16).detach()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("window", [1, 7])
def test_the_form_for_inference_equals_torchvisions(layout: torch.memory_format, window: int) -> None:
    features = torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    found, wanted = both(features, [BOXES, BOXES[:3] + 5], window)
    assert found.shape == (10, 5, window, window)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert wanted[4].abs().max() == 0


def test_many_boxes() -> None:
    generator = torch.Generator().manual_seed(1)
    features, corners = torch.randn(1, 3, 20, 30, generator=generator), torch.randn(500, 4, generator=generator) * 200
    found, wanted = both(features, [corners + 200], 7)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("boxes", [[torch.zeros(0, 4), torch.zeros(0, 4)], [torch.zeros(0, 4), BOXES]])
def test_images_without_boxes(boxes: list[Tensor]) -> None:
    found, wanted = both(torch.randn(2, 5, 4, 6, generator=torch.Generator().manual_seed(0)), boxes, 7)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


def test_flow_for_maps_at_another_stride_is_resized_and_rescaled() -> None:
    flow = torch.stack((torch.arange(6.0).expand(4, 6), torch.full((4, 6), -3.0)))[None]
    assert resize_flow(flow, (4, 6)) is flow
    finer = resize_flow(flow, (8, 12))
    assert finer.shape == (1, 2, 8, 12)
    # Positions are those of cell centres: cell 5 of 12 lies a quarter of a cell past cell 2 of 6.
    torch.testing.assert_close(finer[0, 0, 0, 5], torch.tensor(2 * 2.25))
    assert (finer[0, 1] == -6).all()
    coarser = resize_flow(flow, (2, 3))
    torch.testing.assert_close(coarser[0, 0, 0], torch.tensor([0.5, 2.5, 4.5]) / 2)
    assert (coarser[0, 1] == -1.5).all()
