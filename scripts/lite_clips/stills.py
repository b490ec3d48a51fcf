"""Still pictures with outlined objects, from COCO files."""

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.data.reading import read_json
from flowdet.errors import DataError, FlowdetError

__all__ = ["OutlinedObject", "Still", "read_stills"]


@dataclass(frozen=True, eq=False, slots=True)
class OutlinedObject:
    """One object: its label, and its outline as polygons, each [n, 2] (x, y) px of the picture."""

    label: int
    polygons: tuple[NDArray[np.float32], ...]

    @property
    def points(self) -> NDArray[np.float32]:
        """All corners of all polygons, [n, 2] (x, y) px."""
        return np.concatenate(self.polygons)


@dataclass(frozen=True, eq=False, slots=True)
class Still:
    """One picture and its objects."""

    path: Path
    objects: tuple[OutlinedObject, ...]


def read_stills(annotations: Path, images: Path, class_names: tuple[str, ...]) -> list[Still]:
    """Returns the pictures of a COCO file that show objects of these classes.

    A picture with a crowd region is left out, since its objects have no outlines of their own.

    Args:
        annotations: COCO JSON with polygons.
        images: Folder of its pictures.
        class_names: The classes wanted; the position is the label.

    Raises:
        FlowdetError: The file is not COCO JSON, an object has no polygons, or no picture is left.
    """
    try:
        document = read_json(annotations)
        labels = {c["id"]: class_names.index(c["name"]) for c in document["categories"] if c["name"] in class_names}
        objects: dict[int, list[dict[str, Any]]] = defaultdict(list)
        for entry in document["annotations"]:
            objects[entry["image_id"]].append(entry)
        names = {image["id"]: image["file_name"] for image in document["images"]}
    except (DataError, ValueError, KeyError, TypeError) as error:
        raise FlowdetError(
            f"{annotations} is not a COCO file with images, annotations and categories: {error!r}"
        ) from error
    stills = []
    for number, name in names.items():
        wanted = [entry for entry in objects[number] if entry["category_id"] in labels]
        if wanted and not any(entry.get("iscrowd") for entry in wanted):
            outlined = tuple(_outlined(entry, labels[entry["category_id"]]) for entry in wanted)
            stills.append(Still(images / name, outlined))
    if not stills:
        raise FlowdetError(f"{annotations} holds no picture with an object of {', '.join(class_names)}")
    return stills


def _outlined(entry: dict[str, Any], label: int) -> OutlinedObject:
    outline = entry.get("segmentation")
    if not isinstance(outline, list) or not outline or any(len(p) < 6 or len(p) % 2 for p in outline):
        raise FlowdetError(
            f"annotation {entry.get('id')} of image {entry.get('image_id')} has no outline of polygons with three "
            "or more corners; masks in run-length code are read for crowds only"
        )
    polygons = (np.asarray(polygon, dtype=np.float32).reshape(-1, 2) for polygon in outline)
    return OutlinedObject(label, tuple(polygons))
