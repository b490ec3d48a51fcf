import pytest
import torch
from torch import nn
from torch.nn import functional as F

from flowdet.backends.convolutions import (
    ConvBySize,
    TransposedConvBySize,
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


@pytest.mark.parametrize("dilation", [1, 2])
@torch.inference_mode()
def test_large_maps_take_fewer_multiplications_and_small_ones_none_of_its_memory(dilation: int) -> None:
    conv = nn.Conv2d(128, 128, 3, padding=dilation, dilation=dilation)
    assert ConvBySize.suits(conv)
    fast = ConvBySize(conv)
    for side, is_large in ((8, False), (14, False), (40, True)):
        x = torch.rand(1, 128, side, side)
        found, wanted = fast(x), conv(x)
        assert (fast._kernel is not None) == is_large
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    assert not torch.equal(found, wanted)


@pytest.mark.parametrize(("kernel", "stride"), [(5, 2), (3, 2), (3, 1)])
@torch.inference_mode()
def test_maps_with_fewer_cells_than_channels_are_one_product(kernel: int, stride: int) -> None:
    conv = nn.Conv2d(128, 128, kernel, stride, kernel // 2)
    fast = ConvBySize(conv)
    for size in ((5, 8), (21, 32)):
        x = torch.rand(2, 128, *size).contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_transposed_convolutions_too() -> None:
    conv = nn.ConvTranspose2d(128, 16, 4, 2, 1, bias=False)
    assert TransposedConvBySize.suits(conv)
    fast = TransposedConvBySize(conv)
    for size in ((5, 7), (12, 16)):
        x = torch.rand(2, 128, *size)
        torch.testing.assert_close(fast(x), conv(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "module",
    [
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 64, 3, padding=1),
        nn.Conv2d(128, 128, (3, 5), padding=1),
        nn.Conv2d(128, 128, 3, padding=(1, 2)),
        nn.Conv2d(128, 128, 3, padding="same"),
        nn.Conv2d(128, 128, 3, padding=1, device="meta"),
        nn.ConvTranspose2d(128, 128, 4, 2, 1, bias=False),
    ],
)
def test_other_convolutions_stay_as_they_are(module: nn.Module) -> None:
    assert not ConvBySize.suits(module)


@pytest.mark.parametrize(
    "module",
    [
        nn.ConvTranspose2d(128, 128, 4, 2, 1),
        nn.ConvTranspose2d(128, 128, 4, 2, 0, bias=False),
        nn.ConvTranspose2d(128, 128, 3, 2, 1, bias=False),
        nn.ConvTranspose2d(128, 128, 4, 2, 1, groups=2, bias=False),
        nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False),
        nn.Conv2d(128, 128, 3, padding=1),
    ],
)
def test_other_transposed_convolutions_stay_as_they_are(module: nn.Module) -> None:
    assert not TransposedConvBySize.suits(module)
