"""Clips for distillation: windows that move over photographs, cut-outs that cross them, videos; and their faults."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from measure_nano import degrade
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import IterableDataset

from flowdet.class_names import COCO_CLASSES

__all__ = [
    "FINER",
    "REFERENCES",
    "Clip",
    "Clips",
    "Picture",
    "Still",
    "clipped",
    "read_labelled",
    "read_photograph",
    "read_video",
]

Picture = NDArray[np.uint8]

FINER = 1.5
"""The size of the teachers' picture against that of the network input."""

REFERENCES = 2

_SIZES = ((256, 416), (256, 416), (256, 416), (320, 320), (416, 256))  # of the network input
_REACH = 5
_TO_COCO = {"cattle": "cow", "domestic_cat": "cat", "watercraft": "boat"}


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """A clip to distil from.

    Attributes:
        clean: [1.5 h, 1.5 w, 3] uint8 RGB, the current frame as the teachers see it.
        frames: [1 + references, h, w, 3] uint8 RGB, spoilt, the current one first.
        boxes: [m, 4] xyxy px of `frames`, labelled objects.
        labels: [m] of COCO's classes.
    """

    clean: Picture
    frames: Picture
    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Still:
    """A photograph.

    Attributes:
        picture: [h, w, 3] uint8 RGB.
        boxes: [m, 4] xyxy px, labelled objects.
        labels: [m] of COCO's classes.
        outlines: Of the objects that can be cut out: the label, and a polygon [k, 2] px.
    """

    picture: Picture
    boxes: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 4)))
    labels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    outlines: tuple[tuple[int, NDArray[np.float32]], ...] = ()


