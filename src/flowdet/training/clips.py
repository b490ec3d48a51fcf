"""Batches of training clips, drawn by worker processes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

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
    first: int

    def __iter__(self) -> Iterator[list[StillClip]]:
        worker = get_worker_info()
        steps = count(self.first + worker.id, worker.num_workers) if worker else count(self.first)
        for step in steps:
            rng = np.random.default_rng([self.seed, step])
            yield [self.stills.draw(rng, self.references) for _ in range(self.clips)]


def clip_batches(
    stills: MovingStills, first: int, *, references: int, clips: int, seed: int, workers: int = 1
) -> Iterator[list[StillClip]]:
    """Batches of random clips without end, drawn by worker processes while the model trains.

    They begin with number `first`; a batch depends on the seed and its number alone.
    """
    draws = _Draws(stills, references, clips, seed, first)
    # A generator of its own, so that starting the workers does not move torch's global one.
    own = torch.Generator()
    prefetched = 4 if workers else None
    return iter(DataLoader(draws, batch_size=None, num_workers=workers, prefetch_factor=prefetched, generator=own))


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
