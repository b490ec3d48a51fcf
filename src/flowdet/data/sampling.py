"""Sampling of the reference frames of a training clip."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import ConfigError, check_positive

__all__ = ["ReferenceSampling", "sample_references"]


@dataclass(frozen=True)
class ReferenceSampling:
    """How references are drawn, uniformly from the frames in reach.

    Attributes:
        count: Number of reference frames of a clip.
        reach: Largest distance of a reference from the current frame, in frame numbers.
        both_sides: Draw half of the references before the current frame and half after it.
        itself: Whether the current frame may be its own reference.
        only_past: Draw from the frames before the current one only; else from those after it, too.
    """

    count: int
    reach: int = 9
    both_sides: bool = False
    itself: bool = False
    only_past: bool = False

    def __post_init__(self) -> None:
        check_positive(self, "count")
        if self.reach < 0:
            raise ConfigError(f"references lie 0 or more frames from the current one, not {self.reach}")
        if self.both_sides and self.count % 2:
            raise ConfigError(f"references on both sides are an even number, not {self.count}")
        if self.both_sides and self.only_past:
            raise ConfigError("references come from both sides or from the past only, not both")


def sample_references(
    frames: NDArray[np.int64], current: int, sampling: ReferenceSampling, rng: np.random.Generator
) -> tuple[int, ...]:
    """Draws the references of a frame, without replacement where there are enough.

    Where there are too few, at the ends of a video and beside gaps, the references drawn are repeated: two copies of
    one frame weigh as much as the frame alone. A frame without others in reach is its own reference.

    Args:
        frames: [n] numbers of the video's frames, rising; some may be missing.
        current: Position of the current frame among them.
        sampling: How references are drawn.
        rng: Random number generator.

    Returns:
        Positions of `count` frames, rising.
    """
    first, last = np.searchsorted(frames, (frames[current] - sampling.reach, frames[current] + sampling.reach + 1))
    left, right = np.arange(first, current), np.arange(current + 1, current if sampling.only_past else last)
    own = np.arange(current, current + sampling.itself)
    sides = [np.r_[left, own], np.r_[own, right]] if sampling.both_sides else [np.r_[left, own, right]]
    most = sampling.count // len(sides)
    drawn = np.concatenate([rng.choice(side, min(most, len(side)), replace=False) for side in sides])
    filled = np.resize(drawn if len(drawn) else [current], sampling.count)
    return tuple(sorted(filled.tolist()))
