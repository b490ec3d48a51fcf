"""Detections in files: COCO's results, and the JSON and JSON lines of `flowdet detect`."""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.data.json_reader import JsonReader
from flowdet.data.reading import is_pixels, is_whole
from flowdet.data.result_lines import read_lines, refuse_table
from flowdet.errors import DataError
from flowdet.files import replacing
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes

__all__ = [
    "ResultFile",
    "ResultFrame",
    "Results",
    "is_result_list",
    "match_frames",
    "read_result_file",
    "read_results",
    "results_files",
    "write_results",
]

_ROWS_WRITTEN_AT_ONCE: Final = 1 << 14
_SHOWN: Final = 5
_WRITE_ONE: Final = json.JSONEncoder(allow_nan=False).encode


@dataclass(frozen=True, eq=False, slots=True)
class Results:
    """Detections read from files.

    Attributes:
        table: The detections in images of the data set.
        class_names: The classes that a file of `flowdet detect` names; empty for COCO's results.
        renamed: For each class that the data set calls otherwise, its name there.
        left_out: For each class that the data set does not have, the number of detections left out.
        notes: Sentences about what did not match the data set.
    """

    table: DetectionTable
    class_names: tuple[str, ...] = ()
    renamed: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def results_files(path: Path) -> list[Path]:
    """Returns the results files that a path names: itself, or those in a folder, by name.

    Raises:
        DataError: A folder has none, or cannot be read; or the file is a table.
    """
    refuse_table(path)
    try:
        if not path.is_dir():
            return [path]
        found = sorted(file for file in path.iterdir() if file.suffix in {".json", ".jsonl"})
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    found = [file for file in found if not file.name.endswith(".partial.jsonl")]
    if not found:
        raise DataError(f"the folder {path} has no results: expected .json or .jsonl files of `flowdet detect`")
    return found


