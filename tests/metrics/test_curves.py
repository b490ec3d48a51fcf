import pytest
from hypothesis import given

from flowdet.metrics.coco import evaluate_coco
from flowdet.metrics.curves import precision_recall
from tests.metrics.fixtures import Made, difference, made_sets

BOX, ELSEWHERE = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)


def test_a_curve_point_by_point() -> None:
    made = Made(
        frames=[0, 0],
        objects=[(0, 1, BOX), (1, 1, BOX), (1, 0, BOX), (0, 1, ELSEWHERE)],
        found=[(0, 1, BOX, 0.5), (1, 1, ELSEWHERE, 0.7), (1, 1, BOX, 0.9), (1, 1, BOX, 0.1), (0, 2, BOX, 0.3)],
    )
    cat, dog, emu = precision_recall(made.data, made.table)
    assert dog.class_name == "dog"
    assert dog.scores.tolist() == [0.9, 0.7, 0.5, 0.1]
    assert dog.recall.tolist() == pytest.approx([1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert dog.precision.tolist() == pytest.approx([1, 1 / 2, 2 / 3, 1 / 2])
    assert dog.boxes == 3
    # 34 of the 101 recalls lie at or below one third, 33 more at or below two thirds.
    assert dog.ap50 == pytest.approx((34 + 33 * 2 / 3) / 101)
    assert (cat.ap50, cat.boxes, cat.recall.size) == (0, 1, 0)
    assert (emu.ap50, emu.boxes) == (None, 0)
    assert emu.precision.tolist() == [0]
    assert emu.recall.tolist() == [0]


def test_a_crowd_first_leaves_the_precision_whole() -> None:
    made = Made(frames=[0], objects=[(0, 0, BOX), (0, 0, ELSEWHERE)], crowds=frozenset({0}))
    made.found = [(0, 0, BOX, 0.9), (0, 0, ELSEWHERE, 0.8)]
    curve = precision_recall(made.data, made.table)[0]
    assert curve.precision.tolist() == [1, 1]
    assert curve.recall.tolist() == [0, 1]
    assert curve.boxes == 1


@given(made_sets(crowds=True, ties=True))
def test_its_ap_is_that_of_the_protocol(made: Made) -> None:
    own = {curve.class_name: curve.ap50 for curve in precision_recall(made.data, made.table)}
    assert difference(own, evaluate_coco(made.data, made.table).per_class["AP50"]) == 0
