"""Necks: from the backbone's feature maps to the one map at stride 16 that everything else works on."""

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import check_positive

__all__ = ["ConvNeck", "ConvNeckConfig", "MergeNeck", "MergeNeckConfig"]


@dataclass(frozen=True)
class ConvNeckConfig:
    """One 3x3 convolution with ReLU, as in the published systems."""

    channels: int = 512

    def __post_init__(self) -> None:
        check_positive(self, "channels")


@dataclass(frozen=True)
class MergeNeckConfig:
    """Two maps, at stride 16 and 32, added and smoothed."""

    channels: int = 128

    def __post_init__(self) -> None:
        check_positive(self, "channels")


class ConvNeck(nn.Module):
    """Reduces the last map of the backbone with one 3x3 convolution and ReLU."""

    def __init__(self, config: ConvNeckConfig, inputs: tuple[int, ...]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs[-1], config.channels, 3, padding=1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Maps [b, k, h, w] to [b, channels, h, w]."""
        return F.relu(self.conv(maps[-1]))


class MergeNeck(nn.Module):
    """Adds the context of the coarse map to the fine one (as the top-down path of FPN does), then smooths the sum."""

    def __init__(self, config: MergeNeckConfig, inputs: tuple[int, ...]) -> None:
        super().__init__()
        fine, coarse = inputs
        self.fine = nn.Conv2d(fine, config.channels, 1)
        self.coarse = nn.Conv2d(coarse, config.channels, 1)
        self.smooth = nn.Conv2d(config.channels, config.channels, 3, padding=1)

    def forward(self, maps: tuple[Tensor, ...]) -> Tensor:
        """Maps [b, k, h, w] and [b, l, h / 2, w / 2] to [b, channels, h, w]."""
        fine, coarse = maps
        context = F.interpolate(self.coarse(coarse), size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return F.relu(self.smooth(F.relu(self.fine(fine) + context)))
