"""ImageNet's XML files, each with the objects of one frame or picture."""

import math
import os
from collections.abc import Sequence
from typing import NamedTuple
from xml.etree.ElementTree import Element

from flowdet.data.safe_xml import read_xml
from flowdet.errors import DataError

__all__ = ["Frame", "FrameObject", "FramesJob", "read_frames"]


class FrameObject(NamedTuple):
    """One object of an XML file.

    Attributes:
        code: WordNet id of its class.
        box: (x, y, width, height) px: width is xmax - xmin as in the published files, so the last column and row of
            the object, which xmax and ymax name, are not counted.
        track: Its track number as text; None where there is none.
        occluded: Said to be hidden in part.
        generated: Said to be made by a tracker, not by hand.
    """

    code: str
    box: tuple[float, float, float, float]
    track: str | None
    occluded: bool
    generated: bool


class Frame(NamedTuple):
    """What one XML file says.

    Attributes:
        size: (width, height) px; None if the frame cannot be used.
        objects: In the order of the file.
        problems: (kind, sentence) for everything left out.
    """

    size: tuple[int, int] | None
    objects: list[FrameObject]
    problems: list[tuple[str, str]]


class FramesJob(NamedTuple):
    """Frames to be read at one go.

    Attributes:
        annotations: Folder of the XML files.
        pictures: Folder of the JPEG files; None: whether they are there is not looked at.
        names: File names without suffix, below both folders.
    """

    annotations: str
    pictures: str | None
    names: Sequence[str]


def read_frames(job: FramesJob) -> list[Frame]:
    """Reads the XML files of a job, one result for each, in order."""
    return [_frame(job, name) for name in job.names]


def _frame(job: FramesJob, name: str) -> Frame:
    path = f"{job.annotations}/{name}.xml"
    picture = f"{job.pictures}/{name}.JPEG"
    if job.pictures and not os.path.isfile(picture):
        return Frame(None, [], [("missing picture", f"{picture} is not there")])
    try:
        root = read_xml(path)
        size = _size(root)
    except FileNotFoundError:
        return Frame(None, [], [("missing XML file", f"{path} is not there")])
    except DataError as error:
        return Frame(None, [], [("damaged XML file", f"{path} {error}")])
    objects, problems = [], []
    for number, element in enumerate(root.iterfind("object"), start=1):
        try:
            objects.append(_object(element))
        except DataError as error:
            problems.append(("damaged object", f"{path}: object {number} {error}"))
    return Frame(size, objects, problems)


def _size(root: Element) -> tuple[int, int]:
    texts = root.findtext("size/width", ""), root.findtext("size/height", "")
    try:
        width, height = int(texts[0]), int(texts[1])
    except ValueError:
        raise DataError(
            f"does not give the picture's width and height, but {texts[0][:20]!r}, {texts[1][:20]!r}"
        ) from None
    if not (0 < width < 1 << 31 and 0 < height < 1 << 31):
        raise DataError(f"says that the picture has {width}x{height} pixels")
    return width, height


def _object(element: Element) -> FrameObject:
    code = element.findtext("name")
    if not code:
        raise DataError("has no name")
    box = element.find("bndbox")
    if box is None:
        raise DataError("has no box")
    x1, y1, x2, y2 = (_coordinate(box, side) for side in ("xmin", "ymin", "xmax", "ymax"))
    if x2 < x1 or y2 < y1:
        raise DataError(f"has a box from ({x1}, {y1}) to ({x2}, {y2}), whose end lies before its beginning")
    return FrameObject(
        code,
        (x1, y1, x2 - x1, y2 - y1),
        element.findtext("trackid"),
        element.findtext("occluded") == "1",
        element.findtext("generated") == "1",
    )


def _coordinate(box: Element, side: str) -> float:
    text = box.findtext(side, "")
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"has {text[:20]!r} as {side} of its box")
    return int(value) if value.is_integer() else value
