"""Recursive aggregation over key frames, against the same computed by hand."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flowdet.errors import ConfigError
from flowdet.ops.sampling import warp
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.recursive import Recursive, RecursiveConfig
from flowdet.types import Aggregation, NetworkInput, Propagation
from tests.tiny import Extract, Flow, embed, embed_maps, inputs_of, run, video


def method(config: RecursiveConfig, *, extract: Extract | None = None, flow_net: Flow | None = None) -> Recursive:
    return Recursive(extract or Extract(), flow_net or Flow(), embed_maps, config)


def by_hand(inputs: list[NetworkInput], config: RecursiveConfig) -> list[Tensor]:
    flow_net, outputs, memory = Flow(), [], torch.empty(0)
    for number, item in enumerate(inputs):
        own, past = Extract()(item.images), number % config.key_frame_interval
        if number == 0:
            memory = own
        else:
            key = number - (past or config.key_frame_interval)
            flow = flow_net.between(item, inputs[key])
            carried = warp(memory, flow, "identity")
            query, other = embed(own), embed(carried)
            odds = config.memory * (config.sharpness * (F.cosine_similarity(query, other, dim=1) - 1)).exp()[:, None]
            own = carried if past else (own + odds * carried) / (1 + odds)
            memory = memory if past else own
        outputs.append(own)
    return outputs


@given(length=st.integers(1, 9), interval=st.integers(1, 4), memory=st.sampled_from([0.5, 1.0, 3.0]))
def test_streaming_equals_offline(length: int, interval: int, memory: float) -> None:
    config, inputs = RecursiveConfig(interval, memory, sharpness=2.0), inputs_of(video(length))
    for output, wanted in zip(run(method(config), inputs), by_hand(inputs, config), strict=True):
        torch.testing.assert_close(output.maps[0], wanted, rtol=1e-4, atol=1e-5)


def test_a_memory_that_counts_for_nothing_is_dff() -> None:
    inputs = inputs_of(video(8))
    recursive = run(method(RecursiveConfig(3, memory=0.0)), inputs)
    for one, other in zip(recursive, run(DFF(Extract(), Flow(), DFFConfig(3)), inputs), strict=True):
        torch.testing.assert_close(one.maps[0], other.maps[0])


def test_key_frames_alone_go_through_the_backbone() -> None:
    extract, flow_net = Extract(), Flow()
    run(method(RecursiveConfig(4), extract=extract, flow_net=flow_net), inputs_of(video(10)))
    assert extract.images == 3
    assert flow_net.calls == [1] * 9
    assert flow_net.prepared == 10


def test_what_features_say_of_where_they_come_from_is_what_happened() -> None:
    inputs = inputs_of(video(8), video(8, seed=1))
    outputs = run(method(RecursiveConfig(3)), inputs)
    for output in outputs:
        origin = output.origin
        if isinstance(origin, Propagation):
            key = origin.key_frame
            assert key == output.index // 3 * 3
            if origin.flow is None:
                assert key == output.index == 0
            else:
                assert torch.equal(output.maps[0], warp(outputs[key].maps[0], origin.flow, "identity"))
        else:
            assert isinstance(origin, Aggregation)
            assert output.index % 3 == 0
            (key,) = origin.references
            assert origin.flows is not None
            carried = warp(outputs[key].maps[0], origin.flows[:, 0], "identity")
            own = Extract()(inputs[output.index].images)
            wanted = origin.weights[:, :1] * own + origin.weights[:, 1:] * carried
            torch.testing.assert_close(output.maps[0], wanted)


@pytest.mark.parametrize("wrong", [{"key_frame_interval": 0}, {"memory": -1.0}, {"sharpness": -1.0}])
def test_impossible_configurations(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="or more"):
        RecursiveConfig(**wrong)  # type: ignore[arg-type]
