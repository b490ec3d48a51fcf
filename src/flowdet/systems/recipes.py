"""The systems by name: plain functions that return a full configuration.

The recipe rules: a system that is loaded by its name is built as its recipe says, whatever configuration its weight
file was saved with, and takes the weights and the class names from the file. Only a weight file that is loaded without
the name of a system is built with its own configuration.
"""

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from functools import partial

from flowdet.class_names import COCO_CLASSES, VID_CLASSES
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import BackboneConfig, FasterRCNNConfig, RoIHeadConfig, RPNConfig
from flowdet.detectors.nanodet import NanoDetConfig
from flowdet.detectors.necks import ConvNeckConfig, MergeNeckConfig
from flowdet.detectors.resnet import ResNetConfig
from flowdet.detectors.yolox import YOLOX_SIZES
from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig
from flowdet.flow.matching import MatchingFlowConfig
from flowdet.inputs import InputConfig
from flowdet.systems.config import SystemConfig, single_frame
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.temporal.temporal_roi_align import TemporalRoIAlignConfig

__all__ = [
    "LITE_FLOW",
    "RECIPES",
    "REDUCED_FLOW",
    "SHIPPED_FLOW",
    "dff_lite",
    "dff_nano",
    "dff_r50",
    "dff_r101",
    "dff_x101",
    "dff_yolox",
    "fgfa_lite",
    "fgfa_nano",
    "fgfa_r50",
    "fgfa_r101",
    "fgfa_x101",
    "fgfa_yolox",
    "recipe",
    "selsa_lite",
    "selsa_r50",
    "selsa_r50_fp16",
    "selsa_r101",
    "selsa_x101",
    "single_lite",
    "single_nano",
    "single_r50",
    "single_r101",
    "single_x101",
    "single_yolox",
    "troia_r50",
    "troia_r101",
    "troia_x101",
]

_R50 = ResNetConfig(depth=50)
_R101 = ResNetConfig(depth=101)
_X101 = ResNetConfig(depth=101, groups=64, group_width=4)

SHIPPED_FLOW = CoarseToFineFlowConfig()
"""The flow net whose weights ship with the package; it sees pictures only, so it serves every detector."""

REDUCED_FLOW = replace(SHIPPED_FLOW, reduction=4)
"""The same on frames of half the size, for a quarter of the time."""

LITE_FLOW = MatchingFlowConfig(rounds=2, shrink=2)
"""The flow net that the lite systems were trained with; its weights ship with theirs."""

# How these were chosen is in docs/nano.md; nothing temporal is trained.
_UNTRAINED_FGFA = FGFAConfig(
    past=5, future=5, aligns=False, sharpness=3.0, norm_power=2.0, embedding_channels=None, references_at_once=5
)
_UNTRAINED_DFF = DFFConfig(key_frame_interval=3, bidirectional=True)


def _published_dff(name: str, backbone: BackboneConfig) -> SystemConfig:
    return SystemConfig(
        name=name,
        class_names=VID_CLASSES,
        inputs=InputConfig(),
        detector=FasterRCNNConfig(
            backbone, ConvNeckConfig(), RPNConfig(training_post_nms_top_n=1000), RoIHeadConfig(sampled=512)
        ),
        method=DFFConfig(warp="published"),
        flow_net=FlowNetConfig(),
    )


def _published_fgfa(name: str, backbone: BackboneConfig) -> SystemConfig:
    return SystemConfig(
        name=name,
        class_names=VID_CLASSES,
        inputs=InputConfig(),
        detector=FasterRCNNConfig(backbone, ConvNeckConfig()),
        method=FGFAConfig(warp="published"),
        flow_net=FlowNetConfig(),
    )


def dff_r50() -> SystemConfig:
    """DFF, ResNet-50 DC5, as published with mmtracking 0.14."""
    return _published_dff("dff-r50", _R50)


def dff_r101() -> SystemConfig:
    """DFF, ResNet-101 DC5, as published with mmtracking 0.14."""
    return _published_dff("dff-r101", _R101)


def dff_x101() -> SystemConfig:
    """DFF, ResNeXt-101 64x4d DC5, as published with mmtracking 0.14."""
    return _published_dff("dff-x101", _X101)


