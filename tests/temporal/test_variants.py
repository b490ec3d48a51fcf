"""The cheaper variants of FGFA, against the same computed frame by frame by hand."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from flowdet.errors import ConfigError
from flowdet.flow.base import FlowNet
from flowdet.ops.sampling import warp
from flowdet.temporal.fgfa import FGFA, FGFAConfig, window_slots
from flowdet.types import Aggregation, FrameFeatures, Maps, NetworkInput
from tests.tiny import Extract, Flow, embed, embed_maps, inputs_of, run, video

EARLY = FGFAConfig(3, 2, embeds_early=True, is_sparse=True)
COMPOSED = replace(EARLY, composes_flows=True, drift_limit=None)


def method(config: FGFAConfig, flow_net: FlowNet | None = None) -> FGFA:
    return FGFA(Extract(), flow_net or Flow(), embed_maps, config)


def by_hand(inputs: Sequence[NetworkInput], config: FGFAConfig) -> list[Tensor]:
    """Every slot of every window on its own, from the whole video."""
    maps = [Extract()(item.images) for item in inputs]
    last, outputs = len(inputs) - 1, []

    def flow(now: int, then: int) -> Tensor:
        if not config.composes_flows or abs(now - then) == 1:
            return Flow().between(inputs[now], inputs[then])
        before = then + (1 if then < now else -1)
        first = flow(now, before)
        return first + warp(Flow().between(inputs[before], inputs[then]), first, "identity")

    for now in range(len(inputs)):
        features, keys = [maps[now]], [embed(maps[now])]
        for slot in window_slots(now, last, config):
            if slot == now and config.composes_flows:  # there is no hop from a frame to itself
                features.append(maps[now])
                keys.append(embed(maps[now]))
            else:
                features.append(warp(maps[slot], flow(now, slot), config.warp))
                keys.append(warp(embed(maps[slot]), flow(now, slot), config.warp))
        scores = torch.stack([config.sharpness * F.cosine_similarity(keys[0], key, dim=1) for key in keys], dim=1)
        outputs.append((scores.softmax(dim=1)[:, :, None] * torch.stack(features, dim=1)).sum(dim=1))
    return outputs


@given(
    length=st.integers(1, 9),
    past=st.integers(0, 5),
    future=st.integers(0, 5),
    composes=st.booleans(),
    sparse=st.booleans(),
    at_once=st.integers(1, 4),
)
def test_streaming_equals_offline(
    *, length: int, past: int, future: int, composes: bool, sparse: bool, at_once: int
) -> None:
    config = FGFAConfig(
        past,
        future,
        sharpness=2.0,
        references_at_once=at_once,
        embeds_early=True,
        composes_flows=composes,
        drift_limit=None,
        is_sparse=sparse,
    )
    inputs = inputs_of(video(length))
    outputs = run(method(config), inputs)
    assert len(outputs) == length
    for output, wanted in zip(outputs, by_hand(inputs, config), strict=True):
        torch.testing.assert_close(output.maps[0], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("past", "future", "offsets"),
    [(15, 15, [-15, -8, -4, -2, -1, 1, 2, 4, 8, 15]), (5, 0, [-5, -2, -1]), (1, 2, [-1, 1, 2]), (0, 0, [])],
)
def test_sparse_references_stand_at_growing_distances(past: int, future: int, offsets: list[int]) -> None:
    assert FGFAConfig(past, future, is_sparse=True).offsets() == offsets


@dataclass
class Pan(Flow):
    """The camera moves evenly, and every pair of frames knows how far."""

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """The position of the camera, from the brightness."""
        self.prepared += len(inputs.images)
        return inputs.images.mean(dim=(1, 2, 3), keepdim=True).expand(-1, 1, *self._cells(inputs))

    def as_current(self, prepared: Tensor) -> Tensor:
        """The same."""
        return prepared

    @staticmethod
    def _cells(inputs: NetworkInput) -> tuple[int, int]:
        return inputs.images.shape[2] // 16, inputs.images.shape[3] // 16

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """The same everywhere."""
        self.calls.append(len(current))
        return torch.cat((reference - current, current - reference), dim=1)


def test_where_flows_agree_composed_ones_are_the_direct_ones() -> None:
    inputs = inputs_of(video(9))
    limited = replace(COMPOSED, drift_limit=1e-3)
    direct, composed = (run(method(config, Pan()), inputs) for config in (EARLY, limited))
    for one, other in zip(direct, composed, strict=True):
        torch.testing.assert_close(one.maps[0], other.maps[0], rtol=1e-4, atol=1e-5)
        assert fallbacks_of(other) == [0]


def fallbacks_of(output: FrameFeatures) -> list[int]:
    assert isinstance(output.origin, Aggregation)
    assert output.origin.fallbacks is not None
    return output.origin.fallbacks.tolist()


class Still(Flow):
    """As the flow net, but a frame has not moved from itself."""

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Zero where both are the same frame."""
        same = (current == -reference).flatten(1).all(dim=1)
        return torch.where(same[:, None, None, None], 0, super().__call__(current, reference))


