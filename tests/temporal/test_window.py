from typing import Any

import pytest

from flowdet.errors import ConfigError
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig, window_slots
from tests.golden import window_cases

CASES = window_cases()


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: "{num_frames} frames, {past} past, stride {stride}".format(**case)
)
def test_the_windows_of_mmtracking(case: dict[str, Any]) -> None:
    config = FGFAConfig(case["past"], case["past"], case["stride"])
    assert len(case["slots"]) == case["num_frames"]
    for current, slots in enumerate(case["slots"]):
        others = [slot for place, slot in enumerate(slots) if place != case["past"]]
        assert slots[case["past"]] == current
        assert window_slots(current, case["num_frames"] - 1, config) == others


def test_the_recorded_windows_have_strides_and_short_videos() -> None:
    assert {case["stride"] for case in CASES} == {1, 2}
    assert {case["num_frames"] for case in CASES} >= {1, 2, 10, 40}


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_frames_beyond_the_window_do_not_matter(stride: int) -> None:
    config = FGFAConfig(2, 3, stride)
    for current in range(12):
        assert window_slots(current, current + 3 * stride, config) == window_slots(current, 1000, config)


@pytest.mark.parametrize("wrong", [{"past": -1}, {"future": -1}, {"stride": 0}, {"references_at_once": 0}])
def test_impossible_windows(wrong: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(wrong.values()))}"):
        FGFAConfig(**wrong)  # type: ignore[arg-type]


def test_impossible_key_frame_interval() -> None:
    with pytest.raises(ConfigError, match="not 0"):
        DFFConfig(0)
