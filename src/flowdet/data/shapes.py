"""Boxes of annotation tools on their way into a CocoVID file: filled in between key frames, counted, named."""

import os
import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from flowdet.data.cocovid_writer import CocoVIDWriter, object_entry
from flowdet.data.image_files import names_in, picture_size
from flowdet.errors import ConfigError, DataError

__all__ = ["Shape", "Shapes", "Target", "check_pattern", "frame_file", "numbered"]

_NUMBER = re.compile(r"%(?:0([1-9]))?d")
_FRAMES_ON_TRUST = 100_000  # a task may have more only if their pictures are there
_MOST_INTERPOLATED = 1_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """One box (x1, y1, x2, y2) px.

    Attributes:
        label: The class.
        box: px.
        is_occluded: Whether it is partly hidden; None if the tool does not say.
        track: Number of its track; None if it has none.
        frame: Number of its frame in the video.
        is_outside: Whether the track leaves the picture there.
        score: Between 0 and 1; None if it was drawn by a person.
    """

    label: str
    box: tuple[float, float, float, float]
    is_occluded: bool | None = None
    track: int | None = None
    frame: int = 0
    is_outside: bool = False
    score: float | None = None


@dataclass(slots=True)
class Shapes:
    """All boxes of a video.

    Attributes:
        by_frame: By frame number, within a frame in the order of the file.
        interpolated: Number of boxes computed between two boxes of the file.
        others: Number of shapes left out because they are not upright boxes.
        problems: A sentence for each thing that could not be read.
    """

    by_frame: dict[int, list[Shape]] = field(default_factory=dict)
    interpolated: int = 0
    others: int = 0
    problems: list[str] = field(default_factory=list)

    def fill(self, keys: Iterable[Shape], frames: range) -> None:
        """Adds the boxes of a track: those of its key frames, and in the frames between two of them interpolated ones.

        Args:
            keys: By frame. One that is outside is not shown; the boxes before it lead to it.
            frames: The frames that there are.

        Raises:
            DataError: It would be more boxes than a file can mean; the message does not name the file.
        """
        for key, following in pairwise([*keys, None]):
            if key is None or key.is_outside:
                continue
            if key.frame in frames:
                self.by_frame.setdefault(key.frame, []).append(key)
            if following is None:
                continue
            between = frames[bisect_right(frames, key.frame) : bisect_left(frames, following.frame)]
            self.interpolated += len(between)
            if self.interpolated > _MOST_INTERPOLATED:
                raise DataError(
                    f"needs more than {_MOST_INTERPOLATED} boxes between those that it holds; export it with every box"
                )
            for frame in between:
                share = (frame - key.frame) / (following.frame - key.frame)
                x1, y1, x2, y2 = (a + (b - a) * share for a, b in zip(key.box, following.box, strict=True))
                self.by_frame.setdefault(frame, []).append(replace(key, frame=frame, box=(x1, y1, x2, y2), score=None))


@dataclass(slots=True)
class Target:
    """The writer, the folder of all pictures, the ids of the labels, the images so far."""

    writer: CocoVIDWriter
    base: Path
    ids: dict[str, int]
    images: int = 0

    def add(self, where: str, image: dict[str, Any], shapes: Sequence[Shape]) -> None:
        """Adds an image with its shapes; a shape with an unknown label becomes a problem."""
        self.images += 1
        objects = []
        for shape in shapes:
            if shape.label in self.ids:
                x1, y1, x2, y2 = shape.box
                box = (x1, y1, x2 - x1, y2 - y1)
                score = {} if shape.score is None else {"score": shape.score}
                occluded = {} if shape.is_occluded is None else {"occluded": shape.is_occluded}
                objects.append(object_entry(self.ids[shape.label], box, shape.track, **occluded, **score))
            else:
                self.writer.problem("unknown label", f"{where}: the task has no label {shape.label[:40]!r}")
        self.writer.image({**image, "id": self.images}, objects)

    def add_video(
        self, where: str, video: dict[str, Any], pattern: str, frames: dict[int, int], shapes: Shapes
    ) -> None:
        """Adds the frames of a video with their boxes, and remarks on what was interpolated, left out or missing.

        Args:
            where: The file, for messages.
            video: What the entry of each frame holds beside its name and number.
            pattern: Names of the pictures below the folder of all, see `frame_file`.
            frames: The frame_id of each frame by its number in the video file.
            shapes: The boxes.
        """
        missing = 0
        for number, frame_id in frames.items():
            name = frame_file(pattern, number)
            missing += not os.path.isfile(self.base / name)
            entry = {**video, "file_name": name, "frame_id": frame_id}
            self.add(f"{where}, frame {number}", entry, shapes.by_frame.get(number, []))
        for sentence in shapes.problems:
            self.writer.problem("box that cannot be used", f"{where}: {sentence}")
        self.remark("boxes interpolated between those of the file", shapes.interpolated)
        self.remark("shapes that are not upright boxes, left out", shapes.others)
        first = self.base / frame_file(pattern, next(iter(frames)))
        self.remark(f"frames whose pictures are not there, the first one {first}", missing)

    def size_of(self, size: tuple[int, int] | None, pattern: str, frames: range) -> tuple[int, int]:
        """Returns (width, height) px of the frames: as the file says, or else of the first picture.

        Raises:
            DataError: Neither is known, or there are so many frames that only their pictures could make it true.
        """
        last = self.base / frame_file(pattern, frames[-1])
        if len(frames) > _FRAMES_ON_TRUST and len(frames) > (found := len(names_in(last.parent))):
            raise DataError(
                f"has {len(frames)} frames, but {last.parent} holds only {found} files; extract the frames first"
            )
        try:
            return size or picture_size(self.base / frame_file(pattern, frames[0]))
        except DataError as error:
            raise DataError(
                f"does not say how large its pictures are, and the first is not there or damaged: {error}"
            ) from error

    def remark(self, what: str, count: int) -> None:
        """Counts what was left out or changed, if anything."""
        if count:
            self.writer.remark(what, count)


def check_pattern(pattern: str) -> None:
    """Passes a pattern for the names of frames.

    Raises:
        ConfigError: It has no single place for the frame's number.
    """
    if len(_NUMBER.findall(pattern)) != 1:
        raise ConfigError(f"the pattern of the frames holds %06d or %d once, for the frame's number, not {pattern!r}")


def frame_file(pattern: str, number: int) -> str:
    """Returns the name of a frame's picture: the pattern with the number in place of its %06d or %d."""
    return _NUMBER.sub(lambda found: f"{number:0{found[1] or 1}d}", pattern)


def numbered(names: Iterable[str]) -> list[str]:
    """Returns names for videos, numbered where two would be the same."""
    found: list[str] = []
    for name in names:
        own, number = name, 1
        while own in found:
            number += 1
            own = f"{name}-{number}"
        found.append(own)
    return found
