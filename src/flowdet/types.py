"""The values that pass between the rooms: frames, network inputs, maps, detections, training clips."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from flowdet.class_names import check_class_names

if TYPE_CHECKING:
    import supervision

__all__ = [
    "Aggregation",
    "Attention",
    "ClipBatch",
    "Detections",
    "Frame",
    "FrameFeatures",
    "Geometry",
    "Maps",
    "NetworkInput",
    "Propagation",
    "RoIs",
    "Targets",
]


Maps = tuple[Tensor, ...]
"""Feature maps [b, c_i, H / s_i, W / s_i] at one or more strides s_i of the network input, finest first."""


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One picture of a video, as decoded and turned upright.

    Attributes:
        index: Number of the frame in its source, from 0; every decoded frame counts, skipped ones too.
        time: Seconds from the start of the source.
        image: [h, w, 3] uint8 RGB.
    """

    index: int
    time: float
    image: NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.image.ndim != 3 or self.image.shape[2] != 3 or self.image.dtype != np.uint8:
            raise ValueError(f"a frame's image is uint8 [h, w, 3], not {self.image.dtype} {list(self.image.shape)}")


@dataclass(frozen=True, slots=True)
class Geometry:
    """How a network input lies over its original image; every size is (height, width) in pixels.

    Attributes:
        original: Size of the decoded image.
        valid: Size after resizing; what lies beyond it in the network input is padding.
        padded: Size of the network input.
    """

    original: tuple[int, int]
    valid: tuple[int, int]
    padded: tuple[int, int]

    @property
    def scale(self) -> tuple[float, float]:
        """The factors (x, y) from original to network-input pixels."""
        return self.valid[1] / self.original[1], self.valid[0] / self.original[0]


@dataclass(frozen=True, eq=False, slots=True)
class NetworkInput:
    """One frame of b streams of one size, ready for the network.

    Attributes:
        images: [b, 3, H, W] float, RGB, normalised; the padding has the value of `InputConfig.padding`.
        geometries: One for each of the b images; `padded` is (H, W) in all of them.
    """

    images: Tensor
    geometries: tuple[Geometry, ...]

    def __post_init__(self) -> None:
        if self.images.ndim != 4 or len(self.geometries) != len(self.images):
            raise ValueError(
                f"images are [b, 3, H, W] with one geometry each, not {list(self.images.shape)} "
                f"with {len(self.geometries)} geometries"
            )


@dataclass(frozen=True, eq=False, slots=True)
class Aggregation:
    """How the maps of n reference frames were averaged with those of the current frame.

    Attributes:
        references: Numbers of the reference frames in the stream of inputs, each once, oldest first. At the ends of a
            video the current frame may be one of them.
        weights: [b, 1 + n, h, w], that of the current frame's own map first; they sum to one over 1 + n. Of several
            maps, those at the stride of the flow, else of the finest.
        flows: [b, n, 2, h, w] (dx, dy) from the current frame to each, in its cells; None if nothing was warped.
        fallbacks: [b] how many flows were evaluated directly because composed ones had drifted; None if flows are not
            composed.
    """

    references: tuple[int, ...]
    weights: Tensor
    flows: Tensor | None = None
    fallbacks: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Propagation:
    """Which key frames the maps come from, and along which flow.

    Attributes:
        key_frame: The number of the last one in the stream of inputs.
        flow: [b, 2, h, w] (dx, dy) from the current frame to it, in its cells; None if the current frame is it.
        next_key_frame: The number of the next one; None if nothing comes from it.
        next_flow: The flow from the current frame to that one.
    """

    key_frame: int
    flow: Tensor | None = None
    next_key_frame: int | None = None
    next_flow: Tensor | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Attention:
    """Which RoIs of reference frames the detector's RoI head attends to.

    Attributes:
        frames: [b, m] int64, the number of the frame of each: in the preview if the method sees one, else in the stream
            of inputs.
        boxes: [b, m, 4] xyxy px, network input.
    """

    frames: Tensor
    boxes: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class RoIs:
    """The proposals of b images, filled up to m each, and what a two-stage detector makes of them without other frames.

    Attributes:
        boxes: [b, m, 4] xyxy px, network input, best first.
        mask: [b, m] bool, False where a place is empty.
        pooled: [b, m, c, bins, bins] their features in the map.
        layers: [b, m, d_i] the same after each shared layer of the RoI head, not activated.
        memory: [b, m, ...] what `RoIAttention.remember` makes of each of the layers.
    """

    boxes: Tensor
    mask: Tensor
    pooled: Tensor
    layers: tuple[Tensor, ...]
    memory: tuple[Tensor, ...]

    @property
    def proposals(self) -> list[Tensor]:
        """The boxes [k, 4] of each image."""
        return [boxes[mask] for boxes, mask in zip(self.boxes, self.mask, strict=True)]


