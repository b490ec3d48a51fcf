"""The machine that is measured on: its peak of arithmetic, and whether other processes were in the way."""

import os
import platform
import time
from pathlib import Path

import torch

from flowdet.training.records import peak_memory

__all__ = ["OtherProcesses", "clock", "matrix_rates", "processor", "resident_peak"]

_REPEATS = 7
_BUSY_COLUMNS = (0, 1, 2, 5, 6, 7)  # of /proc/stat: user, nice, system, irq, softirq, stolen by other machines


def clock(device: torch.device) -> float:
    """Returns seconds, read when the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def matrix_rates(device: torch.device) -> list[float]:
    """Returns the rates of equal products of float32 matrices large enough to fill the device, GFLOP/s."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = torch.rand(side, side, device=device), torch.rand(side, side, device=device)
    torch.mm(a, b)
    rates = []
    for _ in range(_REPEATS):
        began = clock(device)
        torch.mm(a, b)
        rates.append(2 * side**3 / (clock(device) - began) / 1e9)
    return rates


class OtherProcesses:
    """How busy other processes keep the processor, from now on."""

    def __init__(self) -> None:
        self._began, self._used = time.perf_counter(), _others_seconds()

    def cores(self) -> float | None:
        """Returns the mean number of cores that they have used since; None where the system does not tell."""
        used = _others_seconds()
        if used is None or self._used is None:
            return None
        return max(used - self._used, 0.0) / max(time.perf_counter() - self._began, 1e-9)


def _others_seconds() -> float | None:
    try:
        columns = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
        everyone = sum(int(columns[k]) for k in _BUSY_COLUMNS) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError, AttributeError):
        return None
    return everyone - time.process_time()


def resident_peak(device: torch.device) -> int | None:
    """Returns the most bytes in use at once so far: resident in memory, or allocated on a GPU; None: unknown."""
    if device.type != "cuda":
        try:
            # What the process was started from does not count here, unlike in getrusage.
            lines = Path("/proc/self/status").read_text().splitlines()
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
        except (OSError, StopIteration, ValueError):
            pass
    return peak_memory(device)


def processor(device: torch.device) -> str:
    """Returns the name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()
