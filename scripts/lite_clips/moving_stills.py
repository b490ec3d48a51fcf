"""Training clips from still pictures, which move smoothly with objects cut out of others, so that flow is known."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor
from torch.nn import functional as F

from flowdet.types import Targets

from .clip import FlowClip
from .stills import OutlinedObject, Still

__all__ = ["MovingStills", "MovingStillsConfig"]

_SMALLEST_SIDE = 6
_LEAST_VISIBLE = 0.3


@dataclass(frozen=True)
class MovingStillsConfig:
    """Parameters of the clips.

    Attributes:
        size: (height, width) of the frames.
        zoom: Range of the scale of the picture; at 1 it just covers the frame.
        pasted: Largest number of objects pasted on a picture.
        speed: Largest speed of a layer, px a frame.
        reach: Largest distance of a reference from the current frame, in frames.
        background_share: Share of clips on a picture without labels, with pasted objects only.
    """

    size: tuple[int, int] = (288, 416)
    zoom: tuple[float, float] = (0.7, 2.2)
    pasted: int = 4
    speed: float = 5.0
    reach: int = 9
    background_share: float = 0.2


@dataclass(frozen=True, eq=False, slots=True)
class _Layer:
    """A moving picture RGBA [4, h, w] in [0, 1], its objects, and its affine map from frame to picture over time."""

    picture: Tensor
    objects: tuple[OutlinedObject, ...]
    centre: NDArray[np.float64]
    zoom: float
    angle: float
    velocity: NDArray[np.float64]
    growth: float
    spin: float

    def map_at(self, time: float, size: tuple[int, int]) -> NDArray[np.float64]:
        """Returns the [3, 3] matrix from frame to picture px, `time` frames after the current one."""
        zoom = self.zoom * math.exp(self.growth * time)
        angle = self.angle + self.spin * time
        cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
        turn = np.array([[cos, -sin], [sin, cos]])
        place = np.array([size[1] / 2, size[0] / 2]) + self.velocity * time
        matrix = np.eye(3)
        matrix[:2, :2] = turn
        matrix[:2, 2] = self.centre - turn @ place
        return matrix


class MovingStills:
    """Draws random clips from labelled stills and unlabelled backgrounds."""

    def __init__(self, stills: Sequence[Still], backgrounds: Sequence[Path], config: MovingStillsConfig) -> None:
        self.stills = tuple(stills)
        self.backgrounds = tuple(backgrounds)
        self.config = config
        self._cutouts = [(still, number) for still in stills for number in range(len(still.objects))]
        labels = np.array([still.objects[number].label for still, number in self._cutouts])
        frequency = np.bincount(labels)[labels]
        self._cutout_odds = frequency**-0.5 / (frequency**-0.5).sum()

    def draw(self, rng: np.random.Generator, references: int) -> FlowClip:
        """Returns a random clip with this number of reference frames."""
        layers = [self._ground(rng), *(self._cutout(rng) for _ in range(rng.integers(0, self.config.pasted + 1)))]
        reach = self.config.reach
        times = [0.0, *(rng.choice([*range(-reach, 0), *range(1, reach + 1)], references).astype(float))]
        seen = [[_sample(layer, time, self.config.size) for layer in layers] for time in times]
        alpha = [layer[3] for layer in seen[0]]
        flows = [_flow(layers, alpha, time) for time in times[1:]]
        return FlowClip(
            frames=_photograph(torch.stack([_compose(frame) for frame in seen]), rng),
            flows=torch.stack(flows) if flows else torch.zeros((0, 2, *self.config.size)),
            targets=_targets(layers, alpha),
        )

    def _ground(self, rng: np.random.Generator) -> _Layer:
        if self.backgrounds and rng.random() < self.config.background_share:
            path = self.backgrounds[rng.integers(len(self.backgrounds))]
            return self._place(rng, _open(path), (), covering=True)
        still = self.stills[rng.integers(len(self.stills))]
        picture, objects = _maybe_mirrored(_open(still.path), still.objects, rng)
        return self._place(rng, picture, objects, covering=True)

    def _cutout(self, rng: np.random.Generator) -> _Layer:
        still, number = self._cutouts[rng.choice(len(self._cutouts), p=self._cutout_odds)]
        outlined = still.objects[number]
        picture = _open(still.path)
        mask = Image.new("L", picture.size)
        for polygon in outlined.polygons:
            ImageDraw.Draw(mask).polygon([(float(x), float(y)) for x, y in polygon], fill=255)
        low = np.maximum(outlined.points.min(axis=0) - 3, 0).astype(int)
        high = np.minimum(outlined.points.max(axis=0) + 4, picture.size).astype(int)
        box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
        picture.putalpha(mask.filter(ImageFilter.GaussianBlur(1)))
        moved = OutlinedObject(outlined.label, tuple(polygon - low.astype(np.float32) for polygon in outlined.polygons))
        cut, objects = _maybe_mirrored(picture.crop(box), (moved,), rng)
        return self._place(rng, cut, objects, covering=False)

    def _place(
        self, rng: np.random.Generator, picture: Image.Image, objects: tuple[OutlinedObject, ...], *, covering: bool
    ) -> _Layer:
        height, width = self.config.size
        size = np.array(picture.size, dtype=float)
        if covering:
            zoom = max(width / size[0], height / size[1]) * math.exp(rng.uniform(*np.log(self.config.zoom)))
            free = np.abs(size - np.array([width, height]) / zoom) / 2
        else:
            zoom = math.sqrt(height * width / size.prod()) * math.exp(rng.uniform(math.log(0.08), math.log(0.6)))
            free = np.array([width, height]) / zoom / 2
        if zoom < 1:
            shrunk = np.maximum(np.rint(size * zoom), 1)
            picture = picture.resize((int(shrunk[0]), int(shrunk[1])))
            factor = (shrunk / size).astype(np.float32)
            objects = tuple(OutlinedObject(o.label, tuple(p * factor for p in o.polygons)) for o in objects)
            size, free, zoom = shrunk, free * zoom, 1.0
        speed = self.config.speed * rng.random() ** 2 * np.array([1, 0.6])
        return _Layer(
            picture=torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255,
            objects=objects,
            centre=size / 2 + rng.uniform(-1, 1, 2) * free,
            zoom=zoom,
            angle=rng.normal(0, 0.06),
            velocity=rng.normal(0, 0.7, 2) * speed,
            growth=rng.normal(0, 0.006),
            spin=rng.normal(0, 0.006),
        )


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGBA")


def _maybe_mirrored(
    picture: Image.Image, objects: tuple[OutlinedObject, ...], rng: np.random.Generator
) -> tuple[Image.Image, tuple[OutlinedObject, ...]]:
    if rng.random() < 0.5:
        return picture, objects
    mirror = np.array([-1, 1], dtype=np.float32)
    shift = np.array([picture.width, 0], dtype=np.float32)
    mirrored = (OutlinedObject(o.label, tuple(p * mirror + shift for p in o.polygons)) for o in objects)
    return picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), tuple(mirrored)


def _pixel_grid(size: tuple[int, int]) -> Tensor:
    y, x = torch.meshgrid(torch.arange(size[0]) + 0.5, torch.arange(size[1]) + 0.5, indexing="ij")
    return torch.stack((x, y), dim=-1)


def _sample(layer: _Layer, time: float, size: tuple[int, int]) -> Tensor:
    """Returns the layer as seen in a frame, RGBA [4, h, w]."""
    matrix = torch.from_numpy(layer.map_at(time, size)).float()
    place = _pixel_grid(size) @ matrix[:2, :2].T + matrix[:2, 2]
    height, width = layer.picture.shape[1:]
    grid = place / torch.tensor([width, height]) * 2 - 1
    picture = layer.picture[None]
    return F.grid_sample(picture, grid[None], mode="bilinear", padding_mode="zeros", align_corners=False)[0]


def _compose(seen: Sequence[Tensor]) -> Tensor:
    """Lays RGBA layers [4, h, w] over grey, the topmost last; returns RGB [3, h, w] in [0, 1]."""
    image = torch.full_like(seen[0][:3], 0.5)
    for layer in seen:
        image = torch.lerp(image, layer[:3], layer[3:])
    return image


def _flow(layers: Sequence[_Layer], alpha: Sequence[Tensor], time: float) -> Tensor:
    """Returns the flow [2, h, w] px of the topmost layer from the current frame to the frame at `time`."""
    height, width = alpha[0].shape
    grid = _pixel_grid((height, width))
    flow = torch.zeros_like(grid)
    for number, (layer, mask) in enumerate(zip(layers, alpha, strict=True)):
        forth = np.linalg.inv(layer.map_at(time, (height, width))) @ layer.map_at(0, (height, width))
        matrix = torch.from_numpy(forth).float()
        moved = grid @ matrix[:2, :2].T + matrix[:2, 2] - grid
        on_top = mask > 0.5 if number else torch.ones_like(mask, dtype=torch.bool)
        flow[on_top] = moved[on_top]
    return flow.permute(2, 0, 1)


def _targets(layers: Sequence[_Layer], alpha: Sequence[Tensor]) -> Targets:
    """Returns the objects of the current frame that are in view and not covered by others."""
    height, width = alpha[0].shape
    boxes, labels = [], []
    covered = torch.zeros_like(alpha[0])
    for layer, mask in zip(reversed(layers), reversed(alpha), strict=True):
        back = np.linalg.inv(layer.map_at(0, (height, width)))
        for outlined in layer.objects:
            points = outlined.points @ back[:2, :2].T + back[:2, 2]
            low, high = points.min(axis=0), points.max(axis=0)
            x1, y1 = np.maximum(low, 0)
            x2, y2 = np.minimum(high, [width, height])
            if min(x2 - x1, y2 - y1) < _SMALLEST_SIDE:
                continue
            in_view = (x2 - x1) * (y2 - y1) / (high - low).prod()
            free = 1 - covered[int(y1) : math.ceil(y2), int(x1) : math.ceil(x2)].mean().item()
            if in_view * free >= _LEAST_VISIBLE:
                boxes.append([x1, y1, x2, y2])
                labels.append(outlined.label)
        covered = torch.maximum(covered, mask)
    return Targets(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4), torch.tensor(labels, dtype=torch.int64))


def _photograph(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Puts frames [n, 3, h, w] in [0, 1] under one light, adds noise to each, returns uint8 [n, h, w, 3]."""
    gain = torch.tensor(rng.uniform(0.75, 1.25) * rng.uniform(0.93, 1.07, 3), dtype=torch.float32)[:, None, None]
    frames = (frames - 0.5) * rng.uniform(0.7, 1.3) + 0.5
    noise = torch.from_numpy(rng.normal(0, rng.uniform(0, 0.03), frames.shape).astype(np.float32))
    return ((frames * gain + noise).clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)
