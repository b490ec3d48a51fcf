"""Folders of frames with YOLO text labels as CocoVID."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flowdet.data.class_names import checked_names, find_class_names
from flowdet.data.image_files import picture_names, upright_size
from flowdet.data.writing import CocoVIDWriter, Written, writing_cocovid
from flowdet.errors import DataError

__all__ = ["import_yolo"]

_SLACK = 0.01  # share of the picture; labelling tools round
_DECIMALS = 3


@dataclass(frozen=True, slots=True)
class _Tree:
    """Pictures below a folder, and where their label files are.

    Attributes:
        pictures: The folder.
        labels: Holds label files in the same places as `pictures` the pictures.
        folders: Names of the pictures in each folder below, in the order of the frames.
    """

    pictures: Path
    labels: Path
    folders: dict[str, list[str]]

    def label_file(self, folder: str, picture: str) -> Path:
        return (self.labels / folder / picture).with_suffix(".txt")


def import_yolo(
    root: Path,
    out: Path,
    *,
    labels: Path | None = None,
    names: Sequence[str] = (),
    stills: bool = False,
    strict: bool = False,
    progress: Callable[[int], None] = lambda images: None,
) -> Written:
    """Imports folders of frames with YOLO labels; each folder that holds pictures is a video.

    A line of a label file is "class cx cy width height", position and size as shares of the picture, and may have a
    track number as its sixth column. They are shares of the upright picture: where a camera has noted a quarter turn,
    width and height are those after it. A picture without a label file has no objects. Frames are numbered from 0 in
    natural order of their names.

    Args:
        root: Holds the folders of frames. Label files lie beside the pictures, or in a folder `labels` that mirrors
            the folder `images`.
        out: The `.json` file to write; file names in it lie below `root`.
        labels: Where label files are instead, in the same folders as the pictures.
        names: Class names; if not given, those of data.yaml, classes.txt or obj.names in `root` or above it.
        stills: The pictures are not frames of videos.
        strict: Anything that cannot be read is an error.
        progress: Told how many pictures are done.

    Raises:
        DataError: There are no pictures, labels or names, or something cannot be read and `strict` is set.
    """
    tree = _find_tree(root, labels)
    classes = checked_names(names, "--names") if names else find_class_names([root, root.parent])
    categories = [{"id": number, "name": name} for number, name in enumerate(classes, start=1)]
    called = [root.resolve().name if folder == "." else folder for folder in tree.folders]
    videos = [] if stills else [{"id": number, "name": name} for number, name in enumerate(called, start=1)]
    start = tree.pictures.relative_to(root)
    done = 0
    with writing_cocovid(out, categories=categories, videos=videos, strict=strict) as writer:
        for video_id, (folder, pictures) in enumerate(tree.folders.items(), start=1):
            for frame, picture in enumerate(pictures):
                done += 1
                place = {} if stills else {"frame_id": frame, "video_id": video_id}
                entry = {"file_name": (start / folder / picture).as_posix(), "id": done, **place}
                path, label_file = tree.pictures / folder / picture, tree.label_file(folder, picture)
                _import_picture(path, label_file, entry, len(classes), writer)
                progress(done)
            _tell_of_lonely_labels(tree, folder, writer)
    return writer.written()


def _find_tree(root: Path, labels: Path | None) -> _Tree:
    for folder in (root, labels or root):
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}")
    pictures = root / "images" if (root / "images").is_dir() else root
    if labels is None:
        beside = pictures.resolve().with_name("labels") if pictures.resolve().name == "images" else root / "labels"
        labels = beside if beside.is_dir() else pictures
    found = ((Path(folder), picture_names(Path(folder))) for folder, _, _ in sorted(os.walk(pictures)))
    tree = _Tree(pictures, labels, {f.relative_to(pictures).as_posix(): names for f, names in found if names})
    if not tree.folders:
        raise DataError(f"{pictures} and the folders in it hold no picture")
    expected = [tree.label_file(folder, name) for folder, names in tree.folders.items() for name in names]
    if not any(path.is_file() for path in expected):
        raise DataError(
            f"none of {len(expected)} pictures has a label file: for the first one, {expected[0]} is not there"
        )
    return tree


def _import_picture(path: Path, labels: Path, entry: dict[str, Any], classes: int, writer: CocoVIDWriter) -> None:
    try:
        width, height = upright_size(path)
    except Exception as error:  # Pillow's plugins raise whatever their parsers meet
        writer.problem("picture that cannot be read", f"{path} cannot be read: {str(error)[:120]}")
        return
    try:
        lines = labels.read_text(encoding="utf-8-sig").splitlines()
    except FileNotFoundError:
        writer.remark("pictures without a label file, taken as without objects")
        lines = []
    except (OSError, UnicodeDecodeError) as error:
        writer.problem("label file that cannot be read", f"{labels} cannot be read, and {path} is left out: {error}")
        return
    objects = []
    for number, line in enumerate(lines, start=1):
        try:
            if line.strip():
                objects.append(_object(line.split(), classes, width, height))
        except DataError as error:
            writer.problem("label that cannot be read", f"{labels}, line {number}: {error}, in {line[:80]!r}")
    writer.image({**entry, "width": width, "height": height}, objects)


def _object(columns: Sequence[str], classes: int, width: int, height: int) -> dict[str, Any]:
    if len(columns) not in {5, 6}:
        raise DataError(f"expected 5 columns, class cx cy width height, or 6 with a track number, not {len(columns)}")
    if not re.fullmatch("[0-9]{1,9}", columns[0]) or int(columns[0]) >= classes:
        raise DataError(f"the class is a number from 0 to {classes - 1}, not {columns[0][:20]}")
    if len(columns) == 6 and not re.fullmatch("[0-9]{1,18}", columns[5]):
        raise DataError(f"the sixth column is a track number, a whole number from 0, not {columns[5][:20]}")
    try:
        cx, cy, w, h = (float(text) for text in columns[1:5])
    except ValueError:
        raise DataError("position and size must be numbers") from None
    if not (all(-_SLACK <= value <= 1 + _SLACK for value in (cx, cy, w, h)) and w >= 0 and h >= 0):
        raise DataError("position and size are shares of the picture, from 0 to 1")
    box = [(cx - w / 2) * width, (cy - h / 2) * height, w * width, h * height]
    box = [round(side, _DECIMALS) for side in box]
    track = {"instance_id": int(columns[5])} if len(columns) == 6 else {}
    area = round(box[2] * box[3], _DECIMALS)
    return {"category_id": int(columns[0]) + 1, **track, "bbox": box, "area": area, "iscrowd": False}


def _tell_of_lonely_labels(tree: _Tree, folder: str, writer: CocoVIDWriter) -> None:
    """Names the label files of a folder that have no picture."""
    known = {tree.label_file(folder, picture).name for picture in tree.folders[folder]} | {"classes.txt"}
    for path in sorted((tree.labels / folder).glob("*.txt")):
        if path.name not in known:
            writer.problem("label file without a picture", f"{path} belongs to no picture in {tree.pictures / folder}")