@dataclass(frozen=True, eq=False, slots=True)
class FrameFeatures:
    """What a temporal method hands to the detector for one current frame of b streams.

    Attributes:
        index: Number of the frame in the stream of inputs, from 0.
        maps: As the detector extracts them, with what the method made of other frames.
        geometries: As in the network input.
        origin: How other frames took part in the maps; None where the frame stands for itself.
        support: What the detector's RoI attention attends to, made by the same method as that attention; each of its
            tensors has b rows. None for methods that work on maps.
        rois: The proposals in these maps, if the method has asked the detector for them; it then computes them once.
    """

    index: int
    maps: Maps
    geometries: tuple[Geometry, ...]
    origin: Aggregation | Propagation | Attention | None = None
    support: Any = None
    rois: RoIs | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Targets:
    """The annotated objects of one image.

    Attributes:
        boxes: [n, 4] float xyxy, network-input pixels.
        labels: [n] int64, 0-based class numbers.
    """

    boxes: Tensor
    labels: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class ClipBatch:
    """b training clips of one padded size: a current frame, its reference frames and its objects.

    Attributes:
        current: The current frames.
        references: One input for each reference slot, each [b, 3, H, W].
        targets: The objects of the current frames, one entry a clip.
        still: For each clip, whether it is a single picture and its references are copies of it.
    """

    current: NetworkInput
    references: tuple[NetworkInput, ...]
    targets: tuple[Targets, ...]
    still: tuple[bool, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Detections:
    """The objects found in one frame, highest score first.

    Attributes:
        frame_index: Number of the frame in its source, from 0.
        time: Seconds from the start of the source.
        boxes: [n, 4] float32 xyxy, pixels of the original image.
        scores: [n] float32 in [0, 1].
        labels: [n] int64, positions in `class_names`, from 0; results files have category ids, which are 1 larger.
        class_names: Every class the detector knows.
        image_size: (height, width) of the original image.
        track_ids: [n] int64, the same number for the same object in all frames, from 1 on; None if not tracked.
    """

    columns: ClassVar[tuple[str, ...]] = (
        *("frame_index", "time", "label", "class_name", "score", "x1", "y1", "x2", "y2"),
        "track_id",
    )
    """The keys of each of `records`."""

    frame_index: int
    time: float
    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    track_ids: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.boxes)
        if self.boxes.shape != (count, 4) or self.scores.shape != (count,) or self.labels.shape != (count,):
            raise ValueError(
                "detections are boxes [n, 4], scores [n] and labels [n], not "
                f"{list(self.boxes.shape)}, {list(self.scores.shape)} and {list(self.labels.shape)}"
            )
        if self.track_ids is not None and self.track_ids.shape != (count,):
            raise ValueError(f"{count} detections have {count} track ids, not {list(self.track_ids.shape)}")

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def names(self) -> list[str]:
        """The class name of each detection."""
        return [self.class_names[label] for label in self.labels]

    def select(self, score: float = 0.0, classes: Collection[str] | None = None) -> Detections:
        """Returns the detections with at least this score and, if classes are given, of one of them.

        Raises:
            ConfigError: There is no such class.
        """
        keep = self.scores >= score
        if classes is not None:
            check_class_names(classes, self.class_names)
            wanted = [self.class_names.index(name) for name in classes]
            keep &= np.isin(self.labels, wanted)
        return replace(
            self,
            boxes=self.boxes[keep],
            scores=self.scores[keep],
            labels=self.labels[keep],
            track_ids=None if self.track_ids is None else self.track_ids[keep],
        )

    def records(self) -> list[dict[str, Any]]:
        """Returns a flat dictionary for each detection; without tracking its track id is None.

        "label" is the position in `class_names`, from 0. Results files have a category id in its place, which is 1
        larger.

        `pandas.DataFrame(detections.records(), columns=detections.columns)` is a table, also of a frame without any.
        """
        return [
            {
                "frame_index": self.frame_index,
                "time": self.time,
                "label": int(label),
                "class_name": self.class_names[label],
                "score": float(score),
                **dict(zip(("x1", "y1", "x2", "y2"), map(float, box), strict=True)),
                "track_id": None if self.track_ids is None else int(self.track_ids[place]),
            }
            for place, (box, score, label) in enumerate(zip(self.boxes, self.scores, self.labels, strict=True))
        ]

    def to_supervision(self) -> supervision.Detections:
        """Returns the same as `supervision.Detections`; needs the package supervision."""
        import supervision  # noqa: PLC0415  (an optional extra)

        return supervision.Detections(
            xyxy=self.boxes,
            confidence=self.scores,
            class_id=self.labels,
            tracker_id=self.track_ids,
            data={"class_name": np.array(self.names, dtype=np.str_)},
        )
