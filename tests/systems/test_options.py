"""What the shared options make of a system; an option without effect is refused."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowdet import load
from flowdet.errors import ConfigError
from flowdet.flow.dis import DISFlowConfig
from flowdet.systems.build import build
from flowdet.systems.config import config_from_json, config_to_json
from flowdet.systems.options import SystemOptions, apply_options
from flowdet.systems.recipes import RECIPES, SHIPPED_FLOW, recipe
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.weights.native import read_native, save_native
from tests.tiny import frames_of, lite_config, lite_flow_config, video

FGFA = FGFAConfig(3, 2, sharpness=4.0, embedding_channels=4, warp="published")
VARIANTS = ["early", "composed", "fast", "recursive"]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    save_native(build(replace(lite_config(), method=FGFA, flow_net=lite_flow_config())), path)
    return path


@pytest.mark.parametrize("name", RECIPES)
def test_without_options_a_system_is_its_recipe(name: str) -> None:
    assert apply_options(recipe(name), SystemOptions(system=name)) == recipe(name)


def test_every_variant_of_fgfa_keeps_what_the_weights_were_trained_with() -> None:
    config = replace(recipe("fgfa-r50"), method=FGFA)
    assert list(FGFA.variants) == VARIANTS
    for variant in VARIANTS:
        changed = apply_options(config, SystemOptions(variant=variant))
        assert replace(changed, method=FGFA) == config
        method = changed.method
        assert isinstance(method, FGFAConfig | RecursiveConfig)
        assert (method.sharpness, method.embedding_channels, method.warp) == (4.0, 4, "published")
        assert config_from_json(config_to_json(changed)) == changed


def test_a_causal_variant_looks_at_no_later_frame() -> None:
    for variant in ("early", "composed", "fast"):
        method = apply_options(recipe("fgfa-r50"), SystemOptions(variant=variant, causal=True)).method
        assert isinstance(method, FGFAConfig)
        assert (method.past, method.future) == (15, 0)


def test_a_key_frame_interval_is_for_methods_with_key_frames() -> None:
    assert apply_options(recipe("dff-lite"), SystemOptions(key_frame_interval=4)).method == DFFConfig(4)
    options = SystemOptions(variant="recursive", key_frame_interval=5)
    method = apply_options(recipe("fgfa-lite"), options).method
    assert isinstance(method, RecursiveConfig)
    assert method.key_frame_interval == 5


def test_the_aligned_variant_warps_along_the_shipped_flow_or_along_dis(tmp_path: Path) -> None:
    aligned = load("fgfa-nano", variant="aligned")
    assert aligned.config == replace(
        recipe("fgfa-nano"), method=recipe("fgfa-nano").method.variants["aligned"], flow_net=SHIPPED_FLOW
    )
    shipped, flow_net = load("dff-nano").flow_net, aligned.flow_net
    assert shipped is not None
    assert flow_net is not None
    for key, value in shipped.state_dict().items():
        assert torch.equal(flow_net.state_dict()[key], value)
    frames = list(frames_of(video(4)))
    scores = [each.scores.tolist() for each in aligned.detect(frames)]
    assert scores != [each.scores.tolist() for each in load("fgfa-nano").detect(frames)]
    save_native(load("fgfa-nano"), tmp_path / "w.safetensors")
    own = load(weights=tmp_path / "w.safetensors", variant="aligned")
    assert scores == [each.scores.tolist() for each in own.detect(frames)]
    options = SystemOptions(variant="aligned", flow="dis")
    assert apply_options(recipe("fgfa-nano"), options).flow_net == DISFlowConfig()


def test_flow_takes_the_place_of_the_flow_net() -> None:
    assert apply_options(recipe("dff-lite"), SystemOptions(flow="dis")).flow_net == DISFlowConfig()


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("dff-r50", {"causal": True}, "DFF from the last key frame never looks at later frames"),
        ("single-r50", {"causal": True}, "a single-frame system never looks at later frames"),
        ("fgfa-r50", {"causal": True, "variant": "recursive"}, "recursive aggregation never looks at later frames"),
        ("dff-r50", {"variant": "early"}, "dff-r50 has no variant 'early'; it has none"),
        ("fgfa-r50", {"variant": "quick"}, "no variant 'quick'; it has early, composed, fast, recursive"),
        ("fgfa-r50", {"key_frame_interval": 5}, "fgfa-r50 has no key frames"),
        ("single-r50", {"key_frame_interval": 5}, "single-r50 has no key frames"),
        ("dff-r50", {"key_frame_interval": 0}, "^the key frame interval must be 1 or more, not 0"),
        ("dff-r50", {"key_frame_interval": 10**23}, "^the key frame interval must be 1000000 or less, not 1000"),
        ("single-r50", {"flow": "dis"}, "uses no flow, so there is none to replace"),
    ],
)
def test_an_option_without_effect_is_an_error(name: str, options: Mapping[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        apply_options(recipe(name), SystemOptions(**options))


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_system_is_loaded_as_a_variant_and_detects(weights: Path, variant: str) -> None:
    system = load(weights=weights, variant=variant)
    found = list(system.detect(frames_of(video(6))))
    exact = list(load(weights=weights).detect(frames_of(video(6))))
    assert [each.frame_index for each in found] == [each.frame_index for each in exact] == list(range(6))
    assert [each.scores.tolist() for each in found] != [each.scores.tolist() for each in exact]


def test_a_file_keeps_the_variant_that_it_was_saved_as(weights: Path) -> None:
    path = weights.with_name("fast.safetensors")
    save_native(load(weights=weights, variant="fast"), path)
    config, _ = read_native(path)
    assert load(weights=path).config == config
    assert config.method == FGFA.variants["fast"]
    with pytest.raises(ConfigError, match="is saved as its variant 'fast'"):
        load(weights=path, variant="fast")
