"""What is to be converted from ImageNet: the classes, and the lists that say which frames and pictures there are."""

import glob
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from flowdet.errors import DataError

__all__ = [
    "LIST_FILES",
    "OTHER_CLASSES",
    "VID_CLASSES",
    "ListedSet",
    "ListedVideo",
    "find_lists",
    "read_det_list",
    "read_train_list",
    "read_val_list",
]

VID_CLASSES = {
    "n02691156": "airplane",
    "n02419796": "antelope",
    "n02131653": "bear",
    "n02834778": "bicycle",
    "n01503061": "bird",
    "n02924116": "bus",
    "n02958343": "car",
    "n02402425": "cattle",
    "n02084071": "dog",
    "n02121808": "domestic_cat",
    "n02503517": "elephant",
    "n02118333": "fox",
    "n02510455": "giant_panda",
    "n02342885": "hamster",
    "n02374451": "horse",
    "n02129165": "lion",
    "n01674464": "lizard",
    "n02484322": "monkey",
    "n03790512": "motorcycle",
    "n02324045": "rabbit",
    "n02509815": "red_panda",
    "n02411705": "sheep",
    "n01726692": "snake",
    "n02355227": "squirrel",
    "n02129604": "tiger",
    "n04468005": "train",
    "n01662784": "turtle",
    "n04530566": "watercraft",
    "n02062744": "whale",
    "n02391049": "zebra",
}
"""The classes of ImageNet VID in the published order: WordNet id to name."""

OTHER_CLASSES = "other_categeries"
"""Name of the class that DET objects of all other classes get; spelt as in the published files."""

_LIST_FOLDERS = ("Lists", "ImageSets")
LIST_FILES = {
    "imagenet_vid_train": "VID_train_15frames.txt",
    "imagenet_vid_val": "VID_val_videos.txt",
    "imagenet_det_30plus1cls": "DET_train_30classes.txt",
}
"""The lists that are looked for, by the name of the data set that each becomes."""

_DET_FOLDERS = ("train/ILSVRC2013_train/*", *(f"train/ILSVRC2014_train_000{number}" for number in range(7)))


@dataclass(frozen=True, slots=True)
class ListedVideo:
    """One video of a list.

    Attributes:
        name: Its folder, "val/ILSVRC2015_val_00000000" for instance.
        frame_count: Its frames are numbered from 0.
        training_frames: Numbers of the frames that training draws current frames from, in the order of the list.
    """

    name: str
    frame_count: int
    training_frames: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ListedSet:
    """One data set to be converted.

    Attributes:
        name: Of the file it becomes, without suffix.
        list_file: Where it was read from.
        annotations: Folder of the XML files.
        pictures: Folder of the JPEG files; file names in the result lie below it.
        videos: Empty for stills.
        stills: File names without suffix; empty for videos.
        listed_stills: How many of the stills, counted from the first, training draws from.
    """

    name: str
    list_file: Path
    annotations: Path
    pictures: Path
    videos: tuple[ListedVideo, ...] = ()
    stills: tuple[str, ...] = ()
    listed_stills: int = 0

    @property
    def frame_count(self) -> int:
        """How many frames or stills there are to be converted."""
        return len(self.stills) + sum(video.frame_count for video in self.videos)

    def categories(self) -> list[dict[str, Any]]:
        """The entries of the 30 classes; for stills also one that stands for all others."""
        classes: list[tuple[str, str | None]] = [(name, code) for code, name in VID_CLASSES.items()]
        if self.stills:
            classes.append((OTHER_CLASSES, None))
        return [{"id": i, "name": name, "encode_name": code} for i, (name, code) in enumerate(classes, start=1)]


