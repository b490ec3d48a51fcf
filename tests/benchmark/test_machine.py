import os
import sys
import time
from pathlib import Path

import pytest
import torch

from flowdet.benchmark.machine import OtherProcesses, clock, matrix_rates, processor, resident_peak

CPU = torch.device("cpu")


def test_what_others_use_is_what_is_not_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    def now(*, wall: float, own: float, everyone: float) -> None:
        ticks = round(everyone * 100)
        monkeypatch.setattr(os, "sysconf", lambda name: 100)
        monkeypatch.setattr(time, "perf_counter", lambda: wall)
        monkeypatch.setattr(time, "process_time", lambda: own)
        # user, nice, system, idle, waiting, interrupts, stolen: of these, idle and waiting are not used.
        monkeypatch.setattr(Path, "read_text", lambda path: f"cpu {ticks} 0 0 7 8 0 0 0 0 0\ncpu0 1")

    now(wall=10, own=1, everyone=100)
    others = OtherProcesses()
    now(wall=14, own=3, everyone=108)
    assert others.cores() == pytest.approx(1.5)
    now(wall=14, own=9, everyone=101)
    assert others.cores() == 0
    monkeypatch.setattr(Path, "read_text", lambda path: "")
    assert others.cores() is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_linux_tells() -> None:
    assert OtherProcesses().cores() is not None


def test_memory_and_peak() -> None:
    before = resident_peak(CPU)
    large = torch.ones(100_000_000, dtype=torch.uint8)
    after = resident_peak(CPU)
    assert before is None or (after is not None and after > 50_000_000 and after >= before)
    assert len(large) == 100_000_000
    assert min(matrix_rates(CPU)) > 0
    assert processor(CPU)
    assert clock(CPU) <= clock(CPU)
