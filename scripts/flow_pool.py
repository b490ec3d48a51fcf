"""A pool of training clips with exact flow on disk, half of them drawings, half of them moving photographs."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from lite_clips.moving_stills import MovingStills
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.assets import load_assets
from flowdet.data.synthetic.clip import SyntheticClip
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.scene import draw_scene

__all__ = ["STRIDE", "PoolClip", "read_pool", "render_pool"]

STRIDE = 8
"""Image pixels on a side of a cell whose mean flow is kept."""
_SHARD = 50
_LENGTH = 24
_STEPS = (1, 1, 1, 2, 3, 4, 5, 6)
_PAIRS = 7
_QUALITY = 95


@dataclass(frozen=True, eq=False, slots=True)
class PoolClip:
    """Frames of one clip and the flow between some of them.

    Attributes:
        frames: JPEG files, all of one size.
        pairs: [p, 2] int64, the numbers of the current and of the reference frame.
        flows: [p, 2, h / 8, w / 8] (dx, dy) px, float16, the mean of each cell.
    """

    frames: tuple[bytes, ...]
    pairs: NDArray[np.int64]
    flows: Tensor


def render_pool(folder: Path, clips: int, stills: MovingStills, stills_share: float, seed: int) -> Iterator[int]:
    """Writes shards of clips that are not there yet, and yields the number of clips so far.

    Args:
        folder: Gets one file for 50 clips.
        clips: The number of clips.
        stills: Draws the clips of photographs.
        stills_share: Share of the clips of photographs.
        seed: With the number of a clip, it determines every random choice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, clips, _SHARD):
        path = folder / f"{first:06d}.pt"
        if not path.exists():
            numbers = range(first, min(first + _SHARD, clips))
            shard = [_clip(np.random.default_rng([seed, number]), stills, stills_share) for number in numbers]
            partial = path.with_suffix(".partial")
            torch.save([(clip.frames, clip.pairs, clip.flows) for clip in shard], partial)
            partial.rename(path)
        yield min(first + _SHARD, clips)


def read_pool(folder: Path) -> list[PoolClip]:
    """Returns the clips of all shards in their order."""
    shards = [torch.load(path, weights_only=False) for path in sorted(folder.glob("*.pt"))]
    return [PoolClip(*parts) for shard in shards for parts in shard]


def _clip(rng: np.random.Generator, stills: MovingStills, stills_share: float) -> PoolClip:
    return _moving_still(rng, stills) if rng.random() < stills_share else _drawing(rng)


def _drawing(rng: np.random.Generator) -> PoolClip:
    """Four frames of a clip as the benchmark's training split has them, and the flow of some pairs in either order."""
    config = SyntheticConfig()
    first = VID_CLASSES[rng.integers(len(VID_CLASSES))]
    scene = draw_scene(rng, load_assets("train"), first=first, class_names=VID_CLASSES, length=_LENGTH, config=config)
    clip = SyntheticClip(scene, config, (int(rng.integers(2**62)),))
    steps = rng.choice(_STEPS, 3)
    start = rng.integers(_LENGTH - steps.sum())
    times = [int(start + steps[:number].sum()) for number in range(4)]
    every = np.array([(a, b) for a in range(4) for b in range(4) if a != b])
    pairs = every[rng.choice(len(every), _PAIRS, replace=False)]
    flows = torch.stack([clip.flow(times[current], times[reference]).flow for current, reference in pairs])
    return PoolClip(tuple(clip.jpeg(clip.frame(time).image) for time in times), pairs, _cells(flows))


def _moving_still(rng: np.random.Generator, stills: MovingStills) -> PoolClip:
    """Four frames and the flows from the first to the others."""
    clip = stills.draw(rng, 3)
    pairs = np.array([(0, reference) for reference in (1, 2, 3)])
    return PoolClip(tuple(_jpeg(frame.numpy()) for frame in clip.frames), pairs, _cells(clip.flows))


def _cells(flows: Tensor) -> Tensor:
    return F.avg_pool2d(flows, STRIDE).half()


def _jpeg(image: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()
