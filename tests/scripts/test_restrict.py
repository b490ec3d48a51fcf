import numpy as np
import pytest

from flowdet.metrics.coco import evaluate_coco
from scripts.restrict import restrict
from tests.metrics.fixtures import Made

LEFT, RIGHT = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
MADE = Made(
    frames=[0, 0, 1, None, 2],
    objects=[(2, 0, LEFT), (0, 0, LEFT), (1, 1, RIGHT), (1, 0, LEFT), (4, 2, LEFT)],
    found=[
        (1, 0, LEFT, 0.9),
        (0, 0, RIGHT, 0.8),
        (1, 1, RIGHT, 0.7),
        (3, 0, LEFT, 0.6),
        (4, 2, LEFT, 0.5),
        (1, 1, LEFT, 0.4),
    ],
    tracks=[5, 6, 7, 6, 8],
)


def test_some_images() -> None:
    data, table = restrict(MADE.data, MADE.table, images=np.array([False, True, False, True, True]))
    assert [image.id for image in data.images] == [2, 4, 5]
    assert [image.video for image in data.images] == [0, None, 1]
    assert [(video.name, video.frames) for video in data.videos] == [("video 0", (0,)), ("video 2", (2,))]
    assert data.objects.images.tolist() == [0, 0, 2]
    assert data.objects.ids.tolist() == [2, 3, 4]
    assert data.objects.tracks.tolist() == [7, 6, 8]
    assert table.images.tolist() == [0, 0, 1, 2, 0]
    assert table.scores.tolist() == [0.9, 0.7, 0.6, 0.5, 0.4]
    assert evaluate_coco(data, table).per_class["AP50"] == pytest.approx({"cat": 1, "dog": 1, "emu": 1})


def test_some_objects() -> None:
    data, table = restrict(MADE.data, MADE.table, objects=np.array([True, True, False, False, False]))
    assert len(data.images) == 5
    assert data.objects.ids.tolist() == [0, 1]
    # Those that found one of the others are gone, what found nothing stays false.
    assert table.scores.tolist() == [0.8, 0.6, 0.4]


def test_some_objects_of_some_images() -> None:
    images, objects = np.array([True, True, False, False, False]), np.array([True, True, False, True, True])
    data, table = restrict(MADE.data, MADE.table, images=images, objects=objects)
    assert data.objects.ids.tolist() == [1, 3]
    assert table.scores.tolist() == [0.9, 0.8, 0.4]


def test_all_is_all() -> None:
    data, table = restrict(MADE.data, MADE.table)
    assert data.images == MADE.data.images
    assert data.videos == MADE.data.videos
    assert table.scores.tolist() == MADE.table.scores.tolist()
