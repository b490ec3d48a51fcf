"""Streams that leave their lock step go on, and end, as if they had been alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from flowdet.systems.stream import select_streams
from flowdet.temporal.base import TemporalMethod
from flowdet.types import Aggregation, Attention, FrameFeatures, NetworkInput, Propagation
from tests.temporal.test_properties import EVERY_METHOD, Maker
from tests.tiny import inputs_of, run, tensors_in, video

SEEDS = (1, 2, 3)


def alone(make: Maker, seed: int, length: int) -> list[FrameFeatures]:
    return run(make(), inputs_of(video(length, seed=seed)))


def go_on(method: TemporalMethod[Any], state: Any, inputs: Sequence[NetworkInput]) -> tuple[list[FrameFeatures], Any]:
    outputs = []
    for item in inputs:
        ready, state = method.step(item, state)
        outputs += ready
    return outputs, state


def assert_same(found: Sequence[FrameFeatures], wanted: Sequence[FrameFeatures]) -> None:
    assert [each.index for each in found] == [each.index for each in wanted]
    for one, other in zip(found, wanted, strict=True):
        for ours, theirs in zip(one.maps, other.maps, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
        assert one.geometries == other.geometries
        match one.origin, other.origin:
            case (Propagation() as here, Propagation() as there):
                assert here.key_frame == there.key_frame
                assert (here.flow is None) == (there.flow is None)
            case (Aggregation() as here, Aggregation() as there):
                assert here.references == there.references
                for mine, yours in ((here.flows, there.flows), (here.fallbacks, there.fallbacks)):
                    torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)
                torch.testing.assert_close(here.weights, there.weights, rtol=1e-4, atol=1e-5)
            case (Attention() as here, Attention() as there):
                assert torch.equal(here.frames, there.frames)
                for mine, yours in zip(tensors_in(one.support), tensors_in(other.support), strict=True):
                    torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-5)
            case neither:
                assert neither == (None, None)


@EVERY_METHOD
@pytest.mark.parametrize("leaving", [0, 1, 2])
@pytest.mark.parametrize("after", [1, 5])
def test_streams_that_part_are_as_if_they_had_been_alone(make: Maker, leaving: int, after: int) -> None:
    method, videos = make(), [video(8, seed=seed) for seed in SEEDS]
    together, state = go_on(method, method.initial_state(), inputs_of(*(images[:after] for images in videos)))
    found = [[select_streams(output, [row]) for output in together] for row in range(3)]
    rest = [row for row in range(3) if row != leaving]
    ended = method.flush(select_streams(state, [leaving]))
    outputs, state = go_on(method, select_streams(state, rest), inputs_of(*(videos[row][after:] for row in rest)))
    outputs += method.flush(state)
    assert_same([*found[leaving], *ended], alone(make, SEEDS[leaving], after))
    for place, row in enumerate(rest):
        tail = [select_streams(output, [place]) for output in outputs]
        assert_same([*found[row], *tail], alone(make, SEEDS[row], 8))
