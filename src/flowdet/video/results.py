"""Detections of a video as a file: CocoVID JSON, JSON lines that can be followed while they grow, CSV or Parquet."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from os import SEEK_END
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

from flowdet.errors import ConfigError, VideoError, counted
from flowdet.files import replacing
from flowdet.types import Detections
from flowdet.video.parquet import read_parquet_info, write_parquet

__all__ = ["RESULTS_SUFFIXES", "ResultsWriter", "VideoInfo", "annotation_entries", "image_entries", "read_finished"]

_LONGEST_LINE = 1 << 20  # bytes; that of a header or a footer has a few thousand
_DOCUMENT_START = b'{"info": '
_FORMAT = {"format": "flowdet detections", "version": 2}  # version 1 had labels from 0 in place of category ids

RESULTS_SUFFIXES = (".json", ".jsonl", ".csv", ".parquet")
_COLUMNS = ("frame_index", "time", "category_id", "category_name", "score", "x1", "y1", "x2", "y2", "track_id")


class VideoInfo(Protocol):
    """What a result says of its video; an open `Video` is one."""

    @property
    def name(self) -> str:
        """A short name."""
        ...

    @property
    def size(self) -> tuple[int, int] | None:
        """(height, width) in pixels, when known."""
        ...

    @property
    def fps(self) -> float | None:
        """Frames a second, when known."""
        ...

    @property
    def problems(self) -> Sequence[str]:
        """What was found damaged; asked for when the result is finished."""
        ...


class ResultsWriter:
    """Writes the detections of one video, frame by frame; use it in a `with` statement.

    The suffix of the path chooses the format; docs/results.md describes them. `.jsonl` is written in place, so that
    it can be followed: a header, a line for each frame, a footer. `.json` becomes one CocoVID document: the lines go to
    `<path>.partial.jsonl` first and are converted when the `with` statement ends, also by an exception ("complete"
    is false then). So does `.parquet`, a table of all detections. `.csv` becomes one beside the JSON lines, which keep
    the settings. Memory is the same for any length of video.

    Args:
        path: The file to write, `.json`, `.jsonl`, `.csv` or `.parquet`; one that exists is replaced.
        video: What the detections belong to.
        class_names: The names of the labels, in order.
        settings: Whatever made this result; saved with it. Values that JSON does not know become text.

    Raises:
        ConfigError: The path has another suffix, or a number in `settings` is not finite.
        VideoError: The folder cannot be written to.
    """

    def __init__(
        self, path: str | Path, *, video: VideoInfo, class_names: Sequence[str], settings: Mapping[str, Any]
    ) -> None:
        self.path = Path(path)
        if self.path.suffix not in RESULTS_SUFFIXES:
            raise ConfigError(f"results are written to a .json, .jsonl, .csv or .parquet file, not '{self.path}'")
        self.frame_count = 0
        self._video = video
        self._keeps_lines = self.path.suffix in {".jsonl", ".csv"}
        partial = self.path.with_name(self.path.name + ".partial.jsonl")
        self._lines_path = self.path.with_suffix(".jsonl") if self._keeps_lines else partial
        self._is_closed = False
        self._class_names = class_names
        categories = _categories(class_names)
        header = _dump({**_FORMAT, "video": _video_record(video), "categories": categories, "settings": dict(settings)})
        try:
            self._lines = self._lines_path.open("w", encoding="utf-8")
        except OSError as error:
            raise VideoError(f"{self._lines_path} cannot be written: {error.strerror}") from error
        self._append(header)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close(complete=True)
        else:
            with suppress(VideoError):  # the first error counts
                self.close(complete=False)

    def write(self, detections: Detections) -> None:
        """Appends the detections of one frame; other programs can read them when this returns.

        Raises:
            VideoError: The disk is full; what was written before is kept.
        """
        height, width = detections.image_size
        record = {
            "frame_index": detections.frame_index,
            "time": round(detections.time, 6),
            "width": width,
            "height": height,
            "boxes": [[round(side, 3) for side in box] for box in detections.boxes.tolist()],
            "scores": [round(score, 6) for score in detections.scores.tolist()],
            "category_ids": [label + 1 for label in detections.labels.tolist()],
            "category_names": [self._class_names[label] for label in detections.labels],
        }
        if detections.track_ids is not None:
            record["track_ids"] = detections.track_ids.tolist()
        self._append(_dump(record))
        self.frame_count += 1

    def close(self, *, complete: bool) -> None:
        """Finishes the file; further calls do nothing.

        Args:
            complete: Every frame that was wanted is in it.

        Raises:
            VideoError: The disk is full; what was written before is kept.
        """
        if self._is_closed:
            return
        self._is_closed = True
        footer = {"complete": complete, "frames": self.frame_count, "problems": list(self._video.problems)}
        if self._keeps_lines:
            self._append(_dump(footer))
        try:
            self._lines.close()
            if self.path != self._lines_path:
                self._convert(footer)
        except OSError as error:
            raise self._failure(f"{self.path} cannot be written: {error.strerror}") from error

    def _append(self, line: str) -> None:
        try:
            self._lines.write(line + "\n")
            self._lines.flush()
        except OSError as error:
            self._is_closed = True
            with suppress(OSError):  # closing tries to write the same line again
                self._lines.close()
            raise self._failure(f"{self._lines_path} cannot be written: {error.strerror}") from error

    def _convert(self, footer: Mapping[str, Any]) -> None:
        """Turns the lines into one document, reading them twice instead of holding them."""
        try:
            with replacing(self.path, error=VideoError) as partial:
                if self.path.suffix == ".parquet":
                    header = _header(self._lines_path)
                    info = {**footer, **{key: header[key] for key in ("settings", "video", "categories")}}
                    source = header["settings"].get("source", header["video"]["name"])
                    write_parquet(partial, ({"source": source, **row} for row in _rows(self._lines_path)), info)
                else:
                    with partial.open("w", encoding="utf-8", newline="") as document:
                        if self.path.suffix == ".csv":
                            _write_table(document, self._lines_path)
                        else:
                            _write_document(document, self._lines_path, footer)
        except VideoError as error:
            raise self._failure(str(error)) from error
        if not self._keeps_lines:
            self._lines_path.unlink()

    def _failure(self, message: str) -> VideoError:
        before = counted(self.frame_count, "frame before is", "frames before are")
        return VideoError(f"{message}; the {before} in '{self._lines_path}'")


def read_finished(path: str | Path) -> dict[str, Any] | None:
    """Returns what a finished result says of itself, without reading its detections.

    Args:
        path: A file that `ResultsWriter` may have written.

    Returns:
        "complete" (always True), "frames", "problems" and "settings"; None when there is no such file, or
        it is unfinished or something else.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return read_finished(path.with_suffix(".jsonl")) if path.exists() else None
    try:
        if path.suffix == ".parquet":
            return _known(read_parquet_info(path)) if path.exists() else None
        with path.open("rb") as file:
            first = file.readline(_LONGEST_LINE)
            if first.startswith(_DOCUMENT_START):
                found = json.loads(first.strip().removesuffix(b",") + b"}")["info"]
            else:
                file.seek(max(0, file.seek(0, SEEK_END) - _LONGEST_LINE))
                found = {**json.loads(file.readlines()[-1]), "settings": json.loads(first)["settings"]}
        return _known(found)
    except (OSError, ValueError, LookupError, TypeError):
        return None


