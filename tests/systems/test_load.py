from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowdet.class_names import COCO_CLASSES
from flowdet.detectors.faster_rcnn import FasterRCNN
from flowdet.errors import CheckpointError, ConfigError
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.flow.matching import MatchingFlow, MatchingFlowConfig
from flowdet.inputs import prepare
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import flow_net_of, load, starting_weights, weights_of
from flowdet.systems.recipes import RECIPES, dff_nano, fgfa_lite, fgfa_nano, recipe, single_lite, single_nano
from flowdet.temporal.base import TemporalMethod
from flowdet.temporal.dff import DFF, DFFConfig
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.types import Frame, NetworkInput
from flowdet.weights.native import save_native, start_from
from flowdet.weights.zoo import PUBLISHED, SHIPPED, ShippedWeights


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_native(build(fgfa_lite()), path)
    return path


def test_a_native_file_knows_its_system(weights: Path) -> None:
    assert load(weights=weights).config == fgfa_lite()


def test_another_system_of_the_same_parts_takes_the_file(weights: Path) -> None:
    assert load("single-lite", weights=weights).flow_net is None


@pytest.mark.parametrize("name", ["dff-lite", "fgfa-lite", "single-lite"])
def test_the_lite_systems_read_one_file(name: str, weights: Path) -> None:
    system = load(name, weights=weights)
    assert system.config == recipe(name)
    expected = load(weights=weights).state_dict()
    own = system.state_dict()
    assert own
    assert all(torch.equal(expected[key], tensor) for key, tensor in own.items())
    assert {key.partition(".")[0] for key in set(expected) - set(own)} == {
        "dff-lite": {"embedding"},
        "fgfa-lite": set(),
        "single-lite": {"embedding", "flow_net"},
    }[name]


