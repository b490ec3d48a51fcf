from dataclasses import astuple
from itertools import product

import numpy as np
import pytest

from flowdet.data.motion import motion_iou
from flowdet.errors import ConfigError
from flowdet.metrics import intervals as module
from flowdet.metrics.intervals import Interval, bootstrap, bootstrap_difference
from flowdet.metrics.motion_speed import evaluate_motion
from flowdet.metrics.protocols import PROTOCOLS, evaluate
from tests.metrics.fixtures import Box, Made

FIGURES = {"coco": ("AP50",), "ilsvrc": ("mAP",), "ilsvrc-motion": ("slow", "medium", "fast", "all")}
EVERY_PROTOCOL = pytest.mark.parametrize("protocol", PROTOCOLS)


def shifted(box: Box, by: float) -> Box:
    return box[0] + by, box[1], box[2] + by, box[3]


def videos() -> Made:
    """Three videos of moving boxes, empty frames among them, with right and false detections."""
    random = np.random.default_rng(0)
    objects: list[tuple[int, int, Box]] = []
    tracks: list[int] = []
    found: list[tuple[int, int, Box, float]] = []
    for image in range(12):
        video, frame = divmod(image, 4)
        for track, (label, speed) in enumerate(((0, 2.5), (video % 2, 8.0), (1, 0.0))):
            if frame == 3 or (video == 2 and track == 0):
                continue
            box = shifted((10.0 + 30 * track, 10, 40 + 30 * track, 60), frame * speed)
            objects.append((image, label, box))
            tracks.append(track)
            found.append((image, label, shifted(box, float(random.normal(0, 4))), float(random.random())))
        for _ in range(4):
            x, y = random.integers(0, 60, 2).tolist()
            found.append((image, int(random.integers(0, 3)), (x, y, x + 30.0, y + 40.0), float(random.random()) * 0.8))
    return Made([0] * 4 + [1] * 4 + [2] * 4, objects, found, tracks)


def value_of(made: Made, protocol: str, times: tuple[int, ...]) -> dict[str, float | None]:
    """The figures of the data set with repeated videos, the long way."""
    whole = motion_iou(made.data)
    repeated = made.repeat(times)
    images = [
        image for video, count in enumerate(times) for _ in range(count) for image in made.data.videos[video].frames
    ]
    motion = np.concatenate([whole[made.data.objects.images == image] for image in images])
    figures = evaluate(repeated.data, repeated.table, protocol, motion_iou=motion)
    return {name: figures.headline[name] for name in FIGURES[protocol]}


@EVERY_PROTOCOL
def test_a_resample_is_the_data_set_with_repeated_videos(protocol: str) -> None:
    made = videos()
    possible = [value_of(made, protocol, times) for times in product(range(4), repeat=3) if sum(times) == 3]
    seen = set()
    for seed in range(12):
        for name, interval in bootstrap(made.data, made.table, protocol, samples=1, seed=seed).items():
            assert interval.low == interval.high
            near = [
                place for place, value in enumerate(possible) if value[name] == pytest.approx(interval.low, abs=1e-12)
            ]
            assert near
            seen.add((name, near[0]))
    assert len(seen) > 3 * len(FIGURES[protocol])


@EVERY_PROTOCOL
def test_the_value_is_the_figure_and_lies_within(protocol: str) -> None:
    made = videos()
    figures = evaluate(made.data, made.table, protocol).headline
    intervals = bootstrap(made.data, made.table, protocol, samples=200)
    assert tuple(intervals) == FIGURES[protocol]
    for name, interval in intervals.items():
        assert interval.value == pytest.approx(figures[name], abs=1e-12)
        assert interval.low < interval.value < interval.high


def test_a_few_resamples_at_a_time_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    made = videos()
    whole = [bootstrap(made.data, made.table, protocol, samples=50) for protocol in PROTOCOLS]
    for cells in (10, 100):
        monkeypatch.setattr(module, "_CELLS_AT_ONCE", cells)
        parts = [bootstrap(made.data, made.table, protocol, samples=50) for protocol in PROTOCOLS]
        for part, one in zip(parts, whole, strict=True):
            assert part.keys() == one.keys()
            for name in one:
                assert astuple(part[name]) == pytest.approx(astuple(one[name]), abs=1e-12)


