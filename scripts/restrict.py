"""A part of a data set with its detections, to be evaluated alone."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID, Objects
from flowdet.metrics.coco import match_coco
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import matched_any

__all__ = ["restrict"]


def restrict(
    data: CocoVID,
    detections: DetectionTable,
    *,
    images: NDArray[np.bool_] | None = None,
    objects: NDArray[np.bool_] | None = None,
) -> tuple[CocoVID, DetectionTable]:
    """Returns the data set without some images or objects, and the detections that belong to what is left.

    Motion IoUs need the neighbouring frames: compute them on the whole data set and pass on those of the objects that
    stay.

    Args:
        data: The whole data set.
        detections: Its detections.
        images: [i] bool, the images to keep. The others are removed with their objects and detections.
        objects: [n] bool, the objects to keep. The others are removed with the detections that found them at IoU 0.5
            by the coco protocol, so that these are neither true nor false positives.
    """
    keep_images = np.ones(len(data.images), dtype=np.bool_) if images is None else images
    keep_rows = keep_images[detections.images]
    keep_objects = keep_images[data.objects.images]
    if objects is not None:
        for matches in match_coco(data, detections):
            keep_rows[matches.rows[matched_any(~objects, matches.matched)]] = False
        keep_objects &= objects
    numbers = np.cumsum(keep_images) - 1
    kept = detections.select(keep_rows)
    return (
        _keep(data, keep_images, keep_objects, numbers),
        DetectionTable(numbers[kept.images], kept.labels, kept.boxes, kept.scores),
    )


def _keep(data: CocoVID, images: NDArray[np.bool_], objects: NDArray[np.bool_], numbers: NDArray[np.int64]) -> CocoVID:
    """Returns the data set with only these images [i] and objects [n], without empty videos.

    Args:
        data: The whole data set.
        images: [i] bool.
        objects: [n] bool.
        numbers: [i] the new position of each image that stays.
    """
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
