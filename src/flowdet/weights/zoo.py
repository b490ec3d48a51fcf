"""Every system with trained weights: what it reaches, what it costs, where its weights are.

Thirteen systems were published by mmtracking for ImageNet VID, the small ones ship with the package. Their training
starts from files that others have published. YOLOX was published by Megvii, trained on COCO.

AP50, speed and memory are those of mmtracking 0.14's model zoo, which says that AP50 varies by about 1 between
trainings. Parameters and GFLOP are counted on mmtracking 0.14's own models, the GFLOP of SELSA and Temporal
RoI Align as flowdet computes them: what belongs to the references once a video.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, ClassVar, Literal

__all__ = [
    "FLOW_NET_FILE",
    "LITE_FILE",
    "ORIGIN",
    "PUBLISHED",
    "SHIPPED",
    "STARTING",
    "YOLOX",
    "YOLOX_ORIGIN",
    "PublishedWeights",
    "ShippedWeights",
    "StartingWeights",
    "WeightFile",
    "YOLOXWeights",
    "published_file",
    "yolox_weights",
]

ORIGIN = "https://download.openmmlab.com"
YOLOX_ORIGIN = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download"


@dataclass(frozen=True)
class WeightFile:
    """A published file; where its name ends with 8 hexadecimal digits, its SHA-256 begins with them."""

    url: str

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str | None:
        """The 8 hexadecimal digits with which the file's SHA-256 begins; None where none was published."""
        digest = re.fullmatch(r"[\w.]+-([0-9a-f]{8})\.pth", self.file_name, re.ASCII)
        return digest[1] if digest else None


@dataclass(frozen=True)
class PublishedWeights(WeightFile):
    """One trained system of the model zoo.

    Attributes:
        log_url: The training log, one JSON object a line.
        system: The name of the system, such as "fgfa-r50".
        backbone: The name of the backbone in the model zoo.
        ap50: Box AP at IoU 0.5 on ImageNet VID val, percent.
        fps_v100: Frames per second on a V100, forward pass and post-processing only; None where none was published.
        training_memory_gb: Peak of the CUDA allocator in training, GB.
        parameters: The number of parameters, frozen ones included.
        gflop: 10^9 multiplications and additions for a frame of 608x1008: with FGFA any frame once its window is full,
            with DFF a frame between two key frames, with SELSA any frame after the references.
        gflop_key: The same for a key frame of DFF; None with the other methods.

    Raises:
        ValueError: The URL's file name does not end with a digest.
    """

    log_url: str
    system: str
    backbone: str
    ap50: float
    fps_v100: float | None
    training_memory_gb: float
    parameters: int
    gflop: float
    gflop_key: float | None

    def __post_init__(self) -> None:
        if not self.sha256_prefix:
            raise ValueError(f"a weight file is named <name>-<8 hexadecimal digits>.pth, not {self.file_name!r}")


_RUNS: Mapping[str, tuple[str, str, float, float | None, float, int, float, float | None]] = {
    # system: backbone, time and digest of the training, AP50, fps, GB, parameters, GFLOP, GFLOP of a key frame
    "dff-r50": ("R-50-DC5", "20201227_213250-548911a4", 70.3, 44.0, 2.50, 100_907_363, 52.6, 224),
    "dff-r101": ("R-101-DC5", "20201218_172720-ad732e17", 73.5, 39.8, 3.25, 119_899_491, 52.6, 315),
    "dff-x101": ("X-101-DC5", "20210819_095932-0a9e6cb5", 75.5, None, 4.95, 158_805_603, 52.6, 540),
    "fgfa-r50": ("R-50-DC5", "20201228_022657-f42016f3", 74.7, 6.9, 4.10, 103_267_171, 1361, None),
    "fgfa-r101": ("R-101-DC5", "20201219_011831-9c9d8183", 77.8, 6.4, 5.80, 122_259_299, 1452, None),
    "fgfa-x101": ("X-101-DC5", "20210818_223334-8723c594", 79.6, None, 9.74, 161_165_411, 1676, None),
    "selsa-r50": ("R-50-DC5", "20201227_204835-2f5a4952", 78.4, 7.5, 3.49, 70_628_627, 241, None),
    "selsa-r50-fp16": ("R-50-DC5", "20210728_193846-dce6eb09", 78.7, None, 2.71, 70_628_627, 241, None),
    "selsa-r101": ("R-101-DC5", "20201218_172724-aa961bcc", 81.5, 7.2, 5.18, 89_620_755, 332, None),
    "selsa-x101": ("X-101-DC5", "20210825_205641-10252965", 83.1, None, 9.15, 128_526_867, 556, None),
    "troia-r50": ("R-50-DC5", "20210820_162714-939fd657", 79.8, None, 4.14, 78_236_435, 501, None),
    "troia-r101": ("R-101-DC5", "20210822_111621-22cb96b9", 82.6, None, 5.83, 97_228_563, 592, None),
    "troia-x101": ("X-101-DC5", "20210822_164036-4471ac42", 84.1, None, 9.74, 136_134_675, 816, None),
}


def _published(system: str, backbone: str, run: str, *numbers: Any) -> PublishedWeights:
    method, depth, *fp16 = system.split("-")
    folder, name, epochs = (method, method, "1x")
    if method == "troia":
        folder, name, epochs = ("temporal_roi_align", "selsa_troialign", "7e")
    config = "_".join((name, "faster_rcnn", depth, "dc5", *fp16, epochs, "imagenetvid"))
    stem = f"{ORIGIN}/mmtracking/{'fp16' if fp16 else f'vid/{folder}/{config}'}/{config}_"
    log_url = f"{stem}{run.partition('-')[0]}.log.json"
    return PublishedWeights(f"{stem}{run}.pth", log_url, system, backbone, *numbers)


