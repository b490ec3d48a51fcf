"""Weights and a video that need no file: every number follows from a parameter's name, or from a clip's size and seed.

The recorded reference was run on exactly these, so each draw, and the order of the operations on it, is part of the
contract. All draws are float64 and rounded once, at the end.

A parameter draws from PCG64, seeded with the CRC-32 of its published name:

- running means are 0.1 normal, running variances uniform in [0.5, 1.5), biases 0.05 normal
- scales of batch norms are uniform in [0.5, 1), those that end a residual branch in [0.1, 0.3)
- other weights are normal, less the mean over the inputs of each output, times gain * sqrt(3 / number of inputs)
"""

import math
import zlib
from collections.abc import Mapping
from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.systems.recipes import RECIPES
from flowdet.weights.fill import published_to_native
from tests.golden import state_dict_shapes

__all__ = ["seeded_system", "seeded_tensor", "seeded_weights", "synthetic_clip"]

# The first that occurs in the name counts; they keep features, flow and scores in a sensible range.
_GAINS = {
    "motion.conv1.": 3.0,
    "motion.predict_flow.": 0.15,
    "motion.predict_flow": 0.5,
    "detector.neck.": 2.0,
    "rpn_head.rpn_cls.": 1.5,
    "rpn_head.rpn_reg.": 0.3,
    ".ref_fc.": 0.6,
    ".fc.": 0.6,
    "bbox_head.fc_cls.": 2.0,
}
_MARGIN = 64
_OBJECTS = 5


def seeded_tensor(name: str, shape: tuple[int, ...]) -> Tensor:
    """The parameter of a published checkpoint with this name."""
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return torch.zeros(shape, dtype=torch.int64)
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    match kind:
        case "running_mean":
            values = 0.1 * rng.standard_normal(shape)
        case "running_var":
            values = rng.uniform(0.5, 1.5, shape)
        case "bias":
            values = 0.05 * rng.standard_normal(shape)
        case _ if len(shape) == 1:
            values = rng.uniform(0.1, 0.3, shape) if name.endswith("bn3.weight") else rng.uniform(0.5, 1.0, shape)
        case _:
            values = _kernel(name, rng.standard_normal(shape))
    return torch.from_numpy(values.astype(np.float32))


def _kernel(name: str, normal: NDArray[np.float64]) -> NDArray[np.float64]:
    axes: tuple[int, ...] = tuple(range(1, normal.ndim))
    inputs = math.prod(normal.shape[1:])
    if ".deconv" in name or ".upsample_flow" in name:
        # Transposed: inputs come first, and with stride 2 a quarter of the 4x4 kernel meets each output.
        axes, inputs = (0, 2, 3), normal.shape[0] * 4
    gain = next((gain for part, gain in _GAINS.items() if part in name), 1.0)
    centred: NDArray[np.float64] = normal - normal.mean(axis=axes, keepdims=True)
    scaled: NDArray[np.float64] = gain * np.sqrt(3.0 / inputs) * centred
    return scaled


_drawn_once = cache(seeded_tensor)  # most systems have most of their parameters in common


def seeded_weights(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """A whole state dict under flowdet's names, from the published ones; leave its tensors as they are."""
    return {published_to_native(name): _drawn_once(name, shape) for name, shape in shapes.items()}


def seeded_system(name: str) -> VideoDetector:
    """A published system with seeded weights."""
    system = build(RECIPES[name]())
    system.load_state_dict(seeded_weights(state_dict_shapes()[name]))
    return system


def _blocks(
    rng: np.random.Generator, low: float, high: float, size: tuple[int, int], block: int
) -> NDArray[np.float64]:
    """A chequered texture [h, w, 3]."""
    coarse = rng.uniform(low, high, (size[0] // block + 1, size[1] // block + 1, 3))
    return coarse.repeat(block, axis=0).repeat(block, axis=1)[: size[0], : size[1]]


def synthetic_clip(frames: int, size: tuple[int, int], seed: int) -> NDArray[np.uint8]:
    """A camera that pans over a textured ground, on which five textured rectangles move; each frame has noise.

    Args:
        frames: How many; the first ones do not depend on it.
        size: (height, width) px.
        seed: Of everything.

    Returns:
        [frames, height, width, 3] uint8 RGB.
    """
    height, width = size
    rng = np.random.default_rng([seed, 12345, height, width])
    large = (height + 2 * _MARGIN, width + 2 * _MARGIN)
    y, x = np.mgrid[: large[0], : large[1]].astype(np.float64)
    ground = np.zeros((*large, 3))
    for channel in range(3):
        for _ in range(6):
            along_x, along_y, phase, strength = (
                rng.uniform(*limits) for limits in ((-0.15, 0.15), (-0.15, 0.15), (0, 6.28), (8, 24))
            )
            ground[..., channel] += strength * np.sin(along_x * x + along_y * y + phase)
    ground += 110 + _blocks(rng, -25, 25, large, 8)

    rectangles = []
    for _ in range(_OBJECTS):
        extent = (int(rng.uniform(0.15, 0.5) * height), int(rng.uniform(0.15, 0.5) * width))
        texture = _blocks(rng, 0, 255, extent, 6)
        colour = rng.uniform(0, 255, 3)
        start = np.array([rng.uniform(0, height - extent[0]), rng.uniform(0, width - extent[1])])
        speed = rng.uniform(-3, 3, 2) * np.array([height, width]) / 224.0
        rectangles.append((0.5 * texture + 0.5 * colour, start, speed))

    clip = np.empty((frames, height, width, 3), np.uint8)
    for time in range(frames):
        top, left = ((round(_MARGIN + speed * time)) % (2 * _MARGIN) for speed in (0.5, 1.0))
        image = ground[top : top + height, left : left + width].copy()
        for texture, start, speed in rectangles:
            top, left = (start + speed * time).round().astype(int)
            bottom, right = top + texture.shape[0], left + texture.shape[1]
            rows = slice(max(top, 0), min(bottom, height))
            columns = slice(max(left, 0), min(right, width))
            if rows.stop > rows.start and columns.stop > columns.start:
                seen = texture[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
                image[rows, columns] = seen
        noise = np.random.default_rng([seed, 777, time, height, width]).normal(0, 4, image.shape)
        # The draws are in the order blue, green, red.
        clip[time] = (image + noise).round().clip(0, 255)[..., ::-1]
    return clip
