from dataclasses import replace

import numpy as np
import pytest

from flowdet.types import Detections, Frame, Geometry


def detections() -> Detections:
    return Detections(
        frame_index=7,
        time=0.28,
        boxes=np.array([[1, 2, 3, 4], [5, 6, 7, 8], [0, 0, 9, 9]], np.float32),
        scores=np.array([0.875, 0.5, 0.25], np.float32),
        labels=np.array([1, 0, 1], np.int64),
        class_names=("cat", "dog"),
        image_size=(48, 64),
    )


def test_selecting() -> None:
    assert len(detections().select()) == 3
    assert detections().select(score=0.5).scores.tolist() == [0.875, 0.5]
    assert detections().select(classes=["dog"]).boxes.tolist() == [[1, 2, 3, 4], [0, 0, 9, 9]]
    both = detections().select(score=0.3, classes=["dog"])
    assert (both.names, both.frame_index, both.image_size) == (["dog"], 7, (48, 64))
    assert len(detections().select(classes=[])) == 0


def test_records_hold_plain_values() -> None:
    record = detections().records()[1]
    assert record == {
        "frame_index": 7,
        "time": 0.28,
        "label": 0,
        "class_name": "cat",
        "score": 0.5,
        "x1": 5.0,
        "y1": 6.0,
        "x2": 7.0,
        "y2": 8.0,
        "track_id": None,
    }
    assert {type(value) for value in record.values()} == {int, float, str, type(None)}
    assert detections().select(score=2).records() == []
    assert Detections.columns == tuple(record)  # what a table of no detections is made with


def test_track_ids_stay_with_their_detections() -> None:
    tracked = replace(detections(), track_ids=np.array([4, 9, 2]))
    assert [record["track_id"] for record in tracked.records()] == [4, 9, 2]
    kept = tracked.select(float(tracked.scores.max()))
    assert len(kept) == 1
    assert kept.track_ids is not None
    assert kept.track_ids.tolist() == [4]
    with pytest.raises(ValueError, match="3 track ids"):
        replace(tracked, track_ids=np.array([4]))


@pytest.mark.parametrize("shapes", [((3, 5), (3,), (3,)), ((3, 4), (2,), (3,)), ((3, 4), (3,), (3, 1))])
def test_parts_of_detections_fit_together(shapes: tuple[tuple[int, ...], ...]) -> None:
    boxes, scores, labels = (np.zeros(shape, np.float32) for shape in shapes)
    with pytest.raises(ValueError, match=r"boxes \[n, 4\]"):
        Detections(0, 0.0, boxes, scores, labels.astype(np.int64), ("cat",), (48, 64))


@pytest.mark.parametrize(("shape", "dtype"), [((4, 4), np.uint8), ((4, 4, 4), np.uint8), ((4, 4, 3), np.float32)])
def test_a_frame_is_an_8_bit_colour_picture(shape: tuple[int, ...], dtype: type) -> None:
    with pytest.raises(ValueError, match="uint8"):
        Frame(0, 0.0, np.zeros(shape, dtype))


def test_the_scale_of_a_geometry_is_x_then_y() -> None:
    assert Geometry(original=(100, 200), valid=(50, 400), padded=(64, 400)).scale == (2.0, 0.5)


def test_a_frame_without_objects_has_columns() -> None:
    nothing = detections().select(score=1.0)
    assert nothing.records() == []
    assert tuple(detections().records()[0]) == nothing.columns == Detections.columns
