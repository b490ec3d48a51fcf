"""Makes an evaluation of the size of ImageNet VID val: annotations with track numbers, and made-up detections.

    python scripts/make_large_evaluation.py OUT

writes OUT/cocovid.json (57 MB) and OUT/results.json (2 GB); `--help` names the sizes. The boxes mean nothing: random
paths, found several times with some error, and false detections with low scores. The same seed gives the same files.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.evaluation.results_file import write_results
from flowdet.metrics.detections import DetectionTable, concatenate

CLASSES = 30
WIDTH, HEIGHT = 1280, 720


def main() -> None:
    """Writes both files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    for name, value in {"videos": 555, "frames": 176_126, "boxes": 273_505, "detections": 100, "seed": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(options.seed)
    annotations = options.out / "cocovid.json"
    annotations.write_text(json.dumps(make_annotations(random, options.videos, options.frames, options.boxes)))
    data = read_cocovid(annotations)
    write_results(make_detections(random, data, options.detections), data, options.out / "results.json")


def make_annotations(random: np.random.Generator, videos: int, frames: int, boxes: int) -> dict[str, object]:
    """A CocoVID document with these numbers of videos, frames and boxes."""
    cuts = np.sort(random.choice(np.arange(1, frames), videos - 1, replace=False))
    lengths = np.diff(np.concatenate([[0], cuts, [frames]]))
    starts = np.cumsum(lengths) - lengths
    entries: list[dict[str, object]] = []
    track = 0
    while len(entries) < boxes:
        # The first round gives every video an object in most of its frames; later ones add objects here and there.
        video = track if track < videos else int(random.integers(videos))
        length = int(lengths[video])
        first, last = (0, length) if track < videos else sorted(random.integers(0, length + 1, 2).tolist())
        label = int(random.integers(1, CLASSES + 1))
        for frame, box in zip(range(first, last), path(random, last - first), strict=True):
            if len(entries) < boxes and random.random() < 0.97:
                entries.append(
                    {
                        "id": len(entries) + 1,
                        "image_id": int(starts[video]) + frame + 1,
                        "category_id": label,
                        "instance_id": track,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": 0,
                    }
                )
        track += 1
    return {
        "categories": [{"id": number, "name": f"class {number}"} for number in range(1, CLASSES + 1)],
        "videos": [{"id": number + 1, "name": f"video {number:03d}"} for number in range(videos)],
        "images": list(images(lengths)),
        "annotations": entries,
    }


def images(lengths: NDArray[np.int64]) -> Iterator[dict[str, object]]:
    """The entries of the frames of videos of these lengths [v]."""
    number = 0
    for video, length in enumerate(lengths.tolist(), start=1):
        for frame in range(length):
            number += 1
            name = f"video {video - 1:03d}/{frame:06d}.JPEG"
            yield {"id": number, "video_id": video, "frame_id": frame, "file_name": name} | {
                "height": HEIGHT,
                "width": WIDTH,
            }


def path(random: np.random.Generator, length: int) -> list[list[int]]:
    """Boxes x, y, width, height of an object that wanders with a speed of its own."""
    speed = np.exp(random.uniform(np.log(0.5), np.log(30)))
    size = np.exp(random.uniform(np.log(40), np.log(500), 2))
    centre = random.uniform((100, 100), (WIDTH - 100, HEIGHT - 100)) + np.cumsum(
        random.normal(0, speed, (length, 2)), 0
    )
    # It turns back at the borders.
    picture = np.array([WIDTH, HEIGHT])
    centre = np.abs((centre + picture) % (2 * picture) - picture)
    corner = np.maximum(centre - size / 2, 0)
    boxes: list[list[int]] = np.concatenate([corner, np.tile(size, (length, 1))], axis=1).round().astype(int).tolist()
    return boxes


def make_detections(random: np.random.Generator, data: CocoVID, per_image: int) -> DetectionTable:
    """This many detections an image: objects about five times each, better boxes with higher scores, and false ones."""
    objects = data.objects
    found = np.repeat(np.arange(len(objects)), random.poisson(5, len(objects)))
    error = random.exponential(0.12, len(found))
    sizes = np.tile(objects.boxes[found, 2:] - objects.boxes[found, :2], 2)
    right = DetectionTable(
        images=objects.images[found],
        labels=np.where(
            random.random(len(found)) < 0.85, objects.labels[found], random.integers(0, CLASSES, len(found))
        ),
        boxes=ordered(objects.boxes[found] + random.normal(0, 1, (len(found), 4)) * error[:, None] * sizes),
        scores=(random.beta(4, 2, len(found)) * np.exp(-3 * error)),
    )
    missing = (per_image - np.bincount(right.images, minlength=len(data.images))).clip(min=0)
    wrong_images = np.repeat(np.arange(len(data.images)), missing)
    corners = random.uniform(0, (WIDTH, HEIGHT, WIDTH, HEIGHT), (len(wrong_images), 4))
    wrong = DetectionTable(
        images=wrong_images,
        # Some classes are taken for others more often.
        labels=(random.beta(0.8, 2.5, len(wrong_images)) * CLASSES).astype(np.int64),
        boxes=ordered(corners),
        scores=random.beta(0.25, 6, len(wrong_images)),
    )
    both = concatenate([right, wrong])
    both = both.select(np.argsort(both.images, kind="stable"))
    first = np.searchsorted(both.images, both.images)
    both = both.select(np.arange(len(both)) - first < per_image)
    return DetectionTable(both.images, both.labels, both.boxes.round(2), both.scores.round(6))


def ordered(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Boxes [n, 4] within the image, the smaller corner first."""
    boxes = boxes.clip(0, (WIDTH, HEIGHT, WIDTH, HEIGHT))
    return np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)


if __name__ == "__main__":
    main()