def fgfa_r50() -> SystemConfig:
    """FGFA, ResNet-50 DC5, as published with mmtracking 0.14."""
    return _published_fgfa("fgfa-r50", _R50)


def fgfa_r101() -> SystemConfig:
    """FGFA, ResNet-101 DC5, as published with mmtracking 0.14."""
    return _published_fgfa("fgfa-r101", _R101)


def fgfa_x101() -> SystemConfig:
    """FGFA, ResNeXt-101 64x4d DC5, as published with mmtracking 0.14."""
    return _published_fgfa("fgfa-x101", _X101)


def _published_selsa(name: str, backbone: BackboneConfig) -> SystemConfig:
    return SystemConfig(
        name=name,
        class_names=VID_CLASSES,
        inputs=InputConfig(),
        detector=FasterRCNNConfig(backbone, ConvNeckConfig()),
        method=SELSAConfig(),
    )


def _published_troia(name: str, backbone: BackboneConfig) -> SystemConfig:
    detector = FasterRCNNConfig(backbone, ConvNeckConfig(), roi_head=RoIHeadConfig(layers=3))
    return replace(_published_selsa(name, backbone), detector=detector, method=TemporalRoIAlignConfig())


def selsa_r50() -> SystemConfig:
    """SELSA, ResNet-50 DC5, as published with mmtracking 0.14."""
    return _published_selsa("selsa-r50", _R50)


def selsa_r50_fp16() -> SystemConfig:
    """SELSA, ResNet-50 DC5, as mmtracking 0.14 trained it in half precision; it detects in float32."""
    return _published_selsa("selsa-r50-fp16", _R50)


def selsa_r101() -> SystemConfig:
    """SELSA, ResNet-101 DC5, as published with mmtracking 0.14."""
    return _published_selsa("selsa-r101", _R101)


def selsa_x101() -> SystemConfig:
    """SELSA, ResNeXt-101 64x4d DC5, as published with mmtracking 0.14."""
    return _published_selsa("selsa-x101", _X101)


def troia_r50() -> SystemConfig:
    """Temporal RoI Align, ResNet-50 DC5, as published with mmtracking 0.14."""
    return _published_troia("troia-r50", _R50)


def troia_r101() -> SystemConfig:
    """Temporal RoI Align, ResNet-101 DC5, as published with mmtracking 0.14."""
    return _published_troia("troia-r101", _R101)


def troia_x101() -> SystemConfig:
    """Temporal RoI Align, ResNeXt-101 64x4d DC5, as published with mmtracking 0.14."""
    return _published_troia("troia-x101", _X101)


def fgfa_lite() -> SystemConfig:
    """FGFA for a laptop's processor: EfficientNet-Lite0, and a flow net that encodes each frame once."""
    return SystemConfig(
        name="fgfa-lite",
        class_names=VID_CLASSES,
        inputs=InputConfig(512, 320, mean=(127.0,) * 3, std=(128.0,) * 3, multiple=32, enlarge=False),
        detector=FasterRCNNConfig(
            EfficientNetLite0Config(),
            MergeNeckConfig(channels=128),
            RPNConfig(
                channels=128,
                scales=(1.0, 2.0, 4.0, 8.0, 16.0),
                pre_nms_top_n=500,
                post_nms_top_n=64,
                training_post_nms_top_n=300,
            ),
            RoIHeadConfig(bins=5, hidden=256, class_specific_boxes=False, score_threshold=1e-3, sampled=64),
        ),
        method=FGFAConfig(past=5, future=5, sharpness=4.0, embedding_channels=64, references_at_once=5),
        flow_net=LITE_FLOW,
    )


def dff_lite() -> SystemConfig:
    """DFF with the parts of fgfa-lite; takes the same weights."""
    return replace(fgfa_lite(), name="dff-lite", method=DFFConfig())


def selsa_lite() -> SystemConfig:
    """SELSA with the detector of fgfa-lite; its RoI head takes weights of its own."""
    return replace(single_lite(), name="selsa-lite", method=SELSAConfig(heads=8))


def single_lite() -> SystemConfig:
    """The detector of fgfa-lite on every frame by itself; takes the same weights."""
    return single_frame(fgfa_lite(), "single-lite")