PUBLISHED = MappingProxyType({system: _published(system, *run) for system, run in _RUNS.items()})
"""The thirteen published systems by name."""


@dataclass(frozen=True)
class ShippedWeights:
    """One small system whose weights are in the package.

    Attributes:
        system: Its name.
        backbone: Its name, or that of the detector.
        file_name: In the package's folder of weights.
        parameters: The number of parameters, frozen ones included.
        gflop: 10^9 multiplications and additions for a 16:9 frame: with FGFA once the window is full, with DFF between
            two key frames.
        gflop_key: The same for a key frame of DFF; None for the other methods.
    """

    system: str
    backbone: str
    file_name: str
    parameters: int
    gflop: float
    gflop_key: float | None = None


_LITE = ("EfficientNet-Lite0", "lite.safetensors")
_NANO = ("NanoDet-g", "nano.safetensors")
_NANO_AS_PUBLISHED = ("NanoDet-g", "nanodet-g.safetensors")

FLOW_NET_FILE = "flow.safetensors"
"""The shipped file with the flow net that serves every detector."""

LITE_FILE = _LITE[1]
"""The shipped file of the lite systems, with the flow net that they were trained with."""

_SHIPPED = (
    ShippedWeights("fgfa-nano", *_NANO, 3_896_756, 2.7),
    ShippedWeights("dff-nano", *_NANO, 3_901_523, 0.05, gflop_key=2.6),
    ShippedWeights("single-nano", *_NANO_AS_PUBLISHED, 3_786_068, 2.6),
    ShippedWeights("fgfa-lite", *_LITE, 4_705_735, 8.2),
    ShippedWeights("dff-lite", *_LITE, 4_631_943, 0.9, gflop_key=2.8),
    ShippedWeights("single-lite", *_LITE, 4_213_486, 2.6),
)

SHIPPED = MappingProxyType({weights.system: weights for weights in _SHIPPED})
"""The small systems by name; those of one detector read the same file."""


@dataclass(frozen=True)
class StartingWeights(WeightFile):
    """A file that the published training starts from, and the part of the system that it fills.

    The addresses are those that mmtracking 0.14's configurations and torchvision name. The files themselves have not
    been tried here; reading them is tested with files of the same form.
    """

    part: Literal["backbone", "flow_net"]


_FLOW_NET = StartingWeights(f"{ORIGIN}/mmtracking/pretrained_weights/flownet_simple.pth", "flow_net")
_BACKBONES = {
    "r50": StartingWeights("https://download.pytorch.org/models/resnet50-0676ba61.pth", "backbone"),
    "r101": StartingWeights("https://download.pytorch.org/models/resnet101-63fe2227.pth", "backbone"),
    "x101": StartingWeights(f"{ORIGIN}/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth", "backbone"),
}

STARTING: Mapping[str, tuple[StartingWeights, ...]] = MappingProxyType(
    {f"{method}-{depth}": (file, _FLOW_NET) for method in ("dff", "fgfa") for depth, file in _BACKBONES.items()}
    | {f"{method}-{depth}": (file,) for method in ("selsa", "troia", "single") for depth, file in _BACKBONES.items()}
    | {"selsa-r50-fp16": (_BACKBONES["r50"],)}
)
"""The files that the training of the published systems starts from, by system name."""


@dataclass(frozen=True)
class YOLOXWeights(WeightFile):
    """One size of YOLOX, trained on COCO; no digest of the files was published.

    Attributes:
        name: "yolox-s" for instance; the systems "single-yolox-s" and so on take its weights.
        coco_ap: COCO AP in percent, as published: on val2017 for nano and tiny, on test-dev for the others.
        parameters: The number of parameters.
        gflop: 10^9 multiplications and additions for a 16:9 frame.
    """

    name: str
    coco_ap: float
    parameters: int
    gflop: float
    backbone: ClassVar = "CSPDarknet"
    gflop_key: ClassVar = None


_SIZES = {
    "yolox-nano": (25.8, 912_159, 0.6),
    "yolox-tiny": (32.8, 5_055_855, 3.9),
    "yolox-s": (40.5, 8_968_255, 16.0),
    "yolox-m": (47.2, 25_326_495, 44.1),
    "yolox-l": (50.1, 54_208_895, 93.2),
    "yolox-x": (51.5, 99_071_455, 168.8),
}

YOLOX = MappingProxyType(
    {
        name: YOLOXWeights(f"{YOLOX_ORIGIN}/0.1.1rc0/{name.replace('-', '_')}.pth", name, *numbers)
        for name, numbers in _SIZES.items()
    }
)
"""The six sizes by name."""


def yolox_weights(system: str) -> YOLOXWeights | None:
    """Returns what a system such as "single-yolox-s", or "yolox-s" itself, starts from; None if it is no YOLOX."""
    method, _, size = system.partition("-")
    return YOLOX.get(size if method in {"fgfa", "dff", "single"} else system)


_DETECTOR_OF = {"single-r50": "fgfa-r50", "single-r101": "fgfa-r101", "single-x101": "fgfa-x101"}


def published_file(system: str) -> PublishedWeights | YOLOXWeights | None:
    """Returns the published file that a system takes its weights from; None if there is none."""
    return PUBLISHED.get(_DETECTOR_OF.get(system, system)) or yolox_weights(system)
