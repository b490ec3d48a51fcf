"""JSON lines of `flowdet detect`, read and checked one by one."""

from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from typing import Any

from flowdet.data.json_reader import JsonReader
from flowdet.data.reading import is_pixels, is_whole
from flowdet.errors import DataError

__all__ = ["read_lines", "refuse_table"]

_OF_A_FRAME = ("frame_index", "time", "width", "height", "boxes", "scores")


def refuse_table(path: Path) -> None:
    """Passes if a results file is no table: rows of detections know neither the other frames nor the picture's size.

    Raises:
        DataError: It is one; the message says which file to take.
    """
    match path.suffix.lower():
        case ".csv":
            beside = path.with_suffix(".jsonl").name
            advice = f"name {beside} beside it, which `flowdet detect --results csv` wrote, too"
        case ".parquet":
            advice = "detect again with --results json"
        case _:
            return
    raise DataError(f"{path} is a table: expected results as .json or .jsonl; {advice}")


def read_lines(
    path: Path, progress: Callable[[int], None] = lambda done: None
) -> Generator[dict[str, Any], None, None]:
    """Yields the header, each frame and, where the run came to its end, the footer, as docs/results.md describes them.

    Frames of version 1 of the format get category ids in place of their labels, which count from 0. Number, time and
    size of a frame are passed on as they are.

    Args:
        path: The file.
        progress: Called with the number of bytes read so far.

    Raises:
        DataError: The file cannot be read, or a line is something else; the message names it.
    """
    known: dict[int, str] = {}
    with JsonReader(path, progress) as reader:
        for number, line in enumerate(reader.lines(), start=1):
            try:
                if number == 1:
                    checked = _header(path, line)
                    known = {category["id"]: category["name"] for category in checked["categories"]}
                else:
                    checked = line if "complete" in line else _frame(f"{path}: line {number}", line, known)
            except (LookupError, TypeError, ValueError, AttributeError) as error:
                what = "the header of a .jsonl file of `flowdet detect`" if number == 1 else "a frame"
                raise DataError(f"{path}: line {number} is not {what} ({type(error).__name__}: {error})") from error
            yield checked
    if not known:
        raise DataError(f"{path} is empty: expected JSON lines of `flowdet detect`")


def _header(path: Path, line: Any) -> dict[str, Any]:
    version = line.get("version", 1)
    if version not in {1, 2}:
        raise DataError(f"{path} has version {version!s:.20} of the format, and this flowdet reads 1 and 2: update it")
    categories = [{"id": category["id"], "name": str(category["name"])} for category in line["categories"]]
    if not categories or not all(is_whole(category["id"]) for category in categories):
        raise ValueError("each class needs a whole number as its id")
    video = {**line["video"], "name": str(line["video"]["name"])}
    return {"video": video, "categories": categories, "settings": line.get("settings")}


def _frame(where: str, line: Any, known: Mapping[int, str]) -> dict[str, Any]:
    frame = {name: line[name] for name in _OF_A_FRAME}
    if "labels" in line:
        ids: list[Any] = list(known)
        classes = [ids[one] if is_whole(one, 0, len(ids) - 1) else None for one in line["labels"]]
        named = line["labels"]
    else:
        named = classes = line["category_ids"]
    for box, score, one, name in zip(frame["boxes"], frame["scores"], classes, named, strict=True):
        if not (is_whole(one) and one in known):
            raise DataError(f"{where}: a detection is of class {name!s:.40}, which the header does not list")
        is_box = isinstance(box, list) and len(box) == 4 and all(map(is_pixels, box))
        if not is_box or box[0] > box[2] or box[1] > box[3]:
            raise DataError(f"{where}: a detection has no box of finite x1 <= x2 and y1 <= y2 but {box!s:.80}")
        if not is_pixels(score):
            raise DataError(f"{where}: a detection needs a finite number as its score, not {score!s:.40}")
    tracks = line.get("track_ids")
    if tracks is not None:
        if len(tracks) != len(classes):
            raise ValueError(f"{len(tracks)} track_ids for {len(classes)} boxes")
        frame["track_ids"] = tracks
    return {**frame, "category_ids": classes}
