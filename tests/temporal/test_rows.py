"""Streams that leave their lock step go on, and end, as if they had been alone."""

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from flowdet.temporal.rows import select_features, select_state

from flowdet.temporal.base import TemporalMethod
from flowdet.types import Aggregation, FrameFeatures, NetworkInput, Propagation
from tests.temporal.test_properties import EVERY_METHOD, METHODS, Maker
from tests.tiny import inputs_of, run, video

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
        torch.testing.assert_close(one.features, other.features, rtol=1e-5, atol=1e-6)
        assert one.geometries == other.geometries
        assert type(one.origin) is type(other.origin)
        match one.origin, other.origin:
            case (Propagation() as ours, Propagation() as theirs):
                assert ours.key_frames == theirs.key_frames
                assert (ours.flow is None) == (theirs.flow is None)
            case (Aggregation() as ours, Aggregation() as theirs):
                assert (ours.references, ours.fallbacks) == (theirs.references, theirs.fallbacks)
                torch.testing.assert_close(ours.flows, theirs.flows, rtol=1e-5, atol=1e-5)
                torch.testing.assert_close(ours.weights, theirs.weights, rtol=1e-5, atol=1e-6)


@EVERY_METHOD
@pytest.mark.parametrize("leaving", [0, 1, 2])
@pytest.mark.parametrize("after", [1, 5])
def test_streams_that_part_are_as_if_they_had_been_alone(make: Maker, leaving: int, after: int) -> None:
    method, videos = make(), [video(8, seed=seed) for seed in SEEDS]
    together, state = go_on(method, method.initial_state(), inputs_of(*(images[:after] for images in videos)))
    found = [[select_features(output, row) for output in together] for row in range(3)]
    rest = [row for row in range(3) if row != leaving]
    ended = method.flush(select_state(state, [leaving]))
    outputs, state = go_on(method, select_state(state, rest), inputs_of(*(videos[row][after:] for row in rest)))
    outputs += method.flush(state)
    assert_same([*found[leaving], *ended], alone(make, SEEDS[leaving], after))
    for place, row in enumerate(rest):
        tail = [select_features(output, place) for output in outputs]
        assert_same([*found[row], *tail], alone(make, SEEDS[row], 8))


def test_the_methods_with_key_frames_of_their_own_are_among_them() -> None:
    outputs = run(METHODS["adaptive DFF"](), inputs_of(*(video(8, seed=seed) for seed in SEEDS)))
    keys = [output.origin.key_frames for output in outputs if isinstance(output.origin, Propagation)]
    assert any(len(set(each)) > 1 for each in keys)
