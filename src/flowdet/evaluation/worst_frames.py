"""The worst frames of a result: which they are, and pictures of their mistakes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from flowdet.data.cocovid import CocoVID
from flowdet.data.image_files import read_picture
from flowdet.errors import ConfigError
from flowdet.files import replacing
from flowdet.metrics.coco import match_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.video.draw import font_of, readable

__all__ = ["FrameMistakes", "draw_mistakes", "save_mistakes", "worst_frames"]

_Kind = Literal["annotated", "found", "missed", "false"]
_Color = tuple[int, int, int]

# Colours that colour-blind people can tell apart; missed objects are dashed as well.
_COLORS: dict[_Kind, _Color] = {
    "annotated": (255, 255, 255),
    "found": (0, 180, 140),
    "missed": (255, 200, 0),
    "false": (235, 60, 30),
}
_SMALLEST = 640  # px; smaller pictures are enlarged, so that their labels can be read
_DARK = (25, 25, 25)


@dataclass(frozen=True, eq=False, slots=True)
class FrameMistakes:
    """The mistakes in one frame.

    Attributes:
        image: Position in the data set's images.
        cost: The number of missed objects plus the sum of the scores of the false detections.
        missed: [m] int64, positions of the missed objects in the data set's objects.
        false: [f] int64, rows of the false detections, highest score first.
        found: [k] int64, rows of the true detections, highest score first.
    """

    image: int
    cost: float
    missed: NDArray[np.int64]
    false: NDArray[np.int64]
    found: NDArray[np.int64]


def worst_frames(
    data: CocoVID, detections: DetectionTable, count: int, *, score: float = 0.3, per_video: int = 2
) -> list[FrameMistakes]:
    """Returns the frames with the highest cost of missed objects and false detections, by the coco protocol at IoU 0.5.

    Args:
        data: The annotated data set.
        detections: The detections to evaluate.
        count: The largest number of frames; fewer are returned if fewer have a mistake.
        score: Detections below this score are left out.
        per_video: The largest number of frames of one video.
    """
    sure = np.flatnonzero(detections.scores >= score)
    matches = list(match_coco(data, detections.select(sure)))
    right, wrong, found = (
        np.concatenate([getattr(one, name) for one in matches])
        for name in ("true_positive", "false_positive", "matched")
    )
    rows = sure[np.concatenate([one.rows for one in matches])]
    counted = np.concatenate([one.objects for one in matches])
    missed = np.setdiff1d(counted, found)
    cost = np.bincount(data.objects.images[missed], minlength=len(data.images)).astype(np.float64) + np.bincount(
        detections.images[rows], weights=wrong * detections.scores[rows], minlength=len(data.images)
    )
    return [
        FrameMistakes(
            image=image,
            cost=float(cost[image]),
            missed=missed[data.objects.images[missed] == image],
            false=_of_image(detections, rows[wrong > 0], image),
            found=_of_image(detections, rows[right > 0], image),
        )
        for image in _choose(data, cost, count, per_video)
    ]


def _of_image(detections: DetectionTable, rows: NDArray[np.int64], image: int) -> NDArray[np.int64]:
    """Returns the rows of one image, highest score first."""
    rows = rows[detections.images[rows] == image]
    return rows[np.argsort(-detections.scores[rows], kind="stable")]


def _choose(data: CocoVID, cost: NDArray[np.float64], count: int, per_video: int) -> list[int]:
    """Returns the images of the highest cost, at most `per_video` of a video."""
    chosen: list[int] = []
    taken: Counter[int] = Counter()
    for image in np.argsort(-cost, kind="stable").tolist():
        if len(chosen) == count or cost[image] <= 0:
            break
        video = data.images[image].video
        if video is None or taken[video] < per_video:
            chosen.append(image)
            taken.update([] if video is None else [video])
    return chosen


@dataclass(frozen=True, slots=True)
class _Mark:
    kind: _Kind
    box: tuple[float, ...]
    name: str = ""
    score: str = ""


def draw_mistakes(
    image: NDArray[np.uint8], data: CocoVID, detections: DetectionTable, mistakes: FrameMistakes
) -> NDArray[np.uint8]:
    """Draws the annotated, found, missed and false boxes of one frame, with a legend below it.

    Args:
        image: [h, w, 3] uint8 RGB; it is not changed.
        data: The annotated data set.
        detections: The detections.
        mistakes: The mistakes in this frame.

    Returns:
        [H, W, 3] uint8 RGB; small pictures are enlarged.
    """
    zoom = max(1, round(_SMALLEST / max(image.shape[:2]) + 0.25))
    picture = Image.fromarray(image)
    picture = picture.resize((zoom * picture.width, zoom * picture.height), Image.Resampling.BICUBIC)
    size = max(13, round(min(picture.size) / 32))
    width = max(2, round(min(picture.size) / 240))
    pen = ImageDraw.Draw(picture)
    marks = list(_marks(data, detections, mistakes))
    for mark in marks:
        _outline(pen, tuple(zoom * side for side in mark.box), mark.kind, width)
    for mark in marks:
        _write(pen, size, mark, zoom, picture.size)
    caption = f"{data.images[mistakes.image].file_name}: {len(mistakes.missed)} missed, {len(mistakes.false)} false"
    return np.concatenate([np.asarray(picture), _legend(picture.width, size, caption)])


def save_mistakes(
    data: CocoVID, detections: DetectionTable, worst: Sequence[FrameMistakes], images: Path, folder: Path
) -> list[Path]:
    """Draws frames into JPEG files whose names begin with their rank, and removes those of an earlier evaluation.

    Args:
        data: The annotated data set.
        detections: The detections.
        worst: The frames, the worst first.
        images: The folder of the data set's images.
        folder: The folder for the pictures; created if it does not exist.

    Raises:
        DataError: An image is missing, cannot be read, or differs in size from the data set.
        ConfigError: A file cannot be written.
    """
    paths = []
    try:
        for old in folder.glob("[0-9][0-9]_*.jpg"):
            old.unlink()
        for rank, mistakes in enumerate(worst, start=1):
            record = data.images[mistakes.image]
            size, where = (record.height, record.width), f"{data.path}: image {record.id}"
            picture = read_picture(images / record.file_name, size, where)
            drawn = draw_mistakes(picture, data, detections, mistakes)
            folder.mkdir(parents=True, exist_ok=True)
            stem = re.sub(r"[^A-Za-z0-9.-]+", "_", str(Path(record.file_name).with_suffix("")))
            paths.append(folder / f"{rank:02d}_{stem[-80:]}.jpg")
            with replacing(paths[-1]) as partial:
                Image.fromarray(drawn).save(partial, format="JPEG", quality=90)
    except OSError as error:
        raise ConfigError(f"pictures cannot be written to {folder}: {error.strerror}") from error
    return paths


def _marks(data: CocoVID, detections: DetectionTable, mistakes: FrameMistakes) -> Iterator[_Mark]:
    """Yields the marks of a frame, in drawing order."""
    objects = data.objects
    annotated = np.flatnonzero((objects.images == mistakes.image) & ~objects.crowds)
    for row in np.setdiff1d(annotated, mistakes.missed):
        yield _Mark("annotated", tuple(objects.boxes[row]))
    sides: tuple[tuple[_Kind, NDArray[np.int64]], ...] = (("found", mistakes.found), ("false", mistakes.false))
    for kind, rows in sides:
        for row in rows[::-1]:
            name = data.class_names[detections.labels[row]]
            yield _Mark(kind, tuple(detections.boxes[row]), name, f" {detections.scores[row]:.2f}")
    for row in mistakes.missed:
        yield _Mark("missed", tuple(objects.boxes[row]), data.class_names[objects.labels[row]])


def _outline(pen: ImageDraw.ImageDraw, box: tuple[float, ...], kind: _Kind, width: int) -> None:
    x1, y1, x2, y2 = box
    corners = ((x1, y1), (x2, y1), (x2, y2), (x1, y2), (x1, y1))
    thickness = max(1, width // 2) if kind == "annotated" else width
    for color, extra in ((_DARK, 2), (_COLORS[kind], 0)):
        for start, end in pairwise(corners):
            for piece in _pieces(start, end, 6 * width if kind == "missed" else 0):
                pen.line(piece, fill=color, width=thickness + extra)


def _pieces(
    start: tuple[float, float], end: tuple[float, float], dash: int
) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """Yields the dashes of a line; the whole line if `dash` is 0."""
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    if not dash or length < 3 * dash:
        yield start, end
        return
    count = 2 * round(length / (2 * dash)) + 1
    points = np.linspace(start, end, count + 1)
    for first, second in zip(points[::2], points[1::2], strict=True):
        yield (float(first[0]), float(first[1])), (float(second[0]), float(second[1]))


def _write(pen: ImageDraw.ImageDraw, size: int, mark: _Mark, zoom: int, picture: tuple[int, int]) -> None:
    """Writes the text of a mark: above the box of a detection, at the lower edge of a missed object."""
    if not mark.name:
        return
    name, font = readable(mark.name, size)
    text = name + mark.score
    left, top, right, bottom = font.getbbox(text)
    width, height = right - left + 6, bottom - top + 6
    x = min(max(0, zoom * mark.box[0]), picture[0] - width)
    y = zoom * mark.box[3] if mark.kind == "missed" else zoom * mark.box[1] - height
    y = min(max(0, y), picture[1] - height)
    pen.rectangle((x, y, x + width - 1, y + height - 1), fill=_COLORS[mark.kind])
    pen.text((x + 3 - left, y + 3 - top), text, font=font, fill=_DARK)


def _legend(width: int, size: int, caption: str) -> NDArray[np.uint8]:
    """Returns a strip [h, width, 3] uint8 RGB with the meaning of the colours and a caption."""
    font = font_of(size)
    line = round(font.getbbox("Ag")[3]) + 8
    strip = Image.new("RGB", (width, 2 * line + 4), _DARK)
    pen = ImageDraw.Draw(strip)
    x = 6.0
    for kind, color in _COLORS.items():
        pen.rectangle((x, 8, x + line - 12, line - 6), fill=color)
        pen.text((x + line - 6, 4), kind, font=font, fill=(255, 255, 255))
        x += line + font.getlength(kind) + 12
    caption, font = readable(caption, size)
    pen.text((6, line + 2), caption, font=font, fill=(255, 255, 255))
    return np.asarray(strip)
