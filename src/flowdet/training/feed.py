"""The batches of clips of every training step, drawn by worker processes."""

import signal
import sys
from collections.abc import Generator, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, replace
from itertools import count

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from flowdet.errors import ConfigError, DataError, FlowdetError, check_positive, counted
from flowdet.inputs import InputConfig, prepare
from flowdet.ops.devices import upload
from flowdet.training.dataset import Clip, ClipDataset
from flowdet.types import ClipBatch, NetworkInput, Targets

__all__ = ["ClipFeed", "TrainingBatch", "clips_of", "to_inputs", "to_training_batch"]

_SECONDS_TO_END = 120
# The first word of every seed, so that order and clips never draw the same numbers.
_ORDER, _CLIP = 1, 2


@dataclass(frozen=True, eq=False, slots=True)
class TrainingBatch:
    """Clips for one forward pass.

    Attributes:
        clips: The clips.
        names: The files of their current frames.
        seeds: One per clip, for the choice of the sampled boxes (`flowdet.ops.boxes.seeded_choosers`).
    """

    clips: ClipBatch
    names: tuple[str, ...]
    seeds: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class ClipFeed:
    """The clips of every step, from any step on, for one of several training processes.

    The clips of a step depend on the data, the batch and the seed alone: not on the number of processes, workers or
    clips per device, and not on where the feed began. Only padding does: clips of different sizes are padded to the
    largest of one forward pass. Every epoch has its own random order of all samples; its last batch is filled up from
    its beginning.

    Attributes:
        source: Draws the clips.
        batch: Clips per step, all processes together.
        clips_per_device: Clips per forward pass.
        seed: Seeds order, references and augmentation; 0 or more.
        rank: The number of this process.
        world: The number of processes.
        workers: Processes that read ahead; 0 reads in this one, when a batch is asked for.
        device: Where the batches go. Frames travel there as bytes and are normalised there.

    Raises:
        ConfigError: The batch cannot be divided evenly, or a number is out of its range.
    """

    source: ClipDataset
    _: KW_ONLY
    batch: int
    clips_per_device: int = 1
    seed: int = 0
    rank: int = 0
    world: int = 1
    workers: int = 0
    device: torch.device | str = "cpu"

    def __post_init__(self) -> None:
        check_positive(self, "batch", "clips_per_device", "world")
        if min(self.seed, self.workers) < 0:
            raise ConfigError(f"seed and workers are 0 or more, not {self.seed} and {self.workers}")
        if not 0 <= self.rank < self.world:
            raise ConfigError(f"the processes are numbered from 0 to {self.world - 1}, there is none {self.rank}")
        if self.batch % (self.world * self.clips_per_device):
            raise ConfigError(
                f"{counted(self.batch, 'clip')} a step cannot be divided over "
                f"{counted(self.world, 'process', 'processes')} with "
                f"{counted(self.clips_per_device, 'clip')} per pass; take a batch that is a multiple of "
                f"{self.world * self.clips_per_device}"
            )

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps until every sample has been drawn."""
        return -(-len(self.source) // self.batch)

    @property
    def passes(self) -> int:
        """Forward passes of this process per step."""
        return self.batch // (self.world * self.clips_per_device)

    def __call__(self, first_step: int) -> Generator[tuple[TrainingBatch, ...], None, None]:
        """Yields the batches of this process step by step, from `first_step` on, without end.

        Raises:
            DataError: An image is missing, damaged, or of another size than stated.
            FlowdetError: A worker has died.
        """
        # A generator of its own, so that starting the workers does not move torch's global one.
        own = torch.Generator()
        passes = _Passes(self, first_step * self.passes)
        loader = DataLoader(
            passes, batch_size=None, num_workers=self.workers, generator=own, worker_init_fn=_outlive_signals
        )
        # In a list that can be emptied: the workers end with the last reference, which a traceback would keep.
        found = [iter(loader)]
        try:
            while True:
                yield tuple(self._next(found) for _ in range(self.passes))
        finally:
            found.clear()

    def draw(self, number: int) -> list[tuple[Clip, int]]:
        """Draws the clips of one forward pass of this process, each with its seed.

        Args:
            number: Which pass, counted from the first pass of step 0.
        """
        step, within = divmod(number, self.passes)
        epoch, step = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng([_ORDER, self.seed, epoch]).permutation(len(self.source))
        first = step * self.batch + (self.rank * self.passes + within) * self.clips_per_device
        drawn = []
        for place in range(first, first + self.clips_per_device):
            index = int(order[place % len(order)])
            rng = np.random.default_rng([_CLIP, self.seed, epoch, index])
            drawn.append((self.source.draw(index, rng), int(rng.integers(2**63))))
        return drawn

    def _next(self, found: Sequence[Iterator[list[tuple[Clip, int]] | DataError]]) -> TrainingBatch:
        try:
            item = next(found[0])
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise FlowdetError(
                f"a process that reads ahead has died ({error}). Where memory is scarce, shared memory too, read with "
                f"fewer than {self.workers} workers or with none"
            ) from error
        if isinstance(item, DataError):
            raise item
        clips, seeds = zip(*item, strict=True)
        return to_training_batch(clips, seeds, self.source.inputs, self.device)


def _outlive_signals(worker: int) -> None:
    """Lets a worker outlive what a terminal or a cluster sends to all processes, so that the training ends its step.

    The worker ends with the process that it reads for, and two minutes after a SIGTERM at the latest.
    """
    del worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform != "win32":
        signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(_SECONDS_TO_END))


@dataclass
class _Passes(IterableDataset[list[tuple[Clip, int]] | DataError]):
    feed: ClipFeed
    first: int

    def __iter__(self) -> Iterator[list[tuple[Clip, int]] | DataError]:
        worker = get_worker_info()
        for number in count(self.first + worker.id, worker.num_workers) if worker else count(self.first):
            try:
                yield self.feed.draw(number)
            except DataError as error:
                # An exception that leaves a worker arrives with the worker's traceback as its message.
                yield error


def to_training_batch(
    clips: Sequence[Clip], seeds: Sequence[int], config: InputConfig, device: torch.device | str = "cpu"
) -> TrainingBatch:
    """Returns clips with equal numbers of references as a batch on a device, padded to the largest of them."""
    slots = zip(*(clip.frames for clip in clips), strict=True)
    current, *references = (
        _joined([to_inputs(frame[None], config, device) for frame in frames], config.padding) for frames in slots
    )
    batch = ClipBatch(
        current=current,
        references=tuple(references),
        targets=tuple(
            Targets(upload(clip.targets.boxes, device), upload(clip.targets.labels, device)) for clip in clips
        ),
        still=tuple(clip.still for clip in clips),
    )
    return TrainingBatch(batch, tuple(clip.name for clip in clips), tuple(seeds))


def to_inputs(frames: Tensor, config: InputConfig, device: torch.device | str = "cpu") -> NetworkInput:
    """Normalises and pads frames [b, h, w, 3] uint8 RGB that have the size of the network input already."""
    height, width = frames.shape[1:3]
    exact = replace(config, long_side=max(height, width), short_side=min(height, width))
    return prepare(list(frames.numpy()), exact, device)


def _joined(inputs: Sequence[NetworkInput], padding: float) -> NetworkInput:
    """Pads inputs of different sizes at the right and at the bottom and joins them."""
    geometries = [geometry for single in inputs for geometry in single.geometries]
    height, width = (max(geometry.padded[side] for geometry in geometries) for side in (0, 1))
    images = [
        F.pad(single.images, (0, width - single.images.shape[3], 0, height - single.images.shape[2]), value=padding)
        for single in inputs
    ]
    return NetworkInput(torch.cat(images), tuple(replace(geometry, padded=(height, width)) for geometry in geometries))


def clips_of(batch: TrainingBatch) -> Iterator[tuple[str, TrainingBatch]]:
    """Yields the name of each clip, and the clip as a batch of its own."""

    def one(inputs: NetworkInput, place: int) -> NetworkInput:
        return NetworkInput(inputs.images[place : place + 1], inputs.geometries[place : place + 1])

    for place, (name, seed) in enumerate(zip(batch.names, batch.seeds, strict=True)):
        clips = ClipBatch(
            current=one(batch.clips.current, place),
            references=tuple(one(reference, place) for reference in batch.clips.references),
            targets=batch.clips.targets[place : place + 1],
            still=batch.clips.still[place : place + 1],
        )
        yield name, TrainingBatch(clips, (name,), (seed,))
