"""Every system with trained weights: what it reaches, what it costs, where its weights are.

Thirteen systems were published by mmtracking for ImageNet VID, the small ones ship with the package. The training of
the thirteen starts from files that others have published. YOLOX was published by Megvii, trained on COCO.

AP50, speed and memory are those of mmtracking 0.14's model zoo, which says that AP50 varies by about 1 between
trainings. Parameters and GFLOP are counted on mmtracking 0.14's own models, the GFLOP of SELSA and Temporal
RoI Align as flowdet computes them: what belongs to the references once a video.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

__all__ = [
    "FLOW_NET_FILE",
    "ORIGIN",
    "PUBLISHED",
    "SHIPPED",
    "STARTING",
    "YOLOX",
    "YOLOX_ORIGIN",
    "PublishedWeights",
    "ShippedWeights",
    "StartingWeights",
    "YOLOXWeights",
    "yolox_weights",
]

ORIGIN = "https://download.openmmlab.com"
YOLOX_ORIGIN = "https://github.com/Megvii-BaseDetection/YOLOX/releases/download"


@dataclass(frozen=True, slots=True)
class PublishedWeights:
    """One trained system of the model zoo.

    Attributes:
        system: The name of the system, such as "fgfa-r50".
        method: The temporal method.
        backbone: The name of the backbone in the model zoo.
        config: The mmtracking configuration that it was trained with.
        ap50: Box AP at IoU 0.5 on ImageNet VID val, percent.
        fps_v100: Frames per second on a V100, forward pass and post-processing only; None where none was published.
        training_memory_gb: Peak of the CUDA allocator in training, GB.
        parameters: The number of parameters, frozen ones included.
        gflop: 10^9 multiplications and additions for a frame of 608x1008: with FGFA any frame once its window is full,
            with DFF a frame between two key frames.
        gflop_key: The same for a key frame of DFF; None with the other methods, which have no key frames.
        url: The weight file; its name ends with the first 8 hexadecimal digits of its SHA-256.
        log_url: The training log, one JSON object a line.

    Raises:
        ValueError: The URL's file name does not end with a digest.
    """

    system: str
    method: Literal["DFF", "FGFA", "SELSA", "Temporal RoI Align"]
    backbone: Literal["R-50-DC5", "R-101-DC5", "X-101-DC5"]
    config: str
    ap50: float
    fps_v100: float | None
    training_memory_gb: float
    parameters: int
    gflop: float
    gflop_key: float | None
    url: str
    log_url: str

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w.]+-[0-9a-f]{8}\.pth", self.file_name, re.ASCII):
            raise ValueError(f"a weight file is named <name>-<8 hexadecimal digits>.pth, not {self.file_name!r}")

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str:
        """The 8 hexadecimal digits with which the file's SHA-256 begins."""
        return self.file_name.removesuffix(".pth")[-8:]


def _system(
    method: Literal["DFF", "FGFA", "SELSA", "Temporal RoI Align"],
    backbone: Literal["R-50-DC5", "R-101-DC5", "X-101-DC5"],
    run: str,
    *,
    ap50: float,
    fps: float | None,
    memory: float,
    parameters: int,
    gflop: float,
    gflop_key: float | None = None,
    fp16: bool = False,
) -> PublishedWeights:
    """Returns one row; `run` is the time stamp and the digest in the file's name, `fp16` says how it was trained."""
    family = method.lower().replace(" ", "_")
    depth = backbone.removesuffix("-DC5").replace("-", "").lower()
    name, epochs = ("selsa_troialign", "7e") if method == "Temporal RoI Align" else (family, "1x")
    config = f"{name}_faster_rcnn_{depth}_dc5{'_fp16' if fp16 else ''}_{epochs}_imagenetvid"
    stem = f"{ORIGIN}/mmtracking/{'fp16' if fp16 else f'vid/{family}/{config}'}/{config}_"
    return PublishedWeights(
        system=f"{name.replace('selsa_troialign', 'troia')}-{depth}{'-fp16' if fp16 else ''}",
        method=method,
        backbone=backbone,
        config=config,
        ap50=ap50,
        fps_v100=fps,
        training_memory_gb=memory,
        parameters=parameters,
        gflop=gflop,
        gflop_key=gflop_key,
        url=f"{stem}{run}.pth",
        log_url=f"{stem}{run.partition('-')[0]}.log.json",
    )


