"""Why measured figures should not be trusted."""

from collections.abc import Iterator, Sequence

import numpy as np

from flowdet.benchmark.report import SystemCost

__all__ = ["doubts"]

_MOST_OTHERS = 0.1  # cores
_LEAST_STEADY = 0.9
_MOST_SPREAD = 0.1
_MOST_APART = 0.15
_OUTSIDE = {"decode", "preparation", "drawing", "encoding"}


def doubts(
    costs: Sequence[SystemCost],
    rates: Sequence[float],
    *,
    cores: int,
    threads: int,
    others: float | None,
    load: float | None,
) -> Iterator[str]:
    """A sentence for each reason to doubt; none if the figures can be trusted.

    Args:
        costs: Of the systems.
        rates: Of equal matrix products, measured at different times.
        cores: Of the machine.
        threads: That were measured with.
        others: Cores that other processes kept busy meanwhile.
        load: Busy cores in the minute before; it is asked where the other is not known.
    """
    free = max(cores - threads, 0)
    if others is not None and others > free + _MOST_OTHERS:
        yield f"other processes kept {others:.1f} of the {cores} cores busy, and {threads} were measured with"
    if others is None and load is not None and load > free + 0.5:
        yield f"in the minute before, {load:.1f} of the {cores} cores were busy, and {threads} were measured with"
    low = float(np.quantile(rates, 0.25)) / max(rates)
    if low < _LEAST_STEADY:
        yield f"equal matrix products ran at {100 * low:.0f} % of the best rate or less in a quarter of the trials"
    for cost in costs:
        yield from _doubts_of(cost)


def _doubts_of(cost: SystemCost) -> Iterator[str]:
    for kind, frame in cost.frames.items():
        name = cost.system if kind == "frame" else f"{cost.system}, {kind} frames"
        if frame.forward.relative > _MOST_SPREAD:
            yield f"{name}: the quartiles lie {100 * frame.forward.relative:.0f} % of the median apart"
        inside = sum(part.seconds.median for part_name, part in frame.parts.items() if part_name not in _OUTSIDE)
        if abs(inside / frame.forward.median - 1) > _MOST_APART:
            yield f"{name}: the parts add up to {100 * inside / frame.forward.median:.0f} % of the whole"
