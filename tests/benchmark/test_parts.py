import numpy as np
import pytest
from flowdet.temporal.fast_fgfa import FastFGFAConfig
from torch.utils.flop_counter import FlopCounterMode

from flowdet.benchmark.parts import Meter
from flowdet.benchmark.steady import runner
from flowdet.systems.config import MethodConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.single import SingleFrameConfig
from tests.benchmark.systems import FGFA, inputs_for, narrow_system

HEADS = {"rpn", "proposals", "roi_head", "nms"}


def test_the_cost_of_an_inner_part_is_not_that_of_the_outer_one() -> None:
    readings = iter([0, 1, 3, 10, 14, 20])
    meter = Meter(lambda: next(readings))
    with meter.part("outer"):
        with meter.part("inner"):
            pass
        with meter.part("inner"):
            pass
    assert meter.take() == {"outer": 14, "inner": 6}
    assert meter.take() == {}


def test_a_part_within_itself_is_counted_once() -> None:
    readings = iter([0, 1, 3, 10])
    meter = Meter(lambda: next(readings))
    with meter.part("x"), meter.part("x"):
        pass
    assert meter.take() == {"x": 10}


@pytest.mark.parametrize(
    ("method", "parts"),
    [
        (SingleFrameConfig(), {"backbone", "neck", "other"}),
        (DFFConfig(key_frame_interval=3), {"backbone", "neck", "flow", "warp"}),
        (FGFA, {"backbone", "neck", "flow", "warp", "aggregation"}),
        (FastFGFAConfig((-2, -1, 1), embedding_channels=4), {"backbone", "neck", "flow", "warp", "aggregation"}),
        (RecursiveConfig(2, embedding_channels=4), {"backbone", "neck", "flow", "warp", "aggregation"}),
    ],
)
def test_metered_results_are_the_same(method: MethodConfig, parts: set[str]) -> None:
    system = narrow_system(method)
    meter = Meter(iter(range(10**6)).__next__)
    plain, with_meter = runner(system), runner(system, meter)
    state = other_state = system.method.initial_state()
    found = 0
    for item in inputs_for(system, 5):
        expected, state = plain(item, state)
        came, other_state = with_meter(item, other_state)
        assert len(came) == len(expected)
        for ours, theirs in zip(came, expected, strict=True):
            np.testing.assert_array_equal(ours.boxes, theirs.boxes)
            np.testing.assert_array_equal(ours.scores, theirs.scores)
            found += len(ours)
    assert found
    assert set(meter.take()) == parts | HEADS


def test_the_arithmetic_of_every_part_is_counted() -> None:
    system = narrow_system(FGFA)
    with FlopCounterMode(display=False) as counter:
        meter = Meter(counter.get_total_flops)
        run, state = runner(system, meter), system.method.initial_state()
        for item in inputs_for(system, 2):
            _, state = run(item, state)
    counted = meter.take()
    assert sum(counted.values()) == counter.get_total_flops()
    assert counted["warp"] == counted["nms"] == counted["proposals"] == 0
    # Three embeddings of [8, 4, 6] with 3x3 kernels to 4 channels; the rest of it is not a matrix product.
    assert counted["aggregation"] == 3 * 2 * 24 * 4 * 8 * 9
    assert min(counted[name] for name in ("backbone", "neck", "flow", "rpn", "roi_head")) > 0
