"""Motion IoU (FGFA, section 5.1): how fast objects move, computed from track numbers or read from a file."""

from __future__ import annotations

import gzip
import json
import math
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import DataError, counted

__all__ = ["FAST_BELOW", "REACH", "SLOW_ABOVE", "motion_iou", "read_motion_iou"]

REACH = 10  # frames to either side
FAST_BELOW = 0.7
SLOW_ABOVE = 0.9

_MOST_IN_A_FRAME = 100  # boxes of one track: comparing them takes the square of that
_COMPRESSED = 15  # the type of an element of a MATLAB file


def motion_iou(data: CocoVID) -> NDArray[np.float64]:
    """Returns the motion IoU of each object (FGFA, section 5.1).

    It is the mean IoU of an object's box with the boxes of the same instance in the 10 frames before and
    the 10 after, by frame number; frames without the instance are skipped. Boxes include the pixels of
    their right and lower edges, as in ImageNet: the width is x2 - x1 + 1. An object that no other frame of
    the window shows has 1.

    Returns:
        [n] float64, one value in [0, 1] for each of the data set's objects; NaN where the object has no
        track number or is on a still.

    Raises:
        DataError: A track has more than 100 boxes in one frame.
    """
    objects = data.objects
    videos = np.array([-1 if image.video is None else image.video for image in data.images], dtype=np.int64)
    frames = np.array([0 if image.frame is None else image.frame for image in data.images], dtype=np.int64)
    video, frame = videos[objects.images], frames[objects.images]
    tracked = np.flatnonzero((objects.tracks >= 0) & (video >= 0))
    tracked = tracked[np.lexsort((frame[tracked], objects.tracks[tracked], video[tracked]))]
    _check_tracks(data, tracked)
    values = np.full(len(objects), np.nan)
    values[tracked] = _mean_overlaps(objects.boxes[tracked], video[tracked], objects.tracks[tracked], frame[tracked])
    return values


def _check_tracks(data: CocoVID, tracked: NDArray[np.int64]) -> None:
    """Refuses tracks that have many boxes in a frame; `tracked` are objects in the order of video, track and frame."""
    tracks, images = data.objects.tracks[tracked], data.objects.images[tracked]
    step = _MOST_IN_A_FRAME
    beyond = np.flatnonzero((tracks[step:] == tracks[:-step]) & (images[step:] == images[:-step]))
    if len(beyond):
        track, image = tracks[beyond[0]], data.images[images[beyond[0]]]
        raise DataError(
            f"{data.path}: track {track} has more than {step} boxes in {image.file_name}; the objects of a video need "
            "track numbers (instance_id) of their own"
        )


