import sys

import pytest
import torch

from flowdet.benchmark.machine import CPUUse, clock, cpu_use, matrix_rates, others_cores, processor, resident_peak

CPU = torch.device("cpu")


def test_what_others_use_is_what_is_not_our_own() -> None:
    before, after = CPUUse(10, 1, 100), CPUUse(14, 3, 108)
    assert others_cores(before, after) == pytest.approx(1.5)
    assert others_cores(before, CPUUse(14, 9, 101)) == 0
    assert others_cores(before, CPUUse(14, 3, None)) is None


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_clocks_of_linux() -> None:
    before = cpu_use()
    while clock(CPU) < before.wall + 0.05:
        pass
    after = cpu_use()
    assert before.everyone is not None
    assert after.everyone is not None
    assert after.everyone >= before.everyone > after.own > before.own


def test_memory_and_peak() -> None:
    before = resident_peak(CPU)
    large = torch.ones(100_000_000, dtype=torch.uint8)
    after = resident_peak(CPU)
    assert before is None or (after is not None and after > 50_000_000 and after >= before)
    assert len(large) == 100_000_000
    assert min(matrix_rates(CPU, side=64, repeats=3)) > 0
    assert processor(CPU)
