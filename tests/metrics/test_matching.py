import numpy as np
import pytest

from flowdet.errors import DataError
from flowdet.metrics.matching import pair_up


def test_every_detection_meets_the_objects_of_its_image() -> None:
    pairs = pair_up(np.array([1, 0, 1]), np.array([0, 2, 3]), np.array([1, 1, 0, 1]))
    assert list(zip(pairs.detections.tolist(), pairs.objects.tolist(), strict=True)) == [
        (0, 0),
        (0, 3),
        (1, 2),
        (2, 0),
        (2, 3),
    ]


def test_more_pairs_than_memory_holds_are_refused_before_they_are_made() -> None:
    many = np.zeros(200_000, dtype=np.int64)
    with pytest.raises(DataError, match=r"40000000000 pairs of boxes .* than can be compared \(100000000\)"):
        pair_up(many, np.arange(len(many)), many)
