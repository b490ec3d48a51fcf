"""MOT-challenge folders, read and written."""

import configparser
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from flowdet.data.cocovid import Problem
from flowdet.data.cocovid_writer import Written, object_entry, writing_cocovid
from flowdet.data.image_files import picture_names, picture_size
from flowdet.data.labels import Exported, LabelledVideo, Labels, begin_videos, frame_range
from flowdet.data.reading import LARGEST_FRAME, check_class_list, class_names_of_lines, parse_pixels, read_text
from flowdet.errors import DataError, counted
from flowdet.files import write_text

__all__ = ["MOT17_CLASSES", "export_mot", "import_mot"]

MOT17_CLASSES = (
    "pedestrian",
    "person_on_vehicle",
    "car",
    "bicycle",
    "motorbike",
    "non_motorized_vehicle",
    "static_person",
    "distractor",
    "occluder",
    "occluder_on_the_ground",
    "occluder_full",
    "reflection",
    "crowd",
)
"""Classes of MOT16, MOT17 and MOT20 by their numbers from 1."""

_COLUMNS = "frame, track, left, top, width, height, active, class, visibility"
_OPTION = "--classes"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row that is not ignored: frame and class from 0, box (x, y, width, height) px from 0."""

    frame: int
    label: int
    track: int | None
    box: tuple[float, float, float, float]
    visibility: float | None


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One folder: its pictures by frame, their (width, height) px, its rows by frame."""

    folder: Path
    pictures: dict[int, Path]
    size: tuple[int, int]
    classes: tuple[str, ...]
    rows: dict[int, list[_Row]]
    ignored: int
    problems: list[Problem]


def import_mot(
    root: Path,
    out: Path,
    *,
    classes: Sequence[str] = (),
    only: str = "*",
    strict: bool = False,
    progress: Callable[[int], None] = lambda sequences: None,
) -> Written:
    """Imports MOT-challenge folders, each with img1/, gt/gt.txt and, optionally, seqinfo.ini.

    Frames and pixels count from 1 there and from 0 in the result. Rows marked as ignored are left out.

    Args:
        root: One such folder, or a folder of them.
        out: The `.json` file to write; file names in it lie below `root`.
        classes: Names of the classes 1, 2, ..., all of which the file will have. By default those of gt/labels.txt or
            of MOT17, and the file will have those that occur.
        only: Pattern of the folders to take; MOT17 has each video three times, so "*-FRCNN" takes it once.
        strict: Anything that cannot be read is an error.
        progress: Called with the number of folders read.

    Raises:
        DataError: There is no such folder, or something cannot be read and `strict` is set.
    """
    names = check_class_list(list(classes), _OPTION, _OPTION) if classes else ()
    sequences = []
    for folder in _folders(root, only):
        sequences.append(_read_sequence(folder, names))
        progress(len(sequences))
    ids = {name: number for number, name in enumerate(names or _used_classes(sequences), start=1)}
    categories = [{"id": number, "name": name} for name, number in ids.items()]
    called = [sequence.folder.resolve().name for sequence in sequences]
    videos = [{"id": number, "name": name} for number, name in enumerate(called, start=1)]
    with writing_cocovid(out, categories=categories, videos=videos, strict=strict) as writer:
        image_id = 0
        for video_id, sequence in enumerate(sequences, start=1):
            for problem in sequence.problems:
                writer.problem(problem.kind, problem.sentence)
            if sequence.ignored:
                writer.remark("rows marked as ignored, left out", sequence.ignored)
            width, height = sequence.size
            for frame, picture in sequence.pictures.items():
                image_id += 1
                name = picture.relative_to(root).as_posix()
                entry = {"file_name": name, "height": height, "width": width, "id": image_id}
                objects = [_coco_object(row, ids[sequence.classes[row.label]]) for row in sequence.rows.get(frame, [])]
                writer.image(entry | {"frame_id": frame, "video_id": video_id}, objects)
    return writer.written()


