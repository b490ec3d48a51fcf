"""Random scenes: drawings, their sizes and speeds, the motion of the camera, and bursts of degraded frames."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from flowdet.data.synthetic.assets import Assets, Picture
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.layers import Layer, Place, Wobble
from flowdet.data.synthetic.motion import Jolt, Shake, Wander, draw_wander

__all__ = ["Burst", "Scene", "draw_scene"]


@dataclass(frozen=True, slots=True)
class Burst:
    """A run of degraded frames.

    Attributes:
        kind: "defocus", "shake" or "exposure".
        start: Number of the first frame.
        length: Number of frames.
        strength: Blur in px for defocus, factor on the light for exposure; a shake is part of the camera's path.
    """

    kind: str
    start: int
    length: int
    strength: float

    def __contains__(self, frame: int) -> bool:
        return self.start <= frame < self.start + self.length


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """Everything random about a clip but the noise of its frames.

    Attributes:
        layers: The layers, the lowest first: the background, then objects and props.
        class_names: The class of each layer; None for background and props.
        pictures: The name of each layer's picture.
        motion: Amplitude factor of all motion.
        bursts: Bursts of degraded frames, in the order of time.
        exposure: Share of the frame interval during which the shutter is open.
        light: Factors on red, green and blue.
        noise: Standard deviation of the noise, as a share of the full range.
        quality: JPEG quality.
    """

    layers: tuple[Layer, ...]
    class_names: tuple[str | None, ...]
    pictures: tuple[str, ...]
    motion: float
    bursts: tuple[Burst, ...]
    exposure: float
    light: tuple[float, float, float]
    noise: float
    quality: int


def draw_scene(
    rng: np.random.Generator,
    assets: Assets,
    *,
    first: str,
    class_names: Sequence[str],
    length: int,
    config: SyntheticConfig,
    restyle: Callable[[Image.Image, np.random.Generator], Image.Image] = lambda drawing, rng: drawing,
) -> Scene:
    """Draws a random scene.

    Args:
        rng: Random number generator.
        assets: The drawings and photographs.
        first: Class of the first object.
        class_names: Classes of further objects.
        length: Number of frames that bursts are planned for.
        config: The parameters.
        restyle: Returns the drawing of an object in another style; by default as it is.
    """
    motion = _log_uniform(rng, config.motion)
    bursts = _bursts(rng, length, config)
    shake = _shake(rng, bursts, config)
    photograph = assets.photographs[rng.integers(len(assets.photographs))]
    ground = _ground(rng, photograph, shake, motion, config)
    count = 1 + int(rng.choice(len(config.objects), p=np.array(config.objects) / sum(config.objects)))
    names = [first]
    for _ in range(count - 1):
        names.append(first if rng.random() < config.same_class else class_names[int(rng.integers(len(class_names)))])
    chosen: list[tuple[str | None, Picture, Layer]] = []
    for name in names:
        drawing = assets.drawings[name][rng.integers(len(assets.drawings[name]))]
        chosen.append((name, drawing, _object(rng, restyle(drawing.image(), rng), shake, motion, config)))
    for _ in range(rng.integers(config.props + 1)):
        prop = assets.props[rng.integers(len(assets.props))]
        chosen.append((None, prop, _prop(rng, prop, ground, config)))
    chosen = [(None, photograph, ground), *(chosen[k] for k in rng.permutation(len(chosen)))]
    gain = rng.uniform(0.8, 1.15)
    return Scene(
        layers=tuple(layer for _, _, layer in chosen),
        class_names=tuple(name for name, _, _ in chosen),
        pictures=tuple(picture.name for _, picture, _ in chosen),
        motion=motion,
        bursts=bursts,
        exposure=rng.uniform(*config.exposure),
        light=(gain * rng.uniform(0.94, 1.06), gain * rng.uniform(0.94, 1.06), gain * rng.uniform(0.94, 1.06)),
        noise=_log_uniform(rng, config.noise),
        quality=int(rng.integers(config.quality[0], config.quality[1] + 1)),
    )


def _log_uniform(rng: np.random.Generator, limits: tuple[float, float]) -> float:
    return math.exp(rng.uniform(math.log(limits[0]), math.log(limits[1])))


def _bursts(rng: np.random.Generator, length: int, config: SyntheticConfig) -> tuple[Burst, ...]:
    mean_gap = np.mean(config.burst) * (1 - config.degraded) / config.degraded
    kinds, odds = zip(*config.kinds, strict=True)
    bursts: list[Burst] = []
    # Time begins before the clip, so that its first frames are degraded as often as the others.
    time = -int(rng.integers(40, 80))
    while True:
        time += config.sharp + round(rng.exponential(mean_gap - config.sharp))
        if time >= length:
            return tuple(bursts)
        kind = str(rng.choice(kinds, p=np.array(odds) / sum(odds)))
        frames = int(rng.integers(config.burst[0], config.burst[1] + 1))
        strength = {
            "defocus": rng.uniform(*config.defocus),
            "shake": _log_uniform(rng, config.jolt),
            "exposure": _log_uniform(rng, config.dark if rng.random() < 0.6 else config.bright),
        }[kind]
        if time + frames > 0:
            bursts.append(Burst(kind, time, frames, strength))
        time += frames


def _shake(rng: np.random.Generator, bursts: Sequence[Burst], config: SyntheticConfig) -> Shake:
    jolts = []
    for burst in bursts:
        turn, rate = rng.uniform(0, 2 * math.pi), 2 * math.pi / rng.uniform(3, 6)
        amplitude = burst.strength * math.cos(turn), burst.strength * math.sin(turn)
        phases = rng.uniform(0, 2 * math.pi), rng.uniform(0, 2 * math.pi)
        if burst.kind == "shake":
            jolts.append(Jolt(burst.start, burst.length, amplitude, rate, phases))
    hand = rng.uniform(*config.hand)
    x, y = (draw_wander(rng, 0, hand, hand * rng.uniform(0.1, 0.4), (5, 25)) for _ in range(2))
    return Shake(x, y, tuple(jolts))


def _ground(
    rng: np.random.Generator, photograph: Picture, shake: Shake, motion: float, config: SyntheticConfig
) -> Layer:
    height, width = config.size
    image = photograph.image()
    covering = max(width / image.width, height / image.height) * rng.uniform(1.15, 2.0)
    size = math.ceil(image.width * covering), math.ceil(image.height * covering)
    image = _mirrored(rng, image.resize(size, Image.Resampling.BILINEAR))
    speed = min(config.pan_speed * motion * width * rng.uniform(0, 1), config.fastest)
    place = Place(
        x=draw_wander(rng, width / 2, (size[0] - width) / 2, speed, (20, 90)),
        y=draw_wander(rng, height / 2, (size[1] - height) / 2, speed * 0.5, (20, 90)),
        log_scale=draw_wander(rng, 0.05, 0.15, 0.03 * motion * rng.uniform(0, 1), (20, 90)),
        angle=draw_wander(rng, 0, 0.06, 0.03 * motion * rng.uniform(0, 1), (20, 90)),
    )
    return Layer(_premultiplied(np.array(image)), place, shake, Wobble(), is_ground=True)


def _object(
    rng: np.random.Generator, drawing: Image.Image, shake: Shake, motion: float, config: SyntheticConfig
) -> Layer:
    height, width = config.size
    share = math.exp(np.interp(rng.random(), config.box_quantiles, np.log(config.box_sizes)))
    image, scale = _sized(drawing, share * math.sqrt(height * width))
    pixels = _tinted(rng, np.array(_mirrored(rng, image)))
    sides = np.array(image.size) * scale
    speed = np.minimum(config.speed * motion * math.sqrt(sides.prod()), config.fastest)
    # A large object may leave the frame in part; a small one stays within.
    inner = np.minimum(0.35 * sides, 0.4 * np.array([width, height]))
    heading = rng.uniform(0, 2 * math.pi)
    place = Place(
        x=draw_wander(rng, width / 2, width / 2 - inner[0], speed * abs(math.cos(heading)) * 1.2),
        y=draw_wander(rng, height / 2, height / 2 - inner[1], speed * abs(math.sin(heading)) * 0.8),
        log_scale=draw_wander(rng, math.log(scale), 0.3, config.zoom_speed * motion * rng.uniform(0, 1)),
        angle=draw_wander(rng, rng.normal(0, 0.12), 0.4, config.turn_speed * motion * rng.uniform(0, 1)),
    )
    wobble = Wobble(
        amplitude=config.wobble * rng.uniform(0, 1) * image.width,
        wave_number=2 * math.pi / (image.height * rng.uniform(0.7, 2)),
        rate=2 * math.pi * math.sqrt(motion) / rng.uniform(3, 8),
    )
    return Layer(_premultiplied(pixels), place, shake, wobble)


def _prop(rng: np.random.Generator, drawing: Picture, ground: Layer, config: SyntheticConfig) -> Layer:
    """Draws something that stands in the scene, nearer than the background, so that it passes faster."""
    height, width = config.size
    image, scale = _sized(drawing.image(), _log_uniform(rng, (0.08, 0.4)) * math.sqrt(height * width))
    pixels = _tinted(rng, np.array(_mirrored(rng, image)))
    nearness = rng.uniform(1.0, 1.6)
    place = Place(
        x=_following(ground.place.x, nearness, rng.uniform(-0.3, 1.3) * width),
        y=_following(ground.place.y, nearness, rng.uniform(0.2, 1.1) * height),
        log_scale=Wander(math.log(scale), 0),
        angle=Wander(rng.normal(0, 0.08), 0),
    )
    return Layer(_premultiplied(pixels), place, ground.shake, Wobble())


def _following(path: Wander, factor: float, start: float) -> Wander:
    """Returns a path scaled by a factor, at `start` at time 0."""
    waves = tuple((amplitude * factor, rate, phase) for amplitude, rate, phase in path.waves)
    scaled = Wander(0, path.reach * factor, path.start * factor, path.drift * factor, waves)
    return Wander(start - scaled.at(0), scaled.reach, scaled.start, scaled.drift, waves)


def _mirrored(rng: np.random.Generator, image: Image.Image) -> Image.Image:
    return image.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else image


def _sized(image: Image.Image, side: float) -> tuple[Image.Image, float]:
    """Shrinks an image to side * side pixels if it has more; returns the scale that it still needs to cover them."""
    factor = side / math.sqrt(image.width * image.height)
    if factor < 1:
        size = max(2, round(image.width * factor)), max(2, round(image.height * factor))
        image, factor = image.resize(size, Image.Resampling.BOX), 1.0
    return image, factor


def _tinted(rng: np.random.Generator, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Returns the drawing in another light: brightness, contrast, colour, and shade from one side."""
    colours = pixels[..., :3].astype(np.float64)
    grey = colours.mean(axis=2, keepdims=True)
    colours = grey + (colours - grey) * rng.uniform(0.6, 1.1)
    colours = 128 + (colours - 128) * rng.uniform(0.7, 1.0)
    height, width = pixels.shape[:2]
    turn, depth = rng.uniform(0, 2 * math.pi), rng.uniform(0, 0.35)
    across, down = np.linspace(-1, 1, width)[None, :, None], np.linspace(-1, 1, height)[:, None, None]
    shade = 1 + depth * (math.cos(turn) * across + math.sin(turn) * down) / 2
    colours = colours * shade * rng.uniform(0.7, 1.05)
    return np.concatenate((colours.clip(0, 255).round().astype(np.uint8), pixels[..., 3:]), axis=2)


def _premultiplied(pixels: NDArray[np.uint8]) -> Tensor:
    """Returns [h, w, 3 or 4] uint8 as [4, h, w] float in [0, 1], red, green and blue multiplied by alpha."""
    picture = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
    if len(picture) == 3:
        return torch.cat((picture, torch.ones_like(picture[:1])))
    return torch.cat((picture[:3] * picture[3:], picture[3:])).contiguous()
