"""What features say of where they come from is what happened."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowdet.ops.sampling import warp
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.temporal.single import SingleFrame
from flowdet.types import Aggregation, Propagation
from tests.tiny import Extract, Flow, embed_maps, inputs_of, run, video


def test_a_single_frame_has_none() -> None:
    assert [output.origin for output in run(SingleFrame(Extract()), inputs_of(video(2)))] == [None, None]


@pytest.mark.parametrize("interval", [1, 3, 10])
def test_dff_names_its_key_frame_and_the_flow_that_was_followed(interval: int) -> None:
    outputs = run(DFF(Extract(), Flow(), DFFConfig(interval)), inputs_of(video(8), video(8, seed=1)))
    for output in outputs:
        assert isinstance(output.origin, Propagation)
        key_frame = output.index // interval * interval
        assert output.origin.key_frame == key_frame
        if output.index == key_frame:
            assert output.origin.flow is None
        else:
            assert output.origin.flow is not None
            (key,) = outputs[key_frame].maps
            assert torch.equal(output.maps[0], warp(key, output.origin.flow, "identity"))


@pytest.mark.parametrize("interval", [1, 2, 4, 5, 20])
def test_bidirectional_dff_averages_what_both_key_frames_give(interval: int) -> None:
    inputs, extract, flow_net = inputs_of(video(9), video(9, seed=1)), Extract(), Flow()
    outputs = run(DFF(extract, flow_net, DFFConfig(interval, bidirectional=True)), inputs)
    assert extract.images == 2 * len(range(0, 9, interval))

    def carried(number: int, key_frame: int) -> Tensor:
        return warp(extract(inputs[key_frame].images), flow_net.between(inputs[number], inputs[key_frame]), "identity")

    for number, output in enumerate(outputs):
        last, following = number // interval * interval, (number // interval + 1) * interval
        origin = output.origin
        assert isinstance(origin, Propagation)
        assert origin.key_frame == last
        if number == last:
            wanted = extract(inputs[number].images)
            assert (origin.flow, origin.next_key_frame, origin.next_flow) == (None, None, None)
        elif following >= 9:  # it does not come
            wanted = carried(number, last)
            assert (origin.next_key_frame, origin.next_flow) == (None, None)
        else:
            share = (number - last) / interval
            wanted = (1 - share) * carried(number, last) + share * carried(number, following)
            assert origin.next_key_frame == following
            assert origin.next_flow is not None
            torch.testing.assert_close(origin.next_flow, flow_net.between(inputs[number], inputs[following]))
        torch.testing.assert_close(output.maps[0], wanted)


def test_the_causal_form_of_dff_takes_the_last_key_frame() -> None:
    assert DFFConfig(5, bidirectional=True).causal() == DFFConfig(5)


@pytest.mark.parametrize(
    "config",
    [
        FGFAConfig(2, 3),
        FGFAConfig(2, 0),
        FGFAConfig(1, 2, stride=2),
        FGFAConfig(0, 0),
        FGFAConfig(2, 3, embeds_early=True),
        FGFAConfig(3, 0, is_sparse=True),
    ],
)
def test_fgfa_gives_the_flows_and_weights_that_make_its_features(config: FGFAConfig) -> None:
    extract, flow_net = Extract(), Flow()
    inputs = inputs_of(video(8), video(8, seed=1))
    maps = [extract(item.images) for item in inputs]
    for output in run(FGFA(extract, flow_net, embed_maps, config), inputs):
        origin = output.origin
        assert isinstance(origin, Aggregation)
        (features,) = output.maps
        assert origin.flows is not None
        assert origin.flows.shape == (2, len(origin.references), 2, *features.shape[2:])
        assert origin.weights.shape == (2, 1 + len(origin.references), *features.shape[2:])
        torch.testing.assert_close(origin.weights.sum(dim=1), torch.ones_like(origin.weights[:, 0]))
        average = origin.weights[:, :1] * maps[output.index]
        for place, reference in enumerate(origin.references):
            flow = flow_net.between(inputs[output.index], inputs[reference])
            torch.testing.assert_close(origin.flows[:, place], flow)
            average = average + origin.weights[:, 1 + place, None] * warp(maps[reference], flow, "identity")
        torch.testing.assert_close(features, average, rtol=1e-4, atol=1e-5)


def test_without_alignment_the_references_are_averaged_where_they_are() -> None:
    extract, config = Extract((8, 16)), FGFAConfig(2, 1, aligns=False, sharpness=3.0, references_at_once=2)
    inputs = inputs_of(video(6), video(6, seed=1))
    maps = [extract.extract(item.images) for item in inputs]
    method = FGFA(extract, None, lambda maps: maps, config)
    for output in run(method, inputs):
        origin = output.origin
        assert isinstance(origin, Aggregation)
        assert origin.flows is None
        slots = [min(max(output.index + offset, 0), 5) for offset in (-2, -1, 0, 1)]
        for level, found in enumerate(output.maps):
            own = maps[output.index][level]
            taken = torch.stack([maps[slot][level] for slot in slots])
            odds = (3 * F.cosine_similarity(own, taken, dim=2)).exp()[:, :, None]
            torch.testing.assert_close(found, (odds * taken).sum(0) / odds.sum(0), rtol=1e-4, atol=1e-5)
            if level == 0:
                share = odds[[slot == output.index for slot in slots]].sum(0) / odds.sum(0)
                torch.testing.assert_close(origin.weights[:, :1], share, rtol=1e-4, atol=1e-5)


def test_fgfa_names_each_reference_once() -> None:
    outputs = run(FGFA(Extract(), Flow(), embed_maps, FGFAConfig(2, 2, references_at_once=3)), inputs_of(video(5)))
    origins = [output.origin.references for output in outputs if isinstance(output.origin, Aggregation)]
    assert origins == [(0, 1, 2), (0, 2, 3), (0, 1, 3, 4), (1, 2, 4), (2, 3, 4)]