def _known(found: Mapping[str, Any]) -> dict[str, Any] | None:
    known = {key: found[key] for key in ("complete", "frames", "problems", "settings")}
    return known if known["complete"] is True else None


def _video_record(video: VideoInfo) -> dict[str, Any]:
    height, width = video.size or (None, None)
    return {"name": video.name, "width": width, "height": height, "fps": video.fps}


def _categories(class_names: Sequence[str]) -> list[dict[str, Any]]:
    return [{"id": number, "name": name} for number, name in enumerate(class_names, start=1)]


def _header(lines: Path) -> dict[str, Any]:
    with lines.open(encoding="utf-8") as file:
        header: dict[str, Any] = json.loads(file.readline())
    return header


def _write_document(document: IO[str], lines: Path, footer: Mapping[str, Any]) -> None:
    header = _header(lines)
    name = header["video"]["name"]
    # "info" alone on the first line, so that it can be read without the rest.
    document.write(f'{{"info": {_dump({**footer, "settings": header["settings"]})},\n')
    document.write(f'"videos": {_dump([{"id": 1, **header["video"]}])},\n')
    document.write(f'"categories": {_dump(header["categories"])},\n')
    document.write('"images": [')
    _write_items(document, image_entries(_frames(lines), name))
    document.write('],\n"annotations": [')
    _write_items(document, annotation_entries(_frames(lines)))
    document.write("]}\n")


def _write_table(document: IO[str], lines: Path) -> None:
    table = csv.DictWriter(document, _COLUMNS)
    table.writeheader()
    table.writerows(_rows(lines))


def _rows(lines: Path) -> Iterator[dict[str, Any]]:
    """Yields the detections, by column; the track id is None where there are no tracks."""
    for frame in _frames(lines):
        ids = frame.get("track_ids", [None] * len(frame["boxes"]))
        columns = (frame["category_ids"], frame["category_names"], frame["scores"], frame["boxes"], ids)
        for category, name, score, box, track in zip(*columns, strict=True):
            values = (frame["frame_index"], frame["time"], category, name, score, *box, track)
            yield dict(zip(_COLUMNS, values, strict=True))


def _write_items(document: IO[str], items: Iterator[dict[str, Any]]) -> None:
    for number, item in enumerate(items):
        document.write((",\n" if number else "\n") + _dump(item))


def image_entries(frames: Iterable[Mapping[str, Any]], name: str) -> Iterator[dict[str, Any]]:
    """Yields the CocoVID images of the frames of JSON lines, which belong to a video of this name."""
    for image_id, frame in enumerate(frames, start=1):
        yield {
            "id": image_id,
            "video_id": 1,
            "frame_id": frame["frame_index"],
            "time": frame["time"],
            "file_name": f"{name}/{frame['frame_index']:06d}",
            "width": frame["width"],
            "height": frame["height"],
        }


def annotation_entries(frames: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yields the CocoVID annotations, with scores, of the frames of JSON lines."""
    number = 0
    for image_id, frame in enumerate(frames, start=1):
        ids = frame.get("track_ids", [None] * len(frame["boxes"]))
        for (x1, y1, x2, y2), score, category, track in zip(
            frame["boxes"], frame["scores"], frame["category_ids"], ids, strict=True
        ):
            number += 1
            width, height = round(x2 - x1, 3), round(y2 - y1, 3)
            yield {
                "id": number,
                "image_id": image_id,
                "video_id": 1,
                "frame_id": frame["frame_index"],
                "time": frame["time"],
                "category_id": category,
                "bbox": [x1, y1, width, height],
                "score": score,
                "area": round(width * height, 3),
                "iscrowd": 0,
                **({} if track is None else {"track_id": track}),
            }


def _frames(lines: Path) -> Iterator[dict[str, Any]]:
    with lines.open(encoding="utf-8") as file:
        file.readline()
        yield from (record for record in map(json.loads, file) if "boxes" in record)


def _dump(value: object) -> str:
    try:
        return json.dumps(value, allow_nan=False, default=str)
    except ValueError as error:
        raise ConfigError(f"results and their settings must be finite numbers: {error}") from error
