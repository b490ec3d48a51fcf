"""Training clips from annotated videos, stills, or both."""

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain, pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowdet.data.augmentation import PUBLISHED_AUGMENTATION, Augmentation, draw_transform
from flowdet.data.cocovid import CocoVID
from flowdet.data.image_files import missing_pictures, read_picture
from flowdet.data.sampling import ReferenceSampling, sample_references
from flowdet.errors import DataError, some
from flowdet.inputs import InputConfig
from flowdet.types import Targets

__all__ = ["Clip", "ClipDataset", "Samples", "SamplesCount", "select_samples"]

_SMALLEST_IMAGE = 32
_SMALLEST_BOX = 1.0
_KEPT, _OTHER_CLASS, _CROWD, _SLIVER = range(4)


@dataclass(frozen=True, slots=True)
class SamplesCount:
    """What training takes from a data set and what it leaves out; images not marked for training are not counted.

    Attributes:
        frames: Video frames that are drawn.
        stills: Stills that are drawn.
        without_targets: Images left out because they have no target.
        too_small: Images left out because a side is below 32 px.
        lonely: Drawn frames without another frame in reach, which are their own reference.
        targets: The number of boxes of each wanted class.
        of_other_classes: The number of objects of each unwanted class by name, the most frequent class first.
        crowds: Crowd regions left out.
        slivers: Objects left out because less than 1 px of their width or height lies in the image.
    """

    frames: int
    stills: int
    without_targets: int
    too_small: int
    lonely: int
    targets: tuple[int, ...]
    of_other_classes: Mapping[str, int]
    crowds: int
    slivers: int


