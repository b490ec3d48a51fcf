import math

import numpy as np
import pytest

from flowdet.data.synthetic.motion import Jolt, Shake, Wander, draw_wander

TIMES = np.linspace(0, 200, 4001)


def test_a_path_stays_in_its_range_and_is_smooth() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        path = draw_wander(rng, 50, 20, 3)
        values = np.array([path.at(time) for time in TIMES])
        assert values.min() >= 30
        assert values.max() <= 70
        assert np.abs(np.diff(values)).max() < 3 * 4 * 0.05


def test_a_path_has_about_the_speed_that_was_asked_for() -> None:
    rng = np.random.default_rng(1)
    speeds = []
    for _ in range(60):
        path = draw_wander(rng, 0, 1e6, 3)
        values = np.array([path.at(time) for time in TIMES])
        speeds.append(np.sqrt((np.diff(values) ** 2).mean()) / 0.05)
    # It slows down towards the ends of its range: half a circle seen from the side, on average.
    assert np.mean(speeds) == pytest.approx(3 * math.pi / 4, rel=0.1)


def test_a_path_without_a_range_does_not_move() -> None:
    assert Wander(7, 0, 1, 1, ((1, 1, 1),)).at(12.5) == 7


def test_a_jolt_lasts_as_long_as_its_frames() -> None:
    jolt = Jolt(start=10, length=4, amplitude=(6.0, 0.0), rate=2 * math.pi / 4, phases=(0.3, 0.0))
    assert not jolt.at(9.5).any()
    assert not jolt.at(13.5).any()
    inside = np.array([jolt.at(time) for time in np.linspace(9.6, 13.4, 50)])
    assert np.abs(inside[:, 0]).max() == pytest.approx(6, rel=0.1)
    assert not inside[:, 1].any()


def test_the_hand_and_the_jolts_add_up() -> None:
    jolt = Jolt(0, 8, (5.0, 2.0), 1.0, (0.0, 1.0))
    still = Wander(1.5, 0)
    assert np.allclose(Shake(still, still, (jolt,)).at(3), jolt.at(3) + 1.5)
    assert np.allclose(Shake(still, still, ()).at(3), 1.5)
