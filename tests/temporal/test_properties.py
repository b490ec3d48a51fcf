"""What every temporal method keeps to, and what the three of the papers are by definition."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from flowdet.ops.sampling import WarpConvention, resize_flow, warp
from flowdet.systems.recipes import RECIPES
from flowdet.temporal.base import MethodConfig, TemporalMethod
from flowdet.temporal.dff import DFF, DFFConfig, DFFState
from flowdet.temporal.fgfa import FGFA, FGFAConfig, FGFAState
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.single import SingleFrame, SingleFrameConfig
from flowdet.temporal.temporal_roi_align import TemporalRoIAlignConfig
from flowdet.types import ClipBatch, FrameFeatures, Geometry, NetworkInput, Targets
from tests.tiny import Extract, Flow, NoFlow, embed, embed_maps, inputs_of, parts_for, run, tensors_in, video

Images = list[NDArray[np.uint8]]
Maker = Callable[..., TemporalMethod[Any]]


def fgfa(*, extract: Extract | None = None, flow_net: Flow | None = None, **config: Any) -> FGFA:
    return FGFA(extract or Extract(), flow_net or Flow(), embed_maps, FGFAConfig(**config))


def dff(interval: int, *, extract: Extract | None = None, flow_net: Flow | None = None) -> DFF:
    return DFF(extract or Extract(), flow_net or Flow(), DFFConfig(interval))


def forms_of(config: MethodConfig) -> list[MethodConfig]:
    """A method, its variants, and the causal form of each if it looks ahead."""
    forms = [config, *config.variants.values()]
    late = [form for form in forms if form.build(parts_for(form)).lookahead]
    return [*forms, *(form.causal() for form in late)]


# Whatever has a recipe is tested without being named here; the other forms are edges that no recipe has.
CONFIGS = dict.fromkeys(
    [
        *(form for recipe in RECIPES.values() for form in forms_of(recipe().method)),
        DFFConfig(1),
        DFFConfig(3),
        DFFConfig(2, bidirectional=True),
        DFFConfig(4, bidirectional=True),
        DFFConfig(7, bidirectional=True),
        FGFAConfig(0, 0),
        FGFAConfig(2, 2, embedding_channels=4),
        FGFAConfig(3, 1, embedding_channels=None),
        FGFAConfig(1, 2, stride=2),
        FGFAConfig(2, 0, stride=3),
        FGFAConfig(2, 2, embeds_early=True),
        FGFAConfig(0, 0, embeds_early=True, composes_flows=True),
        FGFAConfig(3, 2, embeds_early=True, composes_flows=True, drift_limit=None, embedding_channels=4),
        FGFAConfig(3, 3, embeds_early=True, composes_flows=True, drift_limit=2.5),
        FGFAConfig(2, 2, stride=2, embeds_early=True, composes_flows=True),
        FGFAConfig(9, 0, embeds_early=True, composes_flows=True, is_sparse=True),
        FGFAConfig(9, 6, is_sparse=True, embedding_channels=None),
        FGFAConfig(3, 2, aligns=False, embedding_channels=None),
        FGFAConfig(2, 2, stride=2, aligns=False, embeds_early=True),
        FGFAConfig(0, 0, aligns=False),
        FGFAConfig(2, 1, norm_power=2.0, embedding_channels=None),
        SELSAConfig(source="past", memory=3),
        TemporalRoIAlignConfig(source="past", memory=3, stride=2),
        RecursiveConfig(1),
        RecursiveConfig(3, embedding_channels=None),
    ]
)
STRIDES = ((16,), (8, 16))


def maker(config: MethodConfig, strides: tuple[int, ...]) -> Maker:
    """Makes the method over tiny parts; with another flow net if one is given."""
    return lambda flow=None: config.build(parts_for(config, strides=strides, flow=flow))


METHODS: dict[str, Maker] = {
    f"{config}, strides {strides}": maker(config, strides) for config in CONFIGS for strides in STRIDES
}
EVERY_METHOD = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS.keys())


def maps_of(method: TemporalMethod[Any], images: Images) -> list[Tensor]:
    """All maps of all frames, one after the other."""
    return [each for output in run(method, inputs_of(images)) for each in output.maps]


def tensors_of(features: FrameFeatures) -> list[Tensor]:
    """The maps and what RoIs attend to."""
    return [*features.maps, *tensors_in(features.support)]


def assert_close(found: Sequence[Tensor], wanted: Sequence[Tensor], *, rtol: float = 1e-5, atol: float = 1e-6) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=rtol, atol=atol)


def assert_equal(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> None:
    assert len(found) == len(wanted)
    assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))


@EVERY_METHOD
@pytest.mark.parametrize("length", [0, 1, 2, 9])
def test_one_output_for_every_input_in_order_and_in_time(make: Maker, length: int) -> None:
    method = make()
    state, indices = method.initial_state(), []
    for number, item in enumerate(inputs_of(video(length)) if length else []):
        ready, state = method.step(item, state)
        assert [output.geometries for output in ready] == [item.geometries] * len(ready)
        indices += [output.index for output in ready]
        assert indices == list(range(len(indices)))
        assert number + 1 - method.lookahead <= len(indices) <= number + 1
    indices += [output.index for output in method.flush(state)]
    assert indices == list(range(length))


@EVERY_METHOD
def test_an_old_state_replays_to_the_same_result(make: Maker) -> None:
    method, inputs = make(), inputs_of(video(9))
    whole = [each for output in run(method, inputs) for each in tensors_of(output)]
    for split in range(len(inputs)):
        state, before = method.initial_state(), []
        for item in inputs[:split]:
            ready, state = method.step(item, state)
            before += [each for output in ready for each in tensors_of(output)]
        for _ in range(2):
            after, later = [], state
            for item in inputs[split:]:
                ready, later = method.step(item, later)
                after += [each for output in ready for each in tensors_of(output)]
            after += [each for output in method.flush(later) for each in tensors_of(output)]
            assert_equal([*before, *after], whole)


@EVERY_METHOD
def test_interleaved_streams_do_not_touch_each_other(make: Maker) -> None:
    shared = make()
    streams = [inputs_of(video(7, seed=seed)) for seed in (1, 2)]
    alone = [[each for output in run(make(), inputs) for each in tensors_of(output)] for inputs in streams]
    states = [shared.initial_state() for _ in streams]
    outputs: list[list[Tensor]] = [[], []]
    for items in zip(*streams, strict=True):
        for number, item in enumerate(items):
            ready, states[number] = shared.step(item, states[number])
            outputs[number] += [each for output in ready for each in tensors_of(output)]
    for number, state in enumerate(states):
        outputs[number] += [each for output in shared.flush(state) for each in tensors_of(output)]
        assert_equal(outputs[number], alone[number])
    assert not torch.equal(outputs[0][0], outputs[1][0])


@EVERY_METHOD
def test_a_batch_of_streams_equals_one_by_one(make: Maker) -> None:
    videos = [video(7, seed=seed) for seed in (1, 2, 3)]
    together = run(make(), inputs_of(*videos))
    for number, images in enumerate(videos):
        own = [each[number : number + 1] for output in together for each in tensors_of(output)]
        alone = [each for output in run(make(), inputs_of(images)) for each in tensors_of(output)]
        assert_close(own, alone, rtol=1e-4, atol=1e-5)


# The published warp moves a static clip, see the test after this one.
@pytest.mark.parametrize("name", [name for name in METHODS if "published" not in name])
def test_a_static_clip_without_flow_equals_single_frame(name: str) -> None:
    images, method = video(1) * 6, METHODS[name](NoFlow())
    single = maps_of(SingleFrame(Extract((8, 16))), images[:1])
    for output in run(method, inputs_of(images)):
        assert_close(output.maps, single[-len(output.maps) :])


@pytest.mark.parametrize("convention", ["identity", "published"])
def test_only_the_published_warp_moves_a_static_clip(convention: WarpConvention) -> None:
    images = video(1) * 4
    single = maps_of(SingleFrame(Extract()), images)
    by_dff = maps_of(DFF(Extract(), NoFlow(), DFFConfig(10, convention)), images)
    by_fgfa = maps_of(FGFA(Extract(), NoFlow(), embed_maps, FGFAConfig(2, 2, warp=convention)), images)
    for found in (by_dff[1], by_fgfa[1]):
        assert torch.allclose(found, single[1], atol=1e-5) == (convention == "identity")


def test_dff_with_every_frame_a_key_frame_and_fgfa_without_references_equal_single_frame() -> None:
    images = video(6)
    single = maps_of(SingleFrame(Extract()), images)
    assert_equal(maps_of(dff(1), images), single)
    assert_close(maps_of(fgfa(past=0, future=0), images), single)
    assert_close(maps_of(fgfa(past=0, future=0, embeds_early=True, composes_flows=True), images), single)
    assert not torch.allclose(maps_of(dff(2), images)[1], single[1], atol=1e-2)
    assert not torch.allclose(maps_of(fgfa(past=1, future=0), images)[1], single[1], atol=1e-2)


def dff_offline(images: Images, interval: int) -> list[Tensor]:
    inputs, extract, flow_net = inputs_of(images), Extract(), Flow()
    outputs = []
    for number, item in enumerate(inputs):
        key = inputs[number // interval * interval]
        features = extract(key.images)
        if key is not item:
            flow = flow_net.between(item, key)
            features = warp(features, flow, "identity")
        outputs.append(features)
    return outputs


def fgfa_offline(images: Images, past: int, future: int, stride: int) -> list[Tensor]:
    """Every slot of every window on its own, from the whole video."""
    inputs, extract, flow_net = inputs_of(images), Extract(), Flow()
    last, outputs = len(inputs) - 1, []
    for now, item in enumerate(inputs):
        maps = []
        for offset in range(-past, future + 1):
            if offset == 0:
                maps.append(extract(item.images))
                continue
            reference = inputs[min(max(now - now % stride + offset * stride, 0), last)]
            flow = flow_net.between(item, reference)
            maps.append(warp(extract(reference.images), flow, "identity"))
        query = embed(maps[past])
        scores = torch.stack([(query * embed(m)).sum(1) / (query.norm(dim=1) * embed(m).norm(dim=1)) for m in maps])
        outputs.append(sum(w[:, None] * m for w, m in zip(scores.exp() / scores.exp().sum(0), maps, strict=True)))
    return [torch.as_tensor(output) for output in outputs]


@given(length=st.integers(1, 9), interval=st.integers(1, 6))
def test_dff_streaming_equals_offline(length: int, interval: int) -> None:
    images = video(length)
    assert_close(maps_of(dff(interval), images), dff_offline(images, interval))


@given(
    length=st.integers(1, 9),
    past=st.integers(0, 4),
    future=st.integers(0, 4),
    stride=st.integers(1, 3),
    at_once=st.integers(1, 5),
)
def test_fgfa_streaming_equals_offline(length: int, past: int, future: int, stride: int, at_once: int) -> None:
    images = video(length)
    method = fgfa(past=past, future=future, stride=stride, references_at_once=at_once)
    assert_close(maps_of(method, images), fgfa_offline(images, past, future, stride))


@pytest.mark.parametrize(
    ("past", "future", "stride"), [(3, 3, 1), (2, 2, 3), (4, 0, 1), (3, 0, 2), (0, 2, 2), (0, 0, 5)]
)
def test_fgfa_holds_no_more_frames_than_its_window(past: int, future: int, stride: int) -> None:
    method = fgfa(past=past, future=future, stride=stride)
    state, held = method.initial_state(), []
    for item in inputs_of(video(40)):
        _, state = method.step(item, state)
        held.append(len(state.window))
        assert [frame.index for frame in state.window] == list(range(state.received - held[-1], state.received))
    assert max(held) <= (past + future) * stride + stride
    assert max(held) == max(held[20:])


def test_dff_holds_one_frame() -> None:
    method = dff(4)
    state = method.initial_state()
    for number, item in enumerate(inputs_of(video(9))):
        _, state = method.step(item, state)
        assert isinstance(state, DFFState)
        assert torch.equal(state.maps[0], Extract()(inputs_of(video(9))[number // 4 * 4].images))


@pytest.mark.parametrize(("length", "rows"), [(1, 1), (2, 4), (10, 92)])
def test_repeated_references_are_computed_once(length: int, rows: int) -> None:
    """Each frame needs all others, and the first and the last need themselves too, where the window is clamped."""
    extract, flow_net = Extract(), Flow()
    maps_of(fgfa(extract=extract, flow_net=flow_net), video(length))
    assert sum(flow_net.calls) == rows
    assert max(flow_net.calls) <= FGFAConfig().references_at_once
    assert extract.images == flow_net.prepared == flow_net.as_references == length


def test_dff_extracts_key_frames_only() -> None:
    extract, flow_net = Extract(), Flow()
    maps_of(dff(4, extract=extract, flow_net=flow_net), video(10))
    assert extract.images == 3
    assert flow_net.calls == [1] * 7
    assert flow_net.prepared == 10
    assert flow_net.as_references == 3


def test_causal_fgfa_answers_at_once() -> None:
    method = fgfa(past=3, future=0)
    assert method.lookahead == 0
    state: FGFAState = method.initial_state()
    for number, item in enumerate(inputs_of(video(6))):
        (output,), state = method.step(item, state)
        assert output.index == number
    assert method.flush(state) == []


def clips(*seeds: int, references: int, still: tuple[bool, ...]) -> ClipBatch:
    """Clips with a current frame and references; those of stills are copies of it."""
    videos = [
        video(1, seed=seed) * (references + 1) if flag else video(references + 1, seed=seed)
        for seed, flag in zip(seeds, still, strict=True)
    ]
    current, *others = inputs_of(*videos)
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    return ClipBatch(current, tuple(others), (nothing,) * len(seeds), still)


@EVERY_METHOD
def test_a_batch_of_clips_equals_one_by_one(make: Maker) -> None:
    method, still = make(), (False, True, False)
    sampling = getattr(getattr(method, "config", SingleFrameConfig()), "references")  # noqa: B009
    references = sampling.count if sampling else 0
    together = method.training_features(clips(1, 2, 3, references=references, still=still)).maps
    one_by_one = [
        make().training_features(clips(seed, references=references, still=(flag,))).maps
        for seed, flag in zip((1, 2, 3), still, strict=True)
    ]
    # Some processors add up the products of a convolution in another order for another number of images.
    assert_close(together, [torch.cat(rows) for rows in zip(*one_by_one, strict=True)], rtol=1e-4, atol=1e-5)


def test_dff_trains_on_the_warped_reference_and_on_stills_unwarped() -> None:
    batch = clips(1, 2, references=1, still=(False, True))
    (reference,) = batch.references
    extract, flow_net = Extract(), Flow()
    own = extract(reference.images)
    warped = warp(own, flow_net.between(batch.current, reference), "identity")
    (features,) = dff(10).training_features(batch).maps
    assert_close([features[0], features[1]], [warped[0], own[1]])
    assert not torch.allclose(warped, own, atol=1e-2)


def test_flow_is_evaluated_once_and_rescaled_for_other_strides() -> None:
    inputs, extract, flow_net = inputs_of(video(2)), Extract((8, 16)), Flow()
    outputs = run(DFF(extract, flow_net, DFFConfig(2)), inputs)
    assert flow_net.calls == [1]
    flow = flow_net.between(inputs[1], inputs[0])
    fine, coarse = extract.extract(inputs[0].images)
    finer = resize_flow(flow, fine.shape[-2:])
    torch.testing.assert_close(finer.mean(dim=(2, 3)), 2 * flow.mean(dim=(2, 3)), rtol=0.1, atol=0.1)
    assert_close(outputs[1].maps, [warp(fine, finer, "identity"), warp(coarse, flow, "identity")])


def test_fgfa_trains_on_the_references_without_the_current_frame() -> None:
    batch = clips(1, references=2, still=(False,))
    extract, flow_net = Extract(), Flow()
    query = embed(extract(batch.current.images))
    warped = [warp(extract(r.images), flow_net.between(batch.current, r), "identity") for r in batch.references]
    first, second = (F.cosine_similarity(query, embed(maps), dim=1) for maps in warped)
    share = torch.sigmoid(first - second)[:, None]
    wanted = share * warped[0] + (1 - share) * warped[1]
    assert_close(fgfa().training_features(batch).maps, [wanted])


def test_a_network_input_needs_a_geometry_for_each_image() -> None:
    geometry = Geometry((48, 80), (48, 80), (48, 80))
    with pytest.raises(ValueError, match="one geometry each"):
        NetworkInput(torch.zeros(2, 3, 48, 80), (geometry,))