@dataclass(frozen=True, eq=False, slots=True)
class _Images:
    """Every image of a data set as a few large arrays: lists of a million records would be copied into every worker.

    ids [n] as in the file; names [n] bytes; sizes [n, 2] (height, width) px; videos [n] and numbers [n] of the frames,
    -1 for stills; members [f] positions of the frames, video by video, rising in number; starts [v + 1] where each
    video begins in them.
    """

    ids: NDArray[np.int64]
    names: NDArray[np.bytes_]
    sizes: NDArray[np.int64]
    videos: NDArray[np.int64]
    numbers: NDArray[np.int64]
    members: NDArray[np.int64]
    starts: NDArray[np.int64]

    def are_lonely(self, reach: int) -> NDArray[np.bool_]:
        """Returns for each image whether it is a frame without another frame in reach."""
        near = np.diff(self.numbers[self.members]) <= reach
        near &= np.diff(self.videos[self.members]) == 0
        lonely = np.zeros(len(self.ids), np.bool_)
        lonely[self.members] = ~(np.append(near, False) | np.insert(near, 0, False))
        return lonely


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """The images of one data set that training draws, their targets, and the frames around them.

    Attributes:
        origin: The annotation file.
        folder: The folder of the images.
        count: What is drawn and what is left out.
        drawn: [k] positions of the images that are drawn.
        images: All images, since any frame can be a reference.
        boxes: [m, 4] float32 xyxy px, original image; the targets of all images, image by image.
        labels: [m] positions in the wanted classes.
        first: [n + 1] where the targets of each image begin.
    """

    origin: Path
    folder: Path
    count: SamplesCount
    drawn: NDArray[np.int64]
    images: _Images
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    first: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.drawn)

    def path(self, image: int) -> Path:
        """Returns the file of an image."""
        name: bytes = self.images.names[image]
        return self.folder / os.fsdecode(name)

    def is_still(self, image: int) -> bool:
        """Whether an image belongs to no video."""
        return bool(self.images.videos[image] < 0)

    def size(self, image: int) -> tuple[int, int]:
        """Returns (height, width) px as the annotations state it."""
        height, width = self.images.sizes[image].tolist()
        return height, width

    def targets(self, image: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Returns boxes [k, 4] xyxy px, original image, and labels [k] of an image."""
        own = slice(self.first[image], self.first[image + 1])
        return self.boxes[own], self.labels[own]

    def references(self, image: int, sampling: ReferenceSampling, rng: np.random.Generator) -> tuple[int, ...]:
        """Draws the references of an image; those of a still are copies of it."""
        if self.is_still(image):
            return (image,) * sampling.count
        video = self.images.videos[image]
        members = self.images.members[self.images.starts[video] : self.images.starts[video + 1]]
        numbers = self.images.numbers[members]
        current = int(np.searchsorted(numbers, self.images.numbers[image]))
        return tuple(int(members[place]) for place in sample_references(numbers, current, sampling, rng))

    def used(self, sampling: ReferenceSampling | None) -> NDArray[np.int64]:
        """Returns the positions [k] of the images that are drawn or can be the reference of one that is."""
        if sampling is None:
            return self.drawn
        used = np.zeros(len(self.images.ids), np.bool_)
        used[self.drawn] = True
        for start, end in pairwise(self.images.starts.tolist()):
            members = self.images.members[start:end]
            numbers = self.images.numbers[members]
            current = numbers[used[members]]
            begins = np.searchsorted(current, numbers - sampling.reach)
            ends = np.searchsorted(current, numbers + sampling.reach, side="right")
            used[members] = ends > begins
        return np.flatnonzero(used)

    def picture(self, image: int) -> NDArray[np.uint8]:
        """Reads an image, [h, w, 3] RGB.

        Raises:
            DataError: It is missing, damaged, or of another size than stated.
        """
        return read_picture(self.path(image), self.size(image), f"{self.origin}: image {self.images.ids[image]}")


@dataclass(frozen=True, eq=False, slots=True)
class Clip:
    """One training sample.

    Attributes:
        name: The file of its current frame.
        frames: The current frame and its references, each [h, w, 3] uint8 RGB at the size of the network input.
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
        parts: The samples of each data set.
        inputs: The input of the system; frames are resized for it.
        sampling: How references are drawn; None if there are none.
        augmentation: Random changes, the same for all frames of a clip.
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
        """Selects the samples of annotations and checks that their images exist.

        Args:
            sources: Annotations, each with the folder of its images.
            class_names: The classes to learn, matched by name; the position is the label.
            inputs: The input of the system.
            sampling: How references are drawn, see `MethodConfig.references`.
            augmentation: Random changes of the clips.
            all_frames: Whether to draw every image, also those not marked as training frames.

        Raises:
            DataError: A source has nothing to draw, images that are drawn or can be references are missing, the first
                one cannot be read, or the size changes within a video.
        """
        if not all_frames:
            _check_marks([data for data, _ in sources])
        parts = tuple(
            select_samples(data, folder, class_names, sampling, all_frames=all_frames) for data, folder in sources
        )
        empty = [data for (data, _), part in zip(sources, parts, strict=True) if not len(part)]
        if empty:
            files = ", ".join(f"{data.path} (its classes: {some(data.class_names)})" for data in empty)
            raise DataError(f"nothing to train on: no training frame of {files} shows one of {', '.join(class_names)}")
        for part in parts:
            _check_pictures(part, sampling)
        return cls(parts, inputs, sampling, augmentation)

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def draw(self, index: int, rng: np.random.Generator) -> Clip:
        """Draws the references of a sample and augments the clip.

        Args:
            index: The sample, from 0 to below the length.
            rng: Decides on references and augmentation.

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

    def describe(self, class_names: Sequence[str]) -> list[str]:
        """Returns a sentence on what is drawn and left out of each data set, and one on classes without objects."""
        targets = np.sum([part.count.targets for part in self.parts], axis=0)
        unseen = [name for name, number in zip(class_names, targets, strict=True) if number == 0]
        lines = [_sentence(part) for part in self.parts]
        return [*lines, f"no object to learn from: {', '.join(unseen)}"] if unseen else lines


def select_samples(
    data: CocoVID,
    folder: Path,
    class_names: tuple[str, ...],
    sampling: ReferenceSampling | None,
    *,
    all_frames: bool = False,
) -> Samples:
    """Chooses what training draws: the training frames of the videos and the stills that have a target.

    Classes are matched by name; boxes are clipped to the image. As in the published training, images below 32 px and
    images without targets are left out.

    Args:
        data: The annotations.
        folder: The folder of the images.
        class_names: The wanted classes; the position is the label.
        sampling: How references are drawn; None if none are.
        all_frames: Whether to draw every image, also those not marked as training frames.

    Raises:
        DataError: The frames of a video differ in size.
    """
    images = _images(data)
    _check_sizes(data, images.sizes)
    boxes, labels, fates = _targets(data, images.sizes, class_names)
    kept = np.flatnonzero(fates == _KEPT)
    kept = kept[np.argsort(data.objects.images[kept], kind="stable")]
    amounts = np.bincount(data.objects.images[kept], minlength=len(data.images))
    listed = np.array([all_frames or image.is_training_frame for image in data.images])
    small = images.sizes.min(axis=1) < _SMALLEST_IMAGE
    drawn = listed & ~small & (amounts > 0)
    lonely = images.are_lonely(sampling.reach) if sampling else np.zeros_like(drawn)
    listed_object = listed[data.objects.images]
    lost = fates[listed_object]
    count = SamplesCount(
        frames=int((drawn & (images.videos >= 0)).sum()),
        stills=int((drawn & (images.videos < 0)).sum()),
        without_targets=int((listed & ~small & (amounts == 0)).sum()),
        too_small=int((listed & small).sum()),
        lonely=int((drawn & lonely).sum()),
        targets=_by_class(labels[kept][drawn[data.objects.images[kept]]], class_names),
        of_other_classes=_by_name(data.objects.labels[listed_object & (fates == _OTHER_CLASS)], data.class_names),
        crowds=int((lost == _CROWD).sum()),
        slivers=int((lost == _SLIVER).sum()),
    )
    first = np.concatenate(([0], np.cumsum(amounts)))
    return Samples(data.path, folder, count, np.flatnonzero(drawn), images, boxes[kept], labels[kept], first)


def _by_class(labels: NDArray[np.int64], class_names: tuple[str, ...]) -> tuple[int, ...]:
    return tuple(np.bincount(labels, minlength=len(class_names)).tolist())


def _by_name(labels: NDArray[np.int64], class_names: Sequence[str]) -> dict[str, int]:
    counts = Counter(class_names[label] for label in labels.tolist())
    return dict(counts.most_common())


def _images(data: CocoVID) -> _Images:
    lengths = [len(video.frames) for video in data.videos]
    return _Images(
        ids=np.array([image.id for image in data.images], np.int64),
        names=np.array([os.fsencode(image.file_name) for image in data.images]),
        sizes=np.array([(image.height, image.width) for image in data.images], np.int64),
        videos=np.array([-1 if image.video is None else image.video for image in data.images], np.int64),
        numbers=np.array([-1 if image.frame is None else image.frame for image in data.images], np.int64),
        members=np.fromiter(chain.from_iterable(video.frames for video in data.videos), np.int64),
        starts=np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))),
    )


def _targets(
    data: CocoVID, sizes: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Returns boxes clipped to their images, labels in the wanted classes, and what becomes of each object."""
    objects = data.objects
    wanted = {name: label for label, name in enumerate(class_names)}
    labels = np.array([wanted.get(name, -1) for name in data.class_names])[objects.labels]
    limits = np.tile(sizes[objects.images][:, ::-1], 2)
    boxes = objects.boxes.clip(0, limits)
    fates = np.zeros(len(objects), np.int64)
    fates[((boxes[:, 2:] - boxes[:, :2]) < _SMALLEST_BOX).any(axis=1)] = _SLIVER
    fates[objects.crowds] = _CROWD
    fates[labels < 0] = _OTHER_CLASS
    return boxes.astype(np.float32), labels, fates


def _check_sizes(data: CocoVID, sizes: NDArray[np.int64]) -> None:
    for video in data.videos:
        own = sizes[list(video.frames)]
        if len(own) and (own != own[0]).any():
            other = data.images[video.frames[int((own != own[0]).any(axis=1).argmax())]]
            raise DataError(
                f"{data.path}: video {video.name!r} begins with {own[0][1]}x{own[0][0]} px, but its image {other.id} "
                f"is {other.width}x{other.height} px; all frames of a video need one size"
            )


def _check_marks(sources: Sequence[CocoVID]) -> None:
    for data in sources:
        if not any(image.is_training_frame for image in data.images):
            raise DataError(
                f"{data.path} marks none of its {len(data.images)} images as a training frame (is_vid_train_frame), as "
                "files for evaluation do; to train on it, ask for all frames"
            )


def _check_pictures(part: Samples, sampling: ReferenceSampling | None) -> None:
    """Looks for every picture before the training begins, not days later."""
    used = part.used(sampling)
    names = [os.fsdecode(name) for name in part.images.names[used].tolist()]
    missing = missing_pictures(part.folder, names)
    if missing:
        named = some([f"{names[position]} (image {part.images.ids[used[position]]})" for position in missing])
        raise DataError(
            f"{part.origin}: {len(missing)} of the {len(used)} images to train on are not below {part.folder}: "
            f"{named}; is this the right folder of images?"
        )
    part.picture(int(part.drawn[0]))


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
        ("objects of other classes", f"{others} ({some(names)})" if others else 0),
        ("crowd regions", count.crowds),
        ("objects with less than 1 px of width or height in the image", count.slivers),
    )
    told = [f"left out {what}: {number}" for what, number in left_out if number]
    if count.lonely:
        told.append(f"frames without another frame in reach, which are their own reference: {count.lonely}")
    return f"{part.origin}: {'; '.join([drawn, *told])}"
