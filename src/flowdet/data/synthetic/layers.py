"""Layers: pictures whose motion and bending can be inverted exactly, so that flow is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowdet.data.synthetic.motion import Shake, Wander

__all__ = ["Layer", "Place", "Rendering", "Wobble", "pixel_grid", "render"]

_OPAQUE = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer's picture lies in the frame, over time.

    Attributes:
        x: x of its centre, frame px.
        y: y of its centre, frame px.
        log_scale: Logarithm of the number of frame pixels per picture pixel.
        angle: Rotation in radians, clockwise.
    """

    x: Wander
    y: Wander
    log_scale: Wander
    angle: Wander


@dataclass(frozen=True, slots=True)
class Wobble:
    """A wave that runs through a picture from top to bottom and shifts its rows sideways.

    Attributes:
        amplitude: Largest shift, picture px.
        wave_number: Radians per picture px.
        rate: Radians per frame.
    """

    amplitude: float = 0.0
    wave_number: float = 0.0
    rate: float = 0.0

    def shift(self, y: Tensor, time: float) -> Tensor:
        """Returns the shift of the rows at y, picture px."""
        return self.amplitude * torch.sin(self.wave_number * y + self.rate * time)


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """A moving picture.

    Attributes:
        picture: [4, h, w] float RGBA in [0, 1], colours multiplied by alpha.
        place: Its place without the camera's shake.
        shake: The camera's shake.
        wobble: How it bends.
        is_ground: Whether it continues beyond its edges, mirrored, as the background does.
    """

    picture: Tensor
    place: Place
    shake: Shake
    wobble: Wobble
    is_ground: bool = False

    def scale(self, time: float) -> float:
        """Returns the number of frame pixels per picture pixel."""
        return math.exp(self.place.log_scale.at(time))

    def matrix(self, time: float) -> NDArray[np.float64]:
        """Returns the [2, 3] matrix from picture to frame px, without the wobble."""
        angle, scale = self.place.angle.at(time), self.scale(time)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        centre = np.array([self.place.x.at(time), self.place.y.at(time)]) + self.shake.at(time)
        height, width = self.picture.shape[1:]
        return np.column_stack((turn, centre - turn @ np.array([width / 2, height / 2])))

    def to_frame(self, points: Tensor, time: float) -> Tensor:
        """Returns where points [..., 2] (x, y) px of the picture are in the frame at a time."""
        x, y = points.unbind(dim=-1)
        matrix = torch.from_numpy(self.matrix(time)).float()
        return torch.stack((x - self.wobble.shift(y, time), y), dim=-1) @ matrix[:, :2].T + matrix[:, 2]

    def to_picture(self, points: Tensor, time: float) -> Tensor:
        """Returns the points of the picture that are at points [..., 2] (x, y) px of the frame at a time."""
        matrix = self.matrix(time)
        back = np.linalg.inv(matrix[:, :2])
        offset = torch.from_numpy(-back @ matrix[:, 2]).float()
        x, y = (points @ torch.from_numpy(back).float().T + offset).unbind(dim=-1)
        return torch.stack((x + self.wobble.shift(y, time), y), dim=-1)

    def colours(self, points: Tensor) -> Tensor:
        """Samples the picture at points [h, w, 2] (x, y) px; returns [4, h, w], transparent beyond its edges."""
        height, width = self.picture.shape[1:]
        grid = points * torch.tensor([2 / width, 2 / height]) - 1
        padding = "reflection" if self.is_ground else "zeros"
        return F.grid_sample(self.picture[None], grid[None], "bilinear", padding, align_corners=False)[0]

    def extent(self, time: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Returns the part of the frame that it can cover: left, top, right, bottom px, the last two exclusive."""
        height, width = size
        if self.is_ground:
            return 0, 0, width, height
        rows, columns = self.picture.shape[1:]
        left, right = -self.wobble.amplitude - 1, columns + self.wobble.amplitude + 1
        corners = np.array([[left, -1, 1], [right, -1, 1], [left, rows + 1, 1], [right, rows + 1, 1]])
        placed = corners @ self.matrix(time).T
        low = np.clip(np.floor(placed.min(axis=0)), 0, [width, height]).astype(int)
        high = np.clip(np.ceil(placed.max(axis=0)), low, [width, height]).astype(int)
        return int(low[0]), int(low[1]), int(high[0]), int(high[1])


@dataclass(frozen=True, eq=False, slots=True)
class Rendering:
    """All layers at one moment.

    Attributes:
        image: [3, h, w] float RGB in [0, 1].
        owner: [h, w] int64, the number of the topmost layer at each pixel.
        in_frame: For each layer, the number of pixels of the frame that it would cover if no other lay over it.
    """

    image: Tensor
    owner: Tensor
    in_frame: tuple[int, ...]


def pixel_grid(left: int, top: int, right: int, bottom: int) -> Tensor:
    """Returns the centres [h, w, 2] (x, y) of the pixels from left and top to right and bottom, exclusive."""
    y, x = torch.meshgrid(torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij")
    return torch.stack((x, y), dim=-1)


def render(layers: Sequence[Layer], time: float, size: tuple[int, int]) -> Rendering:
    """Lays layers over each other, the first lowest, in a frame of (height, width) px."""
    image = torch.zeros((3, *size))
    owner = torch.zeros(size, dtype=torch.int64)
    in_frame = []
    for number, layer in enumerate(layers):
        left, top, right, bottom = layer.extent(time, size)
        if right <= left or bottom <= top:
            in_frame.append(0)
            continue
        colours = layer.colours(layer.to_picture(pixel_grid(left, top, right, bottom), time))
        part = image[:, top:bottom, left:right]
        part.mul_(1 - colours[3]).add_(colours[:3])
        covered = colours[3] > _OPAQUE
        owner[top:bottom, left:right][covered] = number
        in_frame.append(int(covered.sum()))
    return Rendering(image, owner, tuple(in_frame))
