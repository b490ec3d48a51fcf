"""A system that is measured: how it is loaded, and how it starts in a process of its own."""

from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context
from pathlib import Path

import torch

from flowdet.benchmark.clip import Clip
from flowdet.benchmark.machine import clock, resident_peak
from flowdet.errors import CheckpointError, ConfigError, FlowdetError
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load_random, load_system, weights_of
from flowdet.systems.options import DEFAULT_SYSTEM, SystemOptions
from flowdet.temporal.base import MethodConfig
from flowdet.weights.zoo import SHIPPED

__all__ = ["Contender", "FirstFrame", "Loaded", "measure_first_frame", "warm_up"]

_LEAST_WARM_UP = 15  # a sparse window reaches that far with fewer frames
_RANDOM_NOTE = (
    "its weights are random: almost no box is dropped for its score, so non-maximum suppression has as much to do as "
    "it ever can, and hardly a box is drawn"
)


@dataclass(frozen=True, eq=False)
class Loaded:
    """A system that is ready to run.

    Attributes:
        system: With its weights.
        weights: Where they come from: "shipped", the name of a file, or "random".
        notes: What a reader of its cost should know of them.
    """

    system: VideoDetector
    weights: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Contender:
    """A system and the frames it is measured on.

    Attributes:
        options: Which system, and how it detects.
        size: (height, width) of the frames; None: the largest that the system takes without shrinking them.
    """

    options: SystemOptions
    size: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.size and not all(16 <= side <= 8192 for side in self.size):
            raise ConfigError(f"frames have 16 to 8192 pixels a side, not {self.size[0]}x{self.size[1]}")

    def load(self) -> Loaded:
        """Loads the system; without weights at hand they are random, the same ones each time.

        Raises:
            ConfigError: There is no such system, device or backend, or an option has no effect on the system.
            CheckpointError: The named weight file does not fit.
        """
        weights, name = self.options.weights, self.options.system or DEFAULT_SYSTEM
        try:
            system = load_system(self.options)
            return Loaded(system, "shipped" if not weights and name in SHIPPED else (weights or weights_of(name)).name)
        except CheckpointError as error:
            if weights:
                raise
            return Loaded(load_random(self.options), "random", (f"{_RANDOM_NOTE} ({error})",))


def warm_up(method: MethodConfig) -> int:
    """Returns the number of frames, whole turns of the kinds of frames, after which every turn costs the same."""
    turn = len(method.kinds)
    return -(-max(method.window[0], _LEAST_WARM_UP) // turn) * turn


@dataclass(frozen=True)
class FirstFrame:
    """What can be seen once in a process only.

    Attributes:
        seconds: From the first frame to its detections, decoding included.
        memory_before: The most bytes in use before the system was loaded: Python and its packages; None: unknown.
        memory: The most bytes in use until the stream is in its steady state; None: unknown.
    """

    seconds: float
    memory_before: int | None
    memory: int | None


def measure_first_frame(contender: Contender, config: SystemConfig, clip: Path, threads: int) -> FirstFrame:
    """Runs the system on a video in a new process, which ends with it.

    Args:
        contender: The system.
        config: Its configuration; on its way to the process it brings the modules that define method and detector.
        clip: The video.
        threads: Torch's.

    Raises:
        FlowdetError: The system cannot be loaded, or the process was killed.
    """
    with ProcessPoolExecutor(1, get_context("spawn"), torch.set_num_threads, (threads,)) as pool:
        try:
            return pool.submit(_first_frame, contender, config, clip).result()
        except BrokenProcessPool as error:
            raise FlowdetError(
                "the process that measures memory was killed, perhaps for want of memory; try a smaller --size"
            ) from error


def _first_frame(contender: Contender, config: SystemConfig, clip: Path) -> FirstFrame:
    device = torch.device(contender.options.device)
    before = resident_peak(device)
    system = contender.load().system
    began = clock(device)
    outcomes = system.detect_many([Clip(clip)])
    next(outcomes)
    seconds = clock(device) - began
    for _ in islice(outcomes, warm_up(config.method)):
        pass
    return FirstFrame(seconds, before, resident_peak(device))
