"""Confidence intervals of metrics, by bootstrap over the videos of a data set."""

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
from flowdet.metrics.matching import ClassMatches
from flowdet.metrics.motion_speed import RANGES, in_range, motion_entries, motion_of
from flowdet.metrics.protocols import match_by

__all__ = ["Interval", "bootstrap", "bootstrap_difference"]

_PERCENTILES: Final = (2.5, 97.5)
_CELLS_AT_ONCE: Final = 1 << 23  # numbers in one array


@dataclass(frozen=True, slots=True)
class Interval:
    """A metric with its 95 % confidence interval.

    Attributes:
        value: The metric on the data set itself.
        low: 2.5th percentile over the resamples.
        high: 97.5th percentile over the resamples.
    """

    value: float
    low: float
    high: float


def bootstrap(
    data: CocoVID,
    detections: DetectionTable,
    protocol: str,
    *,
    motion_iou: NDArray[np.float64] | None = None,
    samples: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Returns confidence intervals of a protocol's metrics, by bootstrap over the videos.

    A resample draws with replacement as many videos, and as many stills, as the data set has. A class without objects
    in a resample is left out of its mean. With few videos the intervals are too narrow.

    Args:
        data: The annotated data set.
        detections: The detections to evaluate.
        protocol: "coco" (AP50), "ilsvrc" (mAP) or "ilsvrc-motion" (slow, medium, fast and all).
        motion_iou: [n] motion IoU of each object, as in `evaluate`.
        samples: The number of resamples.
        seed: Seed of the random numbers.

    Returns:
        The intervals by the name of the metric; a metric that is undefined on the data set itself is left out.

    Raises:
        ConfigError: There is no such protocol, or `samples` is less than 1.
        DataError: As in `evaluate`.
    """
    return _intervals(_values(data, detections, protocol, motion_iou, _draw(data, samples, seed)))


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
    """Returns confidence intervals of the second result's metrics minus the first's, on the same resamples.

    The other arguments, and the errors, are those of `bootstrap`.
    """
    draws = _draw(data, samples, seed)
    before = _values(data, first, protocol, motion_iou, draws)
    after = _values(data, second, protocol, motion_iou, draws)
    return _intervals({name: after[name] - before[name] for name in after})


def _intervals(metrics: dict[str, NDArray[np.float64]]) -> dict[str, Interval]:
    """Returns the interval of each metric from its values [1 + samples], the first on the data set itself."""
    intervals = {}
    for name, values in metrics.items():
        if not np.isnan(values[0]):
            drawn = values[1:][~np.isnan(values[1:])]
            low, high = np.percentile(drawn if len(drawn) else values[:1], _PERCENTILES)
            intervals[name] = Interval(float(values[0]), float(low), float(high))
    return intervals


@dataclass(frozen=True, eq=False, slots=True)
class _Draws:
    """The resamples: how often each of them contains each unit, that is each video or still.

    Attributes:
        units: [i] int64, the unit of each image.
        times: [u, 1 + samples] float64; the first column is the data set itself, all 1.
    """

    units: NDArray[np.int64]
    times: NDArray[np.float64]

    def totals(self, images: NDArray[np.int64]) -> NDArray[np.float64]:
        """Returns [1 + samples] how often each resample contains one of these images [n]."""
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


def _values(
    data: CocoVID,
    detections: DetectionTable,
    protocol: str,
    motion_iou: NDArray[np.float64] | None,
    draws: _Draws,
) -> dict[str, NDArray[np.float64]]:
    """Returns the values [1 + samples] of each metric of a protocol; NaN where a resample leaves it undefined."""
    rule = sampled_precision if protocol == "coco" else area_under_curve
    shares = _empty_shares(data, motion_of(data, motion_iou), draws) if protocol == "ilsvrc-motion" else {}
    by_class: dict[str, list[NDArray[np.float64]]] = {}
    for by_metric in match_by(data, detections, protocol, motion_iou=motion_iou):
        for name, matches in by_metric.items():
            boxes = draws.totals(data.objects.images[matches.objects])
            values = np.zeros(len(boxes))
            for some, right, wrong in _counts(
                matches, draws.units[detections.images[matches.rows]], draws, shares.get(name)
            ):
                precision = right / np.maximum(right + wrong, np.finfo(np.float64).eps)
                values[some] = rule(right / np.maximum(boxes[some, None], 1), precision)
            values[boxes == 0] = np.nan
            by_class.setdefault(name, []).append(values)
    return {name: _means(np.stack(values)) for name, values in by_class.items()}


def _counts(
    matches: ClassMatches, units: NDArray[np.int64], draws: _Draws, shares: NDArray[np.float64] | None
) -> Iterator[tuple[slice, NDArray[np.float64], NDArray[np.float64]]]:
    """Yields the numbers of true and false positives up to each true positive, a block of resamples at a time.

    Args:
        matches: The n detections of a class, r of them true positives.
        units: [n] the unit of each detection.
        draws: The resamples.
        shares: [1 + samples] factor of each resample on the weights of detections in frames without objects.

    Yields:
        The s resamples of the block, and the numbers [s, r] of true and of false positives.
    """
    steps = np.flatnonzero(matches.true_positive)
    if not len(steps):
        return
    # Copies of a video follow each other in the order of scores. Precision is highest after the last copy, and only the
    # highest precision counts, so steps of whole videos are exact.
    segments = np.repeat(np.arange(len(steps)), np.diff(steps, prepend=-1))
    units, weights = units[: len(segments)], matches.false_positive[: len(segments)]
    at_once = max(1, _CELLS_AT_ONCE // len(steps))
    for first in range(0, draws.times.shape[1], at_once):
        some = slice(first, first + at_once)
        times = draws.times[:, some]
        wrong = _sums(len(steps), segments, units, weights, times)
        if shares is not None and matches.in_empty_frame is not None:
            empty = np.flatnonzero(matches.in_empty_frame[: len(segments)])
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
    """Returns [count, s] float64, the sum of the weights of the detections in each segment, for each resample.

    Args:
        count: The number of segments.
        segments: [n] the segment of each detection, ascending.
        units: [n] the unit of each detection.
        weights: [n] the weight of each detection.
        times: [u, s] how often each resample contains each unit.
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
    """Returns by range [1 + samples] the weight of a false detection in a frame without objects.

    The weights are relative to that on the data set itself, the first one.
    """
    images, entries = motion_entries(data, values)
    everything = np.maximum(draws.totals(images), 1)
    weights = {name: draws.totals(images[in_range(entries, name)]) / everything for name in RANGES}
    return {name: weight / (weight[0] or 1) for name, weight in weights.items()}


def _means(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the means [s] over the classes of values [c, s] without NaN; NaN where every class is NaN."""
    known = ~np.isnan(values)
    total, count = np.where(known, values, 0).sum(axis=0), known.sum(axis=0)
    means: NDArray[np.float64] = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return means
