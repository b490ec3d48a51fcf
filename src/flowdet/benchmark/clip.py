"""The video that is measured on: a clip of the synthetic benchmark at any size, and as long as need be."""

from collections.abc import Generator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.benchmark import Benchmark
from flowdet.types import Frame
from flowdet.video.reader import open_video
from flowdet.video.writer import VideoWriter

__all__ = ["FRAME_RATE", "frames_forever", "moving_images", "there_and_back", "write_clip"]

FRAME_RATE = 25.0
_CLIP = 7


def moving_images(size: tuple[int, int], count: int) -> list[NDArray[np.uint8]]:
    """So many images [h, w, 3] RGB of this (height, width), in which objects and camera move."""
    clip = Benchmark("val", VID_CLASSES).clip(_CLIP)
    images = (Image.fromarray(clip.frame(number).image) for number in range(count))
    return [np.array(image.resize((size[1], size[0]), Image.Resampling.BILINEAR)) for image in images]


def there_and_back(images: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.uint8]]:
    """The images forth and back, so that they can be repeated without a jump."""
    return [*images, *images[-2:0:-1]]


def write_clip(path: Path, images: Sequence[NDArray[np.uint8]]) -> None:
    """Writes images of one size as a video.

    Raises:
        VideoError: The file cannot be written.
    """
    height, width = images[0].shape[:2]
    with VideoWriter(path, (height, width), FRAME_RATE) as writer:
        for number, image in enumerate(images):
            writer.write(image, number / FRAME_RATE)


def frames_forever(path: Path) -> Generator[Frame, None, None]:
    """The frames of a video, over and over."""
    while True:
        with open_video(path) as video:
            yield from video
