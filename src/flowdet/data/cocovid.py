"""CocoVID: COCO's JSON with frames that belong to videos and, where known, objects with track numbers."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.data.reading import LARGEST_FRAME, LARGEST_PIXELS, is_pixels, is_printable, is_whole, read_json
from flowdet.errors import DataError

__all__ = [
    "CocoVID",
    "ImageRecord",
    "Objects",
    "Problem",
    "VideoRecord",
    "annotation_problems",
    "cocovid_of",
    "find_problems",
    "header_problems",
    "image_problems",
    "read_cocovid",
]

_SHOWN_PROBLEMS = 5
_LISTS = ("images", "annotations", "categories", "videos")
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "category": {"name": str},
    "video": {"name": str},
    "image": {"file_name": str, "height": int, "width": int},
    "annotation": {"image_id": int, "category_id": int, "bbox": list},
}
_TYPE_NAMES = {str: "text", int: "a whole number", list: "a list"}


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a data set.

    Attributes:
        kind: What such problems have in common, for counting.
        sentence: Names the entry, what was expected and what came.
    """

    kind: str
    sentence: str


@dataclass(frozen=True, slots=True)
class VideoRecord:
    """One video.

    Attributes:
        id: As in the file.
        name: As in the file, for example "val/ILSVRC2015_val_00000000".
        frames: Positions of its frames in the images of the data set, in the order of their numbers.
    """

    id: int
    name: str
    frames: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ImageRecord:
    """One frame of a video, or a still.

    Attributes:
        id: As in the file.
        file_name: Path below the folder of the images.
        height: Pixels.
        width: Pixels.
        video: Position of its video in the data set; None for a still.
        frame: Number of the frame in its video; None for a still.
        is_training_frame: Whether training uses this image as a current frame; true where the file does not say.
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
    """All annotated objects of a data set, in the order of the file.

    Attributes:
        ids: [n] int64, as in the file.
        images: [n] int64, positions in the data set's images.
        labels: [n] int64, positions in its class names.
        boxes: [n, 4] float64 xyxy px, original image; x2 = x + width.
        areas: [n] float64 square px, as in the file (which may mean outlines), else those of the boxes.
        tracks: [n] int64, number of the instance within its video (instance_id); -1 where the file has none.
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
        path: The annotation file.
        class_names: In the order of the file's categories; the position is the label.
        category_ids: The id of each class in the file.
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
        """Returns the positions of each image's objects, in the order of the file."""
        order = np.argsort(self.objects.images, kind="stable")
        ends = np.searchsorted(self.objects.images[order], np.arange(1, len(self.images)))
        return np.split(order, ends)


def read_cocovid(path: str | Path) -> CocoVID:
    """Returns the data set of a CocoVID or COCO file.

    Raises:
        DataError: It cannot be read or used; the message names the first problems and counts the rest.
    """
    path = Path(path)
    document = read_json(path)
    problems = find_problems(document)
    first = [problem.sentence for problem in islice(problems, _SHOWN_PROBLEMS)]
    if first:
        rest = sum(1 for _ in problems)
        more = f"; and {rest} more, which `flowdet data check {path}` lists" if rest else ""
        raise DataError(f"{path}: {'; '.join(first)}{more}")
    return cocovid_of(path, document)


def cocovid_of(path: Path, document: dict[str, Any]) -> CocoVID:
    """Returns the data set of a document in which `find_problems` finds nothing.

    Args:
        path: The file that the document was read from.
        document: The JSON document.
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


def find_problems(document: Any) -> Iterator[Problem]:
    """Yields everything that keeps a JSON document from being used as CocoVID; nothing if it can be."""
    if not isinstance(document, dict):
        came = _told(document)
        yield Problem("structure", f"expected an object with images, annotations and categories, not {came}")
        return
    wrong = [name for name in _LISTS if not isinstance(document.get(name, [] if name == "videos" else None), list)]
    for name in wrong:
        yield Problem("structure", f"{name!r} must be a list, not {_told(document.get(name))}")
    if wrong:
        return
    videos, images = document.get("videos", []), document["images"]
    categories, annotations = document["categories"], document["annotations"]
    if not images:
        yield Problem("structure", "there are no images")
    yield from chain(
        header_problems(categories, videos),
        _entry_problems("image", images),
        _entry_problems("annotation", annotations),
        _frame_problems(images, _ids(videos)),
        _reference_problems(annotations, _ids(images), _ids(categories)),
    )


def header_problems(categories: Sequence[Any], videos: Sequence[Any]) -> Iterator[Problem]:
    """Yields what is wrong with the lists of categories and videos."""
    if not categories:
        yield Problem("structure", "there are no categories")
    yield from _entry_problems("category", categories)
    yield from _entry_problems("video", videos)
    yield from _name_problems(categories)


def image_problems(image: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Yields what is wrong with the name and size of an image.

    Args:
        image: Its entry.
        where: What messages call it.
    """
    yield from _field_problems("image", image, where)
    file_name = image.get("file_name")
    if type(file_name) is str and not _is_file_name(file_name):
        yield Problem("image with a wrong file_name", f"{where}: no file can be called {file_name[:80]!r}")
    for name in ("height", "width"):
        value = image.get(name)
        if type(value) is int and not 1 <= value <= LARGEST_PIXELS:
            yield Problem(f"image with a wrong {name}", f"{where}: its {name} is {str(value)[:40]}")


