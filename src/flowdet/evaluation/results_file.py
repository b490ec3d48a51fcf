"""COCO's results files, read in pieces and written in full or not at all."""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import DataError
from flowdet.metrics.detections import DetectionTable

__all__ = ["read_results", "write_results"]

_PIECE: Final = 1 << 14  # bytes read at once; what fits the processor's cache is read twice as fast
_LONGEST_ENTRY: Final = 1 << 24  # characters
_ROWS_WRITTEN_AT_ONCE: Final = 1 << 14
_SKIP_SPACE: Final = re.compile(r"[ \t\r\n]*").match
_READ_ONE: Final = json.JSONDecoder().raw_decode
_WRITE_ONE: Final = json.JSONEncoder(allow_nan=False).encode

_Columns = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]


def read_results(
    path: str | Path, data: CocoVID, *, progress: Callable[[int], None] = lambda read: None
) -> DetectionTable:
    """Reads a COCO results file: a list of {"image_id", "category_id", "bbox": [x, y, width, height], "score"}.

    Args:
        path: The file; it is read in pieces, so that memory is hardly more than that of the table.
        data: The data set whose image and category ids it uses.
        progress: Called with the number of bytes that were read since the last call.

    Raises:
        DataError: It cannot be read, or an entry is not a detection in an image of the data set; the message
            names the first such entry.
    """
    path = Path(path)
    images, categories = _Ids([image.id for image in data.images]), _Ids(data.category_ids)
    pieces: list[_Columns] = []
    count = 0
    try:
        for entries in _read_entries(path, progress):
            columns = _columns(entries, images, categories)
            if columns is None:
                number, fault = _first_fault(entries, images, categories)
                raise DataError(f"{path}: entry {count + number} (from 0) {fault}; {data.path} was expected to fit it")
            pieces.append(columns)
            count += len(entries)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not a text file: {error}") from error
    return _join(pieces)


class _Ids:
    """The positions of ids of a file."""

    def __init__(self, ids: list[int] | tuple[int, ...]) -> None:
        self.known = frozenset(ids)
        self._order = np.argsort(np.array(ids, dtype=np.int64), kind="stable")
        self._sorted = np.array(ids, dtype=np.int64)[self._order]

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """[n] the position of each id [n]; None if one is unknown."""
        place = np.searchsorted(self._sorted, ids).clip(max=len(self._sorted) - 1)
        return self._order[place] if (self._sorted[place] == ids).all() else None


def _read_entries(path: Path, progress: Callable[[int], None]) -> Iterator[list[Any]]:
    """Yields the entries of the list in the file, piece by piece; at least one piece, if an empty one."""
    text, before, count = "", "[", 0
    decode = codecs.getincrementaldecoder("utf-8-sig")().decode
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            entries, text, before = _take_entries(text + decode(piece), before)
            if len(text) > _LONGEST_ENTRY:
                break
            progress(len(piece))
            count += len(entries)
            yield entries
    if before or text.strip() or decode(b"", final=True):
        raise DataError(f"{path}: {_what_is_wrong(text, before, count)}")
    yield []


def _take_entries(text: str, before: str) -> tuple[list[Any], str, str]:
    """Reads as many entries as the text holds in full.

    Args:
        text: A part of the file.
        before: What stands before the next entry: "[" or ","; nothing once the list is closed.

    Returns:
        The entries, the text after them, and what stands before the next one.
    """
    entries: list[Any] = []
    place = 0
    while before:
        start = _SKIP_SPACE(text, place).end()  # type: ignore[union-attr]  # it matches everywhere
        if before == "," and text.startswith("]", start):
            return entries, text[start + 1 :], ""
        if not text.startswith(before, start):
            break
        start = _SKIP_SPACE(text, start + 1).end()  # type: ignore[union-attr]
        if before == "[" and text.startswith("]", start):
            return entries, text[start + 1 :], ""
        try:
            entry, place = _READ_ONE(text, start)
        except (ValueError, RecursionError):
            break
        entries.append(entry)
        before = ","
    return entries, text[place:], before


def _what_is_wrong(text: str, before: str, count: int) -> str:
    start = text.strip()[:40]
    if before == "[" and not start.startswith("["):
        return f'a results file is a list [{{"image_id", "category_id", "bbox", "score"}}, ...], not {start!r}'
    if not before:
        return f"there is more after the end of the list: {start!r}"
    return f"after {count} entries the list is cut off or not JSON: {start!r}"


