"""The published parameters of the synthetic benchmark."""

from dataclasses import dataclass

from flowdet.errors import ConfigError

__all__ = ["SPEC", "SyntheticConfig"]

SPEC = "flowdet-synthetic-vid 1"
"""Name and version of the benchmark: one version means one set of parameters, packs and seeds."""


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """Parameters of the clips; the defaults are those of the benchmark.

    Values are drawn uniformly from their ranges, log-uniformly where marked *.

    Attributes:
        size: (height, width) of the frames.
        objects: Odds of 1, 2, 3, ... objects in a clip.
        same_class: Probability that another object has the class of the first.
        box_sizes: Square root of the share of the frame that an object covers, at the quantiles of `box_quantiles`;
            in between by its logarithm.
        box_quantiles: See `box_sizes`.
        motion: * Amplitude factor of a clip.
        speed: Speed of an object in its own sizes per frame, divided by the amplitude factor.
        zoom_speed: Largest change of the logarithm of an object's scale per frame, divided by the amplitude factor.
        turn_speed: Largest rotation of an object in radians per frame, divided by the amplitude factor.
        pan_speed: Largest speed of the background in frame widths per frame, divided by the amplitude factor.
        fastest: Largest speed of a layer by its drift or by one of its waves, px per frame.
        wobble: Largest shift of an object's rows, as a share of its width.
        hand: Amplitude in px of the camera's constant shake.
        props: Largest number of drawings without a class in a clip.
        exposure: Share of the frame interval during which the shutter is open.
        jolt_exposure: The same during a shake.
        degraded: Share of the frames that lie in a burst of degradation.
        burst: Range of the number of frames in a burst.
        sharp: Smallest number of frames between two bursts.
        kinds: Odds of each kind of burst.
        defocus: Standard deviation of the blur in px.
        jolt: * Amplitude of a shake in px.
        dark: * Factor on the light in a dark burst.
        bright: * Factor on the light in a bright burst.
        noise: * Standard deviation of the sensor's noise, as a share of the full range.
        quality: Range of the JPEG quality.
        least_side: Objects whose box has a shorter side than this, in px, are left out.
        least_visible: Objects with a smaller visible share than this are left out.
    """

    size: tuple[int, int] = (192, 320)
    objects: tuple[float, ...] = (0.68, 0.2, 0.08, 0.04)
    same_class: float = 0.6
    box_sizes: tuple[float, ...] = (0.056, 0.084, 0.27, 0.61, 0.95)
    box_quantiles: tuple[float, ...] = (0.0, 0.1, 0.5, 0.9, 1.0)
    motion: tuple[float, float] = (0.007, 0.45)
    speed: float = 0.33
    zoom_speed: float = 0.1
    turn_speed: float = 0.12
    pan_speed: float = 0.1
    fastest: float = 24.0
    wobble: float = 0.05
    hand: tuple[float, float] = (0.0, 1.2)
    props: int = 4
    exposure: tuple[float, float] = (0.1, 0.7)
    jolt_exposure: float = 0.9
    degraded: float = 0.3
    burst: tuple[int, int] = (3, 8)
    sharp: int = 6
    kinds: tuple[tuple[str, float], ...] = (("defocus", 0.4), ("shake", 0.35), ("exposure", 0.25))
    defocus: tuple[float, float] = (2.0, 5.0)
    jolt: tuple[float, float] = (3.0, 9.0)
    dark: tuple[float, float] = (0.08, 0.25)
    bright: tuple[float, float] = (2.5, 5.0)
    noise: tuple[float, float] = (0.005, 0.04)
    quality: tuple[int, int] = (30, 85)
    least_side: int = 6
    least_visible: float = 0.25

    def __post_init__(self) -> None:
        if min(self.size) < 32:
            raise ConfigError(f"frames of a synthetic clip are 32 pixels or larger, not {self.size[1]}x{self.size[0]}")
