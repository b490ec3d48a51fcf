"""What a benchmark found, as values and as JSON."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

__all__ = ["FrameCost", "Machine", "Memory", "PartCost", "Report", "Spread", "SystemCost", "mix", "spread", "to_json"]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles."""

    median: float
    low: float
    high: float

    @property
    def relative(self) -> float:
        """From quartile to quartile, as a share of the median."""
        return (self.high - self.low) / self.median if self.median else 0.0


def spread(values: Sequence[float]) -> Spread:
    """Median and quartiles of some values."""
    low, median, high = (float(x) for x in np.quantile(values, (0.25, 0.5, 0.75)))
    return Spread(median, low, high)


def mix(spreads: Sequence[Spread]) -> Spread:
    """The mean of several, as if all of them were low or high at the same time."""
    return Spread(*(float(x) for x in np.mean([(s.median, s.low, s.high) for s in spreads], axis=0)))


@dataclass(frozen=True)
class PartCost:
    """What a part of a system costs a frame.

    Attributes:
        seconds: Of time.
        gflop: 10^9 additions and multiplications in convolutions and matrix products.
    """

    seconds: Spread
    gflop: float


@dataclass(frozen=True)
class FrameCost:
    """What a frame of one kind costs.

    Attributes:
        count: Frames measured.
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
        """Of all parts."""
        return sum(part.gflop for part in self.parts.values())


@dataclass(frozen=True)
class Memory:
    """Bytes in use at once, None where that is not known.

    Attributes:
        peak: The most while the system runs.
        before: The most before it was built: Python and its packages.
    """

    peak: int | None
    before: int | None


@dataclass(frozen=True)
class SystemCost:
    """What a system costs.

    Attributes:
        system: Its name.
        weights: Where its weights are from.
        runtime: What ran it, "torch" or "openvino".
        causal: FGFA without frames after the current one.
        mode: As in `flowdet.load`.
        size: (height, width) of the frames.
        padded: (height, width) of the network input.
        kinds: The kinds of frames that take turns: one, or DFF's key frame and the others up to the next.
        frames: What a frame of each kind costs.
        mean: Over these turns.
        lookahead: A frame's detections come so many frames later.
        first_seconds: In a new process, from the first frame to its detections, if no frame has to be waited for.
        memory: Of that process.
        notes: What a reader should know.
    """

    system: str
    weights: str
    runtime: str
    causal: bool
    mode: str
    size: tuple[int, int]
    padded: tuple[int, int]
    kinds: tuple[str, ...]
    frames: Mapping[str, FrameCost]
    mean: FrameCost
    lookahead: int
    first_seconds: float
    memory: Memory
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Machine:
    """What was measured on.

    Attributes:
        device: "cpu" or "cuda:0".
        processor: What it is called.
        cores: Of the machine.
        threads: Of torch.
        torch: Its version.
        peak: Rates of float32 matrix products of 1024x1024, GFLOP/s, measured before, between and after.
        others_cores: Cores that other processes kept busy meanwhile; None where that is not known.
        doubts: Why the figures should not be trusted; empty if they can be.
    """

    device: str
    processor: str
    cores: int
    threads: int
    torch: str
    peak: tuple[float, ...]
    others_cores: float | None
    doubts: tuple[str, ...]

    @property
    def best(self) -> float:
        """The best of the rates, GFLOP/s: the peak that shares are taken of."""
        return max(self.peak)


@dataclass(frozen=True)
class Report:
    """A benchmark of one system, or of two in turn.

    Attributes:
        machine: What was measured on.
        system: What was asked for.
        versus: What it was compared with.
        ratio: Seconds of the other over those of the system, forward and post-processing, turn by turn.
        ratio_everything: The same from decoding to encoding.
    """

    machine: Machine
    system: SystemCost
    versus: SystemCost | None
    ratio: Spread | None
    ratio_everything: Spread | None


def to_json(report: Report) -> dict[str, Any]:
    """The report as JSON values; `seconds_per_frame` is forward and post-processing in the steady state."""
    peak = report.machine.best
    found = {**_system(report.system, peak), "machine": {**asdict(report.machine), "peak_gflops": peak}}
    found["trusted"] = not report.machine.doubts
    if report.versus and report.ratio and report.ratio_everything:
        found["versus"] = {
            "ratio": asdict(report.ratio),
            "ratio_everything": asdict(report.ratio_everything),
            "system": _system(report.versus, peak),
        }
    return found


def _system(cost: SystemCost, peak: float) -> dict[str, Any]:
    return {
        "seconds_per_frame": cost.mean.forward.median,
        "seconds_per_frame_quartiles": [cost.mean.forward.low, cost.mean.forward.high],
        "seconds_per_frame_everything": cost.mean.everything.median,
        "gflop_per_frame": cost.mean.gflop,
        "first_detections_seconds": cost.first_seconds,
        "lookahead_frames": cost.lookahead,
        "peak_memory_bytes": cost.memory.peak,
        "memory_before_bytes": cost.memory.before,
        "system": cost.system,
        "weights": cost.weights,
        "runtime": cost.runtime,
        "causal": cost.causal,
        "mode": cost.mode,
        "size": cost.size,
        "padded": cost.padded,
        "turn": cost.kinds,
        "frames": {kind: _frame(frame, peak) for kind, frame in cost.frames.items()},
        "mean": _frame(cost.mean, peak),
        "notes": cost.notes,
    }


def _frame(frame: FrameCost, peak: float) -> dict[str, Any]:
    return {
        "count": frame.count,
        "forward": asdict(frame.forward),
        "everything": asdict(frame.everything),
        "gflop": frame.gflop,
        "share_of_peak": frame.gflop / frame.forward.median / peak,
        "parts": {
            name: {**asdict(part), "share_of_peak": part.gflop / max(part.seconds.median, 1e-9) / peak}
            for name, part in frame.parts.items()
        },
    }