class Clips(IterableDataset[list[Clip]]):
    """Batches of random clips; a step's clips follow from the seed and its number alone."""

    def __init__(self, stills: Sequence[Still], videos: Sequence[Sequence[Picture]], batch: int, first: int) -> None:
        super().__init__()
        self.stills, self.videos, self.batch, self.first = stills, videos, batch, first
        self.cutouts = [(still, *outline) for still in stills for outline in still.outlines]

    def __iter__(self) -> Generator[list[Clip], None, None]:
        """Yields batches without end."""
        step = self.first
        while True:
            rng = np.random.default_rng((7, step))
            size = _SIZES[rng.integers(len(_SIZES))]
            yield [self._draw(rng, size) for _ in range(self.batch)]
            step += 1

    def _draw(self, rng: np.random.Generator, size: tuple[int, int]) -> Clip:
        height, width = (int(side * FINER) for side in size)
        times = [0, *rng.choice([*range(-_REACH, 0), *range(1, _REACH + 1)], REFERENCES, replace=False)]
        boxes, labels = np.zeros((0, 4)), np.zeros(0, np.int64)
        if rng.random() < 0.4:
            video = self.videos[rng.integers(len(self.videos))]
            now = int(rng.integers(len(video)))
            pictures = [video[min(max(now + time, 0), len(video) - 1)] for time in times]
            move = _Move(rng, pictures[0].shape[:2], (height, width), is_still=True)
        else:
            still = self.stills[rng.integers(len(self.stills))]
            pictures = [still.picture] * len(times)
            move = _Move(rng, still.picture.shape[:2], (height, width), is_still=False)
            boxes, labels = _moved(still.boxes, move.at(0), (height, width), still.labels)
        frames = [
            cv2.warpAffine(
                picture, move.at(time), (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT
            )
            for picture, time in zip(pictures, times, strict=True)
        ]
        for _ in range(int(rng.integers(0, 3)) if rng.random() < 0.5 else 0):
            box, label = self._paste(rng, frames, times)
            boxes, labels = np.concatenate((boxes, box)), np.concatenate((labels, label))
        gain, gamma = rng.uniform(0.7, 1.25), rng.uniform(0.7, 1.4)
        table = (255 * (np.arange(256) / 255) ** gamma * gain).clip(0, 255).astype(np.uint8)
        frames = [table[frame] for frame in frames]
        seen = []
        for number, frame in enumerate(frames):
            is_spoilt = rng.random() < (0.55 if number == 0 else 0.3)
            spoilt = _spoil(frame, rng) if is_spoilt else frame
            seen.append(cv2.resize(spoilt, size[::-1], interpolation=cv2.INTER_LINEAR))
        return Clip(frames[0], np.stack(seen), torch.from_numpy(boxes / FINER).float(), torch.from_numpy(labels))

    def _paste(
        self, rng: np.random.Generator, frames: list[Picture], times: Sequence[int]
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Draws a cut-out into all frames; returns its box [1, 4] and label [1], or none if little of it is seen."""
        still, label, outline = self.cutouts[rng.integers(len(self.cutouts))]
        low = np.maximum(np.floor(outline.min(axis=0)).astype(int) - 2, 0)
        high = np.minimum(np.ceil(outline.max(axis=0)).astype(int) + 3, still.picture.shape[1::-1])
        cut = still.picture[low[1] : high[1], low[0] : high[0]]
        mask = np.zeros(cut.shape[:2], np.uint8)
        cv2.fillPoly(mask, [np.round(outline - low).astype(np.int32)], 255)
        mask = cv2.GaussianBlur(mask, (3, 3), 0)
        height, width = frames[0].shape[:2]
        zoom = rng.uniform(0.12, 0.8) * max(height, width) / max(cut.shape[:2])
        mirror = rng.choice([-1.0, 1.0])
        velocity = rng.uniform(0, 14) * _direction(rng)
        place = rng.uniform((0.2 * width, 0.25 * height), (0.8 * width, 0.75 * height))
        found = np.zeros((0, 4))
        for number, time in enumerate(times):
            centre = place + velocity * time
            matrix = np.array([[mirror * zoom, 0, 0], [0, zoom, 0]])
            matrix[:, 2] = centre - matrix[:, :2] @ (np.array(cut.shape[1::-1]) / 2)
            alpha = cv2.warpAffine(mask, matrix, (width, height))[..., None].astype(np.float32) / 255
            colours = cv2.warpAffine(cut, matrix, (width, height), borderMode=cv2.BORDER_REPLICATE)
            frames[number] = (frames[number] + (colours.astype(np.float32) - frames[number]) * alpha).astype(np.uint8)
            if number == 0:
                corners = (outline - low) @ matrix[:, :2].T + matrix[:, 2]
                whole = np.array([[*corners.min(axis=0), *corners.max(axis=0)]])
                found, kept = clipped(whole, (height, width))
        return found[kept], np.array([label])[kept]


class _Move:
    """A window that moves over a picture: a matrix [2, 3] from the picture to the frame for every time."""

    def __init__(
        self, rng: np.random.Generator, picture: tuple[int, int], frame: tuple[int, int], *, is_still: bool
    ) -> None:
        covering = max(frame[0] / picture[0], frame[1] / picture[1])
        self.zoom = covering * float(np.exp(rng.uniform(np.log(0.75), np.log(1.8))))
        self.mirror = rng.choice([-1.0, 1.0])
        free = np.maximum(np.array(picture[::-1]) - np.array(frame[::-1]) / self.zoom, 0) / 2
        self.centre = np.array(picture[::-1]) / 2 + rng.uniform(-1, 1, 2) * free
        self.middle = np.array(frame[::-1]) / 2
        speed = 0.0 if is_still else rng.uniform(0, 12) if rng.random() < 0.5 else rng.uniform(0, 2)
        self.velocity = speed * _direction(rng)
        self.growth = 0.0 if is_still else rng.uniform(-0.01, 0.01)

    def at(self, time: int) -> NDArray[np.float64]:
        zoom = self.zoom * float(np.exp(self.growth * time))
        matrix = np.array([[self.mirror * zoom, 0.0, 0.0], [0.0, zoom, 0.0]])
        matrix[:, 2] = self.middle + self.velocity * time - matrix[:, :2] @ self.centre
        return matrix


def _direction(rng: np.random.Generator) -> NDArray[np.float64]:
    angle = rng.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)])


def _moved(
    boxes: NDArray[np.float64], matrix: NDArray[np.float64], size: tuple[int, int], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns the boxes that a frame of this (height, width) shows, and their labels."""
    corners = boxes.reshape(-1, 2, 2) @ matrix[:, :2].T + matrix[:, 2]
    moved, kept = clipped(np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1), size)
    return moved[kept], labels[kept]


def clipped(boxes: NDArray[np.float64], size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Returns boxes cut off at the frame, and whether at least a third of each is inside and 8 px wide and high."""
    inside = boxes.clip(0, [size[1], size[0], size[1], size[0]])
    sides, whole = inside[:, 2:] - inside[:, :2], boxes[:, 2:] - boxes[:, :2]
    return inside, (sides.prod(axis=1) > whole.prod(axis=1) / 3) & (sides.min(axis=1) > 8 * FINER)


def _spoil(picture: Picture, rng: np.random.Generator) -> Picture:
    """Returns the picture with one or more faults."""
    kinds = rng.choice(5, rng.integers(1, 3), replace=False, p=(0.45, 0.15, 0.15, 0.15, 0.1))
    for kind in sorted(kinds):
        if kind == 0:
            picture = degrade(picture, int(rng.integers(2**31)), range(5, 27, 2))
        elif kind == 1:
            picture = cv2.GaussianBlur(picture, (0, 0), rng.uniform(1, 4))
        elif kind == 2:
            gain = float(np.exp(rng.uniform(-1, 1)))
            picture = (picture * np.float32(gain)).clip(0, 255).astype(np.uint8)
        elif kind == 3:
            coded = cv2.imencode(".jpg", picture, (cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(5, 30))))[1]
            picture = cv2.imdecode(coded, cv2.IMREAD_COLOR)
        else:
            height, width = picture.shape[:2]
            picture = picture.copy()
            top, left = rng.integers(0, height), rng.integers(0, width)
            tall, wide = rng.integers(height // 10, height // 3), rng.integers(width // 10, width // 3)
            picture[top : top + tall, left : left + wide] = rng.integers(0, 256, 3)
    return picture


def read_photograph(path: Path) -> Picture:
    """Returns a picture [h, w, 3] uint8 RGB."""
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def read_video(path: Path) -> list[Picture]:
    """Returns the frames of a video or of a folder, at most 720 px wide."""
    if path.is_dir():
        frames = [read_photograph(each) for each in sorted(path.glob("*.jp*g"))]
    else:
        reader, frames = cv2.VideoCapture(str(path)), []
        while (read := reader.read())[0]:
            frames.append(cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB))
    scale = min(720 / frames[0].shape[1], 1)
    return [cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA) for frame in frames]


def read_labelled(coco: Path) -> tuple[list[Still], dict[str, Any]]:
    """Returns the photographs to learn from, and the JSON of the others."""
    known = json.loads((coco / "instances_vid30.json").read_bytes())
    names = {each["id"]: _TO_COCO.get(each["name"], each["name"]) for each in known["categories"]}
    stills, others = [], []
    for image in known["images"]:
        if "val2017" in image["coco_url"]:
            others.append(image)
            continue
        mine = [each for each in known["annotations"] if each["image_id"] == image["id"] and not each["iscrowd"]]
        boxes = np.array([each["bbox"] for each in mine], float).reshape(-1, 4)
        labels = [COCO_CLASSES.index(names[each["category_id"]]) for each in mine]
        outlines = tuple(
            (label, np.array(each["segmentation"][0], np.float32).reshape(-1, 2))
            for label, each in zip(labels, mine, strict=True)
            if len(each["segmentation"]) == 1 and each["area"] > 48**2
        )
        boxes[:, 2:] += boxes[:, :2]
        stills.append(
            Still(read_photograph(coco / "images" / image["file_name"]), boxes, np.array(labels, np.int64), outlines)
        )
    return stills, known | {"images": others}
