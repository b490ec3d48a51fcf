"""What a mode makes of a system, and what it refuses."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flowdet.systems.modes import MODES, Mode, in_mode
from flowdet.temporal.adaptive_dff import AdaptiveDFF, AdaptiveDFFConfig
from flowdet.temporal.fast_fgfa import FastFGFA, FastFGFAConfig

from flowdet import load
from flowdet.benchmark.subject import Subject, build_subject
from flowdet.errors import ConfigError
from flowdet.systems.build import build
from flowdet.systems.config import config_from_json, config_to_json
from flowdet.systems.recipes import recipe
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import Recursive, RecursiveConfig
from flowdet.weights.native import read_native, read_system, save_native
from tests.tiny import frames_of, lite_config, lite_flow_config, video

OF_FGFA: list[Mode] = ["early", "composed", "fast", "recursive"]
SLOT_OPTIONS = {"past": 3, "future": 2, "sharpness": 4.0, "embedding_channels": 4, "warp": "published"}
FGFA = FGFAConfig(**SLOT_OPTIONS)  # type: ignore[arg-type]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    save_native(build(replace(lite_config(), method=FGFA, flow_net=lite_flow_config())), path)
    return path


@pytest.mark.parametrize("name", ["fgfa-r50", "dff-r50", "single-r50", "fgfa-lite"])
def test_the_exact_mode_changes_nothing(name: str) -> None:
    assert in_mode(recipe(name), "exact") == recipe(name)


def test_every_mode_of_fgfa_keeps_what_the_weights_were_trained_with() -> None:
    config = replace(recipe("fgfa-r50"), method=FGFA)
    for mode in OF_FGFA:
        changed = in_mode(config, mode)
        assert replace(changed, method=FGFA) == config
        method = changed.method
        assert isinstance(method, FastFGFAConfig | RecursiveConfig)
        assert (method.sharpness, method.embedding_channels, method.warp) == (4.0, 4, "published")
        assert config_from_json(config_to_json(changed)) == changed


def offsets_of(config: FGFAConfig, mode: Mode) -> tuple[int, ...]:
    method = in_mode(replace(recipe("fgfa-r50"), method=config), mode).method
    assert isinstance(method, FastFGFAConfig)
    assert method.composed == (mode != "early")
    return method.offsets


@pytest.mark.parametrize("mode", ["early", "composed"])
def test_the_whole_window_is_kept(mode: Mode) -> None:
    assert offsets_of(FGFAConfig(2, 3), mode) == (-2, -1, 1, 2, 3)
    assert offsets_of(FGFAConfig(2, 0, stride=3), mode) == (-6, -3)


def test_references_stand_at_growing_distances_as_far_as_the_window() -> None:
    assert offsets_of(FGFAConfig(), "fast") == (-15, -8, -4, -2, -1, 1, 2, 4, 8, 15)
    assert offsets_of(FGFAConfig(5, 0), "fast") == (-5, -2, -1)
    assert offsets_of(FGFAConfig(1, 2), "fast") == (-1, 1, 2)
    assert offsets_of(FGFAConfig(0, 3, stride=2), "fast") == (2, 6)
    assert offsets_of(FGFAConfig(0, 0), "fast") == ()


def test_dff_in_adaptive_mode_has_adaptive_key_frames() -> None:
    assert in_mode(recipe("dff-r50"), "adaptive").method == AdaptiveDFFConfig(warp="published")


@pytest.mark.parametrize(
    ("name", "mode", "method"),
    [
        *((name, mode, "FGFA") for name in ("single-r50", "dff-r50") for mode in OF_FGFA),
        *((name, "adaptive", "DFF") for name in ("single-r50", "fgfa-r50")),
    ],
)
def test_a_mode_that_does_not_fit_says_so(name: str, mode: Mode, method: str) -> None:
    with pytest.raises(ConfigError, match=rf"the mode {mode} is one of {method}, which {name}"):
        in_mode(recipe(name), mode)


def test_there_is_no_other_mode() -> None:
    with pytest.raises(ConfigError, match="no mode 'quick'; the modes are exact, early"):
        in_mode(recipe("fgfa-r50"), "quick")  # type: ignore[arg-type]
    assert set(MODES) == {"exact", *OF_FGFA, "adaptive"}


@pytest.mark.parametrize(
    ("mode", "kind"), [("early", FastFGFA), ("composed", FastFGFA), ("fast", FastFGFA), ("recursive", Recursive)]
)
def test_a_system_is_loaded_in_a_mode_and_detects(weights: Path, mode: Mode, kind: type) -> None:
    system = load(weights=weights, mode=mode)
    assert type(system.method) is kind
    found = list(system.detect(frames_of(video(6))))
    exact = list(load(weights=weights).detect(frames_of(video(6))))
    assert [each.frame_index for each in found] == [each.frame_index for each in exact] == list(range(6))
    assert [each.scores.tolist() for each in found] != [each.scores.tolist() for each in exact]


def test_fgfa_without_later_frames_stays_so(weights: Path) -> None:
    for mode in OF_FGFA:
        assert load(weights=weights, causal=True, mode=mode).method.lookahead == 0


def test_dff_is_loaded_with_adaptive_key_frames(weights: Path) -> None:
    system = read_system(weights)
    dff = build(replace(system.config, method=DFFConfig()))
    dff.load_state_dict({key: value for key, value in system.state_dict().items() if "embedding" not in key})
    path = weights.with_name("dff.safetensors")
    save_native(dff, path)
    assert isinstance(load(weights=path, mode="adaptive").method, AdaptiveDFF)
    with pytest.raises(ConfigError, match="depends on the video"):
        build_subject(Subject(weights=path, mode="adaptive"), "cpu")


def test_a_file_keeps_the_mode_that_it_was_saved_in(weights: Path) -> None:
    path = weights.with_name("fast.safetensors")
    save_native(load(weights=weights, mode="fast"), path)
    config, _ = read_native(path)
    assert load(weights=path).config == config
    assert isinstance(config.method, FastFGFAConfig)
    with pytest.raises(ConfigError, match="as it stands"):
        load(weights=path, mode="fast")


def test_a_mode_without_weights_is_measured_with_random_ones() -> None:
    built = build_subject(Subject("fgfa-lite", mode="recursive"), "cpu")
    assert isinstance(built.system.method, Recursive)