def _mean_overlaps(
    boxes: NDArray[np.float64], video: NDArray[np.int64], track: NDArray[np.int64], frame: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Returns the mean IoU within the window of boxes in the order of video, track and frame."""
    total, count = np.zeros(len(boxes)), np.zeros(len(boxes))
    for step in range(1, len(boxes)):
        distance = frame[step:] - frame[:-step]
        same = (video[step:] == video[:-step]) & (track[step:] == track[:-step]) & (distance <= REACH)
        # Box numbers one step further along the track are further away in time, too.
        if not same.any():
            break
        # A track that is twice in one frame is no motion.
        first = np.flatnonzero(same & (distance > 0))
        overlap = _overlap(boxes[first], boxes[first + step])
        for side in (first, first + step):
            total[side] += overlap
            count[side] += 1
    return np.divide(total, count, out=np.ones(len(boxes)), where=count > 0)


def _overlap(first: NDArray[np.float64], second: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the IoU [n] of boxes [n, 4] with boxes [n, 4], one by one, including their last pixels."""
    low, high = np.maximum(first[:, :2], second[:, :2]), np.minimum(first[:, 2:], second[:, 2:])
    common = (high - low + 1).clip(min=0).prod(axis=1)
    areas = [(boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1) for boxes in (first, second)]
    overlap: NDArray[np.float64] = common / (areas[0] + areas[1] - common)
    return overlap


def read_motion_iou(path: str | Path, data: CocoVID) -> NDArray[np.float64]:
    """Returns motion IoUs from a file, to use in place of computed ones.

    Args:
        path: A JSON file `{annotation id: value}`, also compressed (.json.gz); or the file that the authors
            of FGFA published for ImageNet VID val, `imagenet_vid_groundtruth_motion_iou.mat`, which has the
            frames in the order of the videos and the values of a frame in the order of its objects. The
            latter needs SciPy: `pip install scipy`.
        data: The data set that the values belong to.

    Returns:
        [n] float64, one value in [0, 1] for each of the data set's objects.

    Raises:
        DataError: The file cannot be read, or its entries are not those of the data set.
    """
    path = Path(path)
    # Bytes; an object takes about 40 in JSON and 8 in a MATLAB file, a frame 56 there.
    most = 1_000_000 + 100 * (len(data.objects) + len(data.images))
    if path.suffix == ".mat":
        return _match_frames(path, _read_mat(path, most), data)
    return _match_ids(path, _read_json(path, most), data)


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    _check_length(path, content, most)
    return content


def _check_length(path: Path, content: bytes | bytearray, most: int) -> None:
    if len(content) > most:
        raise DataError(f"{path} holds more than {most} bytes, too many for the objects of the data set")


def _read_json(path: Path, most: int) -> Any:
    content = _read(path, most)
    try:
        if path.suffix == ".gz":
            with gzip.open(BytesIO(content)) as packed:
                content = packed.read(most + 1)
            _check_length(path, content, most)
        return json.loads(content)
    except (ValueError, RecursionError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path} is not a JSON file: {error}") from error


def _match_ids(path: Path, document: Any, data: CocoVID) -> NDArray[np.float64]:
    if not isinstance(document, dict):
        raise DataError(f"{path}: motion IoUs are an object {{annotation id: value}}, not {type(document).__name__}")
    ids = [str(number) for number in data.objects.ids.tolist()]
    missing = [number for number in ids if number not in document]
    unknown = document.keys() - set(ids)
    if missing or unknown:
        example = f"annotation {missing[0]} has no value" if missing else f"there is no annotation {min(unknown)}"
        raise DataError(
            f"{path} does not belong to {data.path}: {example}; {len(missing)} of its {len(ids)} annotations "
            f"have no value, {len(unknown)} values have no annotation"
        )
    for number in ids:
        value = document[number]
        if type(value) not in {int, float} or not 0 <= value <= 1:
            raise DataError(f"{path}: the motion IoU of annotation {number} must be from 0 to 1, not {value!r}")
    return np.array([document[number] for number in ids], dtype=np.float64)


def _read_mat(path: Path, most: int) -> list[NDArray[np.float64]]:
    """Returns the values of each frame."""
    try:
        from scipy.io import loadmat  # noqa: PLC0415  (an optional extra)
    except ImportError as error:
        raise DataError(f"reading {path} needs SciPy: pip install scipy") from error
    content = _read(path, most)
    try:
        cells = loadmat(BytesIO(_unpacked(path, content, most)))["motion_iou"].reshape(-1)
        return [np.asarray(cell, dtype=np.float64).reshape(-1) for cell in cells]
    except DataError:
        raise
    except Exception as error:
        # The reader of SciPy raises whatever a damaged file leads it to.
        raise DataError(f"{path} is not a MATLAB file with a cell array 'motion_iou': {error}") from error


def _unpacked(path: Path, content: bytes, most: int) -> bytes:
    """Returns a MATLAB file of level 5 without compression, other files as they are.

    Raises:
        DataError: It would have more than `most` bytes.
    """
    order = {b"IM": "<", b"MI": ">"}.get(content[126:128])
    if order is None:
        return content
    unpacked, place = bytearray(content[:128]), 128
    while place + 8 <= len(content):
        kind, size = struct.unpack_from(f"{order}II", content, place)
        element = content[place : place + 8 + size]
        if kind == _COMPRESSED:
            element = zlib.decompressobj().decompress(element[8:], most + 1 - len(unpacked))
        unpacked += element
        _check_length(path, unpacked, most)
        place += 8 + size
    return bytes(unpacked)


def _match_frames(path: Path, frames: list[NDArray[np.float64]], data: CocoVID) -> NDArray[np.float64]:
    order = [position for video in data.videos for position in video.frames]
    if len(order) != len(frames):
        raise DataError(
            f"{path} has {counted(len(frames), 'frame')}, the videos of {data.path} have {len(order)}; it must be "
            f"the whole data set that the file was made for, its videos in the same order"
        )
    values = np.full(len(data.objects), np.nan)
    by_image = data.objects_by_image()
    for number, (position, given) in enumerate(zip(order, frames, strict=True), start=1):
        if len(given) != len(by_image[position]):
            raise DataError(
                f"{path}: entry {number} has {counted(len(given), 'value')}, {data.images[position].file_name} of "
                f"{data.path} has {counted(len(by_image[position]), 'object')}; the videos must be in the same order"
            )
        if not ((given >= 0) & (given <= 1)).all():
            raise DataError(f"{path}: entry {number} has a value that is not from 0 to 1: {given.tolist()}")
        values[by_image[position]] = given
    if math.isnan(values.sum()):
        raise DataError(f"{path} has values for videos, {data.path} has objects on stills, too")
    return values
