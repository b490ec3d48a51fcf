"""A synthetic clip: its frames, the objects in them, and the flow between any two of them."""

import io
import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter
from torch import Tensor

from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.layers import Layer, Rendering, pixel_grid, render
from flowdet.data.synthetic.scene import Burst, Scene

__all__ = ["Flow", "SyntheticClip", "SyntheticFrame", "SyntheticObject"]

_LONGEST_STEP = 1.5
_MOST_EXPOSURES = 10
_COVERED = 0.1


@dataclass(frozen=True, slots=True)
class SyntheticObject:
    """One object in one frame.

    Attributes:
        track: Its number in the clip, from 0.
        class_name: Its class.
        box: x1, y1, x2, y2 px around its visible pixels.
        visible: Share of its pixels that are visible; the others lie outside the frame or under another layer.
        is_occluded: Whether another layer covers more than a tenth of its pixels within the frame.
    """

    track: int
    class_name: str
    box: tuple[int, int, int, int]
    visible: float
    is_occluded: bool


@dataclass(frozen=True, eq=False, slots=True)
class SyntheticFrame:
    """One frame.

    Attributes:
        image: [h, w, 3] uint8 RGB before compression.
        objects: The objects that are visible enough.
        left_out: Number of objects left out because too little of them is visible.
        degradation: "defocus", "shake" or "exposure"; None for a frame that is not in a burst.
    """

    image: NDArray[np.uint8]
    objects: tuple[SyntheticObject, ...]
    left_out: int
    degradation: str | None


@dataclass(frozen=True, eq=False, slots=True)
class Flow:
    """The flow from one frame to another.

    Attributes:
        flow: [2, h, w] float (dx, dy) px.
        visible: [h, w] bool, whether the same point of the scene is visible in the other frame.
    """

    flow: Tensor
    visible: Tensor


class SyntheticClip:
    """Renders the frames of a scene, in any order; the same scene and seed make the same bytes.

    Args:
        scene: The scene.
        config: The parameters.
        seed: Seed of the noise, which is drawn for each frame by itself.
    """

    def __init__(self, scene: Scene, config: SyntheticConfig, seed: tuple[int, ...]) -> None:
        self.scene = scene
        self.config = config
        self._seed = seed
        self._tracks = {
            layer: track for track, layer in enumerate(k for k, name in enumerate(scene.class_names) if name)
        }

    def frame(self, number: int) -> SyntheticFrame:
        """Renders one frame; its boxes are those of the middle of the exposure."""
        burst = self._burst(number)
        view = render(self.scene.layers, number, self.config.size)
        objects = [self._object(layer, number, view) for layer in self._tracks if view.in_frame[layer]]
        kept = tuple(each for each in objects if each is not None)
        image = self._photograph(self._exposed(number, view, burst), number, burst)
        return SyntheticFrame(image, kept, len(objects) - len(kept), burst.kind if burst else None)

    def jpeg(self, image: NDArray[np.uint8]) -> bytes:
        """Compresses a frame's image as the clip's camera does."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, "JPEG", quality=self.scene.quality)
        return buffer.getvalue()

    def flow(self, current: int, reference: int) -> Flow:
        """Returns the flow between two frames at the middle of their exposures, from the geometry of the layers."""
        height, width = self.config.size
        layers = self.scene.layers
        owner = render(layers, current, self.config.size).owner
        grid = pixel_grid(0, 0, width, height)
        target = torch.empty_like(grid)
        visible = torch.zeros((height, width), dtype=torch.bool)
        for number, layer in enumerate(layers):
            mine = owner == number
            if not mine.any():
                continue
            points = layer.to_frame(layer.to_picture(grid[mine], current), reference)
            target[mine] = points
            inside = ((points >= 0) & (points < torch.tensor([width, height]))).all(dim=-1)
            visible[mine] = inside & ~_is_covered(layers[number + 1 :], points, reference)
        return Flow((target - grid).permute(2, 0, 1).contiguous(), visible)

    def _burst(self, number: int) -> Burst | None:
        return next((burst for burst in self.scene.bursts if number in burst), None)

    def _object(self, number: int, time: int, view: Rendering) -> SyntheticObject | None:
        layer, name = self.scene.layers[number], self.scene.class_names[number]
        assert name is not None
        seen = view.owner == number
        count = int(seen.sum())
        whole = float((layer.picture[3] > 0.5).sum()) * layer.scale(time) ** 2
        if not count or count / whole < self.config.least_visible:
            return None
        rows, columns = seen.any(dim=1).nonzero(), seen.any(dim=0).nonzero()
        box = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        if min(box[2] - box[0], box[3] - box[1]) < self.config.least_side:
            return None
        is_occluded = count < (1 - _COVERED) * view.in_frame[number]
        return SyntheticObject(self._tracks[number], name, box, min(1.0, count / whole), is_occluded)

    def _exposed(self, number: int, view: Rendering, burst: Burst | None) -> Tensor:
        """Returns the mean image [3, h, w] while the shutter is open."""
        shaken = burst is not None and burst.kind == "shake"
        exposure = self.config.jolt_exposure if shaken else self.scene.exposure
        step = max(_largest_step(layer, number, exposure, self.config.size) for layer in self.scene.layers)
        count = min(math.ceil(step / _LONGEST_STEP), _MOST_EXPOSURES)
        if count < 2:
            return view.image
        moments = [number + exposure * ((k + 0.5) / count - 0.5) for k in range(count)]
        return torch.stack([render(self.scene.layers, moment, self.config.size).image for moment in moments]).mean(
            dim=0
        )

    def _photograph(self, exposed: Tensor, number: int, burst: Burst | None) -> NDArray[np.uint8]:
        """Adds defocus, light and noise; returns [h, w, 3] uint8."""
        rng = np.random.default_rng((*self._seed, number))
        image = (exposed.permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
        light = np.array(self.scene.light, dtype=np.float32)
        if burst and burst.kind == "defocus":
            blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(burst.strength))
            image = np.array(blurred)
        if burst and burst.kind == "exposure":
            light = light * np.float32(burst.strength)
        noise = rng.standard_normal(image.shape, dtype=np.float32) * np.float32(self.scene.noise * 255)
        noisy: NDArray[np.uint8] = (image * light + noise).clip(0, 255).round().astype(np.uint8)
        return noisy


def _is_covered(above: tuple[Layer, ...], points: Tensor, time: int) -> Tensor:
    """Returns a mask [n] of the points [n, 2] px of a frame that a layer above hides."""
    covered = torch.zeros(len(points), dtype=torch.bool)
    for layer in above:
        covered |= layer.colours(layer.to_picture(points[None], time))[3, 0] > 0.5
    return covered


def _largest_step(layer: Layer, time: int, exposure: float, size: tuple[int, int]) -> float:
    """Returns how far a corner of the layer (for the background, of the frame) moves while the shutter is open, px."""
    height, width = size if layer.is_ground else layer.picture.shape[1:]
    corners = torch.tensor([[0.0, 0.0], [width, 0.0], [0.0, height], [width, height]])
    before, after = (layer.to_frame(corners, time + exposure * share) for share in (-0.5, 0.5))
    middle = layer.to_frame(corners, time)
    return float(torch.maximum((after - middle).norm(dim=1), (middle - before).norm(dim=1)).max()) * 2