def test_a_flow_that_drifts_is_given_up_for_a_direct_one() -> None:
    inputs = inputs_of(video(9), video(9, seed=1))
    strict = run(method(replace(COMPOSED, drift_limit=0.0), Still()), inputs)
    for one, other in zip(run(method(EARLY, Still()), inputs), strict, strict=True):
        torch.testing.assert_close(one.maps[0], other.maps[0], rtol=1e-4, atol=1e-5)
        assert isinstance(other.origin, Aggregation)
        far = [reference for reference in other.origin.references if abs(reference - other.index) > 1]
        assert fallbacks_of(other) == [len(far), len(far)]


def test_the_drift_of_a_path_begins_anew_after_a_direct_flow() -> None:
    """Hops disagree by the same everywhere: with a limit of two and a half hops, every third is the first again."""
    config = FGFAConfig(7, 0, embeds_early=True, composes_flows=True, drift_limit=2.5)
    flow_net = OneWay()
    outputs = run(method(config, flow_net), inputs_of(video(8)))
    assert [fallbacks_of(output) for output in outputs] == [[count] for count in (0, 0, 0, 1, 1, 1, 2, 2)]
    assert flow_net.calls == [2, 2, 2, 1, 2, 1, 2, 1, 2, 1, 1, 2, 1, 1]


class OneWay(Flow):
    """A cell to the right in the past, nothing in the future: the way there and back is a cell long."""

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """The first half of a pair of hops, or a direct flow, is one cell; the other half is none."""
        self.calls.append(len(current))
        flow = torch.zeros(len(current), 2, *current.shape[2:])
        flow[: max(1, len(current) // 2), 0] = 1
        return flow


def test_a_frame_costs_one_embedding_and_two_flows() -> None:
    embedded = []

    def counted(maps: Maps) -> Maps:
        embedded.append(len(maps[0]))
        return embed_maps(maps)

    flow_net, extract = Flow(), Extract()
    run(FGFA(extract, flow_net, counted, COMPOSED), inputs_of(video(12)))
    assert flow_net.calls == [2] * 11
    assert flow_net.prepared == extract.images == sum(embedded) == 12


def test_without_later_frames_and_without_a_limit_it_costs_one() -> None:
    flow_net = Flow()
    run(method(replace(COMPOSED, past=4, future=0), flow_net), inputs_of(video(6)))
    assert flow_net.calls == [1] * 5


@pytest.mark.parametrize("config", [COMPOSED, replace(COMPOSED, drift_limit=1.0), replace(COMPOSED, past=0, future=0)])
def test_flows_and_weights_are_those_that_make_the_features(config: FGFAConfig) -> None:
    inputs = inputs_of(video(8), video(8, seed=1))
    maps = [Extract()(item.images) for item in inputs]
    for output in run(method(config), inputs):
        origin = output.origin
        assert isinstance(origin, Aggregation)
        assert output.index not in origin.references
        assert origin.flows is not None
        (features,) = output.maps
        assert origin.flows.shape == (2, len(origin.references), 2, *features.shape[2:])
        torch.testing.assert_close(origin.weights.sum(dim=1), torch.ones_like(origin.weights[:, 0]))
        average = origin.weights[:, :1] * maps[output.index]
        for place, reference in enumerate(origin.references):
            warped = warp(maps[reference], origin.flows[:, place], "identity")
            average = average + origin.weights[:, 1 + place, None] * warped
        torch.testing.assert_close(features, average, rtol=1e-4, atol=1e-5)


def test_it_holds_no_more_frames_than_its_window() -> None:
    for past, future in ((3, 2), (0, 0), (4, 0), (0, 3)):
        fast = method(replace(COMPOSED, past=past, future=future))
        state = fast.initial_state()
        for item in inputs_of(video(15)):
            _, state = fast.step(item, state)
            assert len(state.window) <= max(1, past + future)


def test_it_trains_as_fgfa() -> None:
    from tests.temporal.test_properties import clips

    batch = clips(1, references=2, still=(False,))
    (wanted,) = FGFA(Extract(), Flow(), embed_maps, FGFAConfig()).training_features(batch).maps
    assert torch.equal(method(COMPOSED).training_features(batch).maps[0], wanted)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"drift_limit": -1.0}, "0 or more"),
        ({"sharpness": -1.0}, "0 or more"),
        ({"references_at_once": 0}, "1 or more"),
    ],
)
def test_impossible_configurations(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        FGFAConfig(**wrong)  # type: ignore[arg-type]
