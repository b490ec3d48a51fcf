"""The video that is measured on: a clip of the synthetic benchmark at any size, over and over."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.benchmark import Benchmark
from flowdet.types import Frame
from flowdet.video.reader import open_video
from flowdet.video.writer import VideoWriter

__all__ = ["FRAME_RATE", "Clip", "moving_images", "write_clip"]

FRAME_RATE = 25.0
_CLIP = 7


def moving_images(size: tuple[int, int], count: int) -> list[NDArray[np.uint8]]:
    """Returns n images [h, w, 3] RGB of this (height, width), in which objects and camera move."""
    clip = Benchmark("val", VID_CLASSES).clip(_CLIP)
    images = (Image.fromarray(clip.frame(number).image) for number in range(count))
    return [np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for image in images]


class Clip:
    """The frames of a video file, decoded over and over."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Frame]:
        while True:
            with open_video(self.path) as video:
                yield from video

    @cached_property
    def frames(self) -> list[Frame]:
        """The frames, once, in memory."""
        with open_video(self.path) as video:
            return list(video)

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the frames."""
        height, width = self.frames[0].image.shape[:2]
        return height, width

    def preview(self, count: int) -> list[Frame]:
        """Returns frames that are spread evenly over the clip."""
        places = np.linspace(0, len(self.frames) - 1, count).round().astype(int)
        return [self.frames[place] for place in places]


def write_clip(path: Path, size: tuple[int, int], count: int) -> Clip:
    """Writes n moving images of this (height, width) there and back, so that they can be repeated without a jump."""
    images = moving_images(size, count)
    with VideoWriter(path, size, FRAME_RATE) as writer:
        for number, image in enumerate([*images, *images[-2:0:-1]]):
            writer.write(image, number / FRAME_RATE)
    return Clip(path)
