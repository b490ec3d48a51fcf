"""Scenes by hand."""

import math

import torch
from torch import Tensor

from flowdet.data.synthetic.layers import Layer, Place, Wobble
from flowdet.data.synthetic.motion import Shake, Wander
from flowdet.data.synthetic.scene import Burst, Scene

STILL = Shake(Wander(0, 0), Wander(0, 0), ())


def constant(value: float) -> Wander:
    return Wander(value, 0)


def moving(start: float, speed: float) -> Wander:
    """So far from its limits that it moves evenly."""
    return Wander(start, 1e7, 0, speed)


def layer(
    picture: Tensor,
    x: Wander,
    y: Wander,
    *,
    scale: float = 1.0,
    angle: float = 0.0,
    wobble: Wobble | None = None,
    is_ground: bool = False,
) -> Layer:
    place = Place(x, y, constant(math.log(scale)), constant(angle))
    return Layer(picture, place, STILL, wobble or Wobble(), is_ground)


def ground(size: tuple[int, int], x: Wander | None = None) -> Layer:
    """A fine coloured pattern, twice as large as the frame."""
    rows, columns = torch.meshgrid(torch.arange(2 * size[0]), torch.arange(2 * size[1]), indexing="ij")
    waves = [0.5 + 0.4 * torch.sin(rows / (2 + k) + columns / (1.5 + 0.3 * k)) for k in range(3)]
    picture = torch.stack((*waves, torch.ones(rows.shape)))
    return layer(picture, x or constant(size[1] / 2), constant(size[0] / 2), is_ground=True)


def square(side: int, colour: float = 0.9) -> Tensor:
    """An opaque square of one colour."""
    return torch.cat((torch.full((3, side, side), colour), torch.ones((1, side, side))))


def scene(layers: dict[Layer, str | None], bursts: tuple[Burst, ...] = ()) -> Scene:
    """One without noise and in plain light."""
    return Scene(
        layers=tuple(layers),
        class_names=tuple(layers.values()),
        pictures=tuple(str(k) for k in range(len(layers))),
        motion=0.1,
        bursts=bursts,
        exposure=0.0,
        light=(1.0, 1.0, 1.0),
        noise=0.0,
        quality=90,
    )
