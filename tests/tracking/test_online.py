from collections.abc import Sequence

import numpy as np
import pytest

from flowdet.errors import ConfigError
from flowdet.tracking.online import TrackConfig, TrackState, track, track_step
from flowdet.tracking.seq_nms import seq_nms_video
from flowdet.types import Detections

Row = tuple[float, float, float, int]  # x and y of the corner of a box of 20 x 20, score, label


def frame(index: int, rows: Sequence[Row]) -> Detections:
    corners = np.array([row[:2] for row in rows], np.float32).reshape(-1, 2)
    return Detections(
        frame_index=index,
        time=index / 10,
        boxes=np.hstack([corners, corners + 20]),
        scores=np.array([row[2] for row in rows], np.float32),
        labels=np.array([row[3] for row in rows], np.int64),
        class_names=("car", "truck"),
        image_size=(200, 400),
    )


def ids_of(frames: Sequence[Sequence[Row]], config: TrackConfig | None = None) -> list[list[int | None]]:
    return [each.ids() for each in track((frame(i, rows) for i, rows in enumerate(frames)), config)]


def test_objects_that_cross_keep_their_ids() -> None:
    # At frame 10 both boxes are in the same place; only the velocity tells them apart.
    frames = [[(6.0 * i, 50.0, 0.9, 0), (120 - 6.0 * i, 50 + 0.5 * i, 0.8, 0)] for i in range(21)]
    assert ids_of(frames) == [[1, 2]] * 21


def test_a_track_goes_on_where_it_is_expected_after_a_gap() -> None:
    frames: list[list[Row]] = [[(5.0 * i, 50, 0.9, 0)] if i < 8 or i >= 15 else [] for i in range(20)]
    assert ids_of(frames) == [[1]] * 8 + [[]] * 7 + [[1]] * 5
    assert ids_of(frames, TrackConfig(gap=0.5))[15:] == [[2]] * 5
    assert not 5.0 * 7 + 20 > 5.0 * 15  # without velocity its boxes do not touch


@pytest.mark.parametrize(("low", "expected"), [(0.1, [[1], [1], [1]]), (0.25, [[1], [None], [1]])])
def test_a_weak_detection_continues_a_track(low: float, expected: list[list[int | None]]) -> None:
    assert ids_of([[(0, 0, 0.9, 0)], [(1, 0, 0.2, 0)], [(2, 0, 0.9, 0)]], TrackConfig(low=low)) == expected


def test_a_weak_detection_starts_no_track_and_ends_no_gap() -> None:
    assert ids_of([[(0, 0, 0.2, 0)], [(0, 0, 0.2, 0)]]) == [[None], [None]]
    assert ids_of([[(0, 0, 0.9, 0)], [], [(0, 0, 0.2, 0)], [(0, 0, 0.9, 0)]]) == [[1], [], [None], [1]]


def test_sure_detections_choose_before_weak_ones() -> None:
    assert ids_of([[(0, 0, 0.9, 0)], [(4, 0, 0.9, 0), (0, 0, 0.2, 0)]]) == [[1], [1, None]]


def test_a_track_keeps_its_class_unless_told_otherwise() -> None:
    frames: list[list[Row]] = [[(0, 0, 0.9, 0)], [(0, 0, 0.9, 1)], [(0, 0, 0.9, 0)]]
    assert ids_of(frames) == [[1], [2], [1]]
    assert ids_of(frames, TrackConfig(agnostic=True)) == [[1]] * 3


def test_scores_become_the_mean_of_the_track_so_far() -> None:
    frames = [frame(i, [(0, 0, a, 0), (100, 0, b, 0)]) for i, (a, b) in enumerate([(0.9, 0.8), (0.3, 0.7)])]
    first, second = track(frames, TrackConfig(rescore=True))
    assert first.scores == pytest.approx([0.9, 0.8])
    assert second.scores == pytest.approx([0.75, 0.6])
    assert second.ids() == [2, 1]
    assert second.boxes[0, 0] == 100


def test_the_same_frames_and_states_lead_to_the_same_tracks() -> None:
    random = np.random.default_rng(0)
    frames = [frame(i, [(*random.uniform(0, 60, 2), random.uniform(), 0) for _ in range(12)]) for i in range(20)]
    config, state, seen, states = TrackConfig(), TrackState(), [], []
    for each in frames:
        states.append(state)
        tracked, state = track_step(each, state, config)
        seen.append(tracked.ids())
        given = [one for one in tracked.ids() if one]
        assert len(set(given)) == len(given)
    assert seen == [each.ids() for each in track(frames)]
    assert track_step(frames[7], states[7], config)[0].ids() == seen[7]


def test_frames_of_one_time_and_without_objects() -> None:
    assert ids_of([[], []]) == [[], []]
    state = TrackState()
    for _ in range(3):
        tracked, state = track_step(frame(0, [(0, 0, 0.9, 0)]), state, TrackConfig())
        assert tracked.ids() == [1]
    (empty,) = track([frame(0, [])])
    assert empty.track_ids is not None
    assert empty.track_ids.shape == (0,)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match="low of a tracker lies between 0 and 1"):
        TrackConfig(low=-0.1)
    with pytest.raises(ConfigError, match="seconds"):
        TrackConfig(gap=float("nan"))


def test_seq_nms_of_a_video_links_frames_and_sorts_them() -> None:
    frames = [frame(0, [(0, 0, 0.9, 0)]), frame(1, [(8, 0, 0.4, 0), (1, 0, 0.3, 0), (100, 0, 0.2, 1)]), frame(2, [])]
    frames.insert(2, frame(2, [(2, 0, 0.9, 0)]))
    linked = seq_nms_video(frames)
    assert [len(each) for each in linked] == [1, 2, 1, 0]
    assert np.concatenate([each.scores for each in linked]) == pytest.approx([0.7, 0.7, 0.2, 0.7])
    assert linked[1].boxes[0, 0] == 1
    assert seq_nms_video([]) == []