def test_a_file_without_flow_net_is_completed_with_the_shipped_one(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_native(build(single_nano()), tmp_path / "own.safetensors")
    own, shipped = load("dff-nano", weights=tmp_path / "own.safetensors"), load("dff-nano")
    assert own.flow_net is not None
    assert shipped.flow_net is not None
    wanted = shipped.flow_net.state_dict()
    assert wanted
    assert all(torch.equal(wanted[key], tensor) for key, tensor in own.flow_net.state_dict().items())
    begun = start_from(tmp_path / "own.safetensors", dff_nano(), flow_net=flow_net_of(dff_nano()))
    assert begun.fresh == ()
    assert flow_net_of(single_nano()) is None


def test_the_lite_systems_keep_the_flow_net_that_they_were_trained_with(tmp_path: Path) -> None:
    torch.manual_seed(3)
    save_native(build(single_lite()), tmp_path / "own.safetensors")
    own, shipped = load("dff-lite", weights=tmp_path / "own.safetensors"), load("dff-lite")
    assert isinstance(own.flow_net, MatchingFlow)
    assert isinstance(shipped.flow_net, MatchingFlow)
    wanted = shipped.flow_net.state_dict()
    assert all(torch.equal(wanted[key], tensor) for key, tensor in own.flow_net.state_dict().items())


def test_the_default_knows_the_classes_of_coco_and_needs_no_flow() -> None:
    system = load()
    assert system.config == fgfa_nano()
    assert system.config.class_names == COCO_CLASSES
    assert system.flow_net is None
    assert load("fgfa-nano", causal=True).method.lookahead == 0


def test_the_recipe_rules_when_a_system_is_named_and_else_the_file(
    tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = replace(fgfa_lite(), method=FGFAConfig(past=1, future=1, embedding_channels=64))
    save_native(build(own), tmp_path / "own.safetensors")
    assert load(weights=tmp_path / "own.safetensors").config == own
    assert load("fgfa-lite", weights=tmp_path / "own.safetensors").config == fgfa_lite()
    edited = replace(fgfa_lite(), method=replace(fgfa_lite().method, sharpness=2.5))  # type: ignore[type-var]
    monkeypatch.setitem(RECIPES, "fgfa-lite", lambda: edited)
    assert load("fgfa-lite", weights=weights).config == edited
    assert load(weights=weights).config == fgfa_lite()


def test_classes_are_those_of_the_file(tmp_path: Path) -> None:
    own = fgfa_lite().with_classes(("gnu", "yak"))
    save_native(build(own), tmp_path / "own.safetensors")
    assert load("dff-lite", weights=tmp_path / "own.safetensors").config.class_names == ("gnu", "yak")


def test_a_named_system_that_the_weights_do_not_fit_is_refused(tmp_path: Path) -> None:
    narrow = replace(fgfa_lite(), flow_net=MatchingFlowConfig(encoder=(4, 4, 8), refinement=8, rounds=1))
    save_native(build(narrow), tmp_path / "own.safetensors")
    with pytest.raises(CheckpointError, match=r"does not hold the weights of dff-lite: .* of another shape"):
        load("dff-lite", weights=tmp_path / "own.safetensors")


def test_dis_takes_the_place_of_the_trained_flow_net(weights: Path) -> None:
    system = load("dff-lite", weights=weights, flow="dis")
    assert system.config == replace(recipe("dff-lite"), flow_net=DISFlowConfig())
    assert isinstance(system.flow_net, DISFlow)
    method = system.method
    assert isinstance(method, DFF)
    assert method.flow_net is system.flow_net
    assert {key.partition(".")[0] for key in system.state_dict()} == {"detector"}


def test_a_system_with_dis_is_saved_and_read(weights: Path, tmp_path: Path) -> None:
    system = load(weights=weights, flow="dis")
    save_native(system, tmp_path / "dis.safetensors")
    again = load(weights=tmp_path / "dis.safetensors")
    assert again.config == system.config
    assert isinstance(again.flow_net, DISFlow)


def test_only_flow_can_be_replaced_and_only_by_dis(weights: Path) -> None:
    with pytest.raises(ConfigError, match="single-lite uses no flow, so there is none to replace"):
        load("single-lite", weights=weights, flow="dis")
    with pytest.raises(ConfigError, match="is \"dis\", not 'raft'"):
        load(weights=weights, flow="raft")  # type: ignore[arg-type]


def test_causal_gives_every_frame_at_once(weights: Path) -> None:
    method = load(weights=weights, causal=True).method
    assert isinstance(method, FGFA)
    assert method.lookahead == 0
    assert method.config.past == 5


@pytest.mark.parametrize(
    ("system", "device", "expected"),
    [
        ("fgfa-r18", "cpu", "there is no system 'fgfa-r18'; did you mean fgfa-r"),
        ("", "cpu", "there is no system ''"),
        (None, "abacus", "the device abacus cannot be used here"),
        (None, "meta", "the device meta holds no numbers"),
    ],
)
def test_impossible_wishes(system: str | None, device: str, expected: str, weights: Path) -> None:
    with pytest.raises(ConfigError, match=expected):
        load(system, weights=weights, device=device)


def test_published_weights_are_fetched_on_demand_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match="run `flowdet models download fgfa-r50`"):
        load("fgfa-r50")
    path = tmp_path / PUBLISHED["fgfa-r50"].file_name
    path.touch()
    assert weights_of("fgfa-r50") == path


def test_the_published_detectors_take_the_weights_of_fgfa(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path))
    with pytest.raises(CheckpointError, match=r"weights of single-r101 .* run `flowdet models download fgfa-r101`"):
        load("single-r101")


def test_no_weights_of_an_unknown_system() -> None:
    with pytest.raises(ConfigError, match="there is no system 'fgfa-r18'"):
        weights_of("fgfa-r18")


def test_a_published_file_needs_a_name(tmp_path: Path) -> None:
    (tmp_path / "x.pth").touch()
    with pytest.raises(CheckpointError, match=r"there is no weight file .*nowhere"):
        load(weights=tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="does not say which system it is of"):
        load(weights=tmp_path / "x.pth")


