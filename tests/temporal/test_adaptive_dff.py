"""DFF that takes a new key frame when the flow to the old one has grown long."""

import math
from itertools import pairwise

import pytest
import torch
from flowdet.ops.warp import warp
from flowdet.temporal.adaptive_dff import AdaptiveDFF, AdaptiveDFFConfig, AdaptiveDFFState

from flowdet.errors import ConfigError
from flowdet.ops.flow import mean_length
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.types import Propagation
from tests.tiny import Extract, Flow, inputs_of, run, video


def method(
    longest_flow: float,
    shortest: int = 1,
    longest: int = 6,
    *,
    extract: Extract | None = None,
    flow_net: Flow | None = None,
) -> AdaptiveDFF:
    return AdaptiveDFF(extract or Extract(), flow_net or Flow(), AdaptiveDFFConfig(longest_flow, shortest, longest))


def test_when_no_flow_is_too_long_it_is_dff() -> None:
    inputs = inputs_of(video(14), video(14, seed=1))
    adaptive = run(method(math.inf), inputs)
    for one, other in zip(adaptive, run(DFF(Extract(), Flow(), DFFConfig(6)), inputs), strict=True):
        assert torch.equal(one.features, other.features)
        assert isinstance(one.origin, Propagation)
        assert isinstance(other.origin, Propagation)
        assert one.origin.key_frames == other.origin.key_frames


@pytest.mark.parametrize("shortest", [1, 2, 3])
def test_when_every_flow_is_too_long_the_least_interval_decides(shortest: int) -> None:
    extract = Extract()
    outputs = run(method(0.0, shortest, extract=extract), inputs_of(video(9)))
    keys = [output.origin.key_frames for output in outputs if isinstance(output.origin, Propagation)]
    assert keys == [(number // shortest * shortest,) for number in range(9)]
    assert extract.images == -(-9 // shortest)


def middle_length() -> float:
    """Half of the flows between neighbours are longer."""
    flow_net, inputs = Flow(), inputs_of(video(14))
    lengths = [mean_length(flow_net.between(b, a)) for a, b in pairwise(inputs)]
    return float(torch.cat(lengths).median())


def test_each_stream_has_its_own_key_frames_and_says_which() -> None:
    inputs = inputs_of(*(video(14, seed=seed) for seed in range(3)))
    flow_net, extract = Flow(), Extract()
    adaptive = method(middle_length(), flow_net=flow_net, extract=extract)
    outputs = run(adaptive, inputs)
    seen = set()
    for output in outputs:
        origin = output.origin
        assert isinstance(origin, Propagation)
        seen.add(len(set(origin.key_frames)))
        for row, key in enumerate(origin.key_frames):
            own = Extract()(inputs[output.index].images)[row]
            if key == output.index:
                torch.testing.assert_close(output.features[row], own)
                continue
            assert origin.flow is not None
            before = outputs[key].features[row : row + 1]
            torch.testing.assert_close(output.features[row], warp(before, origin.flow[row : row + 1], "identity")[0])
            assert mean_length(origin.flow)[row] <= middle_length()
    assert seen > {1}
    keys = {(row, key) for output in outputs for row, key in enumerate(key_frames(output.origin))}
    assert extract.images == len(keys)


def key_frames(origin: object) -> tuple[int, ...]:
    assert isinstance(origin, Propagation)
    return origin.key_frames


def test_it_holds_one_frame_of_each_stream() -> None:
    adaptive = method(middle_length())
    state: AdaptiveDFFState = adaptive.initial_state()
    for item in inputs_of(video(9), video(9, seed=1)):
        _, state = adaptive.step(item, state)
        assert state.features is not None
        assert len(state.features) == len(state.key_frames) == 2


def test_a_key_frame_that_is_due_anyway_costs_no_flow() -> None:
    flow_net = Flow()
    run(method(math.inf, 1, 3, flow_net=flow_net), inputs_of(video(7)))
    assert len(flow_net.calls) == 4


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"longest_flow": -1.0}, "0 or more"),
        ({"shortest_interval": 0}, "1 or more"),
        ({"shortest_interval": 5, "longest_interval": 4}, "5 frames apart at least and 4"),
    ],
)
def test_impossible_configurations(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        AdaptiveDFFConfig(**wrong)  # type: ignore[arg-type]
