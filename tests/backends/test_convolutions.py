import pytest
import torch
from torch.nn import functional as F

from flowdet.backends.convolutions import (
    conv_by_product,
    count_tiles,
    transform_kernel,
    transposed_conv_by_product,
    winograd_conv,
)


@pytest.mark.parametrize("dilation", [1, 2, 3])
@pytest.mark.parametrize(
    ("size", "inputs"), [((1, 38, 63), 16), ((2, 4, 4), 16), ((3, 1, 1), 16), ((2, 5, 9), 16), ((1, 20, 24), 512)]
)
def test_it_is_the_convolution(size: tuple[int, int, int], inputs: int, dilation: int) -> None:
    generator = torch.Generator().manual_seed(sum(size))
    batch, height, width = size
    x = torch.rand(batch, inputs, height, width, generator=generator)
    weight = torch.randn(8, inputs, 3, 3, generator=generator)
    bias = torch.randn(8, generator=generator)
    wanted = F.conv2d(x.double(), weight.double(), bias.double(), padding=dilation, dilation=dilation)
    found = winograd_conv(x, transform_kernel(weight), bias, dilation)
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 4e-6 * wanted.abs().max()


def test_images_in_parts_are_those_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(3, 8, 40, 64, generator=generator)
    kernel = transform_kernel(torch.randn(8, 8, 3, 3, generator=generator))
    together = winograd_conv(x, kernel, None)
    assert together.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(together, torch.cat([winograd_conv(one, kernel, None) for one in x.split(1)]))


def test_the_kernel_is_made_in_parts() -> None:
    weight = torch.randn(40, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    kernel = transform_kernel(weight)
    assert kernel.shape == (36, 4, 40)
    torch.testing.assert_close(kernel[:, :, 33:34], transform_kernel(weight[33:34]))


@pytest.mark.parametrize(("size", "dilation", "tiles"), [((38, 63), 1, 160), ((38, 63), 2, 160), ((4, 5), 1, 2)])
def test_tiles_cover_the_map(size: tuple[int, int], dilation: int, tiles: int) -> None:
    assert count_tiles(size, dilation) == tiles


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
