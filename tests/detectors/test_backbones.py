from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import resnet50

from flowdet.detectors.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Config
from flowdet.detectors.necks import ConvNeck, ConvNeckConfig, MergeNeck, MergeNeckConfig
from flowdet.detectors.resnet import ResNet, ResNetConfig
from flowdet.errors import ConfigError


def images(height: int, width: int) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(0))


def resnet(frozen_stages: int = 1) -> ResNet:
    return ResNet(ResNetConfig(50, frozen_stages=frozen_stages)).train(False)


def lite(frozen_stages: int = 1) -> EfficientNetLite0:
    return EfficientNetLite0(EfficientNetLite0Config(frozen_stages)).eval()


BACKBONES = pytest.mark.parametrize("make", [resnet, lite])


@torch.inference_mode()
@pytest.mark.parametrize("size", [(32, 64), (112, 80), (48, 16)])
def test_resnet_has_stride_16(size: tuple[int, int]) -> None:
    (features,) = resnet()(images(*size))
    assert features.shape == (2, *ResNet.channels, size[0] // 16, size[1] // 16)


@torch.inference_mode()
def test_efficientnet_lite_has_strides_16_and_32() -> None:
    fine, coarse = lite()(images(64, 96))
    assert fine.shape == (2, EfficientNetLite0.channels[0], 4, 6)
    assert coarse.shape == (2, EfficientNetLite0.channels[1], 2, 3)


def test_every_block_of_stage_4_is_dilated_and_has_stride_1() -> None:
    model = ResNet(ResNetConfig(101, groups=64, group_width=4))
    for block in model.layer4:
        assert (block.conv2.stride, block.conv2.dilation, block.conv2.padding) == ((1, 1), (2, 2), (2, 2))
        assert block.conv2.groups == 64
    assert model.layer4[0].downsample[0].stride == (1, 1)
    for stage, stride in ((model.layer1, 1), (model.layer2, 2), (model.layer3, 2)):
        assert [block.conv2.stride[0] for block in stage] == [stride] + [1] * (len(stage) - 1)
        assert all(block.conv2.dilation == (1, 1) for block in stage)
    assert [len(stage) for stage in (model.layer1, model.layer2, model.layer3, model.layer4)] == [3, 4, 23, 3]


@torch.inference_mode()
def test_up_to_stage_3_it_is_the_resnet_of_torchvision() -> None:
    ours, theirs = resnet(), resnet50(weights=None).eval()
    missing = theirs.load_state_dict(ours.state_dict(), strict=False)
    assert set(missing.missing_keys) == {"fc.weight", "fc.bias"}
    for model in (ours, theirs):
        model.layer4 = nn.Identity()
    theirs.avgpool, theirs.fc = nn.Identity(), nn.Identity()
    torch.testing.assert_close(ours(images(64, 48))[0].flatten(1), theirs(images(64, 48)))


def test_a_depth_that_does_not_exist() -> None:
    with pytest.raises(ConfigError, match="not 34"):
        ResNetConfig(34)  # type: ignore[arg-type]


@BACKBONES
def test_batch_norm_stays_in_evaluation_mode(make: Callable[[], nn.Module]) -> None:
    model = make().train()
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    assert model.training
    assert norms
    assert not any(norm.training for norm in norms)
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model(images(32, 32))
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def frozen(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if not parameter.requires_grad}


@pytest.mark.parametrize(
    ("stages", "prefixes"), [(-1, ()), (0, ("conv1.", "bn1.")), (2, ("conv1.", "bn1.", "layer1.", "layer2."))]
)
def test_frozen_stages_of_resnet(stages: int, prefixes: tuple[str, ...]) -> None:
    model = resnet(stages)
    assert frozen(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@pytest.mark.parametrize(("stages", "prefixes"), [(-1, ()), (0, ("stem.",)), (2, ("stem.", "stages.0.", "stages.1."))])
def test_frozen_stages_of_efficientnet_lite(stages: int, prefixes: tuple[str, ...]) -> None:
    model = lite(stages)
    assert frozen(model) == {name for name, _ in model.named_parameters() if name.startswith(prefixes)}


@BACKBONES
def test_gradients_reach_all_that_is_not_frozen(make: Callable[[], nn.Module]) -> None:
    model = make().train()
    torch.stack([maps.square().mean() for maps in model(images(64, 64))]).sum().backward()
    assert {name for name, parameter in model.named_parameters() if parameter.grad is None} == frozen(model)


@BACKBONES
@torch.inference_mode()
def test_a_batch_equals_one_by_one(make: Callable[[], nn.Module]) -> None:
    model = make()
    together = model(images(64, 96))
    for number, image in enumerate(images(64, 96)):
        for maps, alone in zip(together, model(image[None]), strict=True):
            torch.testing.assert_close(
                maps[number : number + 1], alone, rtol=1e-4, atol=1e-4 * alone.abs().max().item()
            )


def test_necks_give_one_map_at_stride_16() -> None:
    fine, coarse = torch.randn(2, 5, 3, 7), torch.randn(2, 6, 2, 4)
    conv = ConvNeck(ConvNeckConfig(channels=4), (6,))((coarse,))
    assert conv.shape == (2, 4, 2, 4)
    assert conv.min() == 0
    merged = MergeNeck(MergeNeckConfig(channels=4), (5, 6))((fine, coarse))
    assert merged.shape == (2, 4, 3, 7)
    assert merged.min() == 0


def test_the_merging_neck_uses_both_maps() -> None:
    neck = MergeNeck(MergeNeckConfig(channels=4), (5, 6))
    maps = [torch.randn(1, 5, 4, 6), torch.randn(1, 6, 2, 3)]
    before = neck(tuple(maps))
    for number in range(2):
        changed = list(maps)
        changed[number] = changed[number] + 1
        assert not torch.allclose(neck(tuple(changed)), before)
