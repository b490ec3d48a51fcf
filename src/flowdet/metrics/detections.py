"""Detections of a whole data set as one table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import DataError

__all__ = ["DetectionTable", "concatenate", "map_labels"]


@dataclass(frozen=True, eq=False, slots=True)
class DetectionTable:
    """What was found in the images of a data set, in any order.

    Attributes:
        images: [n] int64, positions in the data set's images.
        labels: [n] int64, positions in its class names.
        boxes: [n, 4] float64 xyxy px, original image.
        scores: [n] float64, higher is surer.
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
        """The detections of these rows: a mask [n], or positions."""
        return DetectionTable(self.images[rows], self.labels[rows], self.boxes[rows], self.scores[rows])


def concatenate(tables: Sequence[DetectionTable]) -> DetectionTable:
    """One table after the other; an empty table for none."""
    empty = np.zeros(0, dtype=np.int64)
    start = DetectionTable(empty, empty, np.zeros((0, 4)), np.zeros(0))
    columns = (np.concatenate([getattr(table, field.name) for table in (start, *tables)]) for field in fields(start))
    return DetectionTable(*columns)


def map_labels(class_names: Sequence[str], data: CocoVID) -> NDArray[np.int64]:
    """Where a system's classes are among those of a data set, by name.

    Returns:
        [c] int64: for each class of the system its position in the data set's class names, -1 where the data
        set has no such class (its detections cannot be judged there and are to be left out).

    Raises:
        DataError: They have no class in common.
    """
    known = {name: position for position, name in enumerate(data.class_names)}
    labels = np.array([known.get(name, -1) for name in class_names], dtype=np.int64)
    if (labels < 0).all():
        raise DataError(
            f"{data.path} has none of the system's classes: it has {_shorten(data.class_names)}; "
            f"the system finds {_shorten(class_names)}"
        )
    return labels


def _shorten(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
