"""The boxes and tracks of CVAT's XML files."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from xml.etree.ElementTree import Element

from flowdet.errors import DataError

__all__ = [
    "Shape",
    "Tracks",
    "VideoTask",
    "is_upright_box",
    "read_shape",
    "read_tracks",
    "read_video_task",
    "whole_number",
]

_NOT_SHAPES = {"attribute", "tag"}


@dataclass(frozen=True, slots=True)
class VideoTask:
    """Which frames a video task has.

    Attributes:
        frames: Their numbers in the video file, which the names of pictures hold too.
        size: (width, height) px; None if the file does not say.
        is_guess: The file does not say how many frames there are; they are taken up to the last box.
    """

    frames: range
    size: tuple[int, int] | None
    is_guess: bool


@dataclass(frozen=True, slots=True)
class Shape:
    """One box in one frame: its label, its track, (x1, y1, x2, y2) px, and whether it is hidden in part."""

    label: str
    track: int | None
    box: tuple[float, float, float, float]
    occluded: bool


@dataclass(slots=True)
class Tracks:
    """All boxes of a video.

    Attributes:
        shapes: By frame number, within a frame in the order of the file.
        interpolated: How many of them stand between two boxes of the file.
        others: How many shapes were left out because they are not upright boxes.
        problems: A sentence for each thing that could not be read.
    """

    shapes: dict[int, list[Shape]] = field(default_factory=dict)
    interpolated: int = 0
    others: int = 0
    problems: list[str] = field(default_factory=list)


def read_video_task(root: Element) -> VideoTask:
    """Reads what a file of "CVAT for video" says of its video.

    Raises:
        DataError: It is the export of a project, or the numbers make no sense; the message does not name the file.
    """
    if root.find("meta/project") is not None:
        raise DataError("is the export of a project: export each of its tasks by itself")
    info = root.find("meta/task")
    info = root.find("meta/job") if info is None else info
    texts = {name: "" if info is None else info.findtext(name, "") for name in ("size", "start_frame", "frame_filter")}
    count = whole_number(texts["size"])
    start = whole_number(texts["start_frame"]) or 0
    found = re.fullmatch(r"\s*step\s*=\s*([1-9][0-9]{0,5})\s*", texts["frame_filter"])
    step = int(found[1]) if found else 1
    is_guess = count is None
    if count is None:
        numbers = (whole_number(box.get("frame")) for box in root.iter("box"))
        count = max(((number - start) // step + 1 for number in numbers if number is not None), default=0)
    if count < 1:
        raise DataError("has no frames")
    width, height = (whole_number(root.findtext(f"meta//original_size/{side}")) for side in ("width", "height"))
    return VideoTask(range(start, start + count * step, step), (width, height) if width and height else None, is_guess)


def read_tracks(root: Element, task: VideoTask) -> Tracks:
    """Reads the boxes of all tracks of a "CVAT for video" file.

    A box counts for its own frame unless it is marked as outside. Frames of the task between a box that is not outside
    and the next one of its track get boxes in between, as CVAT shows them; CVAT's own exports hold every box.
    """
    tracks = Tracks()
    for position, track in enumerate(root.iterfind("track")):
        number = whole_number(track.get("id"))
        label = track.get("label", "")
        keys = _keys(track, f"track {track.get('id', f'at position {position}')}", task, tracks)
        for frame, key in _filled(keys, task, tracks):
            tracks.shapes.setdefault(frame, []).append(Shape(label, number, key.box, key.occluded))
    return tracks


def read_shape(element: Element) -> Shape:
    """Reads a box of a "CVAT for images" file.

    Raises:
        DataError: It is no upright box; the message does not name it.
    """
    return Shape(element.get("label", ""), None, _box(element), element.get("occluded") == "1")


def is_upright_box(element: Element) -> bool:
    """Whether this is a box whose sides are those of the picture."""
    return element.tag == "box" and not _is_rotated(element)


def whole_number(text: str | None) -> int | None:
    """The whole number from 0 that a text is; None if it is something else."""
    return int(text) if text and re.fullmatch("[0-9]{1,9}", text.strip()) else None


@dataclass(frozen=True, slots=True)
class _Key:
    frame: int
    is_outside: bool
    occluded: bool
    box: tuple[float, float, float, float]


def _keys(track: Element, where: str, task: VideoTask, tracks: Tracks) -> list[_Key]:
    """The boxes of a track as they stand in the file, by frame."""
    keys = []
    for element in track:
        if not is_upright_box(element):
            tracks.others += element.tag not in _NOT_SHAPES
            continue
        frame = whole_number(element.get("frame"))
        is_outside = element.get("outside") == "1"
        try:
            if frame is None:
                raise DataError(f"{element.get('frame')!r} is no frame number")
            if frame not in task.frames and not is_outside:
                raise DataError("the video has no such frame")
            keys.append(_Key(frame, is_outside, element.get("occluded") == "1", _box(element)))
        except DataError as error:
            tracks.problems.append(f"{where}, frame {element.get('frame', '')[:20]}: {error}")
    return sorted(keys, key=lambda key: key.frame)


def _filled(keys: list[_Key], task: VideoTask, tracks: Tracks) -> Iterator[tuple[int, _Key]]:
    """The visible boxes by frame, with those in between."""
    for key, following in pairwise([*keys, None]):
        if key is None or key.is_outside:
            continue
        yield key.frame, key
        if following is not None:
            end = min(following.frame, task.frames.stop)
            for frame in range(key.frame + task.frames.step, end, task.frames.step):
                tracks.interpolated += 1
                yield frame, _between(key, following, frame)


def _between(first: _Key, second: _Key, frame: int) -> _Key:
    share = (frame - first.frame) / (second.frame - first.frame)
    x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(first.box, second.box, strict=True))
    return _Key(frame, False, first.occluded, (x1, y1, x2, y2))


def _is_rotated(element: Element) -> bool:
    try:
        return float(element.get("rotation", "0")) % 360 != 0
    except ValueError:
        return False


def _box(element: Element) -> tuple[float, float, float, float]:
    texts = [element.get(name, "") for name in ("xtl", "ytl", "xbr", "ybr")]
    try:
        x1, y1, x2, y2 = map(float, texts)
    except ValueError:
        raise DataError(f"a box has four numbers xtl, ytl, xbr, ybr, not {', '.join(texts)[:60]!r}") from None
    if not (math.isfinite(x1 + y1 + x2 + y2) and x1 <= x2 and y1 <= y2):
        raise DataError(f"a box from ({x1:g}, {y1:g}) to ({x2:g}, {y2:g}) ends before it begins")
    return x1, y1, x2, y2
