import pytest
import torch
from torch import Tensor, nn

from flowdet.detectors.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Config
from flowdet.detectors.resnet import ResNet, ResNetConfig
from flowdet.training.memory import checkpoint_backbones


def pass_through(backbone: nn.Module, images: Tensor) -> tuple[int, list[Tensor]]:
    """The bytes that are kept for the backward pass, and all gradients."""
    own = {parameter.untyped_storage().data_ptr() for parameter in backbone.parameters()}
    kept: dict[int, int] = {}

    def note(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        maps = backbone(images)
    total = sum(kept.values())
    torch.stack([features.square().mean() for features in maps]).sum().backward()
    return total, [parameter.grad for parameter in backbone.parameters() if parameter.grad is not None]


@pytest.mark.parametrize(
    "backbone",
    [ResNet(ResNetConfig(50)), EfficientNetLite0(EfficientNetLite0Config(frozen_stages=2))],
    ids=["resnet", "efficientnet"],
)
def test_less_is_kept_and_the_gradients_stay(backbone: nn.Module) -> None:
    backbone.train()
    images = torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    keys = list(backbone.state_dict())
    plain, wanted = pass_through(backbone, images)
    backbone.zero_grad()
    checkpoint_backbones(nn.ModuleDict({"inner": backbone}))
    less, found = pass_through(backbone, images)
    assert less < 0.5 * plain
    assert len(found) == len(wanted)
    assert all(torch.equal(*pair) for pair in zip(found, wanted, strict=True))
    assert list(backbone.state_dict()) == keys


def test_a_model_without_a_backbone_stays_as_it_is() -> None:
    layer = nn.Linear(2, 2)
    checkpoint_backbones(layer)
    assert "forward" not in vars(layer)
