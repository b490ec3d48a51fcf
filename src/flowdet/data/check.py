"""Checks of a data set: problems that keep it from being used, warnings about what looks wrong, and a summary."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID, Problem, cocovid_of, find_problems
from flowdet.data.image_files import find_picture_problems, has_pictures
from flowdet.data.reading import read_json
from flowdet.data.summary import Summary, summarize
from flowdet.errors import DataError, counted, some

__all__ = ["CheckReport", "DataWarning", "check"]

_SLACK = 0.01  # px: importers compute boxes from shares of the image
_IMBALANCE = 100


@dataclass(frozen=True, slots=True)
class DataWarning:
    """Something that looks wrong but does not keep a data set from being used.

    Attributes:
        what: A sentence that starts with the number of entries.
        count: Number of entries.
        where: A sentence for each entry; empty where `what` is enough.
    """

    what: str
    count: int
    where: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The result of `check`.

    Attributes:
        path: The annotation file.
        problems: What keeps the file from being used.
        warnings: What else looks wrong; empty if there are problems.
        pictures: The folder of the pictures that were checked; None if none were.
        summary: What the data set holds; None if there are problems.
    """

    path: Path
    problems: tuple[Problem, ...]
    warnings: tuple[DataWarning, ...]
    pictures: Path | None
    summary: Summary | None

    def problem_counts(self) -> dict[str, int]:
        """Returns the number of problems of each kind, in the order in which the kinds appear."""
        return dict(Counter(problem.kind for problem in self.problems))

    def to_json(self) -> dict[str, Any]:
        """Returns the whole report, ready for JSON."""
        return {
            "file": str(self.path),
            "errors": {"counts": self.problem_counts(), "sentences": [problem.sentence for problem in self.problems]},
            "warnings": [asdict(warning) for warning in self.warnings],
            "pictures": None if self.pictures is None else str(self.pictures),
            "summary": None if self.summary is None else asdict(self.summary),
        }


def check(
    path: Path,
    images: Path | None = None,
    *,
    decode: bool = False,
    progress: Callable[[int], None] = lambda pictures: None,
) -> CheckReport:
    """Checks a CocoVID or COCO file and, where they are found, its pictures.

    Args:
        path: The annotation file.
        images: Folder of the pictures. By default that of the file, provided that pictures are there.
        decode: Decode every picture; by default only their headers are read.
        progress: Called with the number of pictures checked so far.

    Raises:
        DataError: The file cannot be read or is not JSON, or the folder does not exist or holds no picture to decode.
    """
    if images and not images.is_dir():
        raise DataError(f"there is no folder {images} to look for pictures in")
    document = read_json(path)
    problems = tuple(find_problems(document))
    if problems:
        return CheckReport(path, problems, (), None, None)
    data = cocovid_of(path, document)
    folder = images or (path.parent if has_pictures(data, path.parent) else None)
    if decode and folder is None:
        raise DataError(f"there are no pictures in {path.parent} to decode; name their folder with --images")
    warnings = list(_warnings(data))
    if folder:
        warnings += _picture_warnings(data, folder, decode=decode, progress=progress)
    return CheckReport(path, (), tuple(warnings), folder, summarize(data))


def _picture_warnings(
    data: CocoVID, folder: Path, *, decode: bool, progress: Callable[[int], None]
) -> list[DataWarning]:
    found = defaultdict(list)
    for problem in find_picture_problems(data, folder, decode=decode, progress=progress):
        found[problem.kind].append(problem.sentence)
    return [DataWarning(f"{len(where)} x {kind}", len(where), where) for kind, where in found.items()]


def _warnings(data: CocoVID) -> Iterator[DataWarning]:
    yield from _box_warnings(data)
    yield from _doubled_boxes(data)
    yield from _image_warnings(data)
    yield from _video_warnings(data)
    yield from _frame_size_warnings(data)
    yield from _track_warnings(data)
    yield from _class_warnings(data)


def _found(where: Sequence[str], one: str, many: str) -> Iterator[DataWarning]:
    """Yields a warning about these entries, if there are any."""
    if where:
        yield DataWarning(counted(len(where), one, many), len(where), where)


def _object_text(data: CocoVID, position: int) -> str:
    objects = data.objects
    box = ", ".join(f"{side:g}" for side in objects.boxes[position])
    image = data.images[objects.images[position]]
    return f"annotation {objects.ids[position]} in {image.file_name} ({image.width}x{image.height}): {box}"


def _box_warnings(data: CocoVID) -> Iterator[DataWarning]:
    boxes = data.objects.boxes
    sizes = np.array([(image.width, image.height) for image in data.images], dtype=np.float64)[data.objects.images]
    empty = (boxes[:, 2:] <= boxes[:, :2]).any(axis=1)
    outside = ((boxes[:, 2:] <= 0) | (boxes[:, :2] >= sizes)).any(axis=1) & ~empty
    across = ((boxes[:, :2] < -_SLACK) | (boxes[:, 2:] > sizes + _SLACK)).any(axis=1) & ~outside
    for mask, one, many in (
        (outside, "box lies wholly outside its image", "boxes lie wholly outside their image"),
        (across, "box reaches beyond its image", "boxes reach beyond their image"),
        (empty, "box has no area", "boxes have no area"),
    ):
        yield from _found([_object_text(data, position) for position in np.flatnonzero(mask).tolist()], one, many)


