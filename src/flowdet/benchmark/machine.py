"""The machine that is measured on: its peak of arithmetic, and whether other processes were in the way."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from flowdet.training.records import peak_memory

__all__ = ["CPUUse", "clock", "cpu_use", "load_before", "matrix_rates", "others_cores", "processor", "resident_peak"]

_SIDE = 1024
_REPEATS = 7
_BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)  # of /proc/stat: user, nice, system, irq, softirq, stolen by other machines


def clock(device: torch.device) -> float:
    """Seconds, read when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_rates(device: torch.device, side: int = _SIDE, repeats: int = _REPEATS) -> list[float]:
    """Rates of products of two square float32 matrices of this side, GFLOP/s, one a repeat."""
    a, b = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    torch.mm(a, b)
    rates = []
    for _ in range(repeats):
        began = clock(device)
        torch.mm(a, b)
        rates.append(2 * side**3 / (clock(device) - began) / 1e9)
    return rates


@dataclass(frozen=True)
class CPUUse:
    """Readings of three clocks, in seconds.

    Attributes:
        wall: Of time.
        own: Processor time of this process.
        everyone: Processor time of all processes; None where the system does not tell.
    """

    wall: float
    own: float
    everyone: float | None


def cpu_use() -> CPUUse:
    """Reads the clocks now."""
    try:
        columns = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        everyone = sum(int(columns[k]) for k in _BUSY_COLUMNS) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        everyone = None
    return CPUUse(time.perf_counter(), time.process_time(), everyone)


def others_cores(before: CPUUse, after: CPUUse) -> float | None:
    """How many cores other processes kept busy between two readings, on average; None where that is not known."""
    if before.everyone is None or after.everyone is None:
        return None
    others = (after.everyone - before.everyone) - (after.own - before.own)
    return max(others, 0.0) / max(after.wall - before.wall, 1e-9)


def load_before() -> float | None:
    """The mean number of busy cores over the last minute; None where the system does not tell."""
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return None


def resident_peak(device: torch.device) -> int | None:
    """The most bytes in use at once so far: resident in memory, or allocated on a GPU; None where that is not known."""
    if device.type != "cuda":
        try:
            # What the process was started from does not count here, unlike in getrusage.
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration, ValueError):
            pass
    return peak_memory(device)


def processor(device: torch.device) -> str:
    """What the device is called."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
