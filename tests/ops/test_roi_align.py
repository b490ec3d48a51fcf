import pytest
import torch
from flowdet.ops.roi_align import roi_align
from torch import Tensor

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
