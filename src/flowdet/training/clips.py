"""Batches of training clips, drawn by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from flowdet.data.moving_stills import MovingStills, StillClip
from flowdet.models.inputs import InputConfig, prepare
from flowdet.types import ClipBatch, NetworkInput

__all__ = ["clip_batches", "to_clip_batch", "to_inputs"]


@dataclass
class _Draws(IterableDataset[list[StillClip]]):
    stills: MovingStills
    references: int
    clips: int
    seed: int

    def __iter__(self) -> Iterator[list[StillClip]]:
        worker = get_worker_info()
        rng = np.random.default_rng([self.seed, worker.id if worker else 0])
        while True:
            yield [self.stills.draw(rng, self.references) for _ in range(self.clips)]


def clip_batches(
    stills: MovingStills, *, references: int, clips: int, seed: int, workers: int = 1
) -> Iterator[list[StillClip]]:
    """Batches of random clips without end, drawn by worker processes while the model trains."""
    draws = _Draws(stills, references, clips, seed)
    return iter(DataLoader(draws, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))


def to_inputs(frames: Tensor, config: InputConfig) -> NetworkInput:
    """Frames [b, h, w, 3] uint8 RGB that have the size of the network input already."""
    height, width = frames.shape[1:3]
    exact = InputConfig(max(height, width), min(height, width), config.mean, config.std, config.multiple)
    return prepare(list(frames.numpy()), exact)


def to_clip_batch(clips: list[StillClip], config: InputConfig) -> ClipBatch:
    """Clips of one size and one number of references as a batch."""
    frames = torch.stack([clip.frames for clip in clips], dim=1)
    current, *references = (to_inputs(of_slot, config) for of_slot in frames)
    return ClipBatch(
        current=current,
        references=tuple(references),
        targets=tuple(clip.targets for clip in clips),
        still=(False,) * len(clips),
    )
