"""Tracks along a video, frame by frame: the two-stage matching of ByteTrack (Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from flowdet.errors import ConfigError
from flowdet.types import Detections

__all__ = ["Track", "TrackConfig", "TrackState", "track", "track_step"]

_Boxes = NDArray[np.float64]
_LEAST_GAIN = 0.2  # of the newest displacement in the velocity; a running mean before


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """How detections are linked to tracks.

    Attributes:
        start: The score from which a detection starts a track, and takes part in the first matching.
        low: The score from which a detection continues a track of the frame before, in the second matching.
        iou: The least IoU with the predicted box of a track, in the first matching.
        low_iou: The same in the second.
        gap: Seconds after which a track that nothing continues has ended.
        agnostic: Let a track take detections of any class; else it keeps its own.
        rescore: Replace each score by the mean of the scores of its track so far.
    """

    start: float = 0.3
    low: float = 0.1
    iou: float = 0.2
    low_iou: float = 0.5
    gap: float = 1.0
    agnostic: bool = False
    rescore: bool = False

    def __post_init__(self) -> None:
        for name in ("start", "low", "iou", "low_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} of a tracker lies between 0 and 1, not at {getattr(self, name)}")
        if not self.gap >= 0:
            raise ConfigError(f"gap of a tracker is a number of seconds from 0 on, not {self.gap}")


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """An object so far.

    Attributes:
        id: Its number, from 1.
        label: The class of its latest detection.
        box: [4] float64 xyxy px, original image: its latest detection.
        time: Seconds, when that was.
        velocity: [2] of the centre, px a second.
        count: The number of its detections.
        mean: The mean of their scores.
    """

    id: int
    label: int
    box: _Boxes
    time: float
    velocity: _Boxes
    count: int
    mean: float

    def at(self, time: float) -> _Boxes:
        """Returns the box [4] that is expected at this time."""
        return self.box + np.tile(self.velocity * (time - self.time), 2)

    def continued(self, box: _Boxes, time: float, label: int, score: float) -> Track:
        """Returns the track with one more detection."""
        velocity, passed, count = self.velocity, time - self.time, self.count + 1
        if passed > 0:
            moved = (box - self.box).reshape(2, 2).mean(axis=0)
            velocity = velocity + max(1 / self.count, _LEAST_GAIN) * (moved / passed - velocity)
        return Track(self.id, label, box, time, velocity, count, self.mean + (score - self.mean) / count)


@dataclass(frozen=True, eq=False, slots=True)
class TrackState:
    """What the frames so far leave for the next one; the default is that before the first frame.

    Attributes:
        tracks: Those that may go on.
        next_id: That of the next new track.
        time: Seconds of the latest frame.
    """

    tracks: tuple[Track, ...] = ()
    next_id: int = 1
    time: float = 0.0


def track(detections: Iterable[Detections], config: TrackConfig | None = None) -> Iterator[Detections]:
    """Yields the detections of one video with their track ids, as they come; see `track_step`."""
    state, config = TrackState(), config or TrackConfig()
    for found in detections:
        tracked, state = track_step(found, state, config)
        yield tracked


def track_step(found: Detections, state: TrackState, config: TrackConfig) -> tuple[Detections, TrackState]:
    """Links the detections of a frame to the tracks of the frames before.

    Args:
        found: What a detector found; scores down to `config.low` help to keep tracks. Times must not fall.
        state: What the frames before left.
        config: How to link.

    Returns:
        The same detections with their track ids, -1 for weak ones that no track wanted; and the state.
        With `config.rescore` they have new scores and are sorted by them.
    """
    tracks = [each for each in state.tracks if found.time - each.time <= config.gap]
    boxes, scores, time = found.boxes.astype(np.float64), found.scores, found.time
    overlap = _iou(boxes, np.array([each.at(time) for each in tracks]).reshape(-1, 4))
    if not config.agnostic:
        overlap[found.labels[:, None] != np.array([each.label for each in tracks], np.int64)] = 0
    sure = scores >= np.float32(config.start)
    weak = ~sure & (scores >= np.float32(config.low))
    recent = np.array([each.time == state.time for each in tracks], np.bool_)
    places = np.full(len(found), -1)  # of the track of each detection
    _match(places, np.where(sure[:, None], overlap, 0), config.iou)
    _match(places, np.where(weak[:, None] & recent, overlap, 0), config.low_iou)
    ids, means, next_id = np.full(len(found), -1), scores.copy(), state.next_id
    for row, place in enumerate(places.tolist()):
        box, label, score = boxes[row], int(found.labels[row]), float(scores[row])
        if place >= 0:
            own = tracks[place] = tracks[place].continued(box, time, label, score)
        elif sure[row]:
            own, next_id = Track(next_id, label, box, time, np.zeros(2), 1, score), next_id + 1
            tracks.append(own)
        else:
            continue
        ids[row], means[row] = own.id, own.mean
    tracked = replace(found, track_ids=ids)
    if config.rescore:
        tracked = replace(tracked, scores=means).rows(np.argsort(-means, kind="stable"))
    return tracked, TrackState(tuple(tracks), next_id, time)


def _iou(first: _Boxes, second: _Boxes) -> _Boxes:
    """Returns the IoU [n, m] of boxes [n, 4] and [m, 4]."""
    low = np.maximum(first[:, None, :2], second[:, :2])
    high = np.minimum(first[:, None, 2:], second[:, 2:])
    common = (high - low).clip(min=0).prod(axis=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(axis=1) for boxes in (first, second)]
    union = areas[0][:, None] + areas[1] - common
    iou: _Boxes = np.divide(common, union, out=np.zeros_like(common), where=common > 0)
    return iou


def _match(places: NDArray[np.int64], overlap: _Boxes, least: float) -> None:
    """Writes the track of each detection that gets one into `places` [n]: the pair that overlaps most first.

    Args:
        places: -1 for the detections that are free.
        overlap: [n, m] IoU; 0 for pairs that are not allowed.
        least: The least IoU of a pair.
    """
    taken = set(places[places >= 0].tolist())
    rows, columns = np.nonzero((overlap > 0) & (overlap >= least))
    for best in np.argsort(-overlap[rows, columns], kind="stable"):
        row, column = rows[best], int(columns[best])
        if places[row] < 0 and column not in taken:
            places[row] = column
            taken.add(column)
