import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flowdet.benchmark.benchmark import average
from flowdet.benchmark.report import (
    FirstFrame,
    FrameCost,
    Machine,
    PartCost,
    Report,
    Spread,
    SystemCost,
    Versus,
    spread,
    to_json,
)
from flowdet.systems.options import SystemOptions


def frame(seconds: float, *, apart: float = 0.0, gflop: float = 1.0) -> FrameCost:
    forward = Spread(seconds, seconds - apart, seconds + apart)
    parts = {
        "decode": PartCost(Spread(0.5, 0.5, 0.5), 0),
        "features": PartCost(Spread(seconds, seconds, seconds), gflop),
    }
    return FrameCost(3, forward, Spread(seconds + 0.5, seconds, seconds + 1), parts)


def cost(frames: dict[str, FrameCost], kinds: Sequence[str] = ("frame",)) -> SystemCost:
    return SystemCost(
        system="s",
        weights="random",
        backend="torch",
        options=SystemOptions(system="s", weights=Path("w.pth")),
        size=(64, 96),
        padded=(64, 96),
        kinds=tuple(kinds),
        frames=frames,
        mean=frame(2.0),
        lookahead=0,
        first=FirstFrame(1.0, 1, 2),
        notes=(),
    )


MACHINE = Machine("cpu", "p", 2, 1, "2", (98.0, 99.0, 100.0), 0.0)


def test_a_spread_is_median_and_quartiles() -> None:
    assert spread([5, 1, 3, 2, 4]) == Spread(3, 2, 4)


def test_the_mean_is_over_a_key_frame_interval() -> None:
    key: dict[str, float] = {"forward": 4, "features": 3}
    assert average([key, {"forward": 1}, {"forward": 1}]) == {"forward": 2, "features": 1}


def test_the_cost_of_frames_is_put_together_from_what_was_measured() -> None:
    forward = [{"decode": 0.0, "preparation": 1.0, "forward": seconds} for seconds in (1.0, 2.0, 3.0)]
    everything = [{"decode": 1.0, "preparation": 2.0, "forward": 3.0, "drawing": 4.0, "encoding": 5.0}]
    parts: list[dict[str, float]] = [
        {"decode": 0.0, "preparation": 7.0, "features": 2.0, "rpn": 1.0},
        {"decode": 0.0, "preparation": 7.0, "features": 4.0, "after rpn": 1.0},
    ]
    found = FrameCost.of(forward, everything, parts, gflop={"features": 8.0, "decode": 0.0})
    assert found.count == 3
    assert found.forward == Spread(2, 1.5, 2.5)
    assert found.everything == Spread(15, 15, 15)
    medians = {name: part.seconds.median for name, part in found.parts.items()}
    assert list(medians) == ["decode", "preparation", "features", "rpn", "after rpn", "drawing", "encoding"]
    assert list(medians.values()) == [1, 2, 3, 0.5, 0.5, 4, 5]
    assert found.gflop == found.parts["features"].gflop == 8


def test_the_json_of_two_systems() -> None:
    machine = replace(MACHINE, peak=(50.0, 100.0))
    key = cost({"key": frame(4.0), "other": frame(1.0)}, ("key", "other", "other"))
    versus = Versus(cost({"frame": frame(5.0)}), Spread(2.5, 2, 3), Spread(2, 2, 2))
    found = json.loads(json.dumps(to_json(Report(machine, key, versus))))
    assert found["seconds_per_frame"] == pytest.approx(2)
    assert found["options"]["weights"] == "w.pth"
    assert found["frames"]["key"]["forward"]["median"] == 4
    assert found["frames"]["key"]["share_of_peak"] == pytest.approx(1 / 4 / 100)
    assert found["frames"]["other"]["parts"]["features"]["share_of_peak"] == pytest.approx(0.01)
    assert found["versus"]["ratio"] == {"median": 2.5, "low": 2, "high": 3}
    assert found["versus"]["system"]["frames"]["frame"]["forward"]["median"] == 5
    assert found["trusted"] is False
    assert found["machine"]["peak_gflops"] == 100
    assert "versus" not in to_json(Report(machine, key))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"others_cores": 1.0}, None),
        ({"others_cores": None}, None),
        ({"others_cores": 1.2}, "other processes kept 1.2 of the 2 cores"),
        ({"threads": 2, "others_cores": 0.2}, "other processes"),
        ({"peak": (100.0, 99.0, 98.0, 80.0, 80.0)}, "80 %"),
    ],
)
def test_a_busy_machine_is_warned_of(change: dict[str, Any], words: str | None) -> None:
    found = Report(replace(MACHINE, **change), cost({"frame": frame(1.0)})).warnings
    assert len(found) == (0 if words is None else 1)
    assert words is None or words in found[0]


def test_times_that_lie_apart_are_warned_of() -> None:
    steady, restless = cost({"frame": frame(1.0)}), {"key": frame(1.0), "other": frame(1.0, apart=0.1)}
    (warning,) = Report(MACHINE, cost({"frame": frame(1.0, apart=0.1)})).warnings
    assert warning == "s: the quartiles lie 20 % of the median apart"
    versus = Versus(cost(restless, ("key", "other")), Spread(1, 1, 1), Spread(1, 1, 1))
    (warning,) = Report(MACHINE, steady, versus).warnings
    assert warning == "s, other frames: the quartiles lie 20 % of the median apart"