def test_the_seed_is_what_is_random() -> None:
    made = videos()
    first, again, other = (bootstrap(made.data, made.table, "coco", samples=30, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert first["AP50"].value == other["AP50"].value


@EVERY_PROTOCOL
def test_the_difference_to_itself_is_none(protocol: str) -> None:
    made = videos()
    intervals = bootstrap_difference(made.data, made.table, made.table, protocol, samples=20)
    assert intervals == {name: Interval(0, 0, 0) for name in FIGURES[protocol]}


def test_a_difference_is_taken_within_each_resample() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    frames = [image // 4 for image in range(16)]
    # Of the four boxes of each video the first result finds 0, 0, 2 and 2; the second one more.
    first, second = (
        Made(frames, [(at, 0, box) for at in range(16)], [(at, 0, box, 0.5 + at / 100) for at in places])
        for places in ((8, 9, 12, 13), (0, 4, 8, 9, 10, 12, 13, 14))
    )
    alone = bootstrap(first.data, first.table, "ilsvrc")["mAP"]
    assert (alone.low, alone.high) == (0, 0.5)
    for one, other, sign in ((first, second, 1), (second, first, -1)):
        difference = bootstrap_difference(first.data, one.table, other.table, "ilsvrc")["mAP"]
        assert [difference.value, difference.low, difference.high] == pytest.approx([sign / 4] * 3)
        assert difference.low > 0 or difference.high < 0


def test_stills_are_drawn_one_by_one() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    frames = [None, None, None, None, 0, 0]
    made = Made(frames, objects=[(image, 0, box) for image in range(6)], found=[(0, 0, box, 0.9), (4, 0, box, 0.8)])
    interval = bootstrap(made.data, made.table, "ilsvrc", samples=500)["mAP"]
    # The video is in every resample, half of it found; of the stills from none to all four can be found ones.
    assert interval.low == pytest.approx(1 / 6)
    assert interval.value == pytest.approx(2 / 6)
    assert 3 / 6 <= interval.high <= 4 / 6


def test_nineteen_of_twenty_resamples_lie_within() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    made = Made(range(50), [(at, 0, box) for at in range(50)], [(at, 0, box, at / 100) for at in range(25)])
    interval = bootstrap(made.data, made.table, "ilsvrc", samples=4000)["mAP"]
    # How many of 50 draws are found ones is binomial: 18 or fewer with 3.2 %, 17 or fewer with 1.6 %.
    assert astuple(interval) == pytest.approx((25 / 50, 18 / 50, 32 / 50))


def test_a_class_without_boxes_in_a_resample_is_left_out() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    made = Made([0, 1], objects=[(0, 0, box), (1, 1, box)], found=[(0, 0, box, 0.9)])
    lows = {bootstrap(made.data, made.table, "coco", samples=1, seed=seed)["AP50"].low for seed in range(20)}
    assert lows == {0, 0.5, 1}
    assert bootstrap(made.data, made.table, "coco", samples=400)["AP50"] == Interval(0.5, 0, 1)


def test_a_figure_that_there_is_not_has_no_interval() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    made = Made([0, 1], objects=[(0, 0, box), (1, 1, box)], found=[(0, 0, box, 0.9)])
    assert set(evaluate_motion(made.data, made.table).headline) == set(FIGURES["ilsvrc-motion"])
    assert list(bootstrap(made.data, made.table, "ilsvrc-motion", samples=3)) == ["slow", "all"]
    with pytest.raises(ConfigError, match="at least one resample, not 0"):
        bootstrap(made.data, made.table, "coco", samples=0)
    with pytest.raises(ConfigError, match="no protocol"):
        bootstrap(made.data, made.table, "voc")
