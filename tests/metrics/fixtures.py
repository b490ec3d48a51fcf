"""Recorded official figures, and small data sets made by hand or at random."""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from flowdet.data.cocovid import CocoVID, ImageRecord, Objects, VideoRecord, read_cocovid
from flowdet.data.motion import read_motion_iou
from flowdet.evaluation.results_file import read_results
from flowdet.metrics.detections import DetectionTable

__all__ = ["GOLDEN", "Box", "Case", "Made", "difference", "made_sets", "unpack"]

GOLDEN = Path(__file__).parents[1] / "golden" / "evaluation_small.json.gz"
CLASSES = ("cat", "dog", "emu")

Box = tuple[float, float, float, float]


def unpack(folder: Path) -> Path:
    """The recorded small fixture as the files that it was made of."""
    for name, content in json.loads(gzip.decompress(GOLDEN.read_bytes())).items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


class Case:
    """A fixture that has been read."""

    def __init__(self, folder: Path) -> None:
        self.data = read_cocovid(folder / "cocovid.json")
        self.detections = read_results(folder / "detections.json", self.data).table
        self.motion = read_motion_iou(folder / "motion_iou.json", self.data)
        self.expected = json.loads((folder / "expected.json").read_text())


def difference(own: Any, expected: Any) -> float:
    """The largest difference of two JSON documents with the same keys and the same gaps."""
    if isinstance(expected, Mapping):
        assert isinstance(own, Mapping)
        assert own.keys() == expected.keys()
        return max((difference(own[key], value) for key, value in expected.items()), default=0.0)
    if isinstance(expected, list):
        return max(difference(one, other) for one, other in zip(own, expected, strict=True))
    if expected is None or own is None:
        assert own is expected
        return 0.0
    return abs(float(own) - float(expected))


@dataclass
class Made:
    """A data set of three classes with detections.

    Attributes:
        frames: For each image the position of its video, None for a still.
        objects: Image, label and box xyxy of each object.
        found: Image, label, box xyxy and score of each detection.
        tracks: Of the objects; 0 without.
        crowds: Which objects are.
        ids: Of the images; from 1 without.
        numbers: Of the frames in their videos; in their order without.
    """

    frames: Sequence[int | None]
    objects: Sequence[tuple[int, int, Box]]
    found: Sequence[tuple[int, int, Box, float]] = ()
    tracks: Sequence[int] | None = None
    crowds: frozenset[int] = frozenset()
    ids: Sequence[int] | None = None
    numbers: Sequence[int] | None = None
    classes: Sequence[str] = field(default=CLASSES)

    @property
    def data(self) -> CocoVID:
        frames = {video: sorted(self._images_of(video), key=self._number) for video in self.frames}
        videos = sorted(video for video in frames if video is not None)
        count = len(self.objects)
        return CocoVID(
            path=Path("made.json"),
            class_names=tuple(self.classes),
            category_ids=tuple(range(1, 1 + len(self.classes))),
            videos=tuple(VideoRecord(video + 1, f"video {video}", tuple(frames[video])) for video in videos),
            images=tuple(self._image(at) for at in range(len(self.frames))),
            objects=Objects(
                ids=np.arange(count),
                images=np.array([one[0] for one in self.objects], dtype=np.int64),
                labels=np.array([one[1] for one in self.objects], dtype=np.int64),
                boxes=np.array([one[2] for one in self.objects], dtype=np.float64).reshape(-1, 4),
                areas=np.array([self.area_of(one[2]) for one in self.objects], dtype=np.float64),
                tracks=np.array([0] * count if self.tracks is None else self.tracks, dtype=np.int64),
                crowds=np.array([number in self.crowds for number in range(count)], dtype=np.bool_),
            ),
        )

    def area_of(self, box: Box) -> float:
        """That of the object in a box, not all of which it fills: exactly 32 x 32 or 96 x 96 px at times."""
        return (box[2] - box[0]) * (box[3] - box[1]) * 0.64

    def _image(self, at: int) -> ImageRecord:
        video = self.frames[at]
        frame = None if video is None else self._number(at)
        return ImageRecord(self.ids[at] if self.ids else at + 1, f"{at}.png", 100, 100, video, frame, True)

    def _number(self, at: int) -> int:
        return self.numbers[at] if self.numbers else self.frames[:at].count(self.frames[at])

    @property
    def table(self) -> DetectionTable:
        return DetectionTable(
            np.array([one[0] for one in self.found], dtype=np.int64),
            np.array([one[1] for one in self.found], dtype=np.int64),
            np.array([one[2] for one in self.found], dtype=np.float64).reshape(-1, 4),
            np.array([one[3] for one in self.found], dtype=np.float64),
        )

    def repeat(self, times: Sequence[int]) -> "Made":
        """The data set in which each video is there so many times; every image must be of a video."""
        order = [image for video, count in enumerate(times) for _ in range(count) for image in self._images_of(video)]
        copies = [video for video, count in enumerate(times) for _ in range(count)]
        return Made(
            frames=[place for place, video in enumerate(copies) for _ in self._images_of(video)],
            objects=[(at, *one[1:]) for at, image in enumerate(order) for one in self.objects if one[0] == image],
            found=[(at, *one[1:]) for at, image in enumerate(order) for one in self.found if one[0] == image],
        )

    def _images_of(self, video: int | None) -> list[int]:
        return [at for at, one in enumerate(self.frames) if one == video]


def _boxes() -> st.SearchStrategy[Box]:
    # Few places and sizes, so that boxes often overlap, and often equally well.
    sides = st.tuples(
        *(st.integers(0, 6) for _ in range(2)), *(st.sampled_from([0, 2, 4, 5, 40, 120]) for _ in range(2))
    )
    return sides.map(lambda side: (2.0 * side[0], 2.0 * side[1], 2.0 * side[0] + side[2], 2.0 * side[1] + side[3]))


@st.composite
def made_sets(draw: st.DrawFn, *, ties: bool = False, crowds: bool = False, stills: bool = False) -> Made:
    """Small data sets at random.

    Args:
        draw: Of hypothesis.
        ties: Whether scores may be equal.
        crowds: Whether some objects are crowds.
        stills: Whether some images belong to no video.
    """
    frames = sorted(draw(st.lists(st.integers(0, 2), min_size=1, max_size=6)))
    frames = [sorted(set(frames)).index(video) for video in frames]
    places = st.tuples(st.integers(0, len(frames) - 1), st.sampled_from([0, 0, 1]))
    objects = [(*place, box) for place, box in draw(st.lists(st.tuples(places, _boxes()), max_size=10))]
    near = [one[:3] for one in objects]
    found = draw(
        st.lists(
            st.tuples(places, _boxes()).map(lambda one: (*one[0], one[1]))
            | st.sampled_from(near or [(0, 0, (0.0, 0.0, 1.0, 1.0))]),
            max_size=20,
        )
    )
    count = len(found)
    scores = draw(
        st.lists(st.sampled_from([0.1, 0.5, 0.9]), min_size=count, max_size=count)
        if ties
        else st.permutations([(number + 1) / (count + 1) for number in range(count)])
    )
    whole: list[int | None] = [None if stills and draw(st.booleans()) else video for video in frames]
    return Made(
        frames=whole,
        objects=objects,
        found=[(*one, score) for one, score in zip(found, scores, strict=True)],
        tracks=list(range(len(objects))),
        crowds=draw(st.frozensets(st.integers(0, 9))) if crowds else frozenset(),
        ids=draw(st.permutations(range(len(frames)))),
    )
