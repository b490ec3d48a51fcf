"""Small annotated data sets with pictures, drawn on the spot."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flowdet.data.cocovid import CocoVID, read_cocovid

__all__ = ["Drawing", "grey_of"]

_SIZE = (48, 64)


@dataclass
class Drawing:
    """A data set that grows image by image; every image is of one grey, 3 times its id, and so can be told apart."""

    folder: Path
    classes: Sequence[str] = ("cat", "dog")
    videos: list[dict[str, Any]] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)

    def image(self, *, size: tuple[int, int] = _SIZE, write: bool = True, **entry: Any) -> int:
        """Adds an image, a still if nothing else is said; gives its id."""
        number = len(self.images) + 1
        whole = {"id": number, "file_name": f"{number}.png", "height": size[0], "width": size[1], **entry}
        self.images.append(whole)
        if write:
            path = self.folder / str(whole["file_name"])
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((*size, 3), 3 * number, np.uint8)).save(path)
        return number

    def box(self, image: int, box: Sequence[float], category: int = 1, **entry: Any) -> None:
        """Adds an object."""
        number = len(self.annotations) + 1
        self.annotations.append({"id": number, "image_id": image, "category_id": category, "bbox": list(box)} | entry)

    def still(self, **entry: Any) -> int:
        """Adds a still with one box."""
        image = self.image(**entry)
        self.box(image, (4, 6, 20, 10))
        return image

    def video(self, frames: Sequence[int], *, drawn: Mapping[int, bool] | None = None) -> list[int]:
        """Adds a video of frames with these numbers, a box in each; those drawn in training are all if not given."""
        number = len(self.videos) + 1
        self.videos.append({"id": number, "name": f"video {number}"})
        images = [self.image(video_id=number, frame_id=frame) for frame in frames]
        if drawn is not None:
            for image, frame in zip(images, frames, strict=True):
                self.images[image - 1]["is_vid_train_frame"] = drawn.get(frame, False)
        for image in images:
            self.box(image, (4, 6, 20, 10), instance_id=0)
        return images

    def read(self, name: str = "data.json") -> tuple[CocoVID, Path]:
        """The data set, written and read, and the folder of its images."""
        self.folder.mkdir(parents=True, exist_ok=True)
        categories = [{"id": number + 1, "name": name} for number, name in enumerate(self.classes)]
        document = {"categories": categories, "images": self.images, "annotations": self.annotations}
        path = self.folder / name
        path.write_text(json.dumps(document | ({"videos": self.videos} if self.videos else {})))
        return read_cocovid(path), self.folder


def grey_of(image: int) -> int:
    """The grey of the image with this id."""
    return 3 * image
