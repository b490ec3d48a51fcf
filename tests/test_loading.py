from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowdet.build import build
from flowdet.checkpoint import save_native
from flowdet.errors import CheckpointError, ConfigError
from flowdet.loading import load, starting_weights, weights_of
from flowdet.models.inputs import prepare
from flowdet.recipes import fgfa_lite, recipe
from flowdet.system import VideoDetector
from flowdet.temporal.base import TemporalMethod
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.types import Frame
from flowdet.zoo import PUBLISHED, SHIPPED, ShippedWeights


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


def test_causal_gives_every_frame_at_once(weights: Path) -> None:
    method = load(weights=weights, causal=True).method
    assert isinstance(method, FGFA)
    assert method.lookahead == 0
    assert method.config.past == 5


@pytest.mark.parametrize(
    ("system", "device", "expected"),
    [
        ("fgfa-r18", "cpu", "there is no system 'fgfa-r18'; the systems are fgfa-lite, single-lite"),
        (None, "abacus", "the device abacus cannot be used here"),
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
    with pytest.raises(CheckpointError, match="does not say which system it is of"):
        load(weights=tmp_path / "x.pth")


@pytest.mark.parametrize("row", SHIPPED.values(), ids=lambda row: row.system)
def test_shipped_systems_are_as_listed(row: ShippedWeights) -> None:
    system = load(row.system)
    assert weights_of(row.system).stat().st_size < 25e6
    assert system.config == recipe(row.system)
    assert sum(parameter.numel() for parameter in system.parameters()) == row.parameters
    assert _steady_gflop(system) == pytest.approx(row.gflop, abs=0.05)


def _steady_gflop(system: VideoDetector) -> float:
    """GFLOP of one 16:9 frame once the window is full."""
    inputs = prepare([np.zeros((720, 1280, 3), np.uint8)], system.config.inputs)
    config, detector = system.config.method, system.detector
    method: TemporalMethod[Any] = system.method
    frames = config.past + config.future + 1 if isinstance(config, FGFAConfig) else 1
    state = method.initial_state()
    with torch.inference_mode():
        for _ in range(frames):
            ready, state = method.step(inputs, state)
        with FlopCounterMode(display=False) as flops:
            ready, state = method.step(inputs, state)
            (features,) = ready
            detector.rpn(features.features)
            boxes = torch.tensor([[0.0, 0.0, 64.0, 64.0]]).expand(system.config.heads.rpn.post_nms_top_n, 4)
            detector.roi_head(features.features, [boxes])
    return float(flops.get_total_flops()) / 1e9


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
