import pytest

from flowdet.metrics.mistakes import worst_frames
from tests.metrics.fixtures import Made

LEFT, RIGHT, AWAY = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0), (80.0, 80.0, 90.0, 90.0)
MADE = Made(
    frames=[0, 0, 0, 1, None, None],
    objects=[(3, 0, LEFT), (0, 0, LEFT), (0, 1, RIGHT), (1, 0, LEFT), (2, 1, LEFT), (5, 0, LEFT)],
    found=[
        (0, 0, AWAY, 0.5),
        (0, 0, AWAY, 0.9),
        (0, 0, LEFT, 0.4),
        (1, 0, LEFT, 0.2),
        (2, 0, LEFT, 0.6),
        (3, 0, LEFT, 0.7),
        (4, 0, LEFT, 0.35),
    ],
)


def test_the_worst_first_and_not_too_many_of_a_video() -> None:
    worst = worst_frames(MADE.data, MADE.table, 10)
    # Frame 1 (one object missed) would be the third of its video, frame 3 has no mistake.
    assert [frame.image for frame in worst] == [0, 2, 5, 4]
    assert [frame.cost for frame in worst] == pytest.approx([2.4, 1.6, 1, 0.35])
    first = worst[0]
    assert (first.missed.tolist(), first.false.tolist(), first.found.tolist()) == ([2], [1, 0], [2])
    assert worst[1].missed.tolist() == [4]


def test_all_of_a_video_and_other_scores() -> None:
    worst = worst_frames(MADE.data, MADE.table, 3, score=0.1, per_video=3)
    assert [frame.image for frame in worst] == [0, 2, 5]
    assert 1 not in [frame.image for frame in worst_frames(MADE.data, MADE.table, 9, score=0.1, per_video=3)]
    assert 1 in [frame.image for frame in worst_frames(MADE.data, MADE.table, 9, per_video=3)]


def test_nothing_is_wrong() -> None:
    made = Made(frames=[0], objects=[(0, 0, LEFT)], found=[(0, 0, LEFT, 0.9)])
    assert worst_frames(made.data, made.table, 5) == []
    assert worst_frames(Made([0], []).data, Made([0], []).table, 5) == []


def test_a_crowd_is_not_missed() -> None:
    made = Made(frames=[0], objects=[(0, 0, LEFT), (0, 0, RIGHT)], found=[(0, 0, LEFT, 0.9)], crowds=frozenset({0, 1}))
    assert worst_frames(made.data, made.table, 5) == []
