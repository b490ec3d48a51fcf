"""What looks wrong in a data set that can be read: boxes outside, gaps, tracks that cannot be."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID

__all__ = ["Oddity", "find_oddities"]

_SLACK = 0.01  # px: importers compute boxes from shares of the image
_IMBALANCE = 100


@dataclass(frozen=True, slots=True)
class Oddity:
    """Something that looks wrong but keeps nobody from using the data set.

    Attributes:
        what: A sentence, with its count.
        count: How many entries it concerns.
        where: A sentence for each of them; empty if the first sentence says it all.
    """

    what: str
    count: int
    where: Sequence[str] = ()


def find_oddities(data: CocoVID) -> Iterator[Oddity]:
    """Yields what looks wrong; nothing if all is well."""
    yield from _odd_boxes(data)
    yield from _odd_images(data)
    yield from _odd_videos(data)
    yield from _uneven_videos(data)
    yield from _odd_tracks(data)
    yield from _odd_classes(data)


def _plural(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _object_text(data: CocoVID, position: int) -> str:
    objects = data.objects
    box = ", ".join(f"{side:g}" for side in objects.boxes[position])
    image = data.images[objects.images[position]]
    return f"annotation {objects.ids[position]} in {image.file_name} ({image.width}x{image.height}): {box}"


def _odd_boxes(data: CocoVID) -> Iterator[Oddity]:
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
        found = np.flatnonzero(mask)
        if len(found):
            where = [_object_text(data, position) for position in found.tolist()]
            yield Oddity(_plural(len(found), one, many), len(found), where)


def _odd_images(data: CocoVID) -> Iterator[Oddity]:
    seen: dict[str, int] = {}
    twice = []
    for image in data.images:
        if image.file_name in seen:
            twice.append(f"{image.file_name}: images {seen[image.file_name]} and {image.id}")
        seen.setdefault(image.file_name, image.id)
    if twice:
        what = _plural(len(twice), "image has the file of another one", "images have the file of another one")
        yield Oddity(what, len(twice), twice)
    empty = len(data.images) - len(np.unique(data.objects.images))
    if empty == len(data.images):
        yield Oddity("no image has an object", empty)


def _odd_videos(data: CocoVID) -> Iterator[Oddity]:
    without, gaps, missing = [], [], 0
    for video in data.videos:
        frames = np.array([data.images[position].frame for position in video.frames])
        if not len(frames):
            without.append(video.name)
            continue
        jumps = np.flatnonzero(np.diff(frames) > 1)
        missing += int(frames[-1] - frames[0]) + 1 - len(frames)
        if len(jumps):
            where = ", ".join(f"{frames[i] + 1} to {frames[i + 1] - 1}" for i in jumps[:5])
            more = f" and {len(jumps) - 5} more gaps" if len(jumps) > 5 else ""
            gaps.append(f"{video.name}: {where}{more}")
    if without:
        yield Oddity(_plural(len(without), "video has no frames", "videos have no frames"), len(without), without)
    if gaps:
        what = _plural(missing, "frame number is missing", "frame numbers are missing")
        yield Oddity(f"{what} within {_plural(len(gaps), 'video', 'videos')}", missing, gaps)


def _uneven_videos(data: CocoVID) -> Iterator[Oddity]:
    """Videos whose frames are not of one size."""
    where = []
    for video in data.videos:
        sizes = dict.fromkeys((data.images[i].width, data.images[i].height) for i in video.frames)
        if len(sizes) > 1:
            texts = [f"{width}x{height}" for width, height in sizes]
            more = f" and {len(texts) - 5} more sizes" if len(texts) > 5 else ""
            where.append(f"{video.name}: {', '.join(texts[:5])}{more}")
    if where:
        what = _plural(len(where), "video has frames that differ in size", "videos have frames that differ in size")
        yield Oddity(f"{what}, which training refuses", len(where), where)


def _odd_tracks(data: CocoVID) -> Iterator[Oddity]:
    objects = data.objects
    videos = np.array([-1 if image.video is None else image.video for image in data.images])[objects.images]
    in_video = videos >= 0
    tracked = in_video & (objects.tracks >= 0)
    without = int(in_video.sum() - tracked.sum())
    if without and not tracked.any():
        yield Oddity("no object has a track number (instance_id): figures by speed of motion are not possible", without)
    elif without:
        what = _plural(without, "object of a video has no track number", "objects of videos have no track number")
        yield Oddity(f"{what} (instance_id) while others have one; figures by speed leave them out", without)
    chosen = np.flatnonzero(tracked)
    yield from _doubled_tracks(data, chosen)
    yield from _changing_tracks(data, chosen, videos)


def _doubled_tracks(data: CocoVID, chosen: NDArray[np.int64]) -> Iterator[Oddity]:
    """Tracks with two boxes in one frame."""
    objects = data.objects
    order = chosen[np.lexsort((objects.tracks[chosen], objects.images[chosen]))]
    same = np.diff(objects.images[order]) == 0
    again = order[1:][same & (np.diff(objects.tracks[order]) == 0)]
    if len(again):
        where = [
            f"track {objects.tracks[i]} in {data.images[objects.images[i]].file_name}: annotation {objects.ids[i]}"
            for i in again
        ]
        what = _plural(len(again), "box is the second of its track", "boxes are the second of their track")
        yield Oddity(f"{what} in the same frame", len(again), where)


def _changing_tracks(data: CocoVID, chosen: NDArray[np.int64], videos: NDArray[np.int64]) -> Iterator[Oddity]:
    """Tracks whose objects are of more than one class."""
    objects = data.objects
    rows = np.unique(np.stack([videos, objects.tracks, objects.labels])[:, chosen], axis=1)
    changes = np.flatnonzero((np.diff(rows[:2], axis=1) == 0).all(axis=0))
    if len(changes):
        where = [
            f"track {rows[1, i]} of {data.videos[rows[0, i]].name}: "
            f"{data.class_names[rows[2, i]]} and {data.class_names[rows[2, i + 1]]}"
            for i in changes
        ]
        what = _plural(len(changes), "track changes its class", "changes of class within a track")
        yield Oddity(what, len(changes), where)


def _odd_classes(data: CocoVID) -> Iterator[Oddity]:
    counts = np.bincount(data.objects.labels, minlength=len(data.class_names))
    without = [name for name, count in zip(data.class_names, counts, strict=True) if not count]
    if without:
        yield Oddity(_plural(len(without), "class has no object", "classes have no object"), len(without), without)
    some = np.flatnonzero(counts)
    if not len(some):
        return
    rarest, most = some[counts[some].argmin()], counts.argmax()
    if counts[most] > _IMBALANCE * counts[rarest]:
        names = data.class_names
        what = f"{names[most]} has {counts[most]} objects, {names[rarest]} {counts[rarest]}"
        yield Oddity(f"classes are far from balanced: {what}", 1)
