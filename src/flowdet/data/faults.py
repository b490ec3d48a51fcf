"""What keeps a document from being read as CocoVID, each fault a sentence that names the entry."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from typing import Any

__all__ = ["Fault", "faults_of"]

_LISTS = ("images", "annotations", "categories", "videos")
_FIELDS: Mapping[str, Mapping[str, type]] = {
    "category": {"name": str},
    "video": {"name": str},
    "image": {"file_name": str, "height": int, "width": int},
    "annotation": {"image_id": int, "category_id": int, "bbox": list},
}
_LARGEST = 2**63 - 1  # ids become 64-bit integers
_NAMES = {str: "text", int: "a whole number", list: "a list"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong.

    Attributes:
        kind: What such faults have in common, for counting.
        sentence: Names the entry, what was expected and what came.
    """

    kind: str
    sentence: str


def faults_of(document: Any) -> Iterator[Fault]:
    """Yields everything that keeps a document from being used as CocoVID; nothing if it can be."""
    if not isinstance(document, dict):
        yield Fault("structure", f"expected an object with images, annotations and categories, not {_told(document)}")
        return
    wrong = [name for name in _LISTS if not isinstance(document.get(name, [] if name == "videos" else None), list)]
    if wrong:
        for name in wrong:
            yield Fault("structure", f"{name!r} must be a list, not {_told(document.get(name))}")
        return
    videos, images = document.get("videos", []), document["images"]
    categories, annotations = document["categories"], document["annotations"]
    for name in ("categories", "images"):
        if not document[name]:
            yield Fault("structure", f"there are no {name}")
    yield from chain(
        _faults_of_entries("category", categories),
        _faults_of_entries("video", videos),
        _faults_of_entries("image", images),
        _faults_of_entries("annotation", annotations),
        _faults_of_names(categories),
        _faults_of_frames(images, _ids(videos)),
        _faults_of_annotations(annotations, _ids(images), _ids(categories)),
    )


def _told(value: Any) -> str:
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _is_whole(value: Any) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST


def _ids(entries: list[Any]) -> set[int]:
    return {entry["id"] for entry in entries if isinstance(entry, dict) and _is_whole(entry.get("id"))}


def _faults_of_entries(what: str, entries: list[Any]) -> Iterator[Fault]:
    fields = _FIELDS[what]
    seen = set()
    for position, entry in enumerate(entries):
        number = entry.get("id") if isinstance(entry, dict) else None
        if not _is_whole(number):
            yield Fault(f"{what} without an id", f"{what} number {position} of the list has no whole number as its id")
            continue
        if number in seen:
            yield Fault(f"{what} id used twice", f"{what} id {number} is there more than once")
        seen.add(number)
        for name, kind in fields.items():
            value = entry.get(name)
            if type(value) is not kind:
                sentence = f"{what} {number}: {name} must be {_NAMES[kind]}, not {_told(value)}"
                yield Fault(f"{what} with a wrong {name}", sentence)
        if what == "image":
            yield from _faults_of_size(entry)


def _faults_of_size(image: dict[str, Any]) -> Iterator[Fault]:
    for name in ("height", "width"):
        value = image.get(name)
        if type(value) is int and not 1 <= value <= _LARGEST:
            yield Fault(f"image with a wrong {name}", f"image {image['id']}: its {name} is {value}")


def _faults_of_names(categories: list[Any]) -> Iterator[Fault]:
    seen = set()
    for category in categories:
        name = category.get("name") if isinstance(category, dict) else None
        if isinstance(name, str):
            if name in seen:
                yield Fault("category name used twice", f"two categories are called {name!r}")
            seen.add(name)


def _faults_of_frames(images: list[Any], videos: set[int]) -> Iterator[Fault]:
    seen = set()
    for image in images:
        video = image.get("video_id") if isinstance(image, dict) else None
        if video is None:
            continue
        where = f"image {image.get('id')}"
        frame = image.get("frame_id")
        if not _is_whole(video) or video not in videos:
            yield Fault("image of an unknown video", f"{where}: there is no video {str(video)[:40]!r}")
        elif not _is_whole(frame):
            sentence = f"{where}: a frame of a video needs a whole number as frame_id, not {_told(frame)}"
            yield Fault("frame without a number", sentence)
        elif (video, frame) in seen:
            sentence = f"{where}: frame {frame} of video {video} is there more than once"
            yield Fault("frame number used twice", sentence)
        else:
            seen.add((video, frame))


def _faults_of_annotations(annotations: list[Any], images: set[int], categories: set[int]) -> Iterator[Fault]:
    for entry in annotations:
        if not isinstance(entry, dict):
            continue
        image, category, box = entry.get("image_id"), entry.get("category_id"), entry.get("bbox")
        track, area = entry.get("instance_id"), entry.get("area")
        if type(image) is int and image not in images:
            sentence = f"annotation {entry.get('id')}: there is no image {image}"
            yield Fault("annotation of an unknown image", sentence)
        if type(category) is int and category not in categories:
            sentence = f"annotation {entry.get('id')}: there is no category {category}"
            yield Fault("annotation of an unknown category", sentence)
        if type(box) is list and not _is_box(box):
            sentence = (
                f"annotation {entry.get('id')}: a box is [x, y, width, height] with finite numbers and sizes "
                f"from 0, not {str(box)[:80]}"
            )
            yield Fault("annotation with a wrong box", sentence)
        if area is not None and not _is_box([0, 0, area, 0]):
            sentence = f"annotation {entry.get('id')}: an area is a finite number from 0 or left out, not {_told(area)}"
            yield Fault("annotation with a wrong area", sentence)
        if track is not None and not (_is_whole(track) and track >= 0):
            sentence = (
                f"annotation {entry.get('id')}: an instance_id is a whole number from 0 or left out, not {_told(track)}"
            )
            yield Fault("annotation with a wrong instance_id", sentence)


def _is_box(values: list[Any]) -> bool:
    try:
        x, y, width, height = values
        # A sum is finite if both numbers are. An integer too large for a float raises, text does too.
        finite = math.isfinite(x + width) and math.isfinite(y + height)
        return finite and width >= 0 and height >= 0 and bool not in map(type, values)
    except (TypeError, ValueError, OverflowError):
        return False