_SYSTEMS = (
    _system(
        "DFF",
        "R-50-DC5",
        "20201227_213250-548911a4",
        ap50=70.3,
        fps=44.0,
        memory=2.50,
        parameters=100_907_363,
        gflop=52.6,
        gflop_key=224,
    ),
    _system(
        "DFF",
        "R-101-DC5",
        "20201218_172720-ad732e17",
        ap50=73.5,
        fps=39.8,
        memory=3.25,
        parameters=119_899_491,
        gflop=52.6,
        gflop_key=315,
    ),
    _system(
        "DFF",
        "X-101-DC5",
        "20210819_095932-0a9e6cb5",
        ap50=75.5,
        fps=None,
        memory=4.95,
        parameters=158_805_603,
        gflop=52.6,
        gflop_key=540,
    ),
    _system(
        "FGFA",
        "R-50-DC5",
        "20201228_022657-f42016f3",
        ap50=74.7,
        fps=6.9,
        memory=4.10,
        parameters=103_267_171,
        gflop=1361,
    ),
    _system(
        "FGFA",
        "R-101-DC5",
        "20201219_011831-9c9d8183",
        ap50=77.8,
        fps=6.4,
        memory=5.80,
        parameters=122_259_299,
        gflop=1452,
    ),
    _system(
        "FGFA",
        "X-101-DC5",
        "20210818_223334-8723c594",
        ap50=79.6,
        fps=None,
        memory=9.74,
        parameters=161_165_411,
        gflop=1676,
    ),
    _system(
        "SELSA",
        "R-50-DC5",
        "20201227_204835-2f5a4952",
        ap50=78.4,
        fps=7.5,
        memory=3.49,
        parameters=70_628_627,
        gflop=257,
    ),
    _system(
        "SELSA",
        "R-101-DC5",
        "20201218_172724-aa961bcc",
        ap50=81.5,
        fps=7.2,
        memory=5.18,
        parameters=89_620_755,
        gflop=347,
    ),
    _system(
        "SELSA",
        "X-101-DC5",
        "20210825_205641-10252965",
        ap50=83.1,
        fps=None,
        memory=9.15,
        parameters=128_526_867,
        gflop=572,
    ),
    _system(
        "SELSA",
        "R-50-DC5",
        "20210728_193846-dce6eb09",
        ap50=78.7,
        fps=None,
        memory=2.71,
        parameters=70_628_627,
        gflop=257,
        fp16=True,
    ),
    _system(
        "Temporal RoI Align",
        "R-50-DC5",
        "20210820_162714-939fd657",
        ap50=79.8,
        fps=None,
        memory=4.14,
        parameters=78_236_435,
        gflop=954,
    ),
    _system(
        "Temporal RoI Align",
        "R-101-DC5",
        "20210822_111621-22cb96b9",
        ap50=82.6,
        fps=None,
        memory=5.83,
        parameters=97_228_563,
        gflop=1045,
    ),
    _system(
        "Temporal RoI Align",
        "X-101-DC5",
        "20210822_164036-4471ac42",
        ap50=84.1,
        fps=None,
        memory=9.74,
        parameters=136_134_675,
        gflop=1269,
    ),
)

PUBLISHED: Mapping[str, PublishedWeights] = MappingProxyType({weights.system: weights for weights in _SYSTEMS})
"""The thirteen published systems by name."""


@dataclass(frozen=True, slots=True)
class ShippedWeights:
    """One small system whose weights are in the package.

    Attributes:
        system: Its name.
        method: The temporal method.
        backbone: Its name, or that of the detector.
        file_name: In the package's folder of weights.
        parameters: The number of parameters, frozen ones included.
        gflop: 10^9 multiplications and additions for a 16:9 frame: with FGFA once the window is full, with DFF between
            two key frames.
        gflop_key: The same for a key frame of DFF; None for the other methods.
    """

    system: str
    method: Literal["DFF", "FGFA", "single frame"]
    backbone: str
    file_name: str
    parameters: int
    gflop: float
    gflop_key: float | None = None


_LITE = "EfficientNet-Lite0"
_LITE_FILE = "lite.safetensors"
_NANO = "NanoDet-g"
_NANO_FILE = "nanodet-g.safetensors"

