"""Track ids for detections as they come: matching in two stages, as ByteTrack (Zhang et al., ECCV 2022) does."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision.ops import box_iou

from flowdet.errors import ConfigError
from flowdet.types import Detections

__all__ = ["Track", "TrackerConfig", "TrackerState", "step", "track"]

_Boxes = NDArray[np.float32]


@dataclass(frozen=True)
class TrackerConfig:
    """What counts as the same object.

    Attributes:
        new_score: A detection with at least this score that belongs to no track starts one.
        high_score: Detections with at least this score choose their tracks first.
        low_score: Detections below it are not looked at; between the two they may only continue a track.
        high_iou: The least IoU of a detection of the first stage and the predicted box of its track.
        low_iou: The same in the second stage.
        new_iou: A detection that overlaps another one of its class that has a track with at least this IoU starts none.
        longest_gap: Seconds after which a track that found no detection ends.
        across_classes: Whether a track may go on with another class.
        rescores: Whether a detection gets the mean of the scores of its track so far.
    """

    new_score: float = 0.3
    high_score: float = 0.5
    low_score: float = 0.1
    high_iou: float = 0.2
    low_iou: float = 0.5
    new_iou: float = 0.3
    longest_gap: float = 1.0
    across_classes: bool = False
    rescores: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.low_score <= min(self.new_score, self.high_score) <= 1:
            raise ConfigError(
                "scores lie between 0 and 1, and low_score is the lowest, "
                f"not {self.low_score}, {self.new_score} and {self.high_score}"
            )
        if not 0 <= self.longest_gap < float("inf"):
            raise ConfigError(f"the longest gap is 0 or more seconds, not {self.longest_gap}")

    @classmethod
    def from_score(cls, score: float, *, across_classes: bool = False, rescores: bool = False) -> Self:
        """Returns the tracker of results that show detections from this score on: each of them has a track."""
        return cls(
            new_score=score,
            high_score=max(score, cls.high_score),
            low_score=min(score, cls.low_score),
            across_classes=across_classes,
            rescores=rescores,
        )


@dataclass(frozen=True, eq=False, slots=True)
class Track:
    """An object that was seen before.

    Attributes:
        number: Its id, from 1 on.
        label: Its class when it was last seen.
        box: [4] xyxy px, original image, where it was last seen.
        velocity: [4] px a second of the centre's x and y, and of width and height.
        time: Seconds, when it was last seen.
        scores: The sum of its scores.
        count: The number of its detections.
    """

    number: int
    label: int
    box: _Boxes
    velocity: _Boxes
    time: float
    scores: float
    count: int

    def predicted(self, time: float) -> _Boxes:
        """Returns [4] xyxy px, where the object is at this time if it keeps its velocity."""
        moved = _centred(self.box) + self.velocity * np.float32(time - self.time)
        half = np.maximum(moved[2:], 1) / 2
        return np.concatenate((moved[:2] - half, moved[:2] + half))


@dataclass(frozen=True, eq=False, slots=True)
class TrackerState:
    """The tracks that may go on, and the id of the next one."""

    tracks: tuple[Track, ...] = ()
    following: int = 1


def track(detections: Iterable[Detections], config: TrackerConfig | None = None) -> Iterator[Detections]:
    """Yields the detections of each frame of a video with their track ids, see `step`."""
    state = TrackerState()
    for found in detections:
        tracked, state = step(found, state, config or TrackerConfig())
        yield tracked


def step(found: Detections, state: TrackerState, config: TrackerConfig) -> tuple[Detections, TrackerState]:
    """Gives the detections of the next frame their track ids.

    Pairs of a track and a detection are formed from the largest IoU down, first with sure detections, then with unsure
    ones; an unsure one mostly is an object that is blurred or partly hidden (ByteTrack, section 3).

    Args:
        found: The detections of a frame, with low scores, too.
        state: As the frame before has left it; `TrackerState()` for the first.
        config: What counts as the same object.

    Returns:
        The detections that belong to a track, highest score first, and the state for the next frame.
    """
    tracks = [one for one in state.tracks if found.time - one.time <= config.longest_gap]
    owners = np.full(len(found), -1)
    is_high = found.scores >= config.high_score
    is_low = ~is_high & (found.scores >= config.low_score)
    if tracks and len(found):
        places = np.stack([one.predicted(found.time) for one in tracks])
        ious = box_iou(torch.from_numpy(places), torch.from_numpy(found.boxes)).numpy()
        if not config.across_classes:
            ious = np.where(np.array([one.label for one in tracks])[:, None] == found.labels, ious, 0)
        for stage, least in ((is_high, config.high_iou), (is_low, config.low_iou)):
            _pair(ious, owners, stage, least)
    following = state.following
    seen: dict[int, Track] = {}
    # Those with a track come first, so that a second box of the same object finds them.
    for place in np.argsort(owners < 0, kind="stable").tolist():
        if owners[place] >= 0:
            seen[place] = _continued(tracks[owners[place]], found, place)
        elif found.scores[place] >= config.new_score and not _is_double(found, place, seen, config):
            box, score = found.boxes[place], float(found.scores[place])
            still = np.zeros(4, np.float32)
            seen[place] = Track(following, int(found.labels[place]), box, still, found.time, score, 1)
            following += 1
    gone = [one for number, one in enumerate(tracks) if number not in owners]
    return _with_tracks(found, seen, config), TrackerState((*gone, *seen.values()), following)


def _is_double(found: Detections, place: int, seen: Mapping[int, Track], config: TrackerConfig) -> bool:
    """Whether a detection mostly is a second box of an object that has a track in this frame."""
    others = [other for other in seen if config.across_classes or found.labels[other] == found.labels[place]]
    if not others:
        return False
    ious = box_iou(torch.from_numpy(found.boxes[place, None]), torch.from_numpy(found.boxes[others]))
    return bool(ious.max() >= config.new_iou)


def _pair(ious: NDArray[np.float32], owners: NDArray[np.int64], stage: NDArray[np.bool_], least: float) -> None:
    """Writes the track of each detection of this stage into `owners` [n], from the largest IoU [tracks, n] down."""
    free = np.where(stage & (owners < 0), ious, 0)
    free[owners[owners >= 0]] = 0
    while free.size and free.max() > least:
        one, place = np.unravel_index(free.argmax(), free.shape)
        owners[place] = one
        free[one], free[:, place] = 0, 0


def _continued(one: Track, found: Detections, place: int) -> Track:
    """The track after this detection; its velocity is the mean of what it was and what was seen now."""
    box, score = found.boxes[place], float(found.scores[place])
    seconds = found.time - one.time
    velocity = one.velocity
    if seconds > 0:
        now = ((_centred(box) - _centred(one.box)) / seconds).astype(np.float32)
        velocity = now if one.count == 1 else np.float32(0.5) * (one.velocity + now)
    return Track(one.number, int(found.labels[place]), box, velocity, found.time, one.scores + score, one.count + 1)


def _centred(box: _Boxes) -> _Boxes:
    """Centre, width and height [4] of a box xyxy [4]."""
    return np.concatenate(((box[:2] + box[2:]) / 2, box[2:] - box[:2]))


def _with_tracks(found: Detections, seen: dict[int, Track], config: TrackerConfig) -> Detections:
    places = np.array(sorted(seen), dtype=np.int64)
    tracks = [seen[place] for place in places]
    scores = found.scores[places]
    if config.rescores:
        scores = np.array([one.scores / one.count for one in tracks], dtype=np.float32)
    order = np.argsort(-scores, kind="stable")
    places = places[order]
    return replace(
        found,
        boxes=found.boxes[places],
        scores=scores[order],
        labels=found.labels[places],
        track_ids=np.array([one.number for one in tracks], dtype=np.int64)[order],
    )
