from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from flowdet.systems.recipes import RECIPES
from flowdet.weights.zoo import ORIGIN, PUBLISHED, SHIPPED, STARTING, YOLOX, yolox_weights


def test_thirteen_systems_under_their_names() -> None:
    names = [f"{method}-{depth}" for method in ("dff", "fgfa", "selsa", "troia") for depth in ("r50", "r101", "x101")]
    assert [name for name in PUBLISHED if name != "selsa-r50-fp16"] == names
    assert all(weights.system == name for name, weights in PUBLISHED.items())


def test_six_systems_ship_and_read_three_files() -> None:
    assert list(SHIPPED) == ["fgfa-nano", "dff-nano", "single-nano", "fgfa-lite", "dff-lite", "single-lite"]
    assert all(weights.system == name and name in RECIPES for name, weights in SHIPPED.items())
    assert {weights.file_name for weights in SHIPPED.values()} == {
        "lite.safetensors",
        "nano.safetensors",
        "nanodet-g.safetensors",
    }
    assert [weights.system for weights in SHIPPED.values() if weights.gflop_key is not None] == ["dff-nano", "dff-lite"]


def test_addresses_are_the_published_ones() -> None:
    folder = f"{ORIGIN}/mmtracking/vid/fgfa/fgfa_faster_rcnn_x101_dc5_1x_imagenetvid"
    weights = PUBLISHED["fgfa-x101"]
    assert weights.url == f"{folder}/fgfa_faster_rcnn_x101_dc5_1x_imagenetvid_20210818_223334-8723c594.pth"
    assert weights.log_url == f"{folder}/fgfa_faster_rcnn_x101_dc5_1x_imagenetvid_20210818_223334.log.json"
    folder = f"{ORIGIN}/mmtracking/vid/temporal_roi_align/selsa_troialign_faster_rcnn_r101_dc5_7e_imagenetvid"
    file = "selsa_troialign_faster_rcnn_r101_dc5_7e_imagenetvid_20210822_111621-22cb96b9.pth"
    assert PUBLISHED["troia-r101"].url == f"{folder}/{file}"
    folder = f"{ORIGIN}/mmtracking/vid/selsa/selsa_faster_rcnn_x101_dc5_1x_imagenetvid"
    file = "selsa_faster_rcnn_x101_dc5_1x_imagenetvid_20210825_205641-10252965.pth"
    assert PUBLISHED["selsa-x101"].url == f"{folder}/{file}"
    file = "selsa_faster_rcnn_r50_dc5_fp16_1x_imagenetvid_20210728_193846-dce6eb09.pth"
    assert PUBLISHED["selsa-r50-fp16"].url == f"{ORIGIN}/mmtracking/fp16/{file}"
    folder = f"{ORIGIN}/mmtracking/vid/dff/dff_faster_rcnn_r50_dc5_1x_imagenetvid"
    weights = PUBLISHED["dff-r50"]
    assert weights.url == f"{folder}/dff_faster_rcnn_r50_dc5_1x_imagenetvid_20201227_213250-548911a4.pth"
    assert weights.log_url == f"{folder}/dff_faster_rcnn_r50_dc5_1x_imagenetvid_20201227_213250.log.json"


def test_digest_is_read_from_the_file_name() -> None:
    weights = PUBLISHED["dff-x101"]
    assert weights.file_name == "dff_faster_rcnn_x101_dc5_1x_imagenetvid_20210819_095932-0a9e6cb5.pth"
    assert weights.sha256_prefix == "0a9e6cb5"


def test_a_key_frame_cost_belongs_to_dff_alone() -> None:
    assert all((weights.gflop_key is not None) == weights.system.startswith("dff") for weights in PUBLISHED.values())


@pytest.mark.parametrize(
    "name", ["", "weights.pth", "weights-0123456.pth", "weights-01234567.bin", "..\\w-01234567.pth"]
)
def test_a_file_name_without_digest_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="hexadecimal"):
        replace(PUBLISHED["dff-r50"], url=f"{ORIGIN}/{name}")


def test_the_published_training_starts_from_a_backbone_and_a_flow_net() -> None:
    flow_net = f"{ORIGIN}/mmtracking/pretrained_weights/flownet_simple.pth"
    backbones = {
        "r50": ("https://download.pytorch.org/models/resnet50-0676ba61.pth", "0676ba61"),
        "r101": ("https://download.pytorch.org/models/resnet101-63fe2227.pth", "63fe2227"),
        "x101": (f"{ORIGIN}/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth", "ee2c6f71"),
    }
    methods = ("dff", "fgfa", "selsa", "troia", "single")
    assert set(STARTING) == {f"{method}-{depth}" for method in methods for depth in backbones} | {"selsa-r50-fp16"}
    for system, files in STARTING.items():
        method, depth = system.split("-")[:2]
        found = [(file.part, file.url, file.sha256_prefix) for file in files]
        assert found[0] == ("backbone", *backbones[depth])
        assert found[1:] == ([] if method in ("selsa", "troia", "single") else [("flow_net", flow_net, None)])


def test_yolox_has_the_weights_of_its_recipes_and_their_size() -> None:
    sizes = {name.removeprefix("single-"): make for name, make in RECIPES.items() if name.startswith("single-yolox-")}
    assert list(YOLOX) == list(sizes)
    for name, weights in YOLOX.items():
        assert yolox_weights(f"fgfa-{name}") is yolox_weights(name) is weights
        config = sizes[name]()
        side = config.inputs.long_side
        images = torch.zeros(1, 3, -(-side * 9 // 16 // 32) * 32, side, device="meta")
        with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as flops:
            detector = config.detector.build(80).eval()
            parts = detector.parts()
            parts["head"](*parts["features"](images))
        assert sum(parameter.numel() for parameter in detector.parameters()) == weights.parameters
        assert flops.get_total_flops() / 1e9 == pytest.approx(weights.gflop, abs=0.05)
    assert yolox_weights("single-nano") is None
    assert yolox_weights("banana-yolox-s") is None
    assert YOLOX["yolox-s"].url.endswith("YOLOX/releases/download/0.1.1rc0/yolox_s.pth")