def read_results(
    paths: Path | Sequence[Path],
    data: CocoVID,
    *,
    class_map: Mapping[str, str] | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Results:
    """Reads detections in the images of a data set.

    A file is a COCO results file, that is a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}
    with the ids of the data set; or one that `flowdet detect` wrote, .json or .jsonl, whose frames are matched by the
    name of the video and the frame number, and whose classes by name.

    Args:
        paths: One file, or several with different videos. Entries are read one by one, so memory is hardly more than
            that of the table.
        data: The data set.
        class_map: Names of classes in the files and what the data set calls them, see `map_classes`.
        progress: Called with the number of bytes read so far, over all files.

    Raises:
        DataError: A file cannot be read, an entry is not a detection, or nothing matches the data set; the message
            names the first such entry.
    """
    files = [paths] if isinstance(paths, Path) else list(paths)
    parts: list[Results] = []
    seen: dict[int, Path] = {}
    bytes_before = bytes_read = 0

    def count(done: int) -> None:
        nonlocal bytes_read
        bytes_read = bytes_before + done
        progress(bytes_read)

    for path in files:
        parts.append(_read_file(path, data, class_map or {}, seen, count))
        bytes_before = bytes_read
    left_out: Counter[str] = Counter()
    for part in parts:
        left_out.update(part.left_out)
    return Results(
        table=concatenate([part.table for part in parts]),
        class_names=tuple(dict.fromkeys(name for part in parts for name in part.class_names)),
        renamed={name: other for part in parts for name, other in part.renamed.items()},
        left_out=left_out,
        notes=(*(note for part in parts for note in part.notes), *_frames_without_results(data, parts, len(seen))),
    )


def _frames_without_results(data: CocoVID, parts: Sequence[Results], count: int) -> Iterator[str]:
    # COCO's results do not say which frames were looked at.
    if all(part.class_names for part in parts) and (missing := len(data.images) - count):
        yield f"{missing} of {len(data.images)} frames of {data.path.name} have no results: their objects are missed."


class _Rows:
    """Detections as they are read, with ids in place of positions."""

    def __init__(self) -> None:
        self.ids = array("q")  # of the image and the category, in turn
        self.values = array("d")  # x1, y1, x2, y2, score
        self.tracks = array("q")

    def add(self, entry: Any) -> None:
        """Takes an entry of a list of detections in COCO's form.

        Raises:
            DataError: It is not a detection; the message goes after the name of the entry.
        """
        if not isinstance(entry, dict):
            keys = '"image_id", "category_id", "bbox" and "score"'
            raise DataError(f"is not an object with {keys} but {str(entry)[:40]!r}")
        box: Any = entry.get("bbox")
        score: Any = entry.get("score")
        ids = _id_of(entry, "image_id"), _id_of(entry, "category_id")
        if not isinstance(box, list) or len(box) != 4 or not all(map(is_pixels, box)) or min(box[2:]) < 0:
            raise DataError(f"has no box of x, y, width, height, finite and not negative in size, but {str(box)[:80]}")
        if not is_pixels(score):
            raise DataError(f"needs a finite number as its score, not {str(score)[:40]}")
        x, y, width, height = box
        self.append(*ids, (x, y, x + width, y + height), score, entry.get("track_id"))

    def append(self, image: int, category: int, box: Sequence[float], score: float, track: Any) -> None:
        """Takes a detection with its box xyxy px; a track that is no whole number from 0 on is none."""
        self.ids.extend((image, category))
        self.values.extend((*box, score))
        self.tracks.append(track if is_whole(track, 0) else -1)

    def arrays(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Returns the ids [n, 2] and, as [n, 5], the boxes xyxy px and scores."""
        values = np.frombuffer(self.values, dtype=np.float64).reshape(-1, 5)
        return np.frombuffer(self.ids, dtype=np.int64).reshape(-1, 2), values

    def track_ids(self) -> NDArray[np.int64]:
        """Returns the track [n] of each detection, -1 where it has none."""
        return np.frombuffer(self.tracks, dtype=np.int64)


def _id_of(entry: Mapping[str, Any], name: str) -> int:
    value = entry.get(name)
    if type(value) is not int:
        raise DataError(f"needs a whole number as its {name}, not {repr(value)[:40]}")
    if not is_whole(value):
        raise DataError(f"is of {name.removesuffix('_id')} {value}, which the data set does not have")
    return value


def _read_file(
    path: Path, data: CocoVID, class_map: Mapping[str, str], seen: dict[int, Path], progress: Callable[[int], None]
) -> Results:
    if path.suffix == ".jsonl":
        found = _read_lines(path, progress)
    else:
        with JsonReader(path, progress) as reader:
            if reader.peek() != "{":
                table = _read_list(path, reader, data)
                _check_unseen(path, np.unique(table.images).tolist(), data, seen)
                return Results(table)
            found = _read_document(path, reader)
    return _matched(path, found, data, class_map, seen)


def is_result_list(path: Path) -> bool:
    """Whether a file is a COCO results file, whose images and classes only a data set can tell.

    Raises:
        DataError: It cannot be read.
    """
    if path.suffix == ".jsonl":
        return False
    with JsonReader(path, lambda done: None) as reader:
        return reader.peek() != "{"


def read_result_file(path: Path) -> ResultFile:
    """Reads what `flowdet detect` wrote, .json or .jsonl, with its own frames and classes.

    Raises:
        DataError: It cannot be read, or is something else.
    """
    if path.suffix == ".jsonl":
        return _read_lines(path, lambda done: None)
    with JsonReader(path, lambda done: None) as reader:
        return _read_document(path, reader)


def _read_list(path: Path, reader: JsonReader, data: CocoVID) -> DetectionTable:
    """Reads a COCO results file."""
    if reader.peek() != "[":
        raise DataError(
            f'{path}: a results file is a list [{{"image_id", "category_id", "bbox", "score"}}, ...] or what '
            f"`flowdet detect` wrote, not {reader.peek()!r}"
        )
    rows = _Rows()
    _add_all(path, reader, rows)
    reader.end()
    ids, values = rows.arrays()
    images = _positions(ids[:, 0], [image.id for image in data.images])
    labels = _positions(ids[:, 1], data.category_ids)
    for what, column, positions in (("image", 0, images), ("category", 1, labels)):
        if (positions < 0).any():
            row = int((positions < 0).argmax())
            raise DataError(
                f"{path}: entry {row} (from 0) is of {what} {ids[row, column]}, which the data set does not have; "
                f"{data.path} was expected to fit it"
            )
    return DetectionTable(images, labels, values[:, :4], values[:, 4])


def _add_all(path: Path, reader: JsonReader, rows: _Rows) -> None:
    for number, entry in enumerate(reader.items()):
        try:
            rows.add(entry)
        except DataError as error:
            raise DataError(f"{path}: entry {number} (from 0) {error}") from error


def _positions(ids: NDArray[np.int64], known: Sequence[int]) -> NDArray[np.int64]:
    """Returns [n] the position of each id [n] among the known ones, -1 if it is unknown."""
    if not len(known):
        return np.full(len(ids), -1, dtype=np.int64)
    order = np.argsort(np.array(known, dtype=np.int64), kind="stable")
    ordered = np.array(known, dtype=np.int64)[order]
    place = np.searchsorted(ordered, ids).clip(max=len(known) - 1)
    return np.where(ordered[place] == ids, order[place], -1)


@dataclass(frozen=True, slots=True)
class ResultFrame:
    """A frame as a results file describes it.

    Attributes:
        video: The name of its video; None for a still.
        number: Number in its video.
        file_name: Where the file names a picture.
        size: (height, width) px.
        time: Seconds from the start of the video; None where the file does not say.
    """

    video: str | None
    number: int | None
    file_name: str | None
    size: tuple[int, int]
    time: float | None


@dataclass(frozen=True, eq=False, slots=True)
class ResultFile:
    """A file of `flowdet detect`, with its own frames and classes.

    Attributes:
        frames: The frames that were looked at, with or without detections.
        class_names: The classes.
        table: The detections; images and labels are positions in these two.
        tracks: [n] int64, the track of each detection; -1 where it has none.
        is_complete: Whether the run that wrote it came to its end.
        settings: What made it; anything at all.
    """

    frames: list[ResultFrame]
    class_names: tuple[str, ...]
    table: DetectionTable
    tracks: NDArray[np.int64]
    is_complete: bool
    settings: Any


def _read_document(path: Path, reader: JsonReader) -> ResultFile:
    """Reads a CocoVID document with scores."""
    lists: dict[str, list[Any]] = {"videos": [], "categories": [], "images": []}
    rows, info = _Rows(), {}
    for key in reader.members():
        if key == "annotations" and reader.peek() == "[":
            _add_all(path, reader, rows)
        elif key in lists and reader.peek() == "[":
            lists[key] = list(reader.items())
        elif key == "info":
            info = reader.value()
        else:
            reader.value()
    reader.end()
    try:
        videos = {video["id"]: str(video["name"]) for video in lists["videos"]}
        frames = [
            ResultFrame(
                videos.get(image.get("video_id")),
                image.get("frame_id"),
                image.get("file_name"),
                (image["height"], image["width"]),
                image.get("time"),
            )
            for image in lists["images"]
        ]
        names = tuple(str(category["name"]) for category in lists["categories"])
        image_ids = np.array([image["id"] for image in lists["images"]], dtype=np.int64)
        category_ids = np.array([category["id"] for category in lists["categories"]], dtype=np.int64)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise DataError(
            f"{path} is neither a COCO results file nor one of `flowdet detect`: expected images with id, height and "
            f"width, categories with id and name, videos with id and name ({type(error).__name__}: {error})"
        ) from error
    if not frames or not names:
        raise DataError(
            f"{path}: a results file is a list of detections or what `flowdet detect` wrote, and this one has no "
            f"{'categories' if frames else 'images'}"
        )
    ids, values = rows.arrays()
    images, labels = _positions(ids[:, 0], image_ids.tolist()), _positions(ids[:, 1], category_ids.tolist())
    if (lost := (images < 0) | (labels < 0)).any():
        raise DataError(
            f"{path}: entry {lost.argmax()} (from 0) is of an image or a category that the file does not list"
        )
    table = DetectionTable(images, labels, values[:, :4], values[:, 4])
    known = info if isinstance(info, dict) else {}
    return ResultFile(frames, names, table, rows.track_ids(), known.get("complete") is not False, known.get("settings"))


def _read_lines(path: Path, progress: Callable[[int], None]) -> ResultFile:
    """Reads JSON lines, with positions of frames and classes as ids."""
    rows = _Rows()
    frames: list[ResultFrame] = []
    is_complete = False
    with closing(read_lines(path, progress)) as lines:
        header = next(lines)
        labels = {category["id"]: label for label, category in enumerate(header["categories"])}
        for line in lines:
            if "complete" in line:
                is_complete = line["complete"] is True
                continue
            tracks = line.get("track_ids", [None] * len(line["boxes"]))
            for box, score, category, track in zip(
                line["boxes"], line["scores"], line["category_ids"], tracks, strict=True
            ):
                rows.append(len(frames), labels[category], box, score, track)
            size = line["height"], line["width"]
            frames.append(ResultFrame(header["video"]["name"], line["frame_index"], None, size, line["time"]))
    ids, values = rows.arrays()
    table = DetectionTable(ids[:, 0], ids[:, 1], values[:, :4], values[:, 4])
    names = tuple(category["name"] for category in header["categories"])
    return ResultFile(frames, names, table, rows.track_ids(), is_complete, header["settings"])


def _matched(
    path: Path, found: ResultFile, data: CocoVID, class_map: Mapping[str, str], seen: dict[int, Path]
) -> Results:
    """Returns the detections of a file in the frames and classes of the data set."""
    classes = map_classes(found.class_names, data, class_map)
    frames = np.array(match_frames(path, found.frames, data), dtype=np.int64)
    _check_unseen(path, frames[frames >= 0].tolist(), data, seen)
    table = found.table
    images, labels = frames[table.images], classes.labels[table.labels]
    is_left_out = labels < 0
    counts = np.bincount(table.labels[is_left_out], minlength=len(found.class_names))
    kept = (images >= 0) & ~is_left_out
    notes = list(_notes(path, found))
    if (unmatched := frames < 0).any():
        lost = [found.frames[place] for place in np.flatnonzero(unmatched).tolist()]
        shown = ", ".join(_name(frame) for frame in lost[:_SHOWN]) + (", ..." if len(lost) > _SHOWN else "")
        notes.append(
            f"{path.name}: {len(lost)} of {len(frames)} frames are not in {data.path.name}, so that their "
            f"{int(unmatched[table.images].sum())} detections were left out: {shown}."
        )
    return Results(
        table=DetectionTable(images[kept], labels[kept], table.boxes[kept], table.scores[kept]),
        class_names=found.class_names,
        renamed=classes.renamed,
        left_out={name: int(count) for name, count in zip(found.class_names, counts, strict=True) if count},
        notes=tuple(notes),
    )


def _check_unseen(path: Path, positions: Sequence[int], data: CocoVID, seen: dict[int, Path]) -> None:
    """Checks that no image has results in two files, and enters those of this file."""
    for position in positions:
        if position in seen:
            raise DataError(
                f"{path}: image {data.images[position].id} of {data.path} has results already, in {seen[position]}; "
                "give one results file for each video"
            )
        seen[position] = path


def _notes(path: Path, found: ResultFile) -> Iterator[str]:
    """Yields sentences about the run that wrote a file."""
    if not found.is_complete:
        yield f"{path.name} is not complete: the run that wrote it did not come to its end."
    score = found.settings.get("score") if isinstance(found.settings, dict) else None
    if is_pixels(score, 0) and score:
        yield (
            f"{path.name} lacks detections below a score of {score}, which lowers AP: `flowdet detect --score 0` keeps "
            "all, as `flowdet evaluate` of a system does."
        )


def _name(frame: ResultFrame) -> str:
    return str(frame.file_name) if frame.video is None else f"{frame.video} frame {frame.number}"


def match_frames(path: Path, frames: Sequence[ResultFrame], data: CocoVID) -> list[int]:
    """Returns for each frame its position in the data set's images, -1 if it is not there.

    Args:
        path: The results file, for messages.
        frames: Its frames.
        data: The data set.

    Raises:
        DataError: No frame is there, a name of a video is not unique, or a frame has another size.
    """
    videos = _match_videos(path, {frame.video for frame in frames if frame.video is not None}, data)
    by_number: dict[tuple[str, int | None], int] = {}
    for name, video in videos.items():
        if video is not None:
            numbers = {frame.number for frame in frames if frame.video == name}
            by_number |= {(name, number): place for number, place in _numbered(data, video, numbers)}
    by_file = {image.file_name: place for place, image in enumerate(data.images)}
    places = []
    for frame in frames:
        place = by_file.get(str(frame.file_name), -1)
        if frame.video is not None and videos[frame.video] is not None:
            place = by_number.get((frame.video, frame.number), -1)
        if place >= 0:
            image = data.images[place]
            if frame.size != (image.height, image.width):
                raise DataError(
                    f"{path}: {_name(frame)} has {frame.size[1]}x{frame.size[0]} px, and {data.path} says "
                    f"{image.width}x{image.height}; the results must be of frames of the annotated size"
                )
        places.append(place)
    if max(places, default=-1) < 0:
        names = ", ".join(sorted(videos)[:_SHOWN])
        known = ", ".join(video.name for video in data.videos[:_SHOWN]) + (", ..." if len(data.videos) > _SHOWN else "")
        raise DataError(
            f"{path}: none of its {len(frames)} frames, of video {names or '(none)'}, is in {data.path}, whose videos "
            f"are {known or 'none'}; frames are matched by the name of the video and the frame number"
        )
    return places


def _numbered(data: CocoVID, video: int, numbers: set[int | None]) -> Iterator[tuple[int, int]]:
    """Yields number and position of a video's frames, numbered from 0 where the results have as many frames from 0."""
    places = data.videos[video].frames
    known = [data.images[place].frame for place in places]
    counts_from_1 = known == list(range(1, len(known) + 1)) and numbers == set(range(len(known)))
    for place, number in zip(places, known, strict=True):
        if number is not None:
            yield number - counts_from_1, place


def _match_videos(path: Path, names: set[str], data: CocoVID) -> dict[str, int | None]:
    """Returns the position of the data set's video of each name, None if there is none.

    Names are equal in full or, as `flowdet detect` calls a video by its file, in their last part without a suffix.
    """
    found: dict[str, int | None] = {}
    for name in names:
        matches: list[int] = []
        for key in (str, _last_part, _stem):
            matches = matches or [place for place, video in enumerate(data.videos) if key(video.name) == key(name)]
        if len(matches) > 1:
            others = ", ".join(data.videos[place].name for place in matches[:_SHOWN])
            raise DataError(f"{path}: its video {name!r} may be any of {others} in {data.path}; rename one of them")
        found[name] = matches[0] if matches else None
    return found


def _last_part(name: str) -> str:
    return name.rstrip("/").rpartition("/")[2]


def _stem(name: str) -> str:
    return Path(_last_part(name)).stem


def write_results(table: DetectionTable, data: CocoVID, path: Path) -> None:
    """Writes a COCO results file whole or not at all.

    Raises:
        DataError: The file cannot be written, or a box or score is not finite.
    """
    image_ids = np.array([image.id for image in data.images], dtype=np.int64)
    category_ids = np.array(data.category_ids, dtype=np.int64)
    with replacing(path, error=DataError) as partial, partial.open("w", encoding="utf-8") as file:
        try:
            file.write("[")
            for start in range(0, len(table), _ROWS_WRITTEN_AT_ONCE):
                rows = table.select(np.arange(start, min(start + _ROWS_WRITTEN_AT_ONCE, len(table))))
                file.write((",\n" if start else "\n") + ",\n".join(_lines(rows, image_ids, category_ids)))
            file.write("\n]\n")
        except ValueError as error:
            raise DataError(f"{path} is not written: boxes and scores must be finite numbers ({error})") from error


def _lines(table: DetectionTable, image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]) -> Iterator[str]:
    # Nine decimals hide the rounding error that the subtraction adds.
    sizes = (table.boxes[:, 2:] - table.boxes[:, :2]).round(9)
    boxes = np.concatenate([table.boxes[:, :2], sizes], axis=1)
    columns = image_ids[table.images], category_ids[table.labels], boxes, table.scores
    for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True):
        yield _WRITE_ONE({"image_id": image, "category_id": category, "bbox": box, "score": score})
