"""ResNet and ResNeXt backbones in the DC5 form: stride 16, the last stage dilated."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Literal

from torch import Tensor, nn
from torchvision.models import resnet as torchvision_resnet

from flowdet.detectors.backbone import Backbone
from flowdet.errors import ConfigError, check_positive

__all__ = ["ResNet", "ResNetConfig"]

_BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}


@dataclass(frozen=True)
class ResNetConfig:
    """A residual backbone; groups 64 and group_width 4 make a ResNeXt 64x4d.

    `frozen_stages` freezes the stem and the first n stages; -1 freezes nothing.
    """

    depth: Literal[50, 101]
    groups: int = 1
    group_width: int = 64
    frozen_stages: int = 1

    is_lite = False

    def __post_init__(self) -> None:
        if self.depth not in _BLOCKS:
            raise ConfigError(f"a ResNet's depth is one of {sorted(_BLOCKS)}, not {self.depth}")
        check_positive(self, "groups", "group_width")

    @property
    def label(self) -> str:
        """The backbone, as mmtracking's tables write it."""
        return f"{'X' if self.groups > 1 else 'R'}-{self.depth}-DC5"

    def build(self) -> "ResNet":
        """Returns the backbone with random weights."""
        return ResNet(self)


class ResNet(Backbone, torchvision_resnet.ResNet):  # type: ignore[misc]
    """Torchvision's residual network without its classifier.

    Every block of stage 4 has stride 1 and dilation 2, the first included.
    """

    channels = (2048,)

    def __init__(self, config: ResNetConfig) -> None:
        super().__init__(
            torchvision_resnet.Bottleneck,
            list(_BLOCKS[config.depth]),
            groups=config.groups,
            width_per_group=config.group_width,
            replace_stride_with_dilation=[False, False, True],
        )
        first = self.layer4[0].conv2
        first.dilation = first.padding = (2, 2)
        del self.avgpool, self.fc
        stages = [nn.ModuleList((self.conv1, self.bn1)), self.layer1, self.layer2, self.layer3, self.layer4]
        self.freeze(stages, config.frozen_stages)

    def blocks(self) -> Iterator[nn.Module]:
        """Yields the residual blocks."""
        return chain(self.layer1, self.layer2, self.layer3, self.layer4)

    def published_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Torchvision's and OpenMMLab's names are those of this module."""
        # Files from before PyTorch 0.4.1 do not count the batches that batch norm has seen; nothing reads the count.
        counts = {key: own for key, own in self.state_dict().items() if key.endswith(".num_batches_tracked")}
        return counts | {key: tensor for key, tensor in weights.items() if not key.startswith("fc.")}

    def forward(self, images: Tensor) -> tuple[Tensor]:
        """Images [b, 3, H, W] to the map of stage 4, [b, 2048, H / 16, W / 16]."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(images))))
        return (self.layer4(self.layer3(self.layer2(self.layer1(x)))),)
