"""OpenVINO against the modules that it was converted from."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import flowdet
from flowdet.backends.choice import with_backend
from flowdet.backends.openvino import CompiledPart, compile_system, convert
from flowdet.backends.parts import system_parts
from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.benchmark import Benchmark
from flowdet.detectors.faster_rcnn import FasterRCNN, FasterRCNNConfig
from flowdet.detectors.necks import ConvNeckConfig
from flowdet.detectors.resnet import ResNetConfig
from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig
from flowdet.flow.matching import MatchingFlowConfig
from flowdet.inputs import prepare
from flowdet.systems.build import build
from flowdet.systems.config import FlowConfig
from flowdet.systems.detector import Parts, VideoDetector
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.types import Detections, Geometry, NetworkInput
from tests.benchmark.systems import FGFA, inputs_for, narrow_system
from tests.tiny import frames_of, lite_config, lite_flow_config, video

openvino = pytest.importorskip("openvino", reason="the extra openvino is not installed")

METHODS = pytest.mark.parametrize("method", [SingleFrameConfig(), DFFConfig(key_frame_interval=3), FGFA])


@pytest.fixture(autouse=True)
def inference() -> Iterator[None]:
    with torch.inference_mode():
        yield


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    """Equal to 1e-4 of the largest value."""
    assert ours.shape == theirs.shape
    assert (ours - theirs).abs().max() <= 1e-4 * theirs.abs().max()
    assert theirs.abs().max() > 0


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def system_with_flow(flow_net: FlowConfig) -> VideoDetector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = lite_config()
        return build(replace(config, method=FGFAConfig(embedding_channels=4), flow_net=flow_net))


def parts_of(parts: Parts) -> dict[str, nn.Module]:
    """RPN and RoI head, as they compute in a system."""
    assert isinstance(parts.detector, FasterRCNN)
    return {"rpn": parts.detector.rpn, "roi_head": parts.detector.roi_head}


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("size", [(64, 96), (48, 80)])
def test_features_rpn_and_embedding_are_those_of_the_modules(count: int, size: tuple[int, int]) -> None:
    system = narrow_system(FGFA)
    ours, theirs = compile_system(system).parts, system.parts
    images = random(count, 3, *size)
    (features,) = theirs.detector.extract(images)
    (found,) = ours.detector.extract(images)
    assert_close(found, features)
    for one, other in zip(parts_of(ours)["rpn"](features), parts_of(theirs)["rpn"](features), strict=True):
        assert_close(one, other)
    one, other = (parts.modules["embedding"](features) for parts in (ours, theirs))
    assert isinstance(one, Tensor)
    assert isinstance(other, Tensor)
    assert_close(one, other)


@pytest.mark.parametrize("backbone", [ResNetConfig(50), ResNetConfig(50, groups=32, group_width=4)])
def test_residual_backbones_are_those_of_the_modules(backbone: ResNetConfig) -> None:
    config = replace(lite_config(), detector=FasterRCNNConfig(backbone, ConvNeckConfig(8)))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        system = build(config)
    images = random(1, 3, 48, 80)
    (ours,), (theirs,) = compile_system(system).parts.detector.extract(images), system.detector.extract(images)
    assert_close(ours, theirs)


@pytest.mark.parametrize("count", [7, 1, 0, 12])
def test_any_number_of_rois_goes_through(count: int) -> None:
    system = narrow_system(SingleFrameConfig())
    pooled = random(count, 8, 7, 7)
    ours, theirs = compile_system(system).parts, system.parts
    for one, other in zip(parts_of(ours)["roi_head"](pooled), parts_of(theirs)["roi_head"](pooled), strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "flow_net",
    [
        lite_flow_config(),
        MatchingFlowConfig(encoder=(4, 6, 8), refinement=8),
        CoarseToFineFlowConfig(encoder=(4, 6, 8), compared=(2, 3, 8), context=4, stage=6),
    ],
)
@pytest.mark.parametrize(("size", "valid"), [((64, 96), (64, 96)), ((48, 80), (41, 70)), ((80, 48), (80, 33))])
def test_flow_is_that_of_the_modules(flow_net: FlowConfig, size: tuple[int, int], valid: tuple[int, int]) -> None:
    system = system_with_flow(flow_net)
    geometries = (Geometry(valid, valid, size), Geometry(valid, size, size))
    ours, theirs = compile_system(system).parts.flow_net, system.flow_net
    assert ours
    assert theirs
    prepared = []
    for seed in range(2):
        images = random(2, 3, *size) + seed * random(1, 3, *size)
        inputs = NetworkInput(images, geometries)
        prepared.append(theirs.prepare(inputs))
        assert_close(ours.prepare(inputs), prepared[-1])
        assert_close(images, random(2, 3, *size) + seed * random(1, 3, *size))  # an input is never written to
    roles = theirs.as_current(prepared[0]), theirs.as_reference(prepared[1])
    assert_close(ours(*roles), theirs(*roles))


def assert_same_detections(ours: Detections, theirs: Detections, score: float = 0.0) -> None:
    """The same objects; below a score the order and what is cut off may differ."""
    ours, theirs = ours.select(score), theirs.select(score)
    assert len(ours) == len(theirs)
    order, others = (np.lexsort((np.round(x.boxes[:, 0], 1), np.round(x.scores, 3), x.labels)) for x in (ours, theirs))
    np.testing.assert_array_equal(ours.labels[order], theirs.labels[others])
    np.testing.assert_allclose(ours.scores[order], theirs.scores[others], atol=1e-3)
    np.testing.assert_allclose(ours.boxes[order], theirs.boxes[others], atol=0.05)


@METHODS
def test_a_stream_gives_the_same_detections(method: SingleFrameConfig | DFFConfig | FGFAConfig) -> None:
    system = narrow_system(method)
    compiled = with_backend(system, "openvino")
    assert (system.backend, compiled.backend) == ("torch", "openvino")
    ours, theirs = (list(each.detect(frames_of(video(6)))) for each in (compiled, system))
    assert len(ours) == 6
    for one, other in zip(ours, theirs, strict=True):
        assert_same_detections(one, other)
    assert sum(map(len, ours))


@METHODS
def test_an_old_state_replays_and_streams_do_not_touch(method: SingleFrameConfig | DFFConfig | FGFAConfig) -> None:
    compiled = compile_system(narrow_system(method))
    videos = [[prepare([image], compiled.config.inputs) for image in video(5, seed=seed)] for seed in (1, 2)]

    def features(state: object, inputs: list[NetworkInput]) -> tuple[list[Tensor], list[object]]:
        given, states = [], [state]
        for item in inputs:
            ready, state = compiled.method.step(item, state)
            given += [*chain.from_iterable(each.maps for each in ready)]
            states.append(state)
        return given, states

    alone, states = features(compiled.method.initial_state(), videos[0])
    kept = [x.clone() for x in alone]
    # Two streams in turns, then the first again from an old state.
    one = two = compiled.method.initial_state()
    turns = []
    for first, second in zip(*videos, strict=True):
        ready, one = compiled.method.step(first, one)
        turns += [*chain.from_iterable(each.maps for each in ready)]
        _, two = compiled.method.step(second, two)
    replayed, _ = features(states[2], videos[0][2:])
    for before, again in zip(alone, kept, strict=True):
        torch.testing.assert_close(before, again, rtol=0, atol=0)
    for before, again in zip(alone, turns, strict=True):
        torch.testing.assert_close(before, again, rtol=0, atol=0)
    for before, again in zip(alone[len(alone) - len(replayed) :], replayed, strict=True):
        torch.testing.assert_close(before, again, rtol=0, atol=0)


def test_one_backend_continues_what_the_other_began() -> None:
    system = narrow_system(FGFA)
    compiled = compile_system(system)
    state = system.method.initial_state()
    inputs = list(inputs_for(system, 5))
    for item in inputs[:4]:
        _, state = system.method.step(item, state)
    (ours,), _ = compiled.method.step(inputs[4], state)
    (theirs,), _ = system.method.step(inputs[4], state)
    assert_close(ours.maps[0], theirs.maps[0])


@pytest.mark.parametrize("name", ["single-lite", "dff-lite", "fgfa-lite"])
def test_the_shipped_systems_find_the_same(name: str) -> None:
    clip = Benchmark("val", VID_CLASSES).clip(7)
    frames = [flowdet.Frame(n, n / 25, np.ascontiguousarray(clip.frame(n).image[:128, :160])) for n in range(3)]
    causal = name == "fgfa-lite"
    ours, theirs = (
        list(flowdet.load(name, causal=causal, backend=backend).detect(frames)) for backend in ("openvino", "torch")
    )
    for one, other in zip(ours, theirs, strict=True):
        assert_same_detections(one, other, score=0.05)


def test_the_shapes_that_came_last_are_kept() -> None:
    calls: list[tuple[int, ...]] = []
    conv = nn.Conv2d(3, 4, 3, padding=1)

    def model_for(examples: Sequence[Tensor]) -> object:
        calls.append(tuple(examples[0].shape))
        return convert(conv, examples)

    part = CompiledPart(model_for)
    for width in (8, 9, 8, 10, 11, 12, 8, 9):
        images = random(2, 3, 8, width)
        assert_close(part(images)[0], conv(images))
    assert [shape[-1] for shape in calls] == [8, 9, 10, 11, 12, 9]


def test_memory_layouts_and_views_are_taken() -> None:
    conv = nn.Conv2d(3, 4, 3, padding=1)
    part = CompiledPart.of(conv)
    images = random(2, 3, 8, 10)
    assert_close(part(images.to(memory_format=torch.channels_last))[0], conv(images))
    assert_close(part(images.transpose(2, 3))[0], conv(images.transpose(2, 3)))
    assert_close(part(images[1:])[0], conv(images[1:]))


def test_the_weights_stay_those_of_the_modules() -> None:
    system = narrow_system(FGFA)
    compiled = compile_system(system)
    assert list(compiled.state_dict()) == list(system.state_dict())
    assert not compiled.training
    assert set(system_parts(compiled)) == {"features", "rpn", "roi_head", "flow", "embedding"}


def test_dis_stays_as_it_is() -> None:
    pytest.importorskip("cv2")
    compiled = flowdet.load("dff-lite", flow="dis", backend="openvino")
    assert compiled.parts.flow_net is compiled.flow_net


def test_another_device_is_refused() -> None:
    with pytest.raises(ConfigError, match="computes on the CPU; the system is on meta"):
        compile_system(narrow_system(SingleFrameConfig()).to("meta"))


def test_a_wide_flow_net_is_that_of_the_modules() -> None:
    system = system_with_flow(FlowNetConfig(encoder=(8, 8, 8, 8, 8, 8)))
    inputs = NetworkInput(random(1, 3, 608, 176), (Geometry((608, 170), (600, 170), (608, 176)),))
    compiled = compile_system(system).parts.flow_net
    assert compiled
    assert system.flow_net
    prepared = system.flow_net.prepare(inputs)
    assert_close(compiled.prepare(inputs), prepared)
    roles = system.flow_net.as_current(prepared), system.flow_net.as_reference(prepared.flip(3))
    assert_close(compiled(*roles), system.flow_net(*roles))
