"""How sure a figure is: confidence intervals by drawing the videos of a data set again and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.errors import ConfigError
from flowdet.metrics.average_precision import area_under_curve, sampled_precision
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.matching import Judged
from flowdet.metrics.motion_speed import RANGES, in_range, motion_entries, motion_of
from flowdet.metrics.protocols import judge_by

__all__ = ["Interval", "bootstrap", "bootstrap_difference"]

_PERCENTILES: Final = (2.5, 97.5)
_CELLS_AT_ONCE: Final = 1 << 23  # numbers in one array


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure with its 95 % confidence interval.

    Attributes:
        value: The figure on the data set as it is.
        low: 2.5th percentile of the figure over the resamples.
        high: 97.5th percentile.
    """

    value: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside; for a difference: whether it is more than chance."""
        return self.low > 0 or self.high < 0


def bootstrap(
    data: CocoVID,
    detections: DetectionTable,
    protocol: str,
    *,
    motion_iou: NDArray[np.float64] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of a protocol's figures, by bootstrap over the videos.

    A resample draws as many videos as there are, with repetition, and as many stills. A class that has no
    box in a resample is left out of its mean. A handful of videos gives intervals that are too narrow.

    Args:
        data: What is annotated.
        detections: What was found.
        protocol: "coco" (for AP50), "ilsvrc" (for mAP) or "ilsvrc-motion" (for slow, medium, fast and all).
        motion_iou: As in `evaluate`.
        samples: How many resamples.
        seed: Of the random numbers.

    Returns:
        The intervals by the name of the figure; one that is undefined on the data set itself is left out.

    Raises:
        ConfigError: There is no such protocol, or no resample.
        DataError: As in `evaluate`.
    """
    return _intervals(_figures(data, detections, protocol, motion_iou, _draw(data, samples, seed)))


