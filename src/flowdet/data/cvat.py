"""CVAT's XML files, "CVAT for video 1.1" and "CVAT for images 1.1", as CocoVID."""

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element

from flowdet.data.cvat_tracks import (
    Shape,
    is_upright_box,
    read_shape,
    read_tracks,
    read_video_task,
    whole_number,
)
from flowdet.data.image_files import picture_size
from flowdet.data.safe_xml import read_xml
from flowdet.data.writing import CocoVIDWriter, Written, writing_cocovid
from flowdet.errors import ConfigError, DataError

__all__ = ["import_cvat"]

_PATTERNS = tuple(f"images/frame_%06d.{suffix}" for suffix in ("png", "PNG", "jpg", "jpeg", "JPG"))
_NUMBER = re.compile(r"%(?:0([1-9]))?d")
_DECIMALS = 3


@dataclass(frozen=True, slots=True)
class _File:
    """One XML file, and the folder of its pictures below the folder of all pictures."""

    path: Path
    root: Element
    prefix: Path

    @property
    def is_video(self) -> bool:
        return self.root.find("image") is None

    @property
    def labels(self) -> list[str]:
        """The classes that the task knows, or else those that occur."""
        known = [label.findtext("name", "") for label in self.root.iterfind("meta/*/labels/label")]
        used = [element.get("label", "") for element in self.root.iter() if element.tag in {"track", "box"}]
        return [label for label in known or used if label]


@dataclass(slots=True)
class _Target:
    """Where entries go: the writer, the folder of all pictures, the pattern of their names, the ids of the labels."""

    writer: CocoVIDWriter
    base: Path
    frames: str | None
    ids: dict[str, int]
    images: int = 0

    def add(self, where: str, image: dict[str, Any], shapes: Sequence[Shape]) -> None:
        """Adds an image with its shapes; one whose label is unknown is taken down as a problem."""
        self.images += 1
        objects = []
        for shape in shapes:
            if shape.label in self.ids:
                objects.append(_object(shape, self.ids[shape.label]))
            else:
                self.writer.problem("unknown label", f"{where}: the task has no label {shape.label[:40]!r}")
        self.writer.image({**image, "id": self.images}, objects)


def import_cvat(
    files: Sequence[Path],
    out: Path,
    *,
    images: Path | None = None,
    frames: str | None = None,
    strict: bool = False,
    progress: Callable[[int], None] = lambda files: None,
) -> Written:
    """Imports XML files of CVAT; each "for video" becomes one video, the pictures of one "for images" become stills.

    Pictures of a video are files whose names hold the frame's number, as CVAT exports them. Where a track has no box
    between two others, boxes are interpolated as CVAT does.

    Args:
        files: The XML files.
        out: The `.json` file to write.
        images: Folder that file names lie below; if not given, that of the XML file, or the one that those of all XML
            files lie in.
        frames: Names of a video's pictures, "%06d" standing for the frame's number and "{name}" for the name of the
            video; if not given, images/frame_%06d.png or another suffix that is found beside the XML file.
        strict: Anything that cannot be read is an error.
        progress: Told how many files are done.

    Raises:
        ConfigError: `frames` is no such pattern, or no file is given.
        DataError: A file is not from CVAT or declares entities, or something cannot be read and `strict` is set.
    """
    if not files or len({path.resolve() for path in files}) != len(files):
        raise ConfigError("name at least one XML file of CVAT, and each of them once")
    if frames is not None and len(_NUMBER.findall(frames)) != 1:
        raise ConfigError(f"the pattern of the frames holds %06d or %d once, for the frame's number, not {frames!r}")
    base = images or Path(os.path.commonpath([path.resolve().parent for path in files]))
    sources = [_read_file(path, base if images is None else None) for path in files]
    labels = dict.fromkeys(label for source in sources for label in source.labels)
    ids = {label: number for number, label in enumerate(labels, start=1)}
    names = _video_names(sources)
    with writing_cocovid(
        out,
        categories=[{"id": number, "name": label} for label, number in ids.items()],
        videos=[{"id": number, "name": name} for number, name in enumerate(names.values(), start=1)],
        strict=strict,
    ) as writer:
        target = _Target(writer, base, frames, ids)
        for done, source in enumerate(sources, start=1):
            if source.is_video:
                _import_video(source, names[source.path], list(names).index(source.path) + 1, target)
            else:
                _import_stills(source, target)
            progress(done)
    return writer.written()