def _folders(root: Path, only: str) -> list[Path]:
    if (root / "gt" / "gt.txt").is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    found = sorted(path.parents[1] for path in root.glob("*/gt/gt.txt"))
    wanted = [folder for folder in found if fnmatchcase(folder.name, only)]
    if not wanted:
        several = f"; --only {only!r} fits none of {len(found)} folders" if found else ""
        raise DataError(f"neither {root} nor a folder in it has a gt/gt.txt{several}")
    return wanted


def _read_sequence(folder: Path, names: tuple[str, ...]) -> _Sequence:
    problems: list[Problem] = []
    pictures = _pictures(folder, problems)
    labels = folder / "gt" / "labels.txt"
    classes = names or (class_names_of_lines(labels, _OPTION) if labels.is_file() else MOT17_CLASSES)
    lines = read_text(folder / "gt" / "gt.txt").split("\n")
    first = next(iter(pictures.values()))
    size = picture_size(first)
    rows: dict[int, list[_Row]] = {}
    ignored = 0
    for number, line in enumerate(lines, start=1):
        try:
            row = _row(line.split(","), len(classes)) if line.strip() else None
            ignored += row is None and bool(line.strip())
            if row:
                if row.frame not in pictures:
                    raise DataError(f"there is no picture of frame {row.frame + 1}")
                rows.setdefault(row.frame, []).append(row)
        except DataError as error:
            sentence = f"{folder / 'gt' / 'gt.txt'}, line {number}: {error}, in {line[:80]!r}"
            problems.append(Problem("row that cannot be used", sentence))
    return _Sequence(folder, pictures, size, classes, rows, ignored, problems)


def _pictures(folder: Path, problems: list[Problem]) -> dict[int, Path]:
    """Returns the pictures by frame from 0: by the number that is their name, or else in natural order."""
    where, length = _sequence_info(folder / "seqinfo.ini")
    try:
        names = picture_names(folder / where)
    except OSError as error:
        raise DataError(f"{folder / where} cannot be read: {error.strerror}") from error
    if not names:
        raise DataError(f"{folder / where} holds no picture")
    stems = [name.partition(".")[0] for name in names]
    numbers = [int(stem) if stem.isascii() and stem.isdigit() else 0 for stem in stems]
    are_frames = all(0 < number <= LARGEST_FRAME for number in numbers)
    frames = [number - 1 for number in numbers] if are_frames else range(len(names))
    if len(set(frames)) != len(frames):
        twice = next(number for number, count in Counter(numbers).items() if count > 1)
        raise DataError(f"{folder / where} has more than one picture of frame {twice}")
    if length is not None and length != len(names):
        found = f"{folder / where} holds {counted(len(names), 'picture')}"
        sentence = f"{folder / 'seqinfo.ini'} says {counted(length, 'frame')}, {found}"
        problems.append(Problem("missing or surplus pictures", sentence))
    return {frame: folder / where / name for frame, name in zip(frames, names, strict=True)}


def _sequence_info(path: Path) -> tuple[str, int | None]:
    """Returns the folder of the pictures and the number of frames, if the file states it."""
    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(read_text(path) if path.exists() else "")
        where = parser.get("Sequence", "imDir", fallback="img1")
        length = parser.getint("Sequence", "seqLength", fallback=None)
    except (configparser.Error, ValueError) as error:
        raise DataError(f"{path} cannot be read: {error}") from error
    if Path(where).name != where or where == "..":
        raise DataError(f"{path}: imDir is the name of a folder beside the file, not {where!r}")
    return where, length


