import colorsys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowdet.video.colors import color_wheel, flow_colors, heat_bar, heat_colors, round_up


def color_of(dx: float, dy: float, full: float = 4.0, gray: float | None = None) -> tuple[int, ...]:
    flow = np.array([dx, dy], np.float32).reshape(2, 1, 1)
    shade = None if gray is None else np.full((1, 1), gray, np.float32)
    return tuple(int(value) for value in flow_colors(flow, full, shade)[0, 0])


def brightness(colors: NDArray[np.uint8]) -> NDArray[np.float64]:
    gray: NDArray[np.float64] = colors @ np.array([0.299, 0.587, 0.114])
    return gray


@pytest.mark.parametrize(
    ("flow", "wanted"),
    [
        ((0, 0), (255, 255, 255)),
        ((4, 0), (255, 0, 0)),
        ((0, 4), (255, 234, 0)),
        ((-4, 0), (0, 197, 255)),
        ((0, -4), (103, 0, 255)),
        ((2, 0), (255, 128, 128)),
        ((400, 0), (255, 0, 0)),
    ],
)
def test_the_direction_is_the_hue_and_the_length_the_saturation(
    flow: tuple[float, float], wanted: tuple[int, ...]
) -> None:
    assert color_of(*flow) == pytest.approx(wanted, abs=1)


def test_full_is_the_length_of_the_full_colour() -> None:
    assert color_of(3, -4, full=5) == color_of(6, -8, full=10)
    assert color_of(3, -4, full=5) != color_of(3, -4, full=10)


def test_a_picture_that_shines_through_leaves_hue_and_saturation() -> None:
    plain = colorsys.rgb_to_hsv(*color_of(-1, 2))
    shaded = colorsys.rgb_to_hsv(*color_of(-1, 2, gray=0.2))
    assert shaded[:2] == pytest.approx(plain[:2], abs=0.01)
    assert shaded[2] < 0.9 * plain[2]


def test_the_wheel_shows_every_flow_where_it_leads() -> None:
    wheel = color_wheel(101, (9, 9, 9))
    assert wheel.shape == (101, 101, 3)
    assert wheel[50, 50].min() > 250
    np.testing.assert_allclose(wheel[50, 98], color_of(3.9, 0), atol=8)
    np.testing.assert_allclose(wheel[98, 50], color_of(0, 3.9), atol=8)
    assert (wheel[[0, 0, -1, -1], [0, -1, 0, -1]] == 9).all()


def test_heat_rises_evenly_from_dark_to_bright() -> None:
    steps = brightness(heat_colors(np.linspace(0, 3, 50, dtype=np.float32)[None], 3.0)[0])
    assert (np.diff(steps) > 0).all()
    assert steps[0] < 40
    assert steps[-1] > 220
    assert np.diff(steps).max() < 3 * np.diff(steps).mean()
    bar = heat_bar(50, 4)
    assert bar.shape == (4, 50, 3)
    assert (np.diff(brightness(bar[0])) > 0).all()


def test_heat_beyond_its_scale_is_the_last_colour() -> None:
    values = np.array([[1.0, 7.0]], np.float32)
    first, second = heat_colors(values, 1.0)[0]
    assert (first == second).all()


@given(st.floats(1e-6, 1e6))
def test_a_scale_is_a_round_number_not_far_above(value: float) -> None:
    rounded = round_up(value)
    assert value * 0.99999 <= rounded <= 1.7 * value
    assert len(f"{rounded:.6e}".split("e")[0].rstrip("0").rstrip(".")) <= 3


@pytest.mark.parametrize(("value", "rounded"), [(1, 1), (1.1, 1.5), (0.31, 0.5), (0.3, 0.3), (76, 100), (100, 100)])
def test_round_scales(value: float, rounded: float) -> None:
    assert round_up(value) == pytest.approx(rounded)
