import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from flowdet.metrics.ilsvrc import evaluate_ilsvrc
from flowdet.metrics.motion_speed import empty_weights, evaluate_motion
from tests.metrics.fixtures import Made, difference, made_sets
from tests.metrics.plain import motion_figures


@given(made_sets(), st.lists(st.sampled_from([0.0, 0.3, 0.7, 0.8, 0.9, 1.0]), min_size=10, max_size=10))
def test_all_speeds_box_by_box(made: Made, motion: list[float]) -> None:
    values = motion[: len(made.objects)]
    own = evaluate_motion(made.data, made.table, np.array(values, dtype=np.float64))
    plain = motion_figures(made, values)
    assert difference(own.per_class, plain) < 1e-12
    assert difference(evaluate_ilsvrc(made.data, made.table).per_class["AP"], plain["all"]) < 1e-12


def test_a_small_box_is_found_by_less_overlap() -> None:
    # 10 x 10 px with both edges: a threshold of 100 / 400.
    small, large = (0, 0, 9, 9), (0, 0, 39, 39)
    for box, shift, right in (
        (small, 5, True),
        (small, 6, True),
        (small, 7, False),
        (large, 13, True),
        (large, 14, False),
    ):
        x1, y1, x2, y2 = box
        made = Made(frames=[0], objects=[(0, 0, box)], found=[(0, 0, (x1 + shift, y1, x2 + shift, y2), 0.5)])
        assert evaluate_ilsvrc(made.data, made.table).headline == {"mAP": float(right)}


def test_of_equal_overlaps_the_first_object_is_taken() -> None:
    made = Made(
        frames=[0],
        objects=[(0, 0, (0, 0, 9, 9)), (0, 0, (10, 0, 19, 9))],
        found=[(0, 0, (5, 0, 14, 9), 0.9), (0, 0, (0, 0, 9, 9), 0.8)],
    )
    # The first detection overlaps both by a third and takes the left one from the second.
    assert evaluate_ilsvrc(made.data, made.table).headline["mAP"] == 0.5


def test_frames_without_objects_count_as_one_fast_object_each() -> None:
    made = Made(frames=[0, 0, 0, 0], objects=[(0, 0, (0, 0, 9, 9)), (0, 0, (0, 0, 9, 9)), (1, 0, (0, 0, 9, 9))])
    weights = empty_weights(made.data, np.array([0.95, 0.8, 0.7]))
    assert weights == {"slow": 0.2, "medium": 0.4, "fast": 0.6, "all": 1.0}
    block = evaluate_motion(made.data, made.table, np.array([0.95, 0.8, 0.7])).document["medium"]
    assert block["boxes"] == 2
    assert block["share_of_boxes"] == pytest.approx(2 / 3)
    assert block["range"] == [0.7, 0.9]
    assert block["empty_frame_weight"] == 0.4


def test_a_data_set_without_objects() -> None:
    made = Made(frames=[0], objects=[], found=[(0, 0, (0, 0, 9, 9), 0.9)])
    figures = evaluate_motion(made.data, made.table)
    assert set(figures.headline.values()) == {None}
    assert figures.document["fast"]["share_of_boxes"] is None
    assert evaluate_ilsvrc(made.data, made.table).headline == {"mAP": None}
