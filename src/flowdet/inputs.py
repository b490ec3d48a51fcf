"""From decoded frames to network inputs: resizing, bit for bit as the published systems were trained; normalising."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowdet.errors import ConfigError
from flowdet.ops.devices import constant, upload
from flowdet.types import Geometry, NetworkInput

__all__ = ["FEATURE_STRIDE", "InputConfig", "fit_size", "prepare", "resize_bilinear", "resize_on_gpu"]

FEATURE_STRIDE = 16
"""Network-input pixels from one feature cell to the next, in every system."""


_COEFFICIENT_BITS = 11


@dataclass(frozen=True)
class InputConfig:
    """How a frame is resized, normalised and padded; the defaults are those of the published systems.

    Attributes:
        long_side: Longest side after resizing, px.
        short_side: Longest short side after resizing, px.
        mean: Mean of the red, green and blue channel, 0 to 255.
        std: Divisor of each channel.
        multiple: The padded sides are multiples of this.
        enlarge: Whether frames below those sides are enlarged to them; else they stay as they are, which is faster.
        padding: The value of padded pixels, after normalising.
    """

    long_side: int = 1000
    short_side: int = 600
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    multiple: int = 16
    enlarge: bool = True
    padding: float = 0.0

    def __post_init__(self) -> None:
        if self.multiple < FEATURE_STRIDE or self.multiple % FEATURE_STRIDE:
            raise ConfigError(f"inputs are padded to a multiple of {FEATURE_STRIDE}, not of {self.multiple}")
        if not 0 < self.short_side <= self.long_side:
            raise ConfigError(
                f"the short side ({self.short_side} px) must not exceed the long one ({self.long_side} px)"
            )

    def fit(self, size: tuple[int, int]) -> tuple[int, int]:
        """Returns the (height, width) to which a frame of this (height, width) is resized."""
        fitted = fit_size(size, self.long_side, self.short_side)
        return fitted if self.enlarge or fitted < size else size


def prepare(
    images: Sequence[NDArray[np.uint8]],
    config: InputConfig,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> NetworkInput:
    """Resizes, normalises and pads one image of each of b streams; all must have one size.

    Args:
        images: b times [h, w, 3] uint8 RGB.
        config: The input of the system.
        device: Where the result lives.
        dtype: Of the result.
    """
    original: tuple[int, int] = images[0].shape[:2]
    if any(image.shape[:2] != original for image in images):
        sizes = sorted({image.shape[:2] for image in images})
        raise ValueError(f"the images of one batch have one size, not {sizes}")
    valid = config.fit(original)
    padded = tuple(-(-side // config.multiple) * config.multiple for side in valid)
    tensors = [torch.from_numpy(np.require(image, requirements=("C", "W"))) for image in images]
    if torch.device(device).type == "cuda":  # it resizes itself, while the host does something else
        resized = torch.stack([resize_on_gpu(upload(tensor, device), valid) for tensor in tensors])
    else:
        resized = torch.stack([resize_bilinear(tensor, valid) for tensor in tensors]).to(device)
    pixels = resized.permute(0, 3, 1, 2)
    mean, std = (constant(tuple(values), dtype, pixels.device) for values in (config.mean, config.std))
    whole = torch.full((len(images), 3, *padded), config.padding, dtype=dtype, device=pixels.device)
    inside = whole[:, :, : valid[0], : valid[1]]
    inside.copy_(pixels).sub_(mean[:, None, None]).div_(std[:, None, None])
    geometry = Geometry(original=original, valid=valid, padded=(padded[0], padded[1]))
    return NetworkInput(whole, (geometry,) * len(images))


def fit_size(size: tuple[int, int], long_side: int, short_side: int) -> tuple[int, int]:
    """Returns the largest (height, width) of the same shape within the two limits; no side is below 1."""
    factor = min(long_side / max(size), short_side / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


@lru_cache(maxsize=16)
def _taps(length: int, target: int, *, whole_at_border: bool) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Left and right neighbour [2, target] of the target pixels, and their fixed-point weights [2, target]."""
    position = ((np.arange(target) + 0.5) * (1 / (target / length)) - 0.5).astype(np.float32)
    left: NDArray[np.int64] = np.floor(position).astype(np.int64)
    share = (position - left.astype(np.float32)).astype(np.float32)
    if whole_at_border:
        share[(left < 0) | (left >= length - 1)] = 0
    one = np.float32(1 << _COEFFICIENT_BITS)
    weights = np.stack((np.rint((1 - share) * one), np.rint(share * one))).astype(np.int32)
    return np.stack((left, left + 1)).clip(0, length - 1), weights


def resize_bilinear(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes as OpenCV's INTER_LINEAR does: 11-bit weights, rows first, no antialiasing.

    Args:
        image: [h, w, c] uint8, on the CPU.
        size: (height, width) of the result.

    Returns:
        [height, width, c] uint8.
    """
    if tuple(image.shape[:2]) == size:
        return image
    # OpenCV weighs columns beyond the border with 0 and 1, but rows with their shares, which rounds differently.
    columns, across = _taps(image.shape[1], size[1], whole_at_border=True)
    rows, down = _taps(image.shape[0], size[0], whole_at_border=False)
    channels = image.shape[2]
    places = (columns[..., None] * channels + np.arange(channels)).ravel()
    used = image.numpy().take(rows.ravel(), axis=0).reshape(2 * size[0], -1).take(places, axis=1)
    values = torch.from_numpy(used).view(2, size[0], 2, -1).to(torch.int32)
    values *= torch.from_numpy(across.repeat(channels, axis=1))
    lines = values[:, :, 0] + values[:, :, 1]
    lines >>= 4
    lines *= torch.from_numpy(down)[..., None]
    lines >>= 16
    total = lines[0] + lines[1]
    total += 2
    total >>= 2
    return total.clamp_(0, 255).to(torch.uint8).view(*size, channels)


def resize_on_gpu(image: Tensor, size: tuple[int, int]) -> Tensor:
    """As `resize_bilinear`, to the bit, in operations that suit a GPU.

    Args:
        image: [h, w, c] uint8, on any device.
        size: (height, width) of the result.

    Returns:
        [height, width, c] uint8.
    """
    if tuple(image.shape[:2]) == size:
        return image
    columns, across = _taps_on(image.device, image.shape[1], size[1], whole_at_border=True)
    rows, down = _taps_on(image.device, image.shape[0], size[0], whole_at_border=False)
    taken = image.index_select(0, rows.flatten()).index_select(1, columns.flatten())
    values = taken.view(2, size[0], 2, size[1], -1).to(torch.int32) * across[..., None]
    lines = values.sum(2, dtype=torch.int32) >> 4
    total = ((lines * down[..., None, None]) >> 16).sum(0, dtype=torch.int32)
    return ((total + 2) >> 2).clamp_(0, 255).to(torch.uint8)


@lru_cache(maxsize=16)
@torch.inference_mode(mode=False)  # training may use what detection has made
def _taps_on(device: torch.device, length: int, target: int, *, whole_at_border: bool) -> tuple[Tensor, Tensor]:
    """As `_taps`, on a device."""
    places, weights = _taps(length, target, whole_at_border=whole_at_border)
    return torch.from_numpy(places).to(device), torch.from_numpy(weights).to(device)
