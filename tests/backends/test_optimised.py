from dataclasses import replace

import pytest
import torch
from torch import nn

from flowdet.backends.optimised import ConvBySize, TransposedConvBySize, optimise
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.necks import ConvNeckConfig, MergeNeckConfig
from flowdet.detectors.resnet import ResNetConfig
from flowdet.systems.build import build
from flowdet.systems.config import BackboneConfig
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.single import SingleFrameConfig
from tests.benchmark.systems import FGFA, inputs_for, narrow_system
from tests.tiny import lite_config, run


def with_statistics(system: VideoDetector) -> VideoDetector:
    """The system with batch norms as they are after training."""
    generator = torch.Generator().manual_seed(0)
    for module in system.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low in ((module.weight.data, 0.5), (module.bias.data, -0.2), (module.running_mean, -0.2)):
                assert tensor is not None
                tensor.copy_(low + torch.rand(tensor.shape, generator=generator) / 2)
    return system


@pytest.mark.parametrize("method", [SingleFrameConfig(), DFFConfig(key_frame_interval=2), FGFA])
@torch.inference_mode()
def test_the_features_stay_the_same(method: SingleFrameConfig | DFFConfig) -> None:
    system = with_statistics(narrow_system(method))
    inputs = list(inputs_for(system, 4))
    wanted, found = run(system.method, inputs), run(optimise(system).method, inputs)
    assert len(found) == 4
    for one, other in zip(found, wanted, strict=True):
        scale = other.features.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(one.features, other.features, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "backbone", [ResNetConfig(50), ResNetConfig(50, groups=64, group_width=4), EfficientNetLite0Config()]
)
@torch.inference_mode()
def test_no_batch_norm_is_left_and_the_given_system_stays_as_it_was(backbone: BackboneConfig) -> None:
    neck = ConvNeckConfig(8) if isinstance(backbone, ResNetConfig) else MergeNeckConfig(8)
    system = with_statistics(build(replace(lite_config(), backbone=backbone, neck=neck)))
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    fast = optimise(system)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    wanted = system.detector.extract(images)
    torch.testing.assert_close(fast.detector.extract(images), wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
    after = system.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(parameter.requires_grad for parameter in system.parameters())


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


def test_a_system_has_them() -> None:
    system = narrow_system(SingleFrameConfig())
    system.detector.neck = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1), nn.ConvTranspose2d(128, 8, 4, 2, 1, bias=False)
    )
    fast = optimise(system)
    assert any(isinstance(module, ConvBySize) for module in fast.modules())
    assert any(isinstance(module, TransposedConvBySize) for module in fast.modules())
