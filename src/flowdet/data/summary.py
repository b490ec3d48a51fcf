"""Statistics of a data set."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.data.motion import FAST_BELOW, SLOW_ABOVE, motion_iou

__all__ = ["Speeds", "Spread", "Summary", "summarize"]


@dataclass(frozen=True, slots=True)
class Spread:
    """Smallest and largest of some values, and three percentiles in between."""

    smallest: float
    percentile_10: float
    median: float
    percentile_90: float
    largest: float


@dataclass(frozen=True, slots=True)
class Speeds:
    """Motion IoU of the objects that have a track number.

    Attributes:
        objects: Number of these objects.
        slow: Share of them above 0.9.
        medium: Share from 0.7 to 0.9.
        fast: Share below 0.7.
        median: Median motion IoU.
    """

    objects: int
    slow: float
    medium: float
    fast: float
    median: float


@dataclass(frozen=True, slots=True)
class Summary:
    """Counts and distributions of a data set.

    Attributes:
        videos: Number of videos.
        frames: Number of images that belong to a video.
        stills: Number of images that belong to none.
        training_images: Number of images that training uses as current frames.
        empty_images: Number of images without an object.
        objects: Number of objects, crowds included.
        crowds: Number of crowds among the objects.
        tracks: Number of instances, counted in each video by itself.
        objects_per_class: Number of objects by class name.
        images_per_class: Number of images with an object of the class, by class name.
        images_by_objects: Number of images with 0, 1, 2, ... objects.
        video_length: Frames per video; None without videos.
        box_size: Square root of the share of the image that a box covers, from 0 to 1; None without objects.
        speeds: Motion IoU; None without track numbers.
    """

    videos: int
    frames: int
    stills: int
    training_images: int
    empty_images: int
    objects: int
    crowds: int
    tracks: int
    objects_per_class: Mapping[str, int]
    images_per_class: Mapping[str, int]
    images_by_objects: tuple[int, ...]
    video_length: Spread | None
    box_size: Spread | None
    speeds: Speeds | None


def summarize(data: CocoVID) -> Summary:
    """Returns the statistics of a data set."""
    objects, images = data.objects, data.images
    counts = np.bincount(objects.images, minlength=len(images))
    frames = sum(image.video is not None for image in images)
    videos = np.array([-1 if image.video is None else image.video for image in images], dtype=np.int64)
    tracked = (objects.tracks >= 0) & (videos[objects.images] >= 0)
    tracks = np.unique(np.stack([videos[objects.images], objects.tracks])[:, tracked], axis=1)
    seen = np.unique(np.stack([objects.images, objects.labels]), axis=1)[1]
    return Summary(
        videos=len(data.videos),
        frames=frames,
        stills=len(images) - frames,
        training_images=sum(image.is_training_frame for image in images),
        empty_images=int((counts == 0).sum()),
        objects=len(objects),
        crowds=int(objects.crowds.sum()),
        tracks=tracks.shape[1],
        objects_per_class=_by_class(data, objects.labels),
        images_per_class=_by_class(data, seen),
        images_by_objects=tuple(np.bincount(counts).tolist()),
        video_length=_spread(np.array([len(video.frames) for video in data.videos], dtype=np.float64)),
        box_size=_spread(_box_sizes(data)),
        speeds=_speeds(motion_iou(data)),
    )


def _by_class(data: CocoVID, labels: NDArray[np.int64]) -> dict[str, int]:
    counts = np.bincount(labels, minlength=len(data.class_names))
    return dict(zip(data.class_names, counts.tolist(), strict=True))


def _box_sizes(data: CocoVID) -> NDArray[np.float64]:
    areas = np.array([float(image.height) * image.width for image in data.images])
    sides = data.objects.boxes[:, 2:] - data.objects.boxes[:, :2]
    sizes: NDArray[np.float64] = np.sqrt(sides[:, 0] * sides[:, 1] / areas[data.objects.images])
    return sizes


def _spread(values: NDArray[np.float64]) -> Spread | None:
    if not len(values):
        return None
    return Spread(*np.percentile(values, [0, 10, 50, 90, 100]).tolist())


def _speeds(values: NDArray[np.float64]) -> Speeds | None:
    known = values[~np.isnan(values)]
    if not len(known):
        return None
    slow, fast = float((known > SLOW_ABOVE).mean()), float((known < FAST_BELOW).mean())
    return Speeds(len(known), slow, 1 - slow - fast, fast, float(np.median(known)))
