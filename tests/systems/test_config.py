import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from flowdet.class_names import COCO_CLASSES, VID_CLASSES
from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlowConfig
from flowdet.flow.dis import DISFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig
from flowdet.flow.matching import MatchingFlowConfig
from flowdet.systems.config import FlowConfig, SystemConfig, config_from_json, config_to_json, single_frame
from flowdet.systems.recipes import RECIPES, dff_lite, fgfa_lite, fgfa_r50, single_lite
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.single import SingleFrameConfig


@pytest.mark.parametrize("make", RECIPES.values(), ids=RECIPES.keys())
def test_json_gives_every_recipe_back(make: Callable[[], SystemConfig]) -> None:
    config = make()
    text = config_to_json(config)
    assert config_from_json(text) == config
    assert config_to_json(config_from_json(text)) == text


def test_every_recipe_is_known_by_its_own_name_and_detects_the_classes_of_imagenet_vid_or_coco() -> None:
    assert len(set(VID_CLASSES)) == 30
    assert len(set(COCO_CLASSES)) == 80
    for name, make in RECIPES.items():
        assert make().name == name
        assert make().class_names == (COCO_CLASSES if "nano" in name or "yolox" in name else VID_CLASSES)


def test_json_says_in_words_which_parts_are_meant() -> None:
    document = json.loads(config_to_json(fgfa_lite()))
    assert {part: document[part]["kind"] for part in ("detector", "method", "flow_net")} == {
        "detector": "FasterRCNNConfig",
        "method": "FGFAConfig",
        "flow_net": "MatchingFlowConfig",
    }
    assert {part: document["detector"][part]["kind"] for part in ("backbone", "neck")} == {
        "backbone": "EfficientNetLite0Config",
        "neck": "MergeNeckConfig",
    }
    assert document["inputs"]["long_side"] == 512


def changed(*path: str, to: object) -> str:
    """The configuration of fgfa-lite with one entry changed, or removed if it becomes None."""
    document = json.loads(config_to_json(fgfa_lite()))
    place: dict[str, Any] = document
    for key in path[:-1]:
        place = place[key]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return json.dumps(document)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Expecting value"),
        ("{", "Expecting"),
        ("[]", "list"),
        ("3", "int"),
        ("{}", "'name' is missing"),
        (changed("detector", "backbone", "kind", to="SwinConfig"), "SwinConfig"),
        (changed("method", "kind", to=None), "kind"),
        (changed("method", "kind", to="FastFGFAConfig"), "FastFGFAConfig is not known here"),
        (changed("method", to="FGFA"), "method"),
        (changed("detector", "rpn", "colour", to="red"), "colour"),
        (changed("flavour", to="mint"), "flavour"),
        (changed("inputs", "long_side", to="wide"), "long_side"),
        (changed("inputs", "multiple", to=24), "not of 24"),
        (changed("method", "past", to=-1), "-1"),
        (changed("detector", "rpn", "post_nms_top_n", to=0), "post_nms_top_n must be 1 or more, not 0"),
        (changed("detector", "rpn", "scales", to=[]), "scales and ratios"),
        (changed("detector", "roi_head", "hidden", to=0), "hidden must be 1 or more"),
        (changed("detector", "neck", "channels", to=-3), "channels must be 1 or more, not -3"),
        (changed("flow_net", "encoder", to=[1, 2, 0]), "1 channel or more"),
        (changed("flow_net", "rounds", to=4), "3 rounds at most"),
        (changed("flow_net", "kind", to="SpyNetConfig"), "SpyNetConfig"),
        (changed("flow_net", "kind", to=None), "kind"),
        (changed("flow_net", to={"kind": "FlowNetConfig", "encoder": [1, 2, 3, 4, 5, 0]}), "1 channel or more"),
        (changed("flow_net", to={"kind": "DISFlowConfig", "stride": 3}), "stride"),
        (changed("method", "sharpness", to=-0.5), "0 or more, not -0.5"),
        (changed("class_names", to=["cat", "cat"]), "differ from each other"),
        (changed("class_names", to=[]), "class names"),
        (changed("detector", "backbone", to="ResNet"), "$.detector.backbone"),
        (changed("flow_net", to=None), "needs a flow net"),
    ],
)
def test_what_is_no_configuration_is_refused_with_a_reason(text: str, reason: str) -> None:
    with pytest.raises(ConfigError, match="not the configuration of a flowdet system") as caught:
        config_from_json(text)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    "flow_net",
    [
        FlowNetConfig(decoder=(8, 8, 8, 8)),
        MatchingFlowConfig(rounds=2),
        CoarseToFineFlowConfig(stage=8),
        DISFlowConfig("medium", stride=4),
    ],
)
def test_json_gives_every_kind_of_flow_net_back(flow_net: FlowConfig) -> None:
    config = replace(fgfa_lite(), flow_net=flow_net)
    text = config_to_json(config)
    assert config_from_json(text) == config
    assert json.loads(text)["flow_net"]["kind"] == type(flow_net).__name__


def test_no_flow_net_is_null() -> None:
    document = json.loads(config_to_json(single_lite()))
    assert document["flow_net"] is None
    del document["flow_net"]
    assert config_from_json(json.dumps(document)) == single_lite()


def test_the_lite_systems_differ_in_their_method_alone() -> None:
    assert replace(dff_lite(), name="fgfa-lite", method=fgfa_lite().method) == fgfa_lite()
    assert dff_lite().method == DFFConfig()
    assert single_frame(dff_lite(), "single-lite") == single_lite()


def test_what_was_published_does_not_change_with_what_is_new() -> None:
    config = fgfa_r50()
    assert isinstance(config.method, FGFAConfig)
    assert config.method.sharpness == 1
    assert config.inputs.enlarge
    assert isinstance(config.flow_net, FlowNetConfig)


def test_flow_net_and_method_belong_together() -> None:
    with pytest.raises(ConfigError, match="flow net"):
        replace(single_lite(), flow_net=FlowNetConfig())
    with pytest.raises(ConfigError, match="flow net"):
        replace(fgfa_lite(), method=SingleFrameConfig())
    with pytest.raises(ConfigError, match="flow net"):
        replace(fgfa_lite(), flow_net=None)


def test_other_classes() -> None:
    config = fgfa_lite().with_classes(("cat", "dog"))
    assert config.class_names == ("cat", "dog")
    assert config.with_classes(VID_CLASSES) == fgfa_lite()


def test_a_configuration_of_version_0_1_is_read() -> None:
    document = json.loads(config_to_json(fgfa_lite()))
    detector = document.pop("detector")
    old = {**document, "backbone": detector["backbone"], "neck": detector["neck"]}
    old["heads"] = {part: detector[part] for part in ("rpn", "roi_head")}
    for new in ("embeds_early", "composes_flows", "drift_limit", "is_sparse"):
        del old["method"][new]
    assert config_from_json(json.dumps(old)) == fgfa_lite()
    del old["backbone"]
    with pytest.raises(ConfigError, match="not the configuration of a flowdet system"):
        config_from_json(json.dumps(old))