def _doubled_boxes(data: CocoVID) -> Iterator[DataWarning]:
    """Boxes without a track number that repeat another one of the same class in the same image."""
    objects = data.objects
    chosen = np.flatnonzero(objects.tracks < 0)
    rows = np.column_stack((objects.images, objects.labels, objects.boxes))[chosen]
    _, first = np.unique(rows, axis=0, return_index=True)
    where = [_object_text(data, position) for position in np.delete(chosen, first).tolist()]
    yield from _found(where, "box repeats another one of its class", "boxes repeat another one of their class")


def _image_warnings(data: CocoVID) -> Iterator[DataWarning]:
    seen: dict[str, int] = {}
    twice = []
    for image in data.images:
        if image.file_name in seen:
            twice.append(f"{image.file_name}: images {seen[image.file_name]} and {image.id}")
        seen.setdefault(image.file_name, image.id)
    yield from _found(twice, "image has the file of another one", "images have the file of another one")
    empty = len(data.images) - len(np.unique(data.objects.images))
    if empty == len(data.images):
        yield DataWarning("no image has an object", empty)


def _video_warnings(data: CocoVID) -> Iterator[DataWarning]:
    without, gaps, missing = [], [], 0
    for video in data.videos:
        frames = np.array([data.images[position].frame for position in video.frames])
        if not len(frames):
            without.append(video.name)
            continue
        jumps = np.flatnonzero(np.diff(frames) > 1)
        missing += int(frames[-1] - frames[0]) + 1 - len(frames)
        if len(jumps):
            where = [f"{frames[i] + 1} to {frames[i + 1] - 1}" for i in jumps]
            gaps.append(f"{video.name}: {some(where, kind='gaps')}")
    yield from _found(without, "video has no frames", "videos have no frames")
    if gaps:
        what = counted(missing, "frame number is missing", "frame numbers are missing")
        yield DataWarning(f"{what} within {counted(len(gaps), 'video', 'videos')}", missing, gaps)


def _frame_size_warnings(data: CocoVID) -> Iterator[DataWarning]:
    """Videos whose frames are not of one size."""
    where = []
    for video in data.videos:
        sizes = dict.fromkeys((data.images[i].width, data.images[i].height) for i in video.frames)
        if len(sizes) > 1:
            where.append(f"{video.name}: {some([f'{width}x{height}' for width, height in sizes], kind='sizes')}")
    differ = "frames that differ in size, which training refuses"
    yield from _found(where, f"video has {differ}", f"videos have {differ}")


def _track_warnings(data: CocoVID) -> Iterator[DataWarning]:
    objects = data.objects
    videos = np.array([-1 if image.video is None else image.video for image in data.images])[objects.images]
    in_video = videos >= 0
    tracked = in_video & (objects.tracks >= 0)
    without = int(in_video.sum() - tracked.sum())
    if without and not tracked.any():
        yield DataWarning(
            "no object has a track number (instance_id): metrics by motion speed are not possible", without
        )
    elif without:
        what = counted(without, "object of a video has no track number", "objects of videos have no track number")
        yield DataWarning(
            f"{what} (instance_id) while others have one; metrics by motion speed leave them out", without
        )
    chosen = np.flatnonzero(tracked)
    yield from _doubled_tracks(data, chosen)
    yield from _changing_tracks(data, chosen, videos)


def _doubled_tracks(data: CocoVID, chosen: NDArray[np.int64]) -> Iterator[DataWarning]:
    """Tracks with two boxes in one frame."""
    objects = data.objects
    order = chosen[np.lexsort((objects.tracks[chosen], objects.images[chosen]))]
    same = np.diff(objects.images[order]) == 0
    again = order[1:][same & (np.diff(objects.tracks[order]) == 0)]
    where = [
        f"track {objects.tracks[i]} in {data.images[objects.images[i]].file_name}: annotation {objects.ids[i]}"
        for i in again
    ]
    frame = "in the same frame"
    yield from _found(where, f"box is the second of its track {frame}", f"boxes are the second of their track {frame}")


def _changing_tracks(data: CocoVID, chosen: NDArray[np.int64], videos: NDArray[np.int64]) -> Iterator[DataWarning]:
    """Tracks whose objects are of more than one class."""
    objects = data.objects
    rows = np.unique(np.stack([videos, objects.tracks, objects.labels])[:, chosen], axis=1)
    changes = np.flatnonzero((np.diff(rows[:2], axis=1) == 0).all(axis=0))
    where = [
        f"track {rows[1, i]} of {data.videos[rows[0, i]].name}: "
        f"{data.class_names[rows[2, i]]} and {data.class_names[rows[2, i + 1]]}"
        for i in changes
    ]
    yield from _found(where, "track changes its class", "changes of class within a track")


def _class_warnings(data: CocoVID) -> Iterator[DataWarning]:
    counts = np.bincount(data.objects.labels, minlength=len(data.class_names))
    without = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
    yield from _found(without, "class has no object", "classes have no object")
    some = np.flatnonzero(counts)
    if not len(some):
        return
    rarest, most = some[counts[some].argmin()], counts.argmax()
    if counts[most] > _IMBALANCE * counts[rarest]:
        names = data.class_names
        what = f"{names[most]} has {counted(counts[most], 'object')}, {names[rarest]} {counts[rarest]}"
        yield DataWarning(f"classes are far from balanced: {what}", 1)
