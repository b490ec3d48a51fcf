"""All that is asked of one result at once: protocols, intervals, Seq-NMS, the difference to another result."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from flowdet.data.cocovid import CocoVID
from flowdet.metrics.detections import DetectionTable
from flowdet.metrics.figures import Figures
from flowdet.metrics.intervals import Interval, bootstrap, bootstrap_difference
from flowdet.metrics.protocols import evaluate
from flowdet.tracking.seq_nms import seq_nms

__all__ = ["Intervals", "Judgement", "Questions", "judge"]

Intervals = Mapping[str, Mapping[str, Interval]]
"""By protocol and figure."""


@dataclass(frozen=True, eq=False, slots=True)
class Questions:
    """What is asked of a result.

    Attributes:
        protocols: Their names, each once.
        motion_iou: [n] one value an object in place of computed ones.
        seq_nms: Whether to judge the detections after Seq-NMS, too.
        samples: Resamples for the confidence intervals; 0: none.
        versus: Another result on the same data set to take the difference from; it needs resamples.
    """

    protocols: tuple[str, ...] = ("coco",)
    motion_iou: NDArray[np.float64] | None = None
    seq_nms: bool = False
    samples: int = 1000
    versus: DetectionTable | None = None


@dataclass(frozen=True, eq=False, slots=True)
class Judgement:
    """The answers.

    Attributes:
        figures: By protocol, in the order asked for.
        intervals: Of the figures; empty without resamples.
        seq_nms: The figures after Seq-NMS by protocol; empty if that was not asked for.
        versus: This result's figures minus the other's; empty if there is no other.
    """

    figures: Mapping[str, Figures]
    intervals: Intervals = field(default_factory=dict)
    seq_nms: Mapping[str, Figures] = field(default_factory=dict)
    versus: Intervals = field(default_factory=dict)


def judge(
    data: CocoVID,
    detections: DetectionTable,
    questions: Questions,
    *,
    tell: Callable[[str], None] = lambda step: None,
) -> Judgement:
    """Answers everything that is asked of a result.

    Args:
        data: What is annotated.
        detections: What was found.
        questions: What is asked.
        tell: Told before each step what it is.

    Raises:
        ConfigError: There is no such protocol.
        DataError: A protocol needs what the data set lacks.
    """
    speeds, samples = questions.motion_iou, questions.samples

    def figures_of(table: DetectionTable, what: str) -> dict[str, Figures]:
        figures = {}
        for protocol in questions.protocols:
            tell(f"{what} by {protocol}")
            figures[protocol] = evaluate(data, table, protocol, motion_iou=speeds)
        return figures

    figures = figures_of(detections, "comparing")
    linked: dict[str, Figures] = {}
    if questions.seq_nms:
        tell("linking over time: Seq-NMS")
        linked = figures_of(seq_nms(data, detections), "comparing after Seq-NMS")
    intervals, versus = {}, {}
    for protocol in questions.protocols:
        if samples:
            tell(f"confidence intervals of {protocol}")
            intervals[protocol] = bootstrap(data, detections, protocol, motion_iou=speeds, samples=samples)
        if questions.versus:
            tell(f"the difference by {protocol}")
            versus[protocol] = bootstrap_difference(
                data, questions.versus, detections, protocol, motion_iou=speeds, samples=samples
            )
    return Judgement(figures, intervals, linked, versus)
