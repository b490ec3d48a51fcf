"""Labelled videos and pictures on their way to other tools: what every exporter takes and returns."""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from math import gcd
from pathlib import Path

from flowdet.data.cocovid_writer import object_entry, writing_cocovid
from flowdet.errors import ConfigError, DataError

__all__ = [
    "Box",
    "Exported",
    "LabelledVideo",
    "Labels",
    "Picture",
    "begin_videos",
    "export_coco",
    "frame_range",
    "make_folder",
]

_NOT_IN_NAMES = re.compile(r'[<>:"\\|?*\x00-\x1f\x7f-\x9f\ud800-\udfff]+')


@dataclass(frozen=True, slots=True)
class Box:
    """One object in one picture.

    Attributes:
        label: Position of its class in the class names.
        sides: (x1, y1, x2, y2) px, original image.
        track: Its number within the video; None if it has none.
        score: Between 0 and 1 if it was detected; None if it was annotated.
        is_crowd: It is a region with many objects.
        area: px; that of an outline where the file has one.
    """

    label: int
    sides: tuple[float, float, float, float]
    track: int | None = None
    score: float | None = None
    is_crowd: bool = False
    area: float | None = None

    def clipped(self, width: int, height: int) -> tuple[float, float, float, float] | None:
        """Returns the part (x1, y1, x2, y2) px within a picture of this size; None if there is none."""
        x1, x2 = (min(max(side, 0), width) for side in self.sides[::2])
        y1, y2 = (min(max(side, 0), height) for side in self.sides[1::2])
        return (x1, y1, x2, y2) if x1 < x2 and y1 < y2 else None


@dataclass(frozen=True, slots=True)
class Picture:
    """One frame or still with its objects; frame number and time (s) are None for a still."""

    file_name: str
    width: int
    height: int
    boxes: tuple[Box, ...]
    frame: int | None = None
    time: float | None = None

    @property
    def suffix(self) -> str:
        """That of the file it becomes: its own, or .jpg for a frame of a video file."""
        return Path(self.file_name).suffix.lower() or ".jpg"

    @property
    def stem(self) -> str:
        """Its place below a folder, without suffix, whatever its name says: for a frame its number."""
        return str(Path(_safe(self.file_name)).with_suffix("")) if self.frame is None else f"{self.frame:06d}"


@dataclass(frozen=True, slots=True)
class LabelledVideo:
    """One video, or all stills of a data set.

    Attributes:
        name: That of the video; None for stills.
        pictures: In the order of their frames.
        fps: Frames a second of the video, when known.
        source: File name of the video, when known.
    """

    name: str | None
    pictures: tuple[Picture, ...]
    fps: float | None = None
    source: str | None = None

    @property
    def folder(self) -> str:
        """A place for it below a folder, whatever its name says."""
        return "stills" if self.name is None else _safe(self.name)

    @property
    def flat_name(self) -> str:
        """A file name for it, without folders."""
        return self.folder.replace("/", "_")

    @property
    def has_tracks(self) -> bool:
        """Whether any object has a track."""
        return any(box.track is not None for picture in self.pictures for box in picture.boxes)

    @property
    def has_scores(self) -> bool:
        """Whether any object has a score."""
        return any(box.score is not None for picture in self.pictures for box in picture.boxes)

    def tracks(self) -> dict[tuple[int, int], list[tuple[int, Box]]]:
        """Returns the boxes of each track of one class with their frames, by a number of its own and the class.

        The number is that of the track where it is free. A track whose class changes becomes one for each class, and
        an object without a track one of its own.
        """
        known: dict[tuple[int, int], list[tuple[int, Box]]] = {}
        alone: list[tuple[int, Box]] = []
        for picture in self.pictures:
            for box in picture.boxes:
                if box.track is None:
                    alone.append((picture.frame or 0, box))
                else:
                    known.setdefault((box.track, box.label), []).append((picture.frame or 0, box))
        found: dict[tuple[int, int], list[tuple[int, Box]]] = {}
        taken: set[int] = set()
        unused = max((number for number, _ in known), default=-1) + 1
        for (number, label), boxes in [*known.items(), *(((-1, box.label), [(frame, box)]) for frame, box in alone)]:
            if number < 0 or number in taken:
                number, unused = unused, unused + 1  # noqa: PLW2901
            taken.add(number)
            found[number, label] = boxes
        return found


@dataclass(frozen=True, slots=True)
class Labels:
    """Labelled videos and the names of their classes."""

    class_names: tuple[str, ...]
    videos: tuple[LabelledVideo, ...]


