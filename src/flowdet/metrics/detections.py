"""Detections of a whole data set as one table, and the match of their classes with those of the data set."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flowdet.class_names import check_class_names, find_class
from flowdet.data.cocovid import CocoVID
from flowdet.errors import DataError, some

__all__ = ["ClassMap", "DetectionTable", "concatenate", "map_classes"]


@dataclass(frozen=True, eq=False, slots=True)
class DetectionTable:
    """The detections in the images of a data set, in any order.

    Attributes:
        images: [n] int64, positions in the data set's images.
        labels: [n] int64, positions in its class names.
        boxes: [n, 4] float64 xyxy px, original image.
        scores: [n] float64.
    """

    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    scores: NDArray[np.float64]

    def __post_init__(self) -> None:
        count = len(self.images)
        shapes = [getattr(self, field.name).shape for field in fields(self)]
        if shapes != [(count,), (count,), (count, 4), (count,)]:
            raise ValueError(f"a table has images [n], labels [n], boxes [n, 4] and scores [n], not {shapes}")

    def __len__(self) -> int:
        return len(self.images)

    def select(self, rows: NDArray[np.bool_] | NDArray[np.int64]) -> DetectionTable:
        """Returns the detections of some rows, given as a mask [n] or as positions."""
        return DetectionTable(self.images[rows], self.labels[rows], self.boxes[rows], self.scores[rows])


def concatenate(tables: Sequence[DetectionTable]) -> DetectionTable:
    """Returns one table after the other; an empty table if there are none."""
    empty = np.zeros(0, dtype=np.int64)
    start = DetectionTable(empty, empty, np.zeros((0, 4)), np.zeros(0))
    columns = (np.concatenate([getattr(table, field.name) for table in (start, *tables)]) for field in fields(start))
    return DetectionTable(*columns)


@dataclass(frozen=True, eq=False, slots=True)
class ClassMap:
    """A system's classes among those of a data set.

    Attributes:
        labels: [c] int64, for each class of the system its position in the data set's class names; -1 where the data
            set has no such class, so that its detections must be left out.
        renamed: The classes that the data set calls otherwise, with its name for them.
    """

    labels: NDArray[np.int64]
    renamed: Mapping[str, str]


def map_classes(class_names: Sequence[str], data: CocoVID, given: Mapping[str, str] | None = None) -> ClassMap:
    """Matches a system's classes with those of a data set: as given, by equal names, or by names that mean the same.

    Args:
        class_names: The classes of the system.
        data: The data set.
        given: Names of the system's classes, and what the data set calls them.

    Raises:
        ConfigError: A name in `given` does not exist.
        DataError: No class is in both.
    """
    given = given or {}
    check_class_names(given.keys(), class_names)
    check_class_names(given.values(), data.class_names)
    positions = {name: position for position, name in enumerate(data.class_names)}
    found = [given.get(name) or (name if name in positions else None) for name in class_names]
    # A synonym is taken only for a class of the data set that no other class of the system has.
    free = [name for name in data.class_names if name not in found]
    found = [match or find_class(name, free) for name, match in zip(class_names, found, strict=True)]
    if not any(found):
        raise DataError(
            f"{data.path} has none of the system's classes: it has {some(data.class_names)}; "
            f"the system finds {some(class_names)}; name the classes that mean the same with --map-classes"
        )
    labels = np.array([-1 if match is None else positions[match] for match in found], dtype=np.int64)
    return ClassMap(
        labels, {name: match for name, match in zip(class_names, found, strict=True) if match and match != name}
    )
