"""Parts of a data set with their detections, to be evaluated on their own."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID, Objects
from flowdet.metrics.coco import judge_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import of_found

__all__ = ["restrict"]


def restrict(
    data: CocoVID,
    detections: DetectionTable,
    *,
    images: NDArray[np.bool_] | None = None,
    objects: NDArray[np.bool_] | None = None,
) -> tuple[CocoVID, DetectionTable]:
    """The part of a data set that some images or some objects make up, with the detections that belong to it.

    Args:
        data: The whole data set.
        detections: What was found in it.
        images: [i] which images count. The others leave with their objects and detections.
        objects: [n] which objects count. The others leave with the detections that found them (IoU of
            0.5, same class, by score, all objects taking part), which then are neither right nor wrong.

    Returns:
        A data set and its detections for `evaluate`, `precision_recall`, `bootstrap` and `worst_frames`, in their
        order. A motion IoU needs the frames around: compute it on the whole data set and pass on the values of the
        objects that stay.
    """
    keep_images = np.ones(len(data.images), dtype=np.bool_) if images is None else images
    keep_rows = keep_images[detections.images]
    keep_objects = keep_images[data.objects.images]
    if objects is not None:
        for judged in judge_coco(data, detections):
            keep_rows[judged.rows[of_found(~objects, judged.found)]] = False
        keep_objects &= objects
    numbers = np.cumsum(keep_images) - 1
    kept = detections.select(keep_rows)
    return (
        _keep(data, keep_images, keep_objects, numbers),
        DetectionTable(numbers[kept.images], kept.labels, kept.boxes, kept.scores),
    )


def _keep(data: CocoVID, images: NDArray[np.bool_], objects: NDArray[np.bool_], numbers: NDArray[np.int64]) -> CocoVID:
    """The data set with only these images [i] and objects [n]; images get new positions [i], empty videos leave."""
    left = [
        (position, frames)
        for position, video in enumerate(data.videos)
        if (frames := tuple(int(numbers[frame]) for frame in video.frames if images[frame]))
    ]
    places = {position: place for place, (position, _) in enumerate(left)}
    columns = {field.name: getattr(data.objects, field.name)[objects] for field in fields(data.objects)}
    columns["images"] = numbers[columns["images"]]
    return replace(
        data,
        videos=tuple(replace(data.videos[position], frames=frames) for position, frames in left),
        images=tuple(
            replace(image, video=None if image.video is None else places[image.video])
            for image, keep in zip(data.images, images.tolist(), strict=True)
            if keep
        ),
        objects=Objects(**columns),
    )