def _row(columns: Sequence[str], classes: int) -> _Row | None:
    """Returns what a row says; None if it is marked as ignored."""
    if not 7 <= len(columns) <= 10:
        raise DataError(f"expected the columns {_COLUMNS}, but there are {len(columns)}")
    values = [_number(text) for text in columns]
    frame, track, _, _, _, _, active = values[:7]
    if active == 0:
        return None
    # MOT15 has no classes: -1, or nothing.
    label = values[7] if len(values) > 7 and values[7] != -1 else 1.0
    if not (frame.is_integer() and frame >= 1 and track.is_integer() and abs(track) < LARGEST_FRAME):
        raise DataError("frames and tracks are whole numbers, frames from 1")
    left, top, width, height = map(parse_pixels, columns[2:6])
    if width < 0 or height < 0:
        raise DataError(f"the size of a box is not negative, as {width:g}x{height:g} is")
    if not (label.is_integer() and 1 <= label <= classes):
        raise DataError(f"the class is a number from 1 to {classes}, not {columns[7].strip()[:20]}")
    visibility = values[8] if len(values) == 9 and 0 <= values[8] <= 1 else None
    box = (left - 1, top - 1, width, height)
    return _Row(int(frame) - 1, int(label) - 1, int(track) if track >= 0 else None, box, visibility)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise DataError(f"{text.strip()[:20]!r} is no number")
    return value


def _coco_object(row: _Row, category: int) -> dict[str, Any]:
    box = [int(side) if side.is_integer() else side for side in row.box]
    visibility = {} if row.visibility is None else {"visibility": row.visibility}
    return object_entry(category, box, row.track, **visibility)


def _used_classes(sequences: Sequence[_Sequence]) -> list[str]:
    used = {
        (row.label, sequence.classes[row.label])
        for sequence in sequences
        for rows in sequence.rows.values()
        for row in rows
    }
    if not used:
        first = next((one.problems[0].sentence for one in sequences if one.problems), "all are marked as ignored")
        raise DataError(f"no row of any gt/gt.txt can be used: {first}")
    return list(dict.fromkeys(name for _, name in sorted(used)))


def export_mot(labels: Labels, out: Path) -> Exported:
    """Writes a folder a video, each with seqinfo.ini, gt/gt.txt, gt/labels.txt and, for detections, det/det.txt.

    Objects without a track have the number -1; regions with many objects are marked as ignored. Pictures have their
    place in img1.

    Args:
        labels: What is written; stills are left out.
        out: The folder, new or empty.

    Raises:
        ConfigError: The folder is not empty.
        DataError: It cannot be written, or there is no video.
    """
    videos, done = begin_videos(labels, out, "MOT folders")
    for video in videos:
        _write_sequence(video, labels.class_names, out / video.flat_name, done)
    return done


def _write_sequence(video: LabelledVideo, class_names: Sequence[str], folder: Path, done: Exported) -> None:
    frame_range(video)  # refuses negative numbers
    truth, found = [], []
    for picture in video.pictures:
        number = (picture.frame or 0) + 1
        done.pictures.append((video, picture, folder / "img1" / f"{number:06d}{picture.suffix}"))
        for box in done.kept(picture, crowds=True):
            x1, y1, x2, y2 = box.sides
            sides = ",".join(f"{round(side, 3):.10g}" for side in (x1 + 1, y1 + 1, x2 - x1, y2 - y1))
            track = -1 if box.track is None else box.track
            truth.append(f"{number},{track},{sides},{int(not box.is_crowd)},{box.label + 1},1\n")
            if box.score is not None:
                found.append(f"{number},{track},{sides},{box.score:.6g}\n")
    first = video.pictures[0]
    info = (
        f"[Sequence]\nname={video.flat_name}\nimDir=img1\nframeRate={video.fps or 25:g}\n"
        f"seqLength={len(video.pictures)}\n"
        f"imWidth={first.width}\nimHeight={first.height}\nimExt={first.suffix}\n"
    )
    for name, text in (
        ("seqinfo.ini", info),
        ("gt/gt.txt", "".join(truth)),
        ("gt/labels.txt", "".join(f"{name}\n" for name in class_names)),
        ("det/det.txt", "".join(found)),
    ):
        if text:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            write_text(folder / name, text, error=DataError)
