"""What every kind of video source offers, and which of its frames are wanted."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import ConfigError

__all__ = ["LazyFrame", "Selection", "Source"]

# Time stamps are multiples of the container's clock, so "1.2 s" may be stored as 1.2000111 or 1.199.
_TOLERANCE = 1e-3


@dataclass(frozen=True, slots=True)
class Selection:
    """The part of a source that is wanted.

    Attributes:
        start: Seconds; earlier frames are left out.
        end: Seconds; the frame at this time and later ones are left out.
        every: Every n-th frame is kept, beginning with the first one after `start`.

    Raises:
        ConfigError: No frame could ever be among these.
    """

    start: float = 0.0
    end: float = math.inf
    every: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.start < math.inf:
            raise ConfigError(f"start is a number of seconds from 0 on, not {self.start}")
        if not self.end > self.start:
            raise ConfigError(f"end ({self.end} s) must be later than start ({self.start} s)")
        if self.every < 1:
            raise ConfigError(f"every is 1 (all frames) or more, not {self.every}")

    def __str__(self) -> str:
        """Returns for instance "from 3 s to 4 s"."""
        return f"from {self.start:g} s " + ("on" if self.end == math.inf else f"to {self.end:g} s")

    @property
    def is_all(self) -> bool:
        """Nothing is left out but by `every`."""
        return self.start == 0 and self.end == math.inf

    def is_early(self, time: float) -> bool:
        """Whether a frame at this time lies before the start."""
        return time < self.start - _TOLERANCE

    def is_late(self, time: float) -> bool:
        """Whether a frame at this time lies at or after the end."""
        return time >= self.end - _TOLERANCE

    def count(self, total: int | None, fps: float | None) -> int | None:
        """Returns about how many of `total` frames are kept; None when that cannot be told."""
        if total is None:
            return None
        if not self.is_all:
            if fps is None:
                return None
            first = math.ceil((self.start - _TOLERANCE) * fps)
            total = max(0, min(total, math.ceil((min(self.end, total / fps) - _TOLERANCE) * fps)) - first)
        return math.ceil(total / self.every)


@dataclass(frozen=True, eq=False, slots=True)
class LazyFrame:
    """A frame whose image is made when it is wanted.

    Attributes:
        index: Number of the frame in its source, from 0.
        time: Seconds from the start of the source.
        image: Returns the image [h, w, 3] uint8 RGB; None if it cannot be read, which the problems then tell.
    """

    index: int
    time: float
    image: Callable[[], NDArray[np.uint8] | None]


class Source(Protocol):
    """A place that frames come from.

    Attributes:
        label: What messages call it.
        name: A short name that can be part of a file name.
        size: (height, width) in pixels of the upright frames, when known.
        fps: Frames a second, when known; an average where the rate varies.
        total: Number of all its frames, when known; often an estimate.
        is_live: It can be read only once, as it comes.
    """

    label: str
    name: str
    size: tuple[int, int] | None
    fps: float | None
    total: int | None
    is_live: bool

    def frames(self, selection: Selection, problems: list[str]) -> Generator[LazyFrame, None, None]:
        """Yields the selected frames in order; `problems` always tells what was found damaged so far."""
        ...

    def close(self) -> None:
        """Closes what is held open between two iterations."""
        ...
