from collections.abc import Iterator

import pytest
import torch
from flowdet.ops.warp import warp
from torch import Tensor


@pytest.fixture(autouse=True, params=["training", "inference"])
def both_ways(request: pytest.FixtureRequest) -> Iterator[None]:
    """Without gradients a CPU computes the same in another way."""
    with torch.set_grad_enabled(request.param == "training"):
        yield


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


def test_zero_flow_is_the_identity() -> None:
    torch.testing.assert_close(warp(features(), constant_flow(0, 0), "identity"), features())


def test_whole_cells_shift_and_the_border_repeats() -> None:
    reference = features()
    warped = warp(reference, constant_flow(2, -1), "identity")
    columns = torch.arange(9).add(2).clamp(max=8)
    rows = torch.arange(6).sub(1).clamp(min=0)
    torch.testing.assert_close(warped, reference[:, :, rows][..., columns])


def test_flow_far_out_of_the_map_takes_its_border() -> None:
    reference = features()
    warped = warp(reference, constant_flow(1000, -1000), "identity")
    torch.testing.assert_close(warped, reference[:, :, :1, -1:].expand_as(reference))


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


def test_the_published_warp_shrinks_by_one_cell_in_the_size_of_the_map() -> None:
    reference = features()
    warped = warp(reference, constant_flow(1.5, 0.25), "published")
    for y in range(6):
        for x in range(9):
            wanted = bilinear(reference[1], (x + 1.5) * 8 / 9, (y + 0.25) * 5 / 6)
            torch.testing.assert_close(warped[1, :, y, x], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(2, 2, 6, 8), (1, 2, 6, 9), (2, 1, 6, 9)])
def test_flow_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="flow for features"):
        warp(features(), torch.zeros(shape), "identity")


@pytest.mark.parametrize("convention", ["identity", "published"])
def test_gradients_reach_features_and_flow(convention: str) -> None:
    reference = features().double().requires_grad_()
    flow = (constant_flow(0.3, 0.4).double() + 0.01 * torch.rand(2, 2, 6, 9)).requires_grad_()
    with torch.enable_grad():
        assert torch.autograd.gradcheck(lambda r, f: warp(r, f, convention), (reference, flow))  # type: ignore[arg-type]
