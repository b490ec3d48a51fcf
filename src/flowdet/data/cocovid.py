"""Reading CocoVID: COCO's JSON with frames that belong to videos and, where known, objects with track numbers."""

import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.data.faults import faults_of
from flowdet.errors import DataError

__all__ = [
    "CocoVID",
    "ImageRecord",
    "Objects",
    "VideoRecord",
    "cocovid_of",
    "find_faults",
    "read_cocovid",
    "read_json",
]

_SHOWN_FAULTS = 5


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video.

    Attributes:
        id: As in the file.
        name: As in the file, "val/ILSVRC2015_val_00000000" for instance.
        frames: Positions of its frames in the data set's images, by frame number.
    """

    id: int
    name: str
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One frame of a video, or a still.

    Attributes:
        id: As in the file.
        file_name: Below the folder of the images.
        height: Pixels.
        width: Pixels.
        video: Position of its video in the data set; None for a still.
        frame: Number of the frame in its video; None for a still.
        is_training_frame: Whether training draws current frames here; true where the file does not say.
    """

    id: int
    file_name: str
    height: int
    width: int
    video: int | None
    frame: int | None
    is_training_frame: bool


@dataclass(frozen=True, eq=False, slots=True)
class Objects:
    """Every annotated object of a data set, in the order of the file.

    Attributes:
        ids: [n] int64, as in the file.
        images: [n] int64, positions in the data set's images.
        labels: [n] int64, positions in its class names.
        boxes: [n, 4] float64 xyxy px, original image: x2 = x + width as the file gives them.
        areas: [n] float64 px, as the file gives them (of outlines, where it has some), else of the boxes.
        tracks: [n] int64, number of the instance within its video; -1 where the file gives none.
        crowds: [n] bool.
    """

    ids: NDArray[np.int64]
    images: NDArray[np.int64]
    labels: NDArray[np.int64]
    boxes: NDArray[np.float64]
    areas: NDArray[np.float64]
    tracks: NDArray[np.int64]
    crowds: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False, slots=True)
class CocoVID:
    """An annotated data set of videos, stills, or both.

    Attributes:
        path: The file that it was read from.
        class_names: In the order of the file's categories; the position is the label.
        category_ids: Their numbers in the file.
        videos: In the order of the file; empty for stills.
        images: In the order of the file.
        objects: In the order of the file.
    """

    path: Path
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    videos: tuple[VideoRecord, ...]
    images: tuple[ImageRecord, ...]
    objects: Objects

    def objects_by_image(self) -> list[NDArray[np.int64]]:
        """For each image, the positions of its objects, in the order of the file."""
        order = np.argsort(self.objects.images, kind="stable")
        ends = np.searchsorted(self.objects.images[order], np.arange(1, len(self.images)))
        return np.split(order, ends)


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        DataError: There is no such file, or it is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is not JSON: {error}") from error


def read_cocovid(path: str | Path) -> CocoVID:
    """Reads a CocoVID or COCO file.

    Raises:
        DataError: It cannot be read or has faults; the message names the first of them and counts the rest.
    """
    path = Path(path)
    document = read_json(path)
    faults = find_faults(document)
    first = list(islice(faults, _SHOWN_FAULTS))
    if first:
        rest = sum(1 for _ in faults)
        more = f"; and {rest} more, which `flowdet data check {path}` lists" if rest else ""
        raise DataError(f"{path}: {'; '.join(first)}{more}")
    return cocovid_of(path, document)


def find_faults(document: Any) -> Iterator[str]:
    """Yields a sentence for everything that keeps a document from being used as CocoVID."""
    return (fault.sentence for fault in faults_of(document))


def cocovid_of(path: Path, document: dict[str, Any]) -> CocoVID:
    """The data set that a document describes in which `find_faults` finds nothing.

    Args:
        path: Where it was read from.
        document: As `read_json` gives it.
    """
    video_positions = {video["id"]: position for position, video in enumerate(document.get("videos", []))}
    frames = defaultdict(list)
    for position, image in enumerate(document["images"]):
        if image.get("video_id") is not None:
            frames[image["video_id"]].append((image["frame_id"], position))
    videos = (
        VideoRecord(video["id"], video["name"], tuple(position for _, position in sorted(frames[video["id"]])))
        for video in document.get("videos", [])
    )
    images = (
        ImageRecord(
            id=image["id"],
            file_name=image["file_name"],
            height=image["height"],
            width=image["width"],
            video=video_positions.get(image.get("video_id")),
            frame=image["frame_id"] if image.get("video_id") is not None else None,
            is_training_frame=bool(image.get("is_vid_train_frame", True)),
        )
        for image in document["images"]
    )
    return CocoVID(
        path=path,
        class_names=tuple(category["name"] for category in document["categories"]),
        category_ids=tuple(category["id"] for category in document["categories"]),
        videos=tuple(videos),
        images=tuple(images),
        objects=_objects(document),
    )


def _objects(document: dict[str, Any]) -> Objects:
    entries = document["annotations"]
    images = {image["id"]: position for position, image in enumerate(document["images"])}
    labels = {category["id"]: position for position, category in enumerate(document["categories"])}
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    areas = boxes[:, 2:].prod(axis=1)
    for position, entry in enumerate(entries):
        if (area := entry.get("area")) is not None:
            areas[position] = area
    boxes[:, 2:] += boxes[:, :2]
    return Objects(
        ids=np.array([entry["id"] for entry in entries], dtype=np.int64),
        images=np.array([images[entry["image_id"]] for entry in entries], dtype=np.int64),
        labels=np.array([labels[entry["category_id"]] for entry in entries], dtype=np.int64),
        boxes=boxes,
        areas=areas,
        tracks=np.array(
            [-1 if (track := entry.get("instance_id")) is None else track for entry in entries], dtype=np.int64
        ),
        crowds=np.array([bool(entry.get("iscrowd")) for entry in entries], dtype=np.bool_),
    )
