"""Training clips from annotated videos, stills, or both."""

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flowdet.data.augmentation import PUBLISHED_AUGMENTATION, Augmentation, draw_transform
from flowdet.data.cocovid import CocoVID
from flowdet.data.image_files import missing_pictures
from flowdet.data.sampling import ReferenceSampling
from flowdet.errors import DataError
from flowdet.inputs import InputConfig
from flowdet.training.samples import Samples, select_samples
from flowdet.types import Targets

__all__ = ["Clip", "ClipDataset"]

_SHOWN = 5


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """One training sample.

    Attributes:
        name: The file of its current frame.
        frames: The current frame and its references, each [h, w, 3] uint8 RGB, as large as the network shall see them.
        targets: The objects of the current frame.
        still: Whether it is a single picture, its references copies of it.
    """

    name: str
    frames: tuple[Tensor, ...]
    targets: Targets
    still: bool


@dataclass(frozen=True, eq=False)
class ClipDataset:
    """Clips of one or more annotated data sets; an epoch draws each of them once.

    Attributes:
        parts: What is drawn of each data set.
        inputs: The input of the system; the frames are resized for it.
        sampling: How references are drawn; None if there are none.
        augmentation: Random transforms of a clip.
    """

    parts: tuple[Samples, ...]
    inputs: InputConfig
    sampling: ReferenceSampling | None
    augmentation: Augmentation

    @classmethod
    def of(
        cls,
        sources: Sequence[tuple[CocoVID, Path]],
        class_names: tuple[str, ...],
        inputs: InputConfig,
        sampling: ReferenceSampling | None,
        augmentation: Augmentation = PUBLISHED_AUGMENTATION,
        *,
        all_frames: bool = False,
    ) -> "ClipDataset":
        """Selects what is drawn from annotations and the folders that hold their images.

        Args:
            sources: Annotations, each with the folder of its images.
            class_names: The classes to learn, matched by name; the position is the label.
            inputs: The input of the system.
            sampling: How references are drawn, see `MethodConfig.references`.
            augmentation: Random transforms of a clip.
            all_frames: Draw every image, whatever the files say of training frames.

        Raises:
            DataError: A source has nothing to draw, images that are drawn or can be references are missing, the first
                one cannot be read, or a video changes its size.
        """
        if not all_frames:
            _check_marks([data for data, _ in sources])
        parts = tuple(
            select_samples(data, folder, class_names, sampling, all_frames=all_frames) for data, folder in sources
        )
        empty = [data for (data, _), part in zip(sources, parts, strict=True) if not len(part)]
        if empty:
            files = ", ".join(f"{data.path} (its classes: {_some(data.class_names)})" for data in empty)
            raise DataError(f"nothing to train on: no training frame of {files} shows one of {', '.join(class_names)}")
        for part in parts:
            _check_pictures(part, sampling)
        return cls(parts, inputs, sampling, augmentation)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def draw(self, index: int, rng: np.random.Generator) -> Clip:
        """Makes a clip; references and augmentation are drawn at random.

        Args:
            index: Which sample, from 0 to below the length.
            rng: Source of chance.

        Raises:
            DataError: An image is missing, damaged, or of another size than stated.
        """
        ends = list(accumulate(len(part) for part in self.parts))
        number = bisect_right(ends, index)
        part = self.parts[number]
        current = int(part.drawn[index - ends[number] + len(part)])
        references = part.references(current, self.sampling, rng) if self.sampling else ()
        boxes, labels = part.targets(current)
        size = part.size(current)
        transform = draw_transform(size, boxes, self.inputs.fit(size), self.augmentation, rng)
        frames = {image: transform.apply_to_image(part.picture(image)) for image in {current, *references}}
        moved, kept = transform.apply_to_boxes(boxes)
        return Clip(
            name=str(part.path(current)),
            frames=tuple(frames[image] for image in (current, *references)),
            targets=Targets(torch.from_numpy(moved), torch.from_numpy(labels[kept])),
            still=part.is_still(current),
        )

    def report(self, class_names: Sequence[str]) -> list[str]:
        """What is drawn and what is left out, a line for each data set, and the classes that nothing shows."""
        targets = np.sum([part.count.targets for part in self.parts], axis=0)
        unseen = [name for name, number in zip(class_names, targets, strict=True) if number == 0]
        lines = [_sentence(part) for part in self.parts]
        return [*lines, f"no object to learn from: {', '.join(unseen)}"] if unseen else lines


def _check_marks(sources: Sequence[CocoVID]) -> None:
    for data in sources:
        if not any(image.is_training_frame for image in data.images):
            raise DataError(
                f"{data.path} marks none of its {len(data.images)} images as a training frame (is_vid_train_frame), as "
                "files for evaluation do; to train on it, ask for all frames"
            )


def _check_pictures(part: Samples, sampling: ReferenceSampling | None) -> None:
    """Looks for every picture before the days of training, not in the middle of them."""
    used = part.used(sampling)
    names = [os.fsdecode(name) for name in part.images.names[used].tolist()]
    missing = missing_pictures(part.folder, names)
    if missing:
        some = _some([f"{names[position]} (image {part.images.ids[used[position]]})" for position in missing])
        raise DataError(
            f"{part.origin}: {len(missing)} of the {len(used)} images to train on are not below {part.folder}: {some}; "
            "is this the right folder of images?"
        )
    part.picture(int(part.drawn[0]))


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _sentence(part: Samples) -> str:
    count = part.count
    drawn = f"training frames of videos: {count.frames}, stills: {count.stills}, objects: {sum(count.targets)}"
    others = sum(count.of_other_classes.values())
    names = list(count.of_other_classes)
    if len(names) > 1:
        names = [f"{name} {number}" for name, number in count.of_other_classes.items()]
    left_out = (
        ("images without an object of the wanted classes", count.without_targets),
        ("images with a side below 32 px", count.too_small),
        ("objects of other classes", f"{others} ({_some(names)})" if others else 0),
        ("crowd regions", count.crowds),
        ("objects with less than 1 px of width or height in the image", count.slivers),
    )
    told = [f"left out {what}: {number}" for what, number in left_out if number]
    if count.lonely:
        told.append(f"frames that are their own reference since no other one is in reach: {count.lonely}")
    return f"{part.origin}: {'; '.join([drawn, *told])}"
