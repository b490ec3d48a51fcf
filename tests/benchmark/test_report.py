import json

import pytest

from flowdet.benchmark.doubts import doubts
from flowdet.benchmark.lane import mean_cost
from flowdet.benchmark.report import (
    FrameCost,
    Machine,
    Memory,
    PartCost,
    Report,
    Spread,
    SystemCost,
    mix,
    spread,
    to_json,
)


def frame(seconds: float, *, apart: float = 0.0, inside: float | None = None, gflop: float = 1.0) -> FrameCost:
    forward = Spread(seconds, seconds - apart, seconds + apart)
    parts = {
        "decode": PartCost(Spread(0.5, 0.5, 0.5), 0),
        "backbone": PartCost(Spread(*[seconds if inside is None else inside] * 3), gflop),
    }
    return FrameCost(3, forward, Spread(seconds + 0.5, seconds, seconds + 1), parts)


def cost(frames: dict[str, FrameCost], kinds: tuple[str, ...] = ("frame",)) -> SystemCost:
    return SystemCost(
        system="s",
        weights="random",
        runtime="torch",
        causal=False,
        mode="exact",
        size=(64, 96),
        padded=(64, 96),
        kinds=kinds,
        frames=frames,
        mean=mean_cost(kinds, frames),
        lookahead=0,
        first_seconds=1.0,
        memory=Memory(2, 1),
        notes=(),
    )


def test_a_spread_is_median_and_quartiles() -> None:
    assert spread([5, 1, 3, 2, 4]) == Spread(3, 2, 4)
    assert spread([5, 1, 3, 2, 4]).relative == pytest.approx(2 / 3)
    assert mix([Spread(1, 0, 2), Spread(3, 2, 4), Spread(5, 4, 6)]) == Spread(3, 2, 4)


def test_the_mean_is_over_a_key_frame_period() -> None:
    mean = mean_cost(("key", "other", "other"), {"key": frame(4.0, gflop=7), "other": frame(1.0, gflop=1)})
    assert mean.forward.median == pytest.approx(2)
    assert mean.everything.median == pytest.approx(2.5)
    assert mean.gflop == pytest.approx(3)
    assert mean.count == 6
    assert mean.parts["backbone"].seconds.median == pytest.approx(2)


def test_the_json_of_two_systems() -> None:
    machine = Machine("cpu", "p", 2, 1, "2", (50.0, 100.0), 0.0, ("busy",))
    key = cost({"key": frame(4.0), "other": frame(1.0)}, ("key", "other", "other"))
    report = Report(machine, key, cost({"frame": frame(5.0)}), Spread(2.5, 2, 3), Spread(2, 2, 2))
    found = json.loads(json.dumps(to_json(report)))
    assert found["seconds_per_frame"] == pytest.approx(2)
    assert found["frames"]["key"]["forward"]["median"] == 4
    assert found["frames"]["key"]["share_of_peak"] == pytest.approx(1 / 4 / 100)
    assert found["frames"]["other"]["parts"]["backbone"]["share_of_peak"] == pytest.approx(0.01)
    assert found["versus"]["ratio"] == {"median": 2.5, "low": 2, "high": 3}
    assert found["versus"]["system"]["seconds_per_frame"] == 5
    assert found["trusted"] is False
    assert found["machine"]["peak_gflops"] == 100
    assert "versus" not in to_json(Report(machine, key, None, None, None))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, None),
        ({"others": 1.0}, None),
        ({"others": 1.2}, "other processes kept 1.2 of the 2 cores"),
        ({"others": None, "load": 1.4}, None),
        ({"others": None, "load": 1.8}, "1.8 of the 2 cores"),
        ({"load": 9.0}, None),
        ({"threads": 2, "others": 0.2}, "other processes"),
        ({"rates": [100, 99, 98, 80, 80]}, "80 %"),
        ({"costs": [cost({"frame": frame(1.0, apart=0.1)})]}, "20 % of the median"),
        ({"costs": [cost({"frame": frame(1.0, inside=1.3)})]}, "add up to 130 %"),
        ({"costs": [cost({"key": frame(1.0, inside=0.7)}, ("key",))]}, "s, key frames: the parts add up to 70 %"),
    ],
)
def test_doubts(change: dict[str, object], words: str | None) -> None:
    given: dict[str, object] = {
        "costs": [cost({"frame": frame(1.0)})],
        "rates": [100, 99, 98],
        "cores": 2,
        "threads": 1,
        "others": 0.0,
        "load": 0.0,
    } | change
    costs, rates = given.pop("costs"), given.pop("rates")
    found = list(doubts(costs, rates, **given))  # type: ignore[arg-type]
    assert len(found) == (0 if words is None else 1)
    assert words is None or words in found[0]
