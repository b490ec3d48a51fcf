"""Layers: pictures that move and bend in a way that can be inverted exactly, so that flow is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowdet.data.synthetic.motion import Shake, Wander

__all__ = ["Layer", "Place", "View", "Wobble", "look", "pixel_grid"]

_OPAQUE = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where a layer's picture lies in the frame.

    Attributes:
        x: Of its centre, px.
        y: Of its centre, px.
        log_scale: Logarithm of frame pixels a picture pixel.
        angle: Radians, clockwise.
    """

    x: Wander
    y: Wander
    log_scale: Wander
    angle: Wander


@dataclass(frozen=True, slots=True)
class Wobble:
    """A wave that runs through a picture from top to bottom and shifts its rows sideways.

    Attributes:
        amplitude: Picture px.
        wave_number: Radians a picture px.
        rate: Radians a frame.
    """

    amplitude: float = 0.0
    wave_number: float = 0.0
    rate: float = 0.0

    def shift(self, y: Tensor, time: float) -> Tensor:
        """How far the rows at y are shifted, picture px."""
        return self.amplitude * torch.sin(self.wave_number * y + self.rate * time)


@dataclass(frozen=True, eq=False, slots=True)
class Layer:
    """A moving picture.

    Attributes:
        picture: [4, h, w] float in [0, 1], red, green and blue multiplied by alpha, alpha.
        place: Where it is without the camera's shake.
        shake: That of the camera.
        wobble: How it bends.
        is_ground: Whether it goes on beyond its edges, mirrored, as the background does.
    """

    picture: Tensor
    place: Place
    shake: Shake
    wobble: Wobble
    is_ground: bool = False

    def scale(self, time: float) -> float:
        """Frame pixels a picture pixel."""
        return math.exp(self.place.log_scale.at(time))

    def matrix(self, time: float) -> NDArray[np.float64]:
        """[2, 3] from picture to frame px, but for the wobble."""
        angle, scale = self.place.angle.at(time), self.scale(time)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        turn = np.array([[cos, -sin], [sin, cos]])
        centre = np.array([self.place.x.at(time), self.place.y.at(time)]) + self.shake.at(time)
        height, width = self.picture.shape[1:]
        return np.column_stack((turn, centre - turn @ np.array([width / 2, height / 2])))

    def to_frame(self, points: Tensor, time: float) -> Tensor:
        """Where points [..., 2] (x, y) px of the picture are in the frame at that time."""
        x, y = points.unbind(dim=-1)
        matrix = torch.from_numpy(self.matrix(time)).float()
        return torch.stack((x - self.wobble.shift(y, time), y), dim=-1) @ matrix[:, :2].T + matrix[:, 2]

    def to_picture(self, points: Tensor, time: float) -> Tensor:
        """Which points of the picture are at these points [..., 2] (x, y) px of the frame at that time."""
        matrix = self.matrix(time)
        back = np.linalg.inv(matrix[:, :2])
        offset = torch.from_numpy(-back @ matrix[:, 2]).float()
        x, y = (points @ torch.from_numpy(back).float().T + offset).unbind(dim=-1)
        return torch.stack((x + self.wobble.shift(y, time), y), dim=-1)

    def colours(self, points: Tensor) -> Tensor:
        """The picture [4, h, w] at its points [h, w, 2] (x, y) px; nothing beyond its edges."""
        height, width = self.picture.shape[1:]
        grid = points * torch.tensor([2 / width, 2 / height]) - 1
        padding = "reflection" if self.is_ground else "zeros"
        return F.grid_sample(self.picture[None], grid[None], "bilinear", padding, align_corners=False)[0]

    def extent(self, time: float, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """The part of the frame that it can cover: left, top, right, bottom px, right and bottom not included."""
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
class View:
    """What a moment looks like.

    Attributes:
        image: [3, h, w] float in [0, 1].
        owner: [h, w] int64, the number of the topmost layer at each pixel.
        in_frame: For each layer, how many pixels of the frame it would cover if no other lay over it.
    """

    image: Tensor
    owner: Tensor
    in_frame: tuple[int, ...]


def pixel_grid(left: int, top: int, right: int, bottom: int) -> Tensor:
    """The centres [h, w, 2] (x, y) of the pixels from left and top to before right and bottom."""
    y, x = torch.meshgrid(torch.arange(top, bottom) + 0.5, torch.arange(left, right) + 0.5, indexing="ij")
    return torch.stack((x, y), dim=-1)


def look(layers: Sequence[Layer], time: float, size: tuple[int, int]) -> View:
    """Lays the layers over each other, the first lowest, for a frame of (height, width)."""
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
    return View(image, owner, tuple(in_frame))