@dataclass(slots=True)
class Exported:
    """What an exporter wrote.

    Attributes:
        path: The file or folder.
        pictures: The place that the format has for each picture; nothing is there yet.
        boxes: The number of objects.
        remarks: What was left out or changed, with its count.
    """

    path: Path
    pictures: list[tuple[LabelledVideo, Picture, Path]] = field(default_factory=list)
    boxes: int = 0
    remarks: Counter[str] = field(default_factory=Counter)

    def kept(self, picture: Picture, *, crowds: bool = False) -> Iterator[Box]:
        """Yields and counts the objects of a picture; regions with many objects are left out unless `crowds`."""
        for box in picture.boxes:
            if box.is_crowd and not crowds:
                self.remarks["regions with many objects (iscrowd), left out"] += 1
            else:
                self.boxes += 1
                yield box


def _safe(name: str) -> str:
    parts = (_NOT_IN_NAMES.sub("_", part).strip(" ") for part in name.split("/"))
    return "/".join(part for part in parts if part.strip(".")) or "unnamed"


def make_folder(out: Path) -> None:
    """Makes the folder of an export.

    Raises:
        ConfigError: It is a file, or something is in it.
        DataError: It cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        if next(out.iterdir(), None):
            raise ConfigError(f"{out} is not empty: name a new folder with --out")
    except FileExistsError:
        raise ConfigError(f"{out} is a file: name a new folder with --out") from None
    except OSError as error:
        raise DataError(f"{out} cannot be written: {error.strerror}") from error


def begin_videos(labels: Labels, out: Path, what: str) -> tuple[list[LabelledVideo], Exported]:
    """Makes the folder of an export of videos alone, and counts the stills that are left out.

    Args:
        labels: What is exported.
        out: The folder, new or empty.
        what: What the format has in place of a video, for the message that there is none.

    Raises:
        ConfigError: The folder is not empty.
        DataError: It cannot be made, or there is no video.
    """
    videos = [video for video in labels.videos if video.name is not None]
    if not videos:
        raise DataError(f"there is no video to write: {what} hold no stills")
    make_folder(out)
    done = Exported(out)
    if stills := sum(len(video.pictures) for video in labels.videos if video.name is None):
        done.remarks["stills, left out"] = stills
    return videos, done


def frame_range(video: LabelledVideo) -> range:
    """Returns the numbers from a video's first frame to its last, in its smallest regular steps.

    Raises:
        DataError: A number is negative.
    """
    numbers = [picture.frame or 0 for picture in video.pictures]
    if numbers[0] < 0:
        raise DataError(f"video {video.name}: its first frame has the number {numbers[0]}; other tools count from 0")
    step = reduce(gcd, (number - numbers[0] for number in numbers)) or 1
    return range(numbers[0], numbers[-1] + 1, step)


def export_coco(labels: Labels, out: Path, *, has_pictures: bool) -> Exported:
    """Writes one COCO file, which is CocoVID too: videos, frames, tracks and scores are fields that others skip.

    Args:
        labels: What is written.
        out: The `.json` file.
        has_pictures: Pictures are written beside it; otherwise they keep their names.

    Raises:
        ConfigError: The path does not end with .json.
        DataError: It cannot be written.
    """
    done = Exported(out)
    videos = [video for video in labels.videos if video.name is not None]
    entries = [
        {"id": number, "name": video.name, **({"fps": video.fps} if video.fps else {})}
        for number, video in enumerate(videos, start=1)
    ]
    categories = [{"id": number, "name": name} for number, name in enumerate(labels.class_names, start=1)]
    with writing_cocovid(out, categories=categories, videos=entries, strict=True) as writer:
        image = 0
        for video in labels.videos:
            owner = {} if video.name is None else {"video_id": videos.index(video) + 1}
            for picture in video.pictures:
                image += 1
                place = f"images/{video.folder}/{picture.stem}{picture.suffix}"
                done.pictures.append((video, picture, out.parent / place))
                entry = {
                    "id": image,
                    "file_name": place if has_pictures else picture.file_name,
                    "width": picture.width,
                    "height": picture.height,
                    **owner,
                    **({} if picture.frame is None else {"frame_id": picture.frame}),
                    **({} if picture.time is None else {"time": picture.time}),
                }
                writer.image(entry, [_coco_object(box) for box in done.kept(picture, crowds=True)])
    return done


def _coco_object(box: Box) -> dict[str, object]:
    x1, y1, x2, y2 = box.sides
    entry = object_entry(box.label + 1, (x1, y1, x2 - x1, y2 - y1), box.track)
    area, score = ({} if value is None else {name: value} for name, value in (("area", box.area), ("score", box.score)))
    return {**entry, **area, "iscrowd": int(box.is_crowd), **score}
