"""Smooth random paths over continuous time."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Jolt", "Shake", "Wander", "draw_wander"]


@dataclass(frozen=True, slots=True)
class Wander:
    """A smooth function of time that stays within `middle` plus or minus `reach`.

    Attributes:
        middle: Middle of its range.
        reach: Half of its range; 0 for a constant.
        start: Distance run at time 0.
        drift: Distance run per frame.
        waves: (amplitude, radians per frame, phase) of each wave on top of the drift.
    """

    middle: float
    reach: float
    start: float = 0.0
    drift: float = 0.0
    waves: tuple[tuple[float, float, float], ...] = ()

    def at(self, time: float) -> float:
        """Returns the value at a time in frames."""
        if not self.reach:
            return self.middle
        run = self.start + self.drift * time + sum(a * math.sin(rate * time + p) for a, rate, p in self.waves)
        return self.middle + self.reach * math.sin(run / self.reach)


def draw_wander(
    rng: np.random.Generator, middle: float, reach: float, speed: float, periods: tuple[float, float] = (12, 60)
) -> Wander:
    """Draws a random function that starts anywhere in its range.

    Args:
        rng: Random number generator.
        middle: Middle of its range.
        reach: Half of its range.
        speed: Root mean square speed per frame in the middle of the range; it is slower towards the ends.
        periods: Range of the periods of its waves, frames.
    """
    start = reach * math.asin(rng.uniform(-1, 1)) * rng.choice((1, -1))
    share = rng.uniform(0, 1)
    waves = []
    for _ in range(2):
        rate = 2 * math.pi / math.exp(rng.uniform(*np.log(periods)))
        waves.append((speed * math.sqrt(1 - share**2) / rate, rate, rng.uniform(0, 2 * math.pi)))
    return Wander(middle, reach, start, speed * share * rng.choice((1, -1)), tuple(waves))


@dataclass(frozen=True, slots=True)
class Jolt:
    """A short, violent shake of the camera.

    Attributes:
        start: Number of its first frame.
        length: Number of frames.
        amplitude: (x, y) px.
        rate: Radians per frame.
        phases: Phases of the waves in x and y, radians.
    """

    start: int
    length: int
    amplitude: tuple[float, float]
    rate: float
    phases: tuple[float, float]

    def at(self, time: float) -> NDArray[np.float64]:
        """Returns the offset (x, y) px at a time in frames; zero outside its frames."""
        share = (time - self.start + 0.5) / self.length
        if not 0 < share < 1:
            return np.zeros(2)
        strength = min(1.0, 3 * math.sin(math.pi * share))
        return strength * np.array(self.amplitude) * np.sin(self.rate * time + np.array(self.phases))


@dataclass(frozen=True, slots=True)
class Shake:
    """The shake of the camera by the hand that holds it.

    Attributes:
        x: Constant shake along x, px.
        y: Constant shake along y, px.
        jolts: Violent shakes of some frames.
    """

    x: Wander
    y: Wander
    jolts: tuple[Jolt, ...]

    def at(self, time: float) -> NDArray[np.float64]:
        """Returns the offset (x, y) px at a time in frames."""
        return np.array([self.x.at(time), self.y.at(time)]) + sum((jolt.at(time) for jolt in self.jolts), np.zeros(2))