FLOW_NET_FILE = _LITE_FILE
"""The shipped file whose flow net serves every detector."""

SHIPPED: Mapping[str, ShippedWeights] = MappingProxyType(
    {
        "fgfa-nano": ShippedWeights("fgfa-nano", "FGFA", _NANO, _NANO_FILE, 3_786_068, 2.6),
        "dff-nano": ShippedWeights("dff-nano", "DFF", _NANO, _NANO_FILE, 4_204_525, 1.2, gflop_key=2.7),
        "single-nano": ShippedWeights("single-nano", "single frame", _NANO, _NANO_FILE, 3_786_068, 2.6),
        "fgfa-lite": ShippedWeights("fgfa-lite", "FGFA", _LITE, _LITE_FILE, 4_705_735, 8.2),
        "dff-lite": ShippedWeights("dff-lite", "DFF", _LITE, _LITE_FILE, 4_631_943, 0.9, gflop_key=2.8),
        "single-lite": ShippedWeights("single-lite", "single frame", _LITE, _LITE_FILE, 4_213_486, 2.6),
    }
)
"""The small systems by name; those of one detector read the same file."""


@dataclass(frozen=True, slots=True)
class StartingWeights:
    """A file that the published training starts from.

    The addresses are those that mmtracking 0.14's configurations and torchvision name. The files themselves have not
    been tried here; reading them is tested with files of the same form.

    Attributes:
        part: The part of the system that it fills.
        url: Where it is; where its name ends with 8 hexadecimal digits, its SHA-256 begins with them.
    """

    part: Literal["backbone", "flow_net"]
    url: str

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return self.url.rpartition("/")[2]

    @property
    def sha256_prefix(self) -> str | None:
        """The 8 hexadecimal digits with which the file's SHA-256 begins; None where none was published."""
        digest = re.search(r"-([0-9a-f]{8})\.pth$", self.file_name)
        return digest[1] if digest else None


_FLOW_NET = StartingWeights("flow_net", f"{ORIGIN}/mmtracking/pretrained_weights/flownet_simple.pth")
_BACKBONES = {
    "r50": StartingWeights("backbone", "https://download.pytorch.org/models/resnet50-0676ba61.pth"),
    "r101": StartingWeights("backbone", "https://download.pytorch.org/models/resnet101-63fe2227.pth"),
    "x101": StartingWeights("backbone", f"{ORIGIN}/pretrain/third_party/resnext101_64x4d-ee2c6f71.pth"),
}

STARTING: Mapping[str, tuple[StartingWeights, ...]] = MappingProxyType(
    {f"{method}-{depth}": (file, _FLOW_NET) for method in ("dff", "fgfa") for depth, file in _BACKBONES.items()}
    | {f"{method}-{depth}": (file,) for method in ("selsa", "troia", "single") for depth, file in _BACKBONES.items()}
    | {"selsa-r50-fp16": (_BACKBONES["r50"],)}
)
"""The files that the training of the published systems starts from, by system name."""


@dataclass(frozen=True, slots=True)
class YOLOXWeights:
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

    @property
    def file_name(self) -> str:
        """The last part of the URL."""
        return f"{self.name.replace('-', '_')}.pth"

    @property
    def url(self) -> str:
        """Where the file is."""
        return f"{YOLOX_ORIGIN}/0.1.1rc0/{self.file_name}"


_YOLOX = (
    YOLOXWeights("yolox-nano", 25.8, 912_159, 0.6),
    YOLOXWeights("yolox-tiny", 32.8, 5_055_855, 3.9),
    YOLOXWeights("yolox-s", 40.5, 8_968_255, 16.0),
    YOLOXWeights("yolox-m", 47.2, 25_326_495, 44.1),
    YOLOXWeights("yolox-l", 50.1, 54_208_895, 93.2),
    YOLOXWeights("yolox-x", 51.5, 99_071_455, 168.8),
)

YOLOX: Mapping[str, YOLOXWeights] = MappingProxyType({weights.name: weights for weights in _YOLOX})
"""The six sizes by name."""


def yolox_weights(system: str) -> YOLOXWeights | None:
    """Returns what a system such as "single-yolox-s", or "yolox-s" itself, starts from; None if it is no YOLOX."""
    return YOLOX.get(system) or YOLOX.get(system.partition("-")[2])
