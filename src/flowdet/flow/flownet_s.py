"""FlowNet-S: optical flow from a pair of images by one encoder-decoder (FlowNet, ICCV 2015, section 3)."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import ConfigError
from flowdet.inputs import FEATURE_STRIDE, InputConfig
from flowdet.ops.devices import full_precision
from flowdet.types import NetworkInput

__all__ = ["PIXELS_PER_UNIT", "FlowNetConfig", "FlowNetS"]

_MEAN = (0.411, 0.432, 0.450)
PIXELS_PER_UNIT = 40.0
"""Image pixels in one unit of a predicted flow."""
_STRIDE = 8


@dataclass(frozen=True)
class FlowNetConfig:
    """Channels of the six encoder levels and of the decoder at levels 5, 4, 3 and 2."""

    encoder: tuple[int, int, int, int, int, int] = (64, 128, 256, 512, 512, 1024)
    decoder: tuple[int, int, int, int] = (512, 256, 128, 64)

    def __post_init__(self) -> None:
        if min(*self.encoder, *self.decoder) < 1:
            raise ConfigError(f"a flow net's levels have 1 channel or more, not {self.encoder} and {self.decoder}")


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2), nn.LeakyReLU(0.1, inplace=True))


def _inside(inputs: NetworkInput) -> Tensor:
    """1 on the pixels of the frames and 0 in their padding, [b, 1, H, W]."""
    masks = []
    for geometry in inputs.geometries:
        (height, width), (padded_height, padded_width) = geometry.valid, geometry.padded
        mask = inputs.images.new_ones(1, height, width)
        masks.append(F.pad(mask, (0, padded_width - width, 0, padded_height - height)))
    return torch.stack(masks)


class FlowNetS(nn.Module):
    """Flow from the current to a reference frame, seen at half the image's size."""

    stride = FEATURE_STRIDE

    def __init__(self, config: FlowNetConfig, inputs: InputConfig) -> None:
        super().__init__()
        c1, c2, c3, c4, c5, c6 = config.encoder
        self.conv1 = nn.Sequential(_conv(6, c1, 7, 2))
        self.conv2 = nn.Sequential(_conv(c1, c2, 5, 2))
        self.conv3 = nn.Sequential(_conv(c2, c3, 5, 2), _conv(c3, c3, 3, 1))
        self.conv4 = nn.Sequential(_conv(c3, c4, 3, 2), _conv(c4, c4, 3, 1))
        self.conv5 = nn.Sequential(_conv(c4, c5, 3, 2), _conv(c5, c5, 3, 1))
        self.conv6 = nn.Sequential(_conv(c5, c6, 3, 2), _conv(c6, c6, 3, 1))
        self.predictions, self.upsamplings, self.deconvs = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()
        channels = c6
        for level, skip, outputs in zip((5, 4, 3, 2), (c5, c4, c3, c2), config.decoder, strict=True):
            self.predictions[f"{level + 1}"] = nn.Conv2d(channels, 2, 3, padding=1, bias=False)
            self.upsamplings[f"{level}"] = nn.ConvTranspose2d(2, 2, 4, 2, 1, bias=False)
            self.deconvs[f"{level}"] = nn.ConvTranspose2d(channels, outputs, 4, 2, 1, bias=False)
            channels = skip + outputs + 2
        self.predictions["2"] = nn.Conv2d(channels, 2, 3, padding=1, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            elif name.startswith(("conv", "deconvs")):
                nn.init.kaiming_normal_(parameter, a=0.1)
        mean = torch.tensor(inputs.mean, dtype=torch.float32)[:, None, None]
        std = torch.tensor(inputs.std, dtype=torch.float32)[:, None, None]
        self.register_buffer("_mean", mean, persistent=False)
        self.register_buffer("_std", std, persistent=False)
        self.register_buffer("_flow_mean", torch.tensor(_MEAN, dtype=torch.float32)[:, None, None], persistent=False)
        self._mean: Tensor
        self._std: Tensor
        self._flow_mean: Tensor

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """Returns what the flow net sees of a frame, [b, 3, H / 2, W / 2]."""
        images = (inputs.images * self._std + self._mean) / 255 - self._flow_mean
        return F.interpolate(images * _inside(inputs), scale_factor=0.5, mode="bilinear", align_corners=False)

    # The first layer sees both frames side by side and is linear: its output is the sum of what it makes of each. With
    # gradients it takes them together, as the original does: sums in another order change its small gradients.

    def as_current(self, prepared: Tensor) -> Tensor:
        """Returns what the first layer makes of current frames [b, 3, h, w]: [b, c, h / 2, w / 2], with the bias.

        With gradients enabled it is [b, 6, h, w], the frames beside zeros: the sum of a pair is the layer's input.
        """
        if torch.is_grad_enabled():
            return F.pad(prepared, (0, 0, 0, 0, 0, 3))
        first = self._first
        return F.conv2d(prepared, first.weight[:, :3], first.bias, first.stride, first.padding)

    def as_reference(self, prepared: Tensor) -> Tensor:
        """Returns what the first layer makes of reference frames [b, 3, h, w]: [b, c, h / 2, w / 2]; as there."""
        if torch.is_grad_enabled():
            return F.pad(prepared, (0, 0, 0, 0, 3, 0))
        first = self._first
        return F.conv2d(prepared, first.weight[:, 3:], None, first.stride, first.padding)

    @property
    def _first(self) -> nn.Conv2d:
        first = self.conv1.get_submodule("0.0")
        assert isinstance(first, nn.Conv2d)
        return first

    def predict(self, current: Tensor, reference: Tensor) -> tuple[Tensor, ...]:
        """Returns flow at five scales, finest first, in units of 40 image pixels.

        Args:
            current: [b, c, H / 4, W / 4], from `as_current`.
            reference: [b, c, H / 4, W / 4], from `as_reference`.

        Returns:
            [b, 2, H / 8, W / 8] (dx, dy), and the same at H / 16, H / 32, H / 64 and H / 128, rounded up.
        """
        both = current + reference
        level2 = self.conv2(self.conv1(both) if torch.is_grad_enabled() else F.leaky_relu_(both, 0.1))
        level3 = self.conv3(level2)
        level4 = self.conv4(level3)
        level5 = self.conv5(level4)
        x = self.conv6(level5)
        flows = [self.predictions["6"](x)]
        for level, skip in (("5", level5), ("4", level4), ("3", level3), ("2", level2)):
            height, width = skip.shape[-2:]
            finer = F.leaky_relu(self.deconvs[level](x), 0.1)[..., :height, :width]
            x = torch.cat((skip, finer, self.upsamplings[level](flows[-1])[..., :height, :width]), dim=1)
            flows.append(self.predictions[level](x))
        return tuple(reversed(flows))

    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns flow for warping features.

        Upsampling the prediction to the image and averaging it down to the features is, for sizes that are multiples
        of 16, the mean of 2x2 predictions.

        Args:
            current: [b, c, H / 4, W / 4], from `as_current`.
            reference: [b, c, H / 4, W / 4], from `as_reference`.

        Returns:
            [b, 2, H / 16, W / 16] (dx, dy) from the current to the reference frame, in feature cells of 16 px.
        """
        finest = full_precision(self.predict(current, reference)[0])
        return F.avg_pool2d(finest, 2) * (PIXELS_PER_UNIT / FEATURE_STRIDE)

    @staticmethod
    def to_image(prediction: Tensor) -> Tensor:
        """Returns the finest prediction [b, 2, H / 8, W / 8] as a flow [b, 2, H, W] in image pixels."""
        return F.interpolate(prediction, scale_factor=_STRIDE, mode="bilinear", align_corners=False) * PIXELS_PER_UNIT
