"""Crops that stand still before the background of a clip whose camera moves, as far as its pictures allow."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["StillCrop", "background_steps", "still_crop"]

_CORNERS = 600
_LEAST_INLIERS = 30
_MARGIN = 10  # px around the object that do not count as background
_RETURNS = 2.0  # px by which a point that is tracked there and back may miss its start
_OFF = 3.0  # px by which a point may miss the motion of the others


@dataclass(frozen=True, eq=False)
class StillCrop:
    """A crop in a frame and its neighbours.

    Attributes:
        place: Position of the frame in its clip.
        size: Height and width of the crop.
        corners: [2 * radius + 1, 2] int64, its upper left corners (x, y) in the frames around this one.
        speed: Median of how far the object moves before the background from one of these frames to the next, px.
    """

    place: int
    size: tuple[int, int]
    corners: NDArray[np.int64]
    speed: float


def background_steps(pictures: Sequence[NDArray[np.uint8]], boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns how far the background moves from each frame to the next.

    Corners outside the object's box are tracked there and back (Lucas and Kanade); RANSAC finds the shift, rotation and
    scale that most of them share.

    Args:
        pictures: n times [h, w, 3] uint8 RGB.
        boxes: [n, 4] xyxy px of the object in them.

    Returns:
        [n - 1, 2] (dx, dy) px at the centre of the object's box; NaN where fewer than 30 corners agree.
    """
    greys = [cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in pictures]
    steps = np.full((len(greys) - 1, 2), np.nan)
    for number, (first, second) in enumerate(pairwise(greys)):
        x1, y1, x2, y2 = (boxes[number] + (-_MARGIN, -_MARGIN, _MARGIN, _MARGIN)).clip(0).astype(int)
        background = np.full(first.shape, 255, np.uint8)
        background[y1:y2, x1:x2] = 0
        corners = cv2.goodFeaturesToTrack(first, _CORNERS, 0.005, 7, mask=background)
        if corners is None or len(corners) < _LEAST_INLIERS:
            continue
        there, seen = _track(first, second, corners)
        back, seen_again = _track(second, first, there)
        good = seen & seen_again & (np.linalg.norm(back - corners, axis=(1, 2)) < _RETURNS)
        if good.sum() < _LEAST_INLIERS:
            continue
        motion, inliers = cv2.estimateAffinePartial2D(corners[good], there[good], ransacReprojThreshold=_OFF)
        if motion is not None and inliers.sum() >= _LEAST_INLIERS:
            centre = boxes[number].reshape(2, 2).mean(axis=0)
            steps[number] = motion[:, :2] @ centre + motion[:, 2] - centre
    return steps


def _track(first: NDArray[Any], second: NDArray[Any], points: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Where points [n, 1, 2] of the first picture lie in the second, and [n] whether they were found."""
    there, found, _ = cv2.calcOpticalFlowPyrLK(first, second, points, points.copy(), winSize=(31, 31), maxLevel=5)
    return np.asarray(there), found[:, 0] == 1


def still_crop(
    steps: NDArray[np.float64],
    boxes: NDArray[np.float64],
    place: int,
    *,
    picture: tuple[int, int],
    sizes: Sequence[tuple[int, int]],
    radius: int,
) -> StillCrop | None:
    """Returns the first crop of these sizes that fits, as near to the object as it can be.

    A crop fits if it holds the object in the frame itself and, moved along with the background, stays inside the
    pictures of the frames around it.

    Args:
        steps: [n - 1, 2] px, as `background_steps` returns them.
        boxes: [n, 4] xyxy px of the object.
        place: Position of the frame in its clip.
        picture: Height and width of the pictures.
        sizes: Heights and widths of crops, the preferred one first.
        radius: Frames before and after the frame in which the crop must stay inside the picture.

    Returns:
        None if none fits, if the clip is too short or if the motion of its background is not known.
    """
    first, last = place - radius, place + radius
    if first < 0 or last >= len(boxes) or np.isnan(steps[first:last]).any():
        return None
    path = np.concatenate((np.zeros((1, 2)), steps[first:last].cumsum(axis=0)))
    path -= path[radius]
    centres = boxes[first : last + 1].reshape(-1, 2, 2).mean(axis=1)
    speed = float(np.median(np.linalg.norm(np.diff(centres, axis=0) - steps[first:last], axis=1)))
    low_corner, high_corner = boxes[place].reshape(2, 2)
    for height, width in sizes:
        size = np.array((width, height))
        low = np.maximum(-path.min(axis=0), high_corner - size)
        high = np.minimum(np.array(picture[::-1]) - size - path.max(axis=0), low_corner)
        # A margin of a pixel, because corners are rounded.
        if (low + 1 <= high - 1).all():
            corner = ((low_corner + high_corner - size) / 2).clip(low + 1, high - 1)
            return StillCrop(place, (height, width), np.rint(corner + path).astype(np.int64), speed)
    return None
