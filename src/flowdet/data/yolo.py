"""Folders of frames with YOLO text labels, read and written."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flowdet.data.cocovid_writer import CocoVIDWriter, Written, object_entry, writing_cocovid
from flowdet.data.image_files import picture_names, picture_size
from flowdet.data.labels import Exported, Labels, make_folder
from flowdet.data.reading import check_class_list, class_names_of_lines, read_text
from flowdet.errors import DataError
from flowdet.files import write_text

__all__ = ["export_yolo", "import_yolo", "names_of_yaml"]

_YAML_FILES = ("data.yaml", "data.yml", "dataset.yaml")
_TEXT_FILES = ("classes.txt", "obj.names")
_SLACK = 0.01  # share of the picture; labelling tools round
_OPTION = "--names"


@dataclass(frozen=True, slots=True)
class _Tree:
    """Folders of pictures and of their label files.

    Attributes:
        pictures: Folder of the pictures, which may lie in folders below it.
        labels: Folder of the label files; their folders below it mirror those of the pictures.
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

    A line of a label file is "class cx cy width height", and may have a track number as its sixth column. Position and
    size are shares of the upright picture, after the quarter turn of its EXIF orientation. A picture without a label
    file has no objects. Frames are numbered from 0 in natural order of their names.

    Args:
        root: Folder of the folders of frames. Label files lie beside the pictures, or in a folder `labels` that
            mirrors the folder `images`.
        out: The `.json` file to write; file names in it lie below `root`.
        labels: Folder of the label files, if it is another one; its folders mirror those of the pictures.
        names: Class names. By default those of data.yaml, classes.txt or obj.names in `root` or above it.
        stills: The pictures are not frames of videos.
        strict: Anything that cannot be read is an error.
        progress: Called with the number of pictures done.

    Raises:
        DataError: There are no pictures, labels or names, or something cannot be read and `strict` is set.
    """
    tree = _find_tree(root, labels)
    classes = check_class_list(list(names), _OPTION, _OPTION) if names else _find_class_names([root, root.parent])
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
            _report_lonely_labels(tree, folder, writer)
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
        width, height = picture_size(path, upright=True)
    except DataError as error:
        writer.problem("picture that cannot be read", str(error))
        return
    text = ""
    if os.path.exists(labels):
        try:
            text = read_text(labels)
        except DataError as error:
            writer.problem("label file that cannot be read", f"{error}; {path} is left out")
            return
    else:
        writer.remark("pictures without a label file, taken as without objects")
    objects: list[dict[str, Any]] = []
    lines: dict[tuple[Any, ...], int] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            found = _coco_object(line.split(), classes, width, height)
        except DataError as error:
            writer.problem("label that cannot be read", f"{labels}, line {number}: {error}, in {line[:80]!r}")
            continue
        first = lines.setdefault((found["category_id"], found.get("instance_id"), *found["bbox"]), number)
        if first == number:
            objects.append(found)
        else:
            writer.problem("label that is there twice", f"{labels}, line {number}: the same as line {first}")
    writer.image({**entry, "width": width, "height": height}, objects)


def _coco_object(columns: Sequence[str], classes: int, width: int, height: int) -> dict[str, Any]:
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
    return object_entry(int(columns[0]) + 1, box, int(columns[5]) if len(columns) == 6 else None)


def _report_lonely_labels(tree: _Tree, folder: str, writer: CocoVIDWriter) -> None:
    """Reports the label files of a folder that have no picture."""
    known = {tree.label_file(folder, picture).name for picture in tree.folders[folder]} | {"classes.txt"}
    for path in sorted((tree.labels / folder).glob("*.txt")):
        if path.name not in known:
            writer.problem("label file without a picture", f"{path} belongs to no picture in {tree.pictures / folder}")


def _find_class_names(folders: Sequence[Path]) -> tuple[str, ...]:
    """Returns the class names of the first file in these folders that names them."""
    for folder in folders:
        for name in (*_YAML_FILES, *_TEXT_FILES):
            path = folder / name
            if path.is_file():
                return (
                    names_of_yaml(read_text(path), path) if name in _YAML_FILES else class_names_of_lines(path, _OPTION)
                )
    where = " or ".join(str(folder) for folder in folders)
    raise DataError(f"there is no {', '.join((*_YAML_FILES, *_TEXT_FILES))} in {where}; name the classes with --names")


def names_of_yaml(text: str, path: Path) -> tuple[str, ...]:
    """Returns the class names under `names` in a YOLO data.yaml: a list, or numbers from 0 with names.

    Args:
        text: The content of the file.
        path: What messages call the file.

    Raises:
        DataError: The text is not YAML, or has no such entry.
    """
    hint = f"name the classes with {_OPTION}"
    try:
        # The base loader leaves every scalar a text ("no" is a name), and knows neither tags nor merges.
        document = yaml.load(text, Loader=yaml.BaseLoader)
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise DataError(f"{path} is not YAML: {line}{error.problem}; {hint}") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise DataError(f"{path} is not YAML: {' '.join(str(error).split())}; {hint}") from error
    if not isinstance(document, dict) or "names" not in document:
        raise DataError(f"{path} has no entry 'names'; {hint}")
    entries = document["names"] or []
    names = list(entries.values()) if isinstance(entries, dict) else entries
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise DataError(f"the names of {path} are neither a list nor numbers with names; {hint}")
    if isinstance(entries, dict) and list(entries) != [str(number) for number in range(len(entries))]:
        raise DataError(f"the names of {path} are not numbered 0, 1, 2 and so on; {hint}")
    return check_class_list(names, str(path), _OPTION)


def export_yolo(labels: Labels, out: Path, *, tracks: bool = False) -> Exported:
    """Writes a folder with data.yaml, and for each picture a label file below `labels`; its place is below `images`.

    Args:
        labels: What is written; boxes are cut at the edges of the picture.
        out: The folder, new or empty.
        tracks: Add the track number as a sixth column, which `import_yolo` reads and Ultralytics refuses.

    Raises:
        ConfigError: The folder is not empty.
        DataError: It cannot be written.
    """
    make_folder(out)
    done = Exported(out)
    for video in labels.videos:
        for picture in video.pictures:
            lines = []
            for box in done.kept(picture):
                sides = box.clipped(picture.width, picture.height)
                if sides is None:
                    done.boxes -= 1
                    done.remarks["boxes outside the picture, left out"] += 1
                    continue
                x1, y1, x2, y2 = sides
                shares = (
                    (x1 + x2) / 2 / picture.width,
                    (y1 + y2) / 2 / picture.height,
                    (x2 - x1) / picture.width,
                    (y2 - y1) / picture.height,
                )
                track = f" {box.track}" if tracks and box.track is not None else ""
                lines.append(f"{box.label} {' '.join(f'{share:.8f}' for share in shares)}{track}\n")
            path = out / "labels" / video.folder / f"{picture.stem}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(lines), encoding="utf-8")
            done.pictures.append((video, picture, out / "images" / video.folder / f"{picture.stem}{picture.suffix}"))
    names = dict(enumerate(labels.class_names))
    document = {"path": ".", "train": "images", "val": "images", "names": names}
    text = yaml.safe_dump(document, allow_unicode=True, sort_keys=False)
    write_text(out / "data.yaml", text, error=DataError)
    return done
