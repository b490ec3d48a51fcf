"""The published parameters of the synthetic benchmark."""

from dataclasses import dataclass

from flowdet.errors import ConfigError

__all__ = ["SPEC", "SyntheticConfig"]

SPEC = "flowdet-synthetic-vid 1"
"""Name and version of the benchmark: one version means one set of parameters, packs and seeds."""


@dataclass(frozen=True, slots=True)
class SyntheticConfig:
    """How clips look; the values given here are those of the benchmark.

    Ranges are drawn from evenly, those marked * by their logarithm.

    Attributes:
        size: (height, width) of the frames.
        objects: Odds of 1, 2, 3, ... objects in a clip.
        same_class: Probability that another object has the class of the first.
        box_sizes: Square root of the share of the frame that an object covers, at the quantiles of `box_quantiles`;
            in between by its logarithm.
        box_quantiles: See `box_sizes`.
        motion: * The amplitude factor of a clip.
        speed: An object's speed, in its own sizes a frame, is the amplitude factor times this.
        zoom_speed: Largest change of the logarithm of an object's scale a frame, over the amplitude factor.
        turn_speed: Largest turn of an object in radians a frame, over the amplitude factor.
        pan_speed: The background's speed in frame widths a frame, over the amplitude factor, at most.
        fastest: Px a frame; no layer has a larger speed than this by its drift or by one of its waves.
        wobble: Largest shift of an object's rows, as a share of its width.
        hand: Amplitude in px of the camera's constant shake.
        props: Most drawings without a class in a clip.
        exposure: Share of a frame's time during which the shutter is open.
        jolt_exposure: The same during a shake.
        degraded: Share of the frames that lie in a burst of degradation.
        burst: Frames in a burst, from and to.
        sharp: At least so many frames between two bursts are not degraded.
        kinds: Odds of each kind of burst.
        defocus: Standard deviation of the blur in px.
        jolt: * Amplitude in px.
        dark: * Factor on the light.
        bright: * Factor on the light.
        noise: * Standard deviation of the sensor's noise, of the full range.
        quality: Of JPEG.
        least_side: Objects whose box has a shorter side, in px, are left out.
        least_visible: Objects of which less can be seen are left out.
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