@pytest.mark.parametrize("row", SHIPPED.values(), ids=lambda row: row.system)
def test_shipped_systems_are_as_listed(row: ShippedWeights) -> None:
    system = load(row.system)
    assert weights_of(row.system).stat().st_size < 25e6
    assert system.config == recipe(row.system)
    assert sum(parameter.numel() for parameter in system.parameters()) == row.parameters
    digits = len(str(row.gflop).partition(".")[2])
    assert _gflop(system, is_first=False) == pytest.approx(row.gflop, abs=0.5 * 10**-digits)
    if row.gflop_key is not None:
        assert _gflop(system, is_first=True) == pytest.approx(row.gflop_key, abs=0.05)


def _gflop(system: VideoDetector, *, is_first: bool) -> float:
    """GFLOP of one 16:9 frame: the first, which is a key frame, or one for which all references are there.

    Of frames that wait for the next key frame it is their mean, up to that.
    """
    inputs = prepare([np.zeros((720, 1280, 3), np.uint8)], system.config.inputs)
    config, detector = system.config.method, system.detector
    method: TemporalMethod[Any] = system.method
    frames = config.past + config.future + 1 if isinstance(config, FGFAConfig) else 1
    if isinstance(config, DFFConfig) and config.bidirectional and not is_first:
        return _gflop_between(system, inputs, config.key_frame_interval)
    state = method.initial_state()
    with torch.inference_mode():
        for _ in range(0 if is_first else frames):
            ready, state = method.step(inputs, state)
        with FlopCounterMode(display=False) as flops:
            ready, state = method.step(inputs, state)
            (features,) = ready
            if isinstance(detector, FasterRCNN):
                rois, bins = detector.config.rpn.post_nms_top_n, detector.config.roi_head.bins
                detector.rpn(features.maps[0])
                detector.roi_head(torch.zeros(rois, features.maps[0].shape[1], bins, bins))
            else:
                detector.detect(features)
    return float(flops.get_total_flops()) / 1e9


def _gflop_between(system: VideoDetector, inputs: NetworkInput, interval: int) -> float:
    method: TemporalMethod[Any] = system.method
    state, total = method.initial_state(), []
    with torch.inference_mode():
        for _ in range(1 + interval):
            with FlopCounterMode(display=False) as flops:
                ready, state = method.step(inputs, state)
                for features in ready:
                    system.detector.detect(features)
            total.append(flops.get_total_flops())
    return float(sum(total[1:]) - total[0]) / (interval - 1) / 1e9


def test_the_shipped_default_detects_the_same_twice() -> None:
    system = load()
    image = np.random.default_rng(0).integers(0, 255, (90, 160, 3), dtype=np.uint8)
    frames = [Frame(index, index / 25, np.roll(image, index, axis=1)) for index in range(3)]
    first, second = (list(system.detect(frames)) for _ in range(2))
    assert [found.frame_index for found in first] == [0, 1, 2]
    for once, again in zip(first, second, strict=True):
        np.testing.assert_array_equal(once.boxes, again.boxes)


def test_starting_weights_are_found_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path))
    (tmp_path / "resnet50-0676ba61.pth").touch()
    assert starting_weights("single-r50") == {"backbone": tmp_path / "resnet50-0676ba61.pth"}
    with pytest.raises(
        CheckpointError, match=r"\(flownet_simple.pth\): run `flowdet models download fgfa-r50 --start`"
    ):
        starting_weights("fgfa-r50")
    (tmp_path / "flownet_simple.pth").touch()
    assert starting_weights("fgfa-r50")["flow_net"] == tmp_path / "flownet_simple.pth"
    assert starting_weights("fgfa-lite") == {}
    with pytest.raises(ConfigError, match="no system 'fgfa-r18'"):
        starting_weights("fgfa-r18")


def test_weights_may_be_named_by_a_system() -> None:
    assert load("single-lite", weights="fgfa-lite").config == recipe("single-lite")
    with pytest.raises(CheckpointError, match="fgfa-lit"):
        load("single-lite", weights="fgfa-lit.safetensors")