def annotation_problems(annotation: Mapping[str, Any], where: str) -> Iterator[Problem]:
    """Yields what is wrong with the box, area and track number of an annotation.

    Args:
        annotation: Its entry.
        where: What messages call it.
    """
    yield from _field_problems("annotation", annotation, where)
    box, area, track = annotation.get("bbox"), annotation.get("area"), annotation.get("instance_id")
    if type(box) is list and not _is_box(box):
        sentence = f"{where}: a box is [x, y, width, height] with finite numbers and sizes from 0, not {str(box)[:80]}"
        yield Problem("annotation with a wrong box", sentence)
    if area is not None and not (type(area) in {int, float} and 0 <= area <= LARGEST_PIXELS**2):
        sentence = f"{where}: an area is a finite number from 0 or left out, not {_told(area)}"
        yield Problem("annotation with a wrong area", sentence)
    if track is not None and not is_whole(track, 0):
        sentence = f"{where}: an instance_id is a whole number from 0 or left out, not {_told(track)}"
        yield Problem("annotation with a wrong instance_id", sentence)


def _told(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _ids(entries: list[Any]) -> set[int]:
    return {entry["id"] for entry in entries if isinstance(entry, dict) and is_whole(entry.get("id"))}


def _entry_problems(what: str, entries: Sequence[Any]) -> Iterator[Problem]:
    seen = set()
    for position, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not is_whole(number):
            yield Problem(
                f"{what} without an id", f"{what} number {position} of the list has no whole number as its id"
            )
            continue
        where = f"{what} {number}"
        if number in seen:
            yield Problem(f"{what} id used twice", f"{what} id {number} is there more than once")
        seen.add(number)
        match what:
            case "image":
                yield from image_problems(entry, where)
            case "annotation":
                yield from annotation_problems(entry, where)
            case _:
                yield from _field_problems(what, entry, where)


def _field_problems(what: str, entry: Mapping[str, Any], where: str) -> Iterator[Problem]:
    for name, kind in _FIELDS[what].items():
        value = entry.get(name)
        if type(value) is not kind:
            sentence = f"{where}: {name} must be {_TYPE_NAMES[kind]}, not {_told(value)}"
            yield Problem(f"{what} with a wrong {name}", sentence)


def _is_file_name(name: str) -> bool:
    try:
        # Bytes of names that are not UTF-8 come as surrogates U+DC80 to U+DCFF; other surrogates are nothing.
        return bool(name) and (name.isascii() or bool(name.encode("utf-8", "surrogateescape")))
    except UnicodeEncodeError:
        return False


def _name_problems(categories: Sequence[Any]) -> Iterator[Problem]:
    seen = set()
    for category in categories:
        name = category.get("name") if isinstance(category, dict) else None
        if isinstance(name, str):
            if name in seen:
                yield Problem("category name used twice", f"two categories are called {name!r}")
            seen.add(name)
            if not is_printable(name):
                sentence = (
                    f"category {category.get('id')}: its name {name[:40]!r} holds a character that cannot be printed"
                )
                yield Problem("category with a wrong name", sentence)


def _frame_problems(images: list[Any], videos: set[int]) -> Iterator[Problem]:
    seen = set()
    for image in images:
        video = image.get("video_id") if isinstance(image, dict) else None
        if video is None:
            continue
        where = f"image {image.get('id')}"
        frame = image.get("frame_id")
        if not is_whole(video) or video not in videos:
            yield Problem("image of an unknown video", f"{where}: there is no video {str(video)[:40]!r}")
        elif not is_whole(frame, -LARGEST_FRAME, LARGEST_FRAME):
            sentence = f"{where}: a frame of a video needs a whole number as frame_id, not {_told(frame)}"
            yield Problem("frame without a number", sentence)
        elif (video, frame) in seen:
            sentence = f"{where}: frame {frame} of video {video} is there more than once"
            yield Problem("frame number used twice", sentence)
        else:
            seen.add((video, frame))


def _reference_problems(annotations: list[Any], images: set[int], categories: set[int]) -> Iterator[Problem]:
    for entry in annotations:
        if not isinstance(entry, dict):
            continue
        for what, known in (("image", images), ("category", categories)):
            number = entry.get(f"{what}_id")
            if type(number) is int and number not in known:
                sentence = f"annotation {entry.get('id')}: there is no {what} {str(number)[:40]}"
                yield Problem(f"annotation of an unknown {what}", sentence)


def _is_box(values: list[Any]) -> bool:
    if len(values) != 4:
        return False
    x, y, width, height = values
    return is_pixels(x) and is_pixels(y) and is_pixels(width, 0) and is_pixels(height, 0)
