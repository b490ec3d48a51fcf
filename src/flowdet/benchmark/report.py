"""What a benchmark found: as values, as JSON, and whether it can be trusted."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from flowdet.benchmark.meter import Costs
from flowdet.systems.options import SystemOptions

__all__ = [
    "FirstFrame",
    "FrameCost",
    "Machine",
    "PartCost",
    "Report",
    "Spread",
    "SystemCost",
    "Versus",
    "spread",
    "to_json",
]

_BEFORE, _AFTER = ("decode", "preparation"), ("drawing", "encoding")
_MOST_OTHERS = 0.1  # cores
_LEAST_STEADY = 0.9
_MOST_SPREAD = 0.1


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Returns median and quartiles of some values."""
    low, median, high = (float(x) for x in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high)


@dataclass(frozen=True)
class PartCost:
    """What a part of a system costs a frame; `gflop`: 10^9 operations of convolutions and matrix products."""

    seconds: Spread
    gflop: float


@dataclass(frozen=True)
class FrameCost:
    """What a frame of one kind costs.

    Attributes:
        count: The number of frames measured.
        forward: Seconds of forward and post-processing.
        everything: Seconds from decoding to encoding.
        parts: In the order in which a frame goes through them.
    """

    count: int
    forward: Spread
    everything: Spread
    parts: Mapping[str, PartCost]

    @property
    def gflop(self) -> float:
        """The sum over all parts."""
        return sum(part.gflop for part in self.parts.values())

    @classmethod
    def of(cls, forward: Sequence[Costs], everything: Sequence[Costs], parts: Sequence[Costs], *, gflop: Costs) -> Self:
        """Returns the cost of frames of one kind.

        Args:
            forward: Seconds of frames from memory, all parts together.
            everything: Seconds of frames from decoding to encoding, all parts together.
            parts: Seconds of frames from memory by part.
            gflop: Arithmetic of a frame by part.
        """
        names = [*_BEFORE, *dict.fromkeys(name for each in (*parts, gflop) for name in each), *_AFTER]
        seconds = {
            name: [each.get(name, 0.0) for each in (everything if name in (*_BEFORE, *_AFTER) else parts)]
            for name in dict.fromkeys(names)
        }
        return cls(
            count=len(forward),
            forward=spread([each.get("forward", 0.0) for each in forward]),
            everything=spread([sum(each.values()) for each in everything]),
            parts={name: PartCost(spread(each), gflop.get(name, 0.0)) for name, each in seconds.items()},
        )


@dataclass(frozen=True)
class FirstFrame:
    """What can be seen once in a process only.

    Attributes:
        seconds: From the first frame to its detections, decoding included.
        memory_before: The most bytes in use before the system was loaded: Python and its packages; None: unknown.
        memory: The most bytes in use until the stream is in its steady state; None: unknown.
    """

    seconds: float
    memory_before: int | None
    memory: int | None


@dataclass(frozen=True)
class SystemCost:
    """What a system costs.

    Attributes:
        weights: Where its weights come from.
        size: (height, width) of the frames.
        padded: (height, width) of the network input.
        kinds: The kinds of frames of a turn, in order.
        frames: What a frame of each kind costs.
        mean: What a frame costs on average over a turn.
        lookahead: How many frames later a frame's detections come, at the latest.
        first: Latency of the first frame, and memory.
        notes: What a reader should know.
    """

    system: str
    weights: str
    backend: str
    options: SystemOptions
    size: tuple[int, int]
    padded: tuple[int, int]
    kinds: tuple[str, ...]
    frames: Mapping[str, FrameCost]
    mean: FrameCost
    lookahead: int
    first: FirstFrame
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """What was measured on.

    Attributes:
        device: "cpu" or "cuda:0", for instance.
        threads: The number of threads of torch.
        peak: Rates of float32 matrix products, GFLOP/s, measured before, between and after.
        others_cores: The number of cores that other processes kept busy meanwhile; None: unknown.
    """

    device: str
    processor: str
    cores: int
    threads: int
    torch: str
    peak: tuple[float, ...]
    others_cores: float | None

    @property
    def best(self) -> float:
        """The best of the rates, GFLOP/s: the peak that shares are taken of."""
        return max(self.peak)


@dataclass(frozen=True)
class Versus:
    """Another system, measured in alternation.

    Attributes:
        system: What it costs.
        ratio: Its seconds over those of the first system, forward and post-processing, turn by turn.
        ratio_everything: The same from decoding to encoding.
    """

    system: SystemCost
    ratio: Spread
    ratio_everything: Spread


@dataclass(frozen=True)
class Report:
    """A benchmark of one system, or of two in turn."""

    machine: Machine
    system: SystemCost
    versus: Versus | None = None

    @property
    def warnings(self) -> list[str]:
        """A sentence for each reason not to trust the times; empty if they can be trusted."""
        return list(_warnings(self))


def _warnings(report: Report) -> Iterator[str]:
    machine, costs = report.machine, [report.system, *([report.versus.system] if report.versus else [])]
    busy, threads, cores = machine.others_cores, machine.threads, machine.cores
    if busy is not None and busy > max(cores - threads, 0) + _MOST_OTHERS:
        yield f"other processes kept {busy:.1f} of the {cores} cores busy, and {threads} were measured with"
    low = float(np.quantile(machine.peak, 0.25)) / machine.best
    if low < _LEAST_STEADY:
        yield f"equal matrix products ran at {100 * low:.0f} % of the best rate or less in a quarter of the trials"
    for cost, kind in ((each, kind) for each in costs for kind in each.frames):
        forward = cost.frames[kind].forward
        name = cost.system if len(cost.frames) == 1 else f"{cost.system}, {kind} frames"
        apart = (forward.high - forward.low) / forward.median
        if apart > _MOST_SPREAD:
            yield f"{name}: the quartiles lie {100 * apart:.0f} % of the median apart"


def to_json(report: Report) -> dict[str, Any]:
    """Returns the report as JSON values; `seconds_per_frame` is forward and post-processing in the steady state."""
    peak, warnings = report.machine.best, report.warnings
    machine = {**asdict(report.machine), "peak_gflops": peak}
    found = {**_system(report.system, peak), "machine": machine, "warnings": warnings, "trusted": not warnings}
    if report.versus:
        found["versus"] = {**asdict(report.versus), "system": _system(report.versus.system, peak)}
    return found


def _system(cost: SystemCost, peak: float) -> dict[str, Any]:
    mean, options = cost.mean, asdict(cost.options)
    return {
        "seconds_per_frame": mean.forward.median,
        "seconds_per_frame_quartiles": [mean.forward.low, mean.forward.high],
        "seconds_per_frame_everything": mean.everything.median,
        "gflop_per_frame": mean.gflop,
        **asdict(cost),
        "options": {name: str(value) if isinstance(value, Path) else value for name, value in options.items()},
        "frames": {kind: _frame(frame, peak) for kind, frame in cost.frames.items()},
        "mean": _frame(mean, peak),
    }


def _frame(frame: FrameCost, peak: float) -> dict[str, Any]:
    found = {**asdict(frame), "gflop": frame.gflop, "share_of_peak": frame.gflop / frame.forward.median / peak}
    for part in found["parts"].values():
        part["share_of_peak"] = part["gflop"] / max(part["seconds"]["median"], 1e-9) / peak
    return found