def bootstrap_difference(
    data: CocoVID,
    first: DetectionTable,
    second: DetectionTable,
    protocol: str,
    *,
    motion_iou: NDArray[np.float64] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Confidence intervals of the second result's figures minus the first's, on the same resamples.

    What goes in, comes out and goes wrong is as in `bootstrap`.
    """
    draws = _draw(data, samples, seed)
    before = _figures(data, first, protocol, motion_iou, draws)
    after = _figures(data, second, protocol, motion_iou, draws)
    return _intervals({name: after[name] - before[name] for name in after})


def _intervals(figures: dict[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """From the values [1 + samples] of each figure, the first of which is that of the data set itself."""
    intervals = {}
    for name, values in figures.items():
        if not np.isnan(values[0]):
            drawn = values[1:][~np.isnan(values[1:])]
            low, high = np.percentile(drawn if len(drawn) else values[:1], _PERCENTILES)
            intervals[name] = Interval(float(values[0]), float(low), float(high))
    return intervals


@dataclass(frozen=True, eq=False, slots=True)
class _Draws:
    """How often each resample holds each video or still.

    Attributes:
        units: [i] int64, the video or still that each image is of.
        times: [u, 1 + samples] float64; the first column is the data set itself.
    """

    units: NDArray[np.int64]
    times: NDArray[np.float64]

    def totals(self, images: NDArray[np.int64]) -> NDArray[np.float64]:
        """[1 + samples] how often each resample holds one of these images [n]."""
        totals: NDArray[np.float64] = np.bincount(self.units[images], minlength=len(self.times)) @ self.times
        return totals


def _draw(data: CocoVID, samples: int, seed: int) -> _Draws:
    if samples < 1:
        raise ConfigError(f"a confidence interval needs at least one resample, not {samples}")
    random = np.random.default_rng(seed)
    videos = np.array([-1 if image.video is None else image.video for image in data.images])
    stills = videos < 0
    units = np.where(stills, len(data.videos) + np.cumsum(stills) - 1, videos)
    counts = [count for count in (len(data.videos), int(stills.sum())) if count]
    drawn = [random.multinomial(count, np.full(count, 1 / count), size=samples).T for count in counts]
    as_it_is = np.ones((sum(counts), 1))
    return _Draws(units, np.concatenate([as_it_is, np.concatenate(drawn)], axis=1))


def _figures(
    data: CocoVID,
    detections: DetectionTable,
    protocol: str,
    motion_iou: NDArray[np.float64] | None,
    draws: _Draws,
) -> dict[str, NDArray[np.float64]]:
    """[1 + samples] the values of each figure of a protocol; NaN where a resample leaves it undefined."""
    rule = sampled_precision if protocol == "coco" else area_under_curve
    shares = _empty_shares(data, motion_of(data, motion_iou), draws) if protocol == "ilsvrc-motion" else {}
    by_class: dict[str, list[NDArray[np.float64]]] = {}
    for by_figure in judge_by(data, detections, protocol, motion_iou=motion_iou):
        for name, judged in by_figure.items():
            boxes = draws.totals(data.objects.images[judged.boxes])
            values = np.zeros(len(boxes))
            for some, right, wrong in _counts(
                judged, draws.units[detections.images[judged.rows]], draws, shares.get(name)
            ):
                precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
                values[some] = rule(right / np.maximum(boxes[some, None], 1), precision)
            values[boxes == 0] = np.nan
            by_class.setdefault(name, []).append(values)
    return {name: _means(np.stack(values)) for name, values in by_class.items()}


def _counts(
    judged: Judged, units: NDArray[np.int64], draws: _Draws, shares: NDArray[np.float64] | None
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Yields, a few resamples at a time, how many detections are right and wrong up to each right one.

    Args:
        judged: The n detections of a class, r of them right.
        units: [n] the video or still of each.
        draws: What the resamples hold.
        shares: [1 + samples] by how much each resample changes the weights of those in frames without objects.

    Yields:
        Which resamples, and the counts [s, r] of the right and of the wrong ones.
    """
    steps = np.flatnonzero(judged.right)
    if not len(steps):
        return
    # Copies of a video stand side by side in the order of scores. After the last copy precision is the highest of
    # them, and only the highest counts, so that counts in steps of whole videos give the figure exactly.
    segments = np.repeat(np.arange(len(steps)), np.diff(steps, prepend=-1))
    units, weights = units[: len(segments)], judged.wrong[: len(segments)]
    at_once = max(1, _CELLS_AT_ONCE // len(steps))
    for first in range(0, draws.times.shape[1], at_once):
        some = slice(first, first + at_once)
        times = draws.times[:, some]
        wrong = _sums(len(steps), segments, units, weights, times)
        if shares is not None and judged.in_empty is not None:
            empty = np.flatnonzero(judged.in_empty[: len(segments)])
            in_empty = _sums(len(steps), segments[empty], units[empty], weights[empty], times)
            wrong += (shares[some] - 1) * in_empty
        yield some, np.cumsum(times[units[steps]], axis=0).T, np.cumsum(wrong, axis=0).T


def _sums(
    count: int,
    segments: NDArray[np.int64],
    units: NDArray[np.int64],
    weights: NDArray[np.float64],
    times: NDArray[np.float64],
) -> NDArray[np.float64]:
    """What the detections of each segment weigh in each resample.

    Args:
        count: How many segments there are.
        segments: [n] of the detections, not falling.
        units: [n] their videos or stills.
        weights: [n].
        times: [u, s] how often each resample holds each video or still.

    Returns:
        [count, s] float64.
    """
    used, places = np.unique(units, return_inverse=True)
    sums = np.zeros((count, times.shape[1]))
    at_once = max(1, _CELLS_AT_ONCE // max(1, len(used)))
    for first in range(0, count, at_once):
        size = min(count - first, at_once)
        rows = slice(*np.searchsorted(segments, (first, first + size)).tolist())
        cells = (segments[rows] - first) * len(used) + places[rows]
        of_units = np.bincount(cells, weights[rows], minlength=size * len(used)).reshape(size, len(used))
        sums[first : first + size] = of_units @ times[used]
    return sums


def _empty_shares(data: CocoVID, values: NDArray[np.float64], draws: _Draws) -> dict[str, NDArray[np.float64]]:
    """[1 + samples] for each range the weight of a false detection in a frame without objects, over the first one."""
    images, entries = motion_entries(data, values)
    everything = np.maximum(draws.totals(images), 1)
    weights = {name: draws.totals(images[in_range(entries, name)]) / everything for name in RANGES}
    return {name: weight / (weight[0] or 1) for name, weight in weights.items()}


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The mean over the classes of values [c, s], NaN left out; NaN where nothing is left."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return means