def _columns(entries: list[Any], images: _Ids, categories: _Ids) -> _Columns | None:
    """The columns of a table; None if an entry has a fault."""
    if not entries:
        empty = np.zeros(0, dtype=np.int64)
        return empty, empty, np.zeros((0, 4)), np.zeros(0)
    try:
        ids = np.array([(entry["image_id"], entry["category_id"]) for entry in entries])
        values = np.array([(*entry["bbox"], entry["score"]) for entry in entries])
    except (LookupError, TypeError, ValueError, OverflowError):
        return None
    if ids.dtype.kind != "i" or values.dtype.kind not in "if" or values.shape[1:] != (5,) or ids.ndim != 2:
        return None
    boxes, scores = values[:, :4].astype(np.float64), values[:, 4].astype(np.float64)
    if not np.isfinite(values).all() or (boxes[:, 2:] < 0).any():
        return None
    boxes[:, 2:] += boxes[:, :2]
    positions, labels = images.positions(ids[:, 0]), categories.positions(ids[:, 1])
    return None if positions is None or labels is None else (positions, labels, boxes, scores)


def _first_fault(entries: list[Any], images: _Ids, categories: _Ids) -> tuple[int, str]:
    for number, entry in enumerate(entries):
        fault = _fault(entry, images, categories)
        if fault:
            return number, fault
    raise AssertionError("a piece with a fault has an entry with a fault")


def _fault(entry: Any, images: _Ids, categories: _Ids) -> str | None:
    """What keeps an entry from being a detection."""
    if not isinstance(entry, dict):
        return f'is not an object with "image_id", "category_id", "bbox" and "score" but {str(entry)[:40]!r}'
    for name, what, ids in (("image_id", "image", images), ("category_id", "category", categories)):
        value = entry.get(name)
        if type(value) is not int:
            return f"needs a whole number as its {name}, not {value!r}"
        if value not in ids.known:
            return f"is of {what} {value}, which the data set does not have"
    box, score = entry.get("bbox"), entry.get("score")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_finite, box)) or min(box[2:]) < 0:
        return f"has no box of x, y, width, height, finite and not negative in size, but {str(box)[:80]}"
    return None if _is_finite(score) else f"needs a finite number as its score, not {score!r}"


def _is_finite(value: Any) -> bool:
    return type(value) in {int, float} and math.isfinite(value)


def _join(pieces: list[_Columns]) -> DetectionTable:
    # Column by column, so that only one of them is there twice.
    columns: list[list[NDArray[Any]]] = [list(column) for column in zip(*pieces, strict=True)]
    pieces.clear()
    joined = []
    for column in columns:
        joined.append(np.concatenate(column))
        column.clear()
    return DetectionTable(*joined)


def write_results(table: DetectionTable, data: CocoVID, path: str | Path) -> None:
    """Writes a COCO results file; it is there in full or not at all.

    Raises:
        DataError: The file cannot be written, or a box or score is not finite.
    """
    path = Path(path)
    image_ids = np.array([image.id for image in data.images], dtype=np.int64)
    part = path.with_name(path.name + ".part")
    try:
        with part.open("w", encoding="utf-8") as file:
            file.write("[")
            for start in range(0, len(table), _ROWS_WRITTEN_AT_ONCE):
                rows = table.select(np.arange(start, min(start + _ROWS_WRITTEN_AT_ONCE, len(table))))
                lines = _lines(rows, image_ids, np.array(data.category_ids, dtype=np.int64))
                file.write((",\n" if start else "\n") + ",\n".join(lines))
            file.write("\n]\n")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path} cannot be written: {error.strerror}") from error
    except ValueError as error:
        part.unlink(missing_ok=True)
        raise DataError(f"{path} is not written: boxes and scores must be finite numbers ({error})") from error


def _lines(table: DetectionTable, image_ids: NDArray[np.int64], category_ids: NDArray[np.int64]) -> Iterator[str]:
    # Nine decimals hide what the subtraction adds to 0.1 + 0.2.
    sizes = (table.boxes[:, 2:] - table.boxes[:, :2]).round(9)
    boxes = np.concatenate([table.boxes[:, :2], sizes], axis=1)
    columns = image_ids[table.images], category_ids[table.labels], boxes, table.scores
    for image, category, box, score in zip(*(column.tolist() for column in columns), strict=True):
        yield _WRITE_ONE({"image_id": image, "category_id": category, "bbox": box, "score": score})