def single_r50() -> SystemConfig:
    """The detector of the published DFF and FGFA with R-50 on every frame by itself; takes the weights of either."""
    return single_frame(fgfa_r50(), "single-r50")


def single_r101() -> SystemConfig:
    """The detector of the published DFF and FGFA with R-101 on every frame by itself; takes the weights of either."""
    return single_frame(fgfa_r101(), "single-r101")


def single_x101() -> SystemConfig:
    """The detector of the published DFF and FGFA with X-101 on every frame by itself; takes the weights of either."""
    return single_frame(fgfa_x101(), "single-x101")


def single_nano() -> SystemConfig:
    """NanoDet-g on every frame by itself."""
    return SystemConfig(
        name="single-nano",
        class_names=COCO_CLASSES,
        inputs=InputConfig(416, 416, multiple=32),
        detector=NanoDetConfig(),
        method=SingleFrameConfig(),
    )


def fgfa_nano() -> SystemConfig:
    """NanoDet-g trained further for video, its maps averaged over a window where they are."""
    method = replace(_UNTRAINED_FGFA, embedding_channels=32, embeds_early=True)
    return replace(single_nano(), name="fgfa-nano", method=method)


def dff_nano() -> SystemConfig:
    """The detector of fgfa-nano on key frames, its predictions carried along the flow of the shipped flow net."""
    detector = NanoDetConfig(maps="predictions")
    return replace(single_nano(), name="dff-nano", detector=detector, method=_UNTRAINED_DFF, flow_net=REDUCED_FLOW)


def single_yolox(size: str) -> SystemConfig:
    """YOLOX of a published size on every frame by itself; pixels are not normalised, and the padding is grey."""
    side = 416 if size in {"nano", "tiny"} else 640
    return SystemConfig(
        name=f"single-yolox-{size}",
        class_names=COCO_CLASSES,
        inputs=InputConfig(side, side, mean=(0.0,) * 3, std=(1.0,) * 3, multiple=32, padding=114.0),
        detector=YOLOX_SIZES[size],
        method=SingleFrameConfig(),
    )


def fgfa_yolox(size: str) -> SystemConfig:
    """YOLOX with the aggregation of fgfa-nano."""
    return replace(single_yolox(size), name=f"fgfa-yolox-{size}", method=_UNTRAINED_FGFA)


def dff_yolox(size: str) -> SystemConfig:
    """YOLOX with the propagation of dff-nano."""
    return replace(single_yolox(size), name=f"dff-yolox-{size}", method=_UNTRAINED_DFF, flow_net=SHIPPED_FLOW)


RECIPES: dict[str, Callable[[], SystemConfig]] = {
    "fgfa-nano": fgfa_nano,
    "dff-nano": dff_nano,
    "single-nano": single_nano,
    **{
        f"{method}-yolox-{size}": partial(make, size)
        for size in YOLOX_SIZES
        for method, make in (("fgfa", fgfa_yolox), ("dff", dff_yolox), ("single", single_yolox))
    },
    "fgfa-lite": fgfa_lite,
    "dff-lite": dff_lite,
    "selsa-lite": selsa_lite,
    "single-lite": single_lite,
    "fgfa-r50": fgfa_r50,
    "fgfa-r101": fgfa_r101,
    "fgfa-x101": fgfa_x101,
    "dff-r50": dff_r50,
    "dff-r101": dff_r101,
    "dff-x101": dff_x101,
    "selsa-r50": selsa_r50,
    "selsa-r50-fp16": selsa_r50_fp16,
    "selsa-r101": selsa_r101,
    "selsa-x101": selsa_x101,
    "troia-r50": troia_r50,
    "troia-r101": troia_r101,
    "troia-x101": troia_x101,
    "single-r50": single_r50,
    "single-r101": single_r101,
    "single-x101": single_x101,
}
"""Every system by its name; code that adds a system puts its recipe here."""


def recipe(name: str) -> SystemConfig:
    """Returns the configuration of a system by its name.

    Raises:
        ConfigError: There is no such system.
    """
    if name not in RECIPES:
        near = get_close_matches(name, RECIPES, n=1)
        hint = f"did you mean {near[0]}?" if near else f"the systems are {', '.join(RECIPES)}"
        raise ConfigError(f"there is no system {name!r}; {hint}")
    return RECIPES[name]()
