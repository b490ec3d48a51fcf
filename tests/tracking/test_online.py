from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from flowdet.errors import ConfigError
from flowdet.tracking.online import TrackerConfig, TrackerState, step, track
from flowdet.types import Detections

Box = tuple[float, float, float, float]


def frame(index: int, found: Sequence[tuple[Box, float, int]]) -> Detections:
    """The detections of frame `index` of a video of 10 frames a second: boxes xyxy, scores and labels."""
    return Detections(
        frame_index=index,
        time=index / 10,
        boxes=np.array([box for box, _, _ in found], dtype=np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in found], dtype=np.float32),
        labels=np.array([label for _, _, label in found], dtype=np.int64),
        class_names=("cat", "dog"),
        image_size=(100, 200),
    )


def square(x: float, y: float = 50, side: float = 20) -> Box:
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def ids_of(found: Detections) -> list[int]:
    assert found.track_ids is not None
    return [int(number) for number in found.track_ids]


def ids(frames: Sequence[Detections], config: TrackerConfig | None = None) -> list[dict[float, int]]:
    """By frame the track id of each detection, named by the x of its centre."""
    return [
        dict(zip(((left + right) / 2 for left, _, right, _ in one.boxes.tolist()), ids_of(one), strict=True))
        for one in track(frames, config)
    ]


def test_objects_that_cross_keep_their_ids() -> None:
    # They stand on each other in frame 10, where only their velocities tell them apart.
    frames = [frame(t, [(square(50 + 5 * t), 0.9, 0), (square(150 - 5 * t, 58), 0.8, 0)]) for t in range(21)]
    found = ids(frames)
    assert [one[50 + 5 * t] for t, one in enumerate(found) if t != 10] == [1] * 20
    assert [one[150 - 5 * t] for t, one in enumerate(found) if t != 10] == [2] * 20


def test_a_track_goes_on_after_a_gap_where_its_velocity_leads() -> None:
    seen = [t for t in range(20) if not 6 <= t < 12]
    frames = [frame(t, [(square(10 + 8 * t), 0.9, 0)] if t in seen else []) for t in range(20)]
    assert [list(one.values()) for one in ids(frames)] == [[1] if t in seen else [] for t in range(20)]


def test_a_track_ends_with_its_longest_gap() -> None:
    frames = [frame(t, [(square(50), 0.9, 0)]) for t in (0, 1, 12)]
    assert [one[50] for one in ids(frames, TrackerConfig(longest_gap=1.1))] == [1, 1, 1]
    assert [one[50] for one in ids(frames, TrackerConfig(longest_gap=1.0))] == [1, 1, 2]


def test_weak_detections_continue_tracks_but_start_none() -> None:
    frames = [frame(t, [(square(50), 0.9 if t != 2 else 0.15, 0), (square(120), 0.2, 0)]) for t in range(4)]
    assert [list(one) for one in ids(frames)] == [[50]] * 4
    tracked = list(track(frames))
    assert tracked[2].scores == pytest.approx([0.15])


def test_sure_detections_choose_first() -> None:
    # The unsure one fits better, but the sure one comes first (ByteTrack, section 3).
    before = frame(0, [(square(50), 0.9, 0)])
    now = frame(1, [(square(54), 0.8, 0), (square(50), 0.4, 0)])
    found = ids([before, now], TrackerConfig(new_iou=1))
    assert found[1] == {54: 1, 50: 2}


def test_a_second_box_of_an_object_starts_no_track() -> None:
    # The first stands on the track; the second, which is surer, on the first.
    frames = [frame(0, [(square(50), 0.6, 0)]), frame(1, [(square(54), 0.9, 0), (square(50), 0.7, 0)])]
    assert ids(frames) == [{50: 1}, {50: 1}]
    # Two new ones on each other are one, unless they are of different classes.
    new = [(square(52), 0.9, 0), (square(50), 0.8, 0), (square(54), 0.7, 1)]
    assert ids([frame(0, new)]) == [{52: 1, 54: 2}]
    assert ids([frame(0, new)], TrackerConfig(across_classes=True)) == [{52: 1}]
    # A track that came onto another one goes on.
    crossing = [frame(t, [(square(50 + 8 * t), 0.9, 0), (square(130 - 8 * t), 0.8, 0)]) for t in range(8)]
    assert [len(one) for one in ids(crossing)] == [2, 2, 2, 2, 2, 1, 2, 2]


def test_tracks_are_of_one_class_unless_they_may_change_it() -> None:
    frames = [frame(t, [(square(50), 0.9, t % 2)]) for t in range(4)]
    assert [one[50] for one in ids(frames)] == [1, 2, 1, 2]
    assert [one[50] for one in ids(frames, TrackerConfig(across_classes=True))] == [1, 1, 1, 1]


def test_scores_become_the_mean_of_the_track_so_far() -> None:
    frames = [frame(t, [(square(50), score, 0), (square(150), 0.6, 0)]) for t, score in enumerate((0.9, 0.3, 0.6))]
    tracked = list(track(frames, TrackerConfig(rescores=True)))
    assert [one.scores.tolist() for one in tracked] == [
        pytest.approx([0.9, 0.6]),
        pytest.approx([0.6, 0.6]),
        pytest.approx([0.6, 0.6]),
    ]


def test_the_state_is_a_value() -> None:
    config = TrackerConfig()
    _, first = step(frame(0, [(square(50), 0.9, 0)]), TrackerState(), config)
    one, _ = step(frame(1, [(square(52), 0.9, 0)]), first, config)
    again, _ = step(frame(1, [(square(52), 0.9, 0)]), first, config)
    assert ids_of(one) == ids_of(again) == [1]


def test_frames_without_detections_are_empty() -> None:
    (found,) = track([frame(0, [])])
    assert len(found) == 0
    assert ids_of(found) == []


@pytest.mark.parametrize("wrong", [{"low_score": 0.4}, {"high_score": 0.05}, {"longest_gap": -1.0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        TrackerConfig(**wrong)
