"""Optical flow without training: OpenCV's dense inverse search (Kroeger et al., ECCV 2016)."""

from dataclasses import dataclass
from types import ModuleType
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import ConfigError
from flowdet.inputs import FEATURE_STRIDE, InputConfig
from flowdet.ops.devices import constant
from flowdet.types import NetworkInput

__all__ = ["DISFlow", "DISFlowConfig"]

_GREY = (0.299, 0.587, 0.114)
# OpenCV 5.0 crashes on pictures 200 px wide and 24 px high.
_LEAST_SIDE = 32


@dataclass(frozen=True)
class DISFlowConfig:
    """How carefully flow is searched, and at which size.

    Attributes:
        preset: OpenCV's, from the fastest to the most careful.
        stride: Network-input pixels from one pixel to the next of the pictures that are compared; a larger one is
            faster and hardly coarser, because OpenCV stops at a quarter or half of their size in any case.
    """

    preset: Literal["ultrafast", "fast", "medium"] = "fast"
    stride: Literal[1, 2, 4] = 1

    def __post_init__(self) -> None:
        if self.preset not in {"ultrafast", "fast", "medium"}:
            raise ConfigError(f"the presets of DIS are ultrafast, fast and medium, not {self.preset!r}")
        if self.stride not in {1, 2, 4}:
            raise ConfigError(f"the stride of DIS is 1, 2 or 4, not {self.stride}")


class DISFlow(nn.Module):
    """Flow from the current to a reference frame, without parameters; runs on the CPU.

    No gradient flows through it: a system can be trained with it, but only the other parts learn.

    Raises:
        ConfigError: OpenCV is not installed.
    """

    stride = FEATURE_STRIDE

    def __init__(self, config: DISFlowConfig, inputs: InputConfig) -> None:
        super().__init__()
        _opencv()
        self.config = config
        self.register_buffer("_mean", torch.tensor(inputs.mean, dtype=torch.float32)[:, None, None], persistent=False)
        self.register_buffer("_std", torch.tensor(inputs.std, dtype=torch.float32)[:, None, None], persistent=False)
        self._mean: Tensor
        self._std: Tensor

    @torch.no_grad()
    def prepare(self, inputs: NetworkInput) -> Tensor:
        """Returns the frame in grey, [b, 1, H / stride, W / stride] uint8, its edges repeated into the padding."""
        pixels = inputs.images * self._std + self._mean
        grey = (pixels * constant(_GREY, pixels.dtype, pixels.device)[:, None, None]).sum(dim=1, keepdim=True)
        for image, geometry in zip(grey, inputs.geometries, strict=True):
            height, width = geometry.valid
            image[:, height:] = image[:, height - 1 : height]
            image[..., width:] = image[..., width - 1 : width]
        return F.avg_pool2d(grey, self.config.stride).round().clamp(0, 255).to(torch.uint8)

    def as_current(self, prepared: Tensor) -> Tensor:
        """Returns the same: a frame is compared as it is."""
        return prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        """Returns the same: a frame is compared as it is."""
        return prepared

    @torch.no_grad()
    def forward(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns flow for warping features.

        Args:
            current: [b, 1, H / stride, W / stride] uint8, prepared.
            reference: [b, 1, H / stride, W / stride] uint8, prepared.

        Returns:
            [b, 2, H / 16, W / 16] (dx, dy) from the current to the reference frame, in feature cells of 16 px.
        """
        pairs = zip(current[:, 0].cpu().numpy(), reference[:, 0].cpu().numpy(), strict=True)
        flows = torch.stack([torch.from_numpy(self._flow(*pair)).permute(2, 0, 1) for pair in pairs])
        cell = FEATURE_STRIDE // self.config.stride
        return F.avg_pool2d(flows, cell).to(current.device) / cell

    def _flow(self, current: NDArray[np.uint8], reference: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The flow [h, w, 2] px between two pictures [h, w]."""
        height, width = current.shape
        margins = (0, max(_LEAST_SIDE - height, 0)), (0, max(_LEAST_SIDE - width, 0))
        cv2 = _opencv()
        # Made for each pair, because it can be neither copied nor sent to another process.
        search = cv2.DISOpticalFlow_create(getattr(cv2, f"DISOPTICAL_FLOW_PRESET_{self.config.preset.upper()}"))
        # The finest pictures have a quarter or half of the network input's size whatever the stride.
        search.setFinestScale(max(search.getFinestScale() + 1 - self.config.stride.bit_length(), 0))
        flow = search.calc(np.pad(current, margins, "edge"), np.pad(reference, margins, "edge"), None)
        found: NDArray[np.float32] = flow[:height, :width]
        return found


def _opencv() -> ModuleType:
    try:
        import cv2  # noqa: PLC0415  (an optional extra)
    except ImportError as error:
        raise ConfigError(
            f"DIS flow needs OpenCV, which cannot be imported ({error}): `pip install opencv-python-headless`"
        ) from error
    found: ModuleType = cv2
    return found
