from dataclasses import replace

import pytest
import torch
from torch import nn

from flowdet.backends.convolutions import ConvBySize, TransposedConvBySize
from flowdet.backends.optimised import optimise
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import BackboneConfig, FasterRCNN, FasterRCNNConfig
from flowdet.detectors.necks import ConvNeckConfig, MergeNeckConfig
from flowdet.detectors.resnet import ResNetConfig
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.temporal.temporal_roi_align import TemporalRoIAlignConfig, TemporalRoIAttention
from tests.benchmark.systems import FGFA, inputs_for, narrow_system
from tests.tiny import lite_config, lite_detector_config, run


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
        (own,), (expected,) = one.maps, other.maps
        scale = expected.abs().max().item()
        assert scale > 0
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize(
    "backbone", [ResNetConfig(50), ResNetConfig(50, groups=64, group_width=4), EfficientNetLite0Config()]
)
@torch.inference_mode()
def test_no_batch_norm_is_left_and_the_given_system_stays_as_it_was(backbone: BackboneConfig) -> None:
    neck = ConvNeckConfig(8) if isinstance(backbone, ResNetConfig) else MergeNeckConfig(8)
    system = with_statistics(build(replace(lite_config(), detector=FasterRCNNConfig(backbone, neck))))
    before = {name: tensor.clone() for name, tensor in system.state_dict().items()}
    fast = optimise(system)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    (found,), (wanted,) = fast.detector.extract(images), system.detector.extract(images)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4 * wanted.abs().max().item())
    after = system.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert any(parameter.requires_grad for parameter in system.parameters())


def test_a_system_has_them() -> None:
    system = narrow_system(SingleFrameConfig())
    assert isinstance(system.detector, FasterRCNN)
    system.detector.neck = nn.Sequential(
        nn.Conv2d(128, 128, 3, padding=1), nn.ConvTranspose2d(128, 8, 4, 2, 1, bias=False)
    )
    fast = optimise(system)
    assert any(isinstance(module, ConvBySize) for module in fast.modules())
    assert any(isinstance(module, TransposedConvBySize) for module in fast.modules())


def test_the_embedding_of_temporal_roi_align_is_optimised_too() -> None:
    torch.manual_seed(0)
    detector = replace(lite_detector_config(), neck=MergeNeckConfig(channels=128))
    system = build(replace(lite_config(), detector=detector, method=TemporalRoIAlignConfig(heads=4)))
    own, slots = torch.randn(16, 128, 7, 7), torch.randn(16 * 49, 3, 128)
    attentions: list[TemporalRoIAttention] = []
    for each in (system, optimise(system)):
        attention = each.detector.get_submodule("roi_head.attention")
        assert isinstance(attention, TemporalRoIAttention)
        attentions.append(attention)
    assert [type(attention.embedding) for attention in attentions] == [nn.Conv2d, ConvBySize]
    with torch.inference_mode():
        usual, fast = (attention._weights(own, slots) for attention in attentions)
    torch.testing.assert_close(fast, usual, rtol=1e-4, atol=1e-5)
