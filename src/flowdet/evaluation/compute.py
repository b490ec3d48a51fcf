"""All metrics of one result: by protocol, with intervals, after Seq-NMS, and against another result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.average_precision import Metrics
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.intervals import Interval, bootstrap, bootstrap_difference
from flowdet.metrics.protocols import evaluate
from flowdet.tracking.seq_nms import seq_nms

__all__ = ["AllMetrics", "Intervals", "MetricOptions", "compute_metrics"]

Intervals = Mapping[str, Mapping[str, Interval]]
"""By protocol, then by metric."""


@dataclass(frozen=True, eq=False, slots=True)
class MetricOptions:
    """What to compute.

    Attributes:
        protocols: Names of protocols, each once.
        motion_iou: [n] motion IoU of each object; computed from the track numbers if not given.
        seq_nms: Whether to evaluate the detections after Seq-NMS as well.
        samples: Resamples for the confidence intervals; 0 for no intervals.
        versus: Another result on the same data set, to be compared with; needs resamples.
    """

    protocols: tuple[str, ...] = ("coco",)
    motion_iou: NDArray[np.float64] | None = None
    seq_nms: bool = False
    samples: int = 1000
    versus: DetectionTable | None = None


@dataclass(frozen=True, eq=False, slots=True)
class AllMetrics:
    """The metrics of one result.

    Attributes:
        by_protocol: The metrics by protocol, in the order asked for.
        intervals: Confidence intervals of the metrics; empty without resamples.
        seq_nms: The metrics after Seq-NMS by protocol; empty if not asked for.
        versus: This result's metrics minus the other's; empty without another result.
    """

    by_protocol: Mapping[str, Metrics]
    intervals: Intervals = field(default_factory=dict)
    seq_nms: Mapping[str, Metrics] = field(default_factory=dict)
    versus: Intervals = field(default_factory=dict)


def compute_metrics(
    data: CocoVID,
    detections: DetectionTable,
    options: MetricOptions,
    *,
    tell: Callable[[str], None] = lambda step: None,
) -> AllMetrics:
    """Computes the metrics of one result.

    Args:
        data: The annotated data set.
        detections: The detections to evaluate.
        options: What to compute.
        tell: Called with the name of each step before it begins.

    Raises:
        ConfigError: There is no such protocol.
        DataError: The data set lacks what a protocol needs.
    """
    speeds, samples = options.motion_iou, options.samples

    def metrics_of(table: DetectionTable, step: str) -> dict[str, Metrics]:
        metrics = {}
        for protocol in options.protocols:
            tell(f"{step}: {protocol}")
            metrics[protocol] = evaluate(data, table, protocol, motion_iou=speeds)
        return metrics

    metrics = metrics_of(detections, "comparing")
    linked: dict[str, Metrics] = {}
    if options.seq_nms:
        tell("Seq-NMS")
        linked = metrics_of(seq_nms(data, detections), "comparing after Seq-NMS")
    intervals, versus = {}, {}
    for protocol in options.protocols:
        if samples:
            tell(f"confidence intervals: {protocol}")
            intervals[protocol] = bootstrap(data, detections, protocol, motion_iou=speeds, samples=samples)
        if options.versus:
            tell(f"confidence intervals of the difference: {protocol}")
            versus[protocol] = bootstrap_difference(
                data, options.versus, detections, protocol, motion_iou=speeds, samples=samples
            )
    return AllMetrics(metrics, intervals, linked, versus)
