"""What can be drawn for training from an annotated data set: current frames, their references and their targets."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.data.image_files import read_picture
from flowdet.data.sampling import ReferenceSampling, sample_references
from flowdet.errors import DataError

__all__ = ["Samples", "SamplesCount", "select_samples"]

_SMALLEST_IMAGE = 32
_SMALLEST_BOX = 1.0


@dataclass(frozen=True, slots=True)
class SamplesCount:
    """What a data set gives to training and what is left out of it; frames that are no training frames count nowhere.

    Attributes:
        frames: Frames of videos that are drawn.
        stills: Stills that are drawn.
        without_targets: Images left out since nothing in them can be a target.
        too_small: Images left out since a side is below 32 px.
        lonely: Of the frames, those without another one in reach, which are their own reference.
        targets: Boxes by class, in the order of the wanted classes.
        of_other_classes: Objects left out since their class is not wanted, by name, the most frequent class first.
        crowds: Regions left out since they hold many objects in one box.
        slivers: Objects left out since less than 1 px of their width or height lies in the image.
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
        """For each image, whether it is a frame without another one in reach."""
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
        folder: Where the images are.
        count: What is drawn and what is left out.
        drawn: [k] positions of the images that are drawn.
        images: All images, for the references too.
        boxes: [m, 4] float32 xyxy px, original image, of all targets, image by image.
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
        """The file of an image."""
        name: bytes = self.images.names[image]
        return self.folder / os.fsdecode(name)

    def is_still(self, image: int) -> bool:
        """Whether an image belongs to no video."""
        return bool(self.images.videos[image] < 0)

    def size(self, image: int) -> tuple[int, int]:
        """(height, width) px, as the file states it."""
        height, width = self.images.sizes[image].tolist()
        return height, width

    def targets(self, image: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Boxes [k, 4] xyxy px, original image, and labels [k] of an image."""
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
        """[k] positions of the images that are drawn or can be a reference of one that is."""
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


def select_samples(
    data: CocoVID,
    folder: Path,
    class_names: tuple[str, ...],
    sampling: ReferenceSampling | None,
    *,
    all_frames: bool = False,
) -> Samples:
    """Chooses what training draws: the training frames of the videos and the stills that have a target.

    Classes are matched by name; a box is cut to its image. As in the published training, images below 32 px and images
    without targets are left out.

    Args:
        data: The annotations.
        folder: Where the images are.
        class_names: The wanted classes; the position is the label.
        sampling: How references are drawn; None if none are.
        all_frames: Draw every image, whatever the file says of training frames.

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


_KEPT, _OTHER_CLASS, _CROWD, _SLIVER = range(4)


def _targets(
    data: CocoVID, sizes: NDArray[np.int64], class_names: tuple[str, ...]
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.int64]]:
    """Boxes cut to their images, labels in the wanted classes, and what becomes of each object."""
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
                f"{data.path}: video {video.name!r} begins with {own[0][1]}x{own[0][0]} px, but image {other.id} of it "
                f"is {other.width}x{other.height} px; the frames of a video need one size"
            )
