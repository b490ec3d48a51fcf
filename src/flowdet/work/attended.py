"""Which RoIs of reference frames objects attend to most, cut out of those frames."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from flowdet.systems.detector import VideoDetector
from flowdet.systems.stream import Rereadable, fitting
from flowdet.types import Attention, Detections, Frame, FrameFeatures
from flowdet.video.overlay import STRIPS, Crop, Strip

__all__ = ["References"]


class References:
    """The reference frames of one stream, kept for as long as objects can attend to them.

    Args:
        system: Of a RoI-level method.
        source: What the system detects in; its preview is read once more.
    """

    def __init__(self, system: VideoDetector, source: Rereadable) -> None:
        self._system = system
        count = system.config.method.preview
        self._preview = source.preview(count) if count else []
        self._seen: dict[int, Frame] = {}

    def strips(self, frame: Frame, detections: Detections, features: FrameFeatures) -> list[Strip]:
        """Returns the best objects of the next frame, each with the RoIs that it attends to most, one a frame."""
        assert isinstance(features.origin, Attention)
        numbers, boxes = features.origin.frames[0].cpu().numpy(), _original(features)
        frames = dict(enumerate(fitting(self._preview, frame.image.shape)))
        if not self._preview:
            frames = {number: self._seen[number] for number in np.unique(numbers).tolist()}
            self._seen = {**frames, features.index: frame}
        weights = self._system.attended(features, detections.boxes[:STRIPS]).numpy()
        return [
            [
                Crop(_cut(frame, box), f"this frame: {shares[len(numbers) :].sum():.1%}"),
                *(
                    Crop(_cut(frames[numbers[place]], boxes[place]), _label(frames[numbers[place]], shares[place]))
                    for place in _best(shares[: len(numbers)], numbers)
                ),
            ]
            for box, shares in zip(detections.boxes, weights, strict=False)
        ]


def _original(features: FrameFeatures) -> NDArray[np.float32]:
    """The boxes [m, 4] of the references in px of the original image."""
    assert isinstance(features.origin, Attention)
    x, y = features.geometries[0].scale
    boxes = features.origin.boxes[0]
    found: NDArray[np.float32] = (boxes.float() / boxes.new_tensor((x, y, x, y))).cpu().numpy()
    return found


def _best(shares: NDArray[np.float32], numbers: NDArray[np.int64]) -> Iterator[int]:
    """The places of the RoIs with the largest shares, the largest first, and no second one of a frame."""
    met = set()
    for place in np.argsort(-shares, kind="stable").tolist():
        if shares[place] > 0 and numbers[place] not in met:
            met.add(numbers[place])
            yield place


def _cut(frame: Frame, box: NDArray[np.float32]) -> NDArray[np.uint8]:
    """What lies in a box, a pixel at least."""
    height, width = frame.image.shape[:2]
    left, top = min(int(box[0]), width - 1), min(int(box[1]), height - 1)
    return frame.image[top : max(int(np.ceil(box[3])), top + 1), left : max(int(np.ceil(box[2])), left + 1)]


def _label(frame: Frame, share: float) -> str:
    return f"{frame.index}: {share:.1%}"