def _read_file(path: Path, base: Path | None) -> _File:
    try:
        root = read_xml(path)
    except FileNotFoundError:
        raise DataError(f"there is no file {path}") from None
    except DataError as error:
        raise DataError(f"{path} {error}") from error
    if root.tag != "annotations":
        raise DataError(f"{path} is not from CVAT: it holds <{root.tag[:40]}> where <annotations> was expected")
    return _File(path, root, path.resolve().parent.relative_to(base.resolve()) if base else Path())


def _video_names(sources: Sequence[_File]) -> dict[Path, str]:
    """A name for each video file: that of its task or else of the file, numbered where two are the same."""
    names: dict[Path, str] = {}
    for source in sources:
        if source.is_video:
            name = source.root.findtext("meta/task/name") or source.path.stem
            same = sum(re.fullmatch(rf"{re.escape(name)}(-[0-9]+)?", other) is not None for other in names.values())
            names[source.path] = f"{name}-{same + 1}" if same else name
    return names


def _import_video(source: _File, name: str, video_id: int, target: _Target) -> None:
    try:
        task = read_video_task(source.root)
        pattern = _pattern(source, target, name, task.frames[0])
        width, height = task.size or picture_size(target.base / _file_name(pattern, task.frames[0]))
    except OSError as error:
        raise DataError(
            f"{source.path} does not say how large its pictures are, and the first is not there: {error}"
        ) from error
    except DataError as error:
        raise DataError(f"{source.path} {error}") from error
    tracks = read_tracks(source.root, task)
    missing = 0
    for frame_id, number in enumerate(task.frames):
        file_name = _file_name(pattern, number)
        missing += not (target.base / file_name).is_file()
        entry = {"file_name": file_name, "height": height, "width": width, "frame_id": frame_id, "video_id": video_id}
        target.add(f"{source.path}, frame {number}", entry, tracks.shapes.get(number, []))
    for sentence in tracks.problems:
        target.writer.problem("box that cannot be used", f"{source.path}: {sentence}")
    for what, count in (
        ("boxes interpolated between those of the file", tracks.interpolated),
        ("shapes that are not upright boxes, left out", tracks.others),
        (
            f"frames whose pictures are not there, the first one {target.base / _file_name(pattern, task.frames[0])}",
            missing,
        ),
        (
            f"frames in {source.path}, which does not say how many there are: up to the last box",
            task.is_guess * len(task.frames),
        ),
    ):
        if count:
            target.writer.remark(what, count)


def _pattern(source: _File, target: _Target, name: str, first: int) -> str:
    """The names of the pictures below the folder of all, with a place for the frame's number."""
    patterns = _PATTERNS if target.frames is None else (target.frames.replace("{name}", name),)
    patterns = tuple((source.prefix / pattern).as_posix() for pattern in patterns)
    return next((p for p in patterns if (target.base / _file_name(p, first)).is_file()), patterns[0])


def _file_name(pattern: str, number: int) -> str:
    return _NUMBER.sub(lambda found: f"{number:0{found[1] or 1}d}", pattern)


def _import_stills(source: _File, target: _Target) -> None:
    names = [image.get("name", "") for image in source.root.iterfind("image")]
    inside = source.prefix / "images"
    prefix = inside if (target.base / inside / names[0]).is_file() else source.prefix
    others = 0
    for name, image in zip(names, source.root.iterfind("image"), strict=True):
        where = f"{source.path}, image {name[:80]!r}"
        width, height = whole_number(image.get("width")), whole_number(image.get("height"))
        if not (name and width and height):
            target.writer.problem("image without name or size", f"{where}: name, width and height are needed")
            continue
        shapes = []
        for element in image:
            if not is_upright_box(element):
                others += element.tag not in {"attribute", "tag"}
                continue
            try:
                shapes.append(read_shape(element))
            except DataError as error:
                target.writer.problem("box that cannot be used", f"{where}: {error}")
        target.add(where, {"file_name": (prefix / name).as_posix(), "height": height, "width": width}, shapes)
    if others:
        target.writer.remark("shapes that are not upright boxes, left out", others)


def _object(shape: Shape, category: int) -> dict[str, Any]:
    x1, y1, x2, y2 = shape.box
    box = [round(side, _DECIMALS) for side in (x1, y1, x2 - x1, y2 - y1)]
    track = {} if shape.track is None else {"instance_id": shape.track}
    area = round(box[2] * box[3], _DECIMALS)
    occluded = {"occluded": shape.occluded}
    return {"category_id": category, **track, "bbox": box, "area": area, "iscrowd": False, **occluded}
