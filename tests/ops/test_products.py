import pytest
import torch
from flowdet.ops.products import conv_by_product, transposed_conv_by_product
from torch.nn import functional as F


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (3, 2, 1), (5, 2, 2), (3, 1, 0), (1, 1, 0)])
@pytest.mark.parametrize("has_bias", [True, False])
def test_a_convolution_is_a_product(kernel: int, stride: int, padding: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 7, 6, 9, generator=generator)
    weight = torch.randn(5, 7, kernel, kernel, generator=generator)
    bias = torch.randn(5, generator=generator) if has_bias else None
    for form in (torch.contiguous_format, torch.channels_last):
        found = conv_by_product(
            x.contiguous(memory_format=form), weight.contiguous(memory_format=form), bias, stride, padding
        )
        torch.testing.assert_close(found, F.conv2d(x, weight, bias, stride, padding), rtol=1e-4, atol=1e-5)
        assert found.is_contiguous(memory_format=torch.channels_last)


def test_a_transposed_convolution_is_a_product() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(2, 7, 5, 8, generator=generator)
    weight = torch.randn(7, 3, 4, 4, generator=generator)
    found = transposed_conv_by_product(x, weight)
    torch.testing.assert_close(found, F.conv_transpose2d(x, weight, stride=2, padding=1), rtol=1e-4, atol=1e-5)
    assert found.is_contiguous(memory_format=torch.channels_last)
