import numpy as np
import pytest

from flowdet.class_names import COCO_CLASSES, VID_CLASSES
from flowdet.errors import ConfigError, DataError
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes
from tests.metrics.fixtures import Made


def names_found(system: tuple[str, ...], data: tuple[str, ...], **given: str) -> dict[str, str]:
    """The data set's name for each class of the system that it has."""
    labels = map_classes(system, Made([0], [], classes=data).data, given).labels.tolist()
    return {name: data[label] for name, label in zip(system, labels, strict=True) if label >= 0}


def test_the_classes_of_coco_among_those_of_imagenet_vid() -> None:
    classes = map_classes(COCO_CLASSES, Made([0], [], classes=VID_CLASSES).data)
    assert classes.renamed == {"boat": "watercraft", "cat": "domestic_cat", "cow": "cattle"}
    found = names_found(COCO_CLASSES, VID_CLASSES)
    same = ("airplane", "bear", "bicycle", "bird", "bus", "car", "dog", "elephant", "horse", "motorcycle", "sheep")
    assert found == {name: name for name in (*same, "train", "zebra")} | dict(classes.renamed)


def test_the_other_way_round() -> None:
    classes = map_classes(VID_CLASSES, Made([0], [], classes=COCO_CLASSES).data)
    assert classes.renamed == {"watercraft": "boat", "domestic_cat": "cat", "cattle": "cow"}
    assert sum(classes.labels >= 0) == 16


def test_an_equal_name_comes_before_a_synonym_and_a_given_one_before_both() -> None:
    assert names_found(("cow", "cattle"), ("cattle", "fox")) == {"cattle": "cattle"}
    assert names_found(("cow", "cattle"), ("cattle", "fox"), cow="cattle") == {"cow": "cattle", "cattle": "cattle"}
    assert names_found(("cow", "fox"), ("cattle", "fox"), fox="cattle") == {"fox": "cattle"}
    assert names_found(("Domestic-Cat", "fox"), ("domestic_cat",)) == {"Domestic-Cat": "domestic_cat"}


def test_given_names_that_do_not_exist() -> None:
    for given in ({"yak": "fox"}, {"cow": "yak"}):
        with pytest.raises(ConfigError, match="there is no class 'yak'"):
            names_found(("cow", "fox"), ("cattle", "fox"), **given)


def test_no_class_in_common() -> None:
    with pytest.raises(DataError, match=r"none of the system's .*: it has a, b; the system finds c; .*map-classes"):
        names_found(("c",), ("a", "b"))


def table_of(count: int) -> DetectionTable:
    random = np.random.default_rng(count)
    positions = random.integers(0, 3, count)
    return DetectionTable(positions, positions, random.random((count, 4)), random.random(count))


def test_tables() -> None:
    whole = concatenate([table_of(3), table_of(0), table_of(2)])
    assert whole.scores.tolist() == [*table_of(3).scores, *table_of(2).scores]
    assert len(concatenate([])) == 0
    assert whole.select(whole.scores > 0.5).scores.tolist() == [score for score in whole.scores if score > 0.5]
    with pytest.raises(ValueError, match="a table has images"):
        DetectionTable(whole.images, whole.labels, whole.boxes[:, :3], whole.scores)
