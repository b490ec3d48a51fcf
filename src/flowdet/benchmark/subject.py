"""What is measured: a system with its weights, or with random ones where there are none."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from flowdet.backends.choice import with_runtime
from flowdet.errors import CheckpointError, ConfigError
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import DEFAULT_SYSTEM, load, weights_of
from flowdet.systems.modes import Mode, in_mode
from flowdet.systems.recipes import recipe
from flowdet.temporal.adaptive_dff import AdaptiveDFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.weights.zoo import SHIPPED

__all__ = ["Built", "Subject", "build_subject"]

RANDOM = "random"
_RANDOM_NOTE = (
    "its weights are random: almost no box is dropped for its score, so non-maximum suppression has as much to do as "
    "it ever can, and hardly a box is drawn"
)


@dataclass(frozen=True)
class Subject:
    """A system by its name, and what changes its cost.

    Attributes:
        system: As in `flowdet models`; None: that of the weight file.
        weights: A weight file; None: those at hand, or random ones.
        causal: FGFA without frames after the current one.
        mode: As in `flowdet.load`.
        size: (height, width) of the frames; None: the largest that the system takes without shrinking them.
        runtime: As for `load`.
    """

    system: str | None = None
    weights: Path | None = None
    causal: bool = False
    size: tuple[int, int] | None = None
    mode: Mode = "exact"
    runtime: str = "torch"

    def __post_init__(self) -> None:
        if self.size and not all(16 <= side <= 8192 for side in self.size):
            raise ConfigError(f"frames have 16 to 8192 pixels a side, not {self.size[0]}x{self.size[1]}")


@dataclass(frozen=True, eq=False)
class Built:
    """A system that is ready to run.

    Attributes:
        system: With its weights.
        weights: Where they are from: "shipped", the name of a file, or "random".
        notes: What a reader of its cost should know of them.
    """

    system: VideoDetector
    weights: str
    notes: tuple[str, ...]


def build_subject(subject: Subject, device: str) -> Built:
    """Builds the system; without weights at hand they are random, the same ones each time.

    Raises:
        ConfigError: There is no such system, mode, device or runtime, or the cost of a frame is not the same for all
            videos.
        CheckpointError: The named weight file does not fit.
    """
    built = _built(subject, device)
    if isinstance(built.system.config.method, AdaptiveDFFConfig):
        raise ConfigError(
            "what DFF costs with key frames where they are needed depends on the video: without a mode you get the "
            "cost of its key frames and of the others, with `flowdet evaluate` the seconds a frame on a data set"
        )
    return replace(built, system=with_runtime(built.system, subject.runtime))


def _built(subject: Subject, device: str) -> Built:
    if subject.weights:
        system = load(subject.system, weights=subject.weights, device=device, causal=subject.causal, mode=subject.mode)
        return Built(system, subject.weights.name, ())
    name = subject.system or DEFAULT_SYSTEM
    try:
        system = load(name, device=device, causal=subject.causal, mode=subject.mode)
        return Built(system, "shipped" if name in SHIPPED else weights_of(name).name, ())
    except CheckpointError as error:
        notes = (f"{_RANDOM_NOTE} ({error})",)
    config = recipe(name)
    if subject.causal and isinstance(config.method, FGFAConfig):
        config = replace(config, method=replace(config.method, future=0))
    config = in_mode(config, subject.mode)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = build(config)
    try:
        return Built(system.to(device), RANDOM, notes)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"the device {device!s} cannot be used here: {error}") from error