def find_lists(root: Path, *, shifted_training_frames: bool = False) -> list[ListedSet]:
    """Finds out which of VID train, VID val and DET can be converted.

    Args:
        root: Holds Data, Annotations, and the lists in Lists or ImageSets.
        shifted_training_frames: As for `read_train_list`.

    Raises:
        DataError: There is no list, or one cannot be understood.
    """
    found = []
    for name, file_name in LIST_FILES.items():
        paths = [root / folder / file_name for folder in _LIST_FOLDERS]
        path = next((path for path in paths if path.is_file()), None)
        if path:
            found.append(_listed_set(root, name, path, shifted_training_frames))
    if not found:
        raise DataError(
            f"{root} holds none of the lists {', '.join(LIST_FILES.values())}: expected at least one of them in "
            f"{root / 'Lists'} or {root / 'ImageSets'}, beside the folders Data and Annotations"
        )
    return found


def read_train_list(path: Path, *, shifted: bool = False) -> list[ListedVideo]:
    """Reads a list such as VID_train_15frames.txt: a line "folder 1 frame count" for each training frame.

    Args:
        path: The list.
        shifted: Subtract 1 from the frame numbers, as mmtracking does. They count from 0, so that each mark ends up
            on the frame before, and a 0 marks nothing.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    counts: dict[str, int] = {}
    frames: dict[str, list[int]] = {}
    for where, name, (_, frame, count) in _lines(path, 3):
        if counts.setdefault(name, count) != count:
            raise DataError(f"{where}: {name} has {count} frames here and {counts[name]} in a line before")
        if frame >= count:
            raise DataError(f"{where}: frame {frame} of {name}, whose {count} frames are numbered from 0")
        frames.setdefault(name, []).append(frame - shifted)
    return [ListedVideo(name, count, tuple(frames[name])) for name, count in counts.items()]


def read_val_list(path: Path) -> list[ListedVideo]:
    """Reads a list such as VID_val_videos.txt: a line "folder number 0 count" for each video.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    counts: dict[str, int] = {}
    for where, name, (_, _, count) in _lines(path, 3):
        if name in counts:
            raise DataError(f"{where}: {name} is there a second time")
        counts[name] = count
    return [ListedVideo(name, count) for name, count in counts.items()]


def read_det_list(path: Path) -> list[str]:
    """Reads a list such as DET_train_30classes.txt: a line "picture 1" for each picture, without its suffix.

    The published list has pictures that come twice; they are drawn twice as often, and stay so.

    Raises:
        DataError: It cannot be read, or a line is something else.
    """
    return [name for _, name, _ in _lines(path, 1)]


def _listed_set(root: Path, name: str, path: Path, shifted: bool) -> ListedSet:
    kind = "DET" if "det" in name else "VID"
    annotations, pictures = root / "Annotations" / kind, root / "Data" / kind
    if not annotations.is_dir():
        raise DataError(f"there is a list {path} but no folder {annotations} with the XML files it speaks of")
    if kind == "DET":
        listed = read_det_list(path)
        known = set(listed)
        others = [still for still in _stills_on_disk(annotations) if still not in known]
        return ListedSet(name, path, annotations, pictures, stills=(*listed, *others), listed_stills=len(listed))
    videos = read_train_list(path, shifted=shifted) if "train" in name else read_val_list(path)
    return ListedSet(name, path, annotations, pictures, videos=tuple(videos))


def _stills_on_disk(annotations: Path) -> Iterator[str]:
    """The DET training pictures that have an XML file, in the published order."""
    start = len(str(annotations)) + 1
    for folder in _DET_FOLDERS:
        for path in sorted(glob.glob(f"{glob.escape(str(annotations))}/{folder}/*.xml")):
            yield path[start:].removesuffix(".xml").replace(os.sep, "/")


def _lines(path: Path, numbers: int) -> Iterator[tuple[str, str, list[int]]]:
    """Yields for each line where it stands, its name and its numbers."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"the list {path} cannot be read: {error}") from error
    if not any(map(str.strip, lines)):
        raise DataError(f"the list {path} is empty")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        name, *rest = line.split()
        if len(rest) != numbers or not all(re.fullmatch("[0-9]{1,9}", text) for text in rest):
            what = "number" if numbers == 1 else f"{numbers} whole numbers"
            raise DataError(f"{where}: expected a name and {what}, not {line[:80]!r}")
        if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
            raise DataError(f"{where}: {name[:80]!r} leads out of the folder")
        yield where, name, [int(text) for text in rest]
