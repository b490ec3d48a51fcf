"""Parts so small that a test can run hundreds of videos through them, yet every frame changes every number."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from itertools import chain
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import RPN, FasterRCNN, FasterRCNNConfig, RoIHead, RoIHeadConfig, RPNConfig
from flowdet.detectors.necks import MergeNeckConfig
from flowdet.flow.flownet_s import FlowNetConfig
from flowdet.inputs import InputConfig, prepare
from flowdet.systems.config import SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.base import MethodConfig, MethodParts, TemporalMethod
from flowdet.temporal.single import SingleFrameConfig
from flowdet.types import Detections, Frame, FrameFeatures, Geometry, Maps, NetworkInput, RoIs

__all__ = [
    "INPUTS",
    "Extract",
    "Flow",
    "NoFlow",
    "assert_batch_equals_one_by_one",
    "embed",
    "embed_maps",
    "frames_of",
    "inputs_of",
    "lite_config",
    "lite_detector_config",
    "lite_flow_config",
    "parts_for",
    "run",
    "tensors_in",
    "tiny_detector",
    "tiny_system",
    "video",
]

INPUTS = InputConfig(long_side=96, short_side=64, multiple=16)
_CHANNELS = 8
_CLASSES = ("cat", "dog", "fox")


def video(length: int, *, seed: int = 0, size: tuple[int, int] = (48, 80)) -> list[NDArray[np.uint8]]:
    """Images [h, w, 3] of blocks that all differ."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (length, size[0] // 8, size[1] // 8, 3), dtype=np.uint8)
    return list(coarse.repeat(8, axis=1).repeat(8, axis=2))


def frames_of(images: Iterable[NDArray[np.uint8]]) -> Iterator[Frame]:
    """The images as frames, 25 a second."""
    for index, image in enumerate(images):
        yield Frame(index, index / 25, image)


def inputs_of(*videos: Sequence[NDArray[np.uint8]]) -> list[NetworkInput]:
    """Network inputs of videos that run in lock step."""
    return [prepare(images, INPUTS) for images in zip(*videos, strict=True)]


def _kernel(outputs: int, inputs: int, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(outputs * 100 + inputs)
    return torch.randn(outputs, inputs, size, size, generator=generator) / (math.sqrt(inputs) * size)


@dataclass
class Extract:
    """A detector's side of one layer for each map; counts the images that went through.

    With `strides` of (16,) there is one map [b, 8, H / 16, W / 16], with (8, 16) another one of 12 channels before it.
    """

    strides: tuple[int, ...] = (16,)
    images: int = 0

    @property
    def channels(self) -> tuple[int, ...]:
        """The number of channels of each map."""
        return tuple(_CHANNELS * (1 if stride == 16 else 2) for stride in self.strides)

    def extract(self, images: Tensor) -> Maps:
        """Images [b, 3, H, W] to maps."""
        self.images += len(images)
        return tuple(
            F.relu(F.conv2d(images, _kernel(count, 3, stride), stride=stride) + 0.1)
            for stride, count in zip(self.strides, self.channels, strict=True)
        )

    def __call__(self, images: Tensor) -> Tensor:
        """The last map."""
        return self.extract(images)[-1]

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """The cells of the last map as proposals, their values as features."""
        batch, _, height, width = maps[-1].shape
        cells = maps[-1].flatten(2).transpose(1, 2)
        corners = torch.stack(torch.meshgrid(torch.arange(width), torch.arange(height), indexing="xy"), -1) * 16.0
        boxes = torch.cat((corners, corners + 16), -1).reshape(1, -1, 4).expand(batch, -1, -1)
        del geometries
        mask = torch.ones(batch, cells.shape[1], dtype=torch.bool)
        return RoIs(boxes, mask, cells[..., None, None], (cells,), (cells,))


@dataclass
class Flow:
    """A flow net of one layer whose flows are a few cells long; counts frames and the rows of its calls."""

    stride: ClassVar = 16

    prepared: int = 0
    as_references: int = 0
    calls: list[int] = field(default_factory=list)

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """The mean of each cell."""
        self.prepared += len(inputs.images)
        return F.avg_pool2d(inputs.images, 16)

    def as_current(self, prepared: Tensor) -> Tensor:
        """Another value than as a reference."""
        return -prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        """The mean of each cell; counts the frames."""
        self.as_references += len(prepared)
        return prepared

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Flow [b, 2, H / 16, W / 16] that is not zero from a frame to itself either."""
        self.calls.append(len(current))
        pair = torch.cat((current, reference), dim=1)
        return 2 * torch.tanh(F.conv2d(pair, _kernel(2, 6, 3), padding=1))

    def between(self, current: NetworkInput, reference: NetworkInput) -> Tensor:
        """The flow between two inputs."""
        return self(self.as_current(self.prepare(current)), self.as_reference(self.prepare(reference)))


class NoFlow(Flow):
    """Nothing moves."""

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(super().__call__(current, reference))


def embed(features: Tensor) -> Tensor:
    """Features [b, c, h, w] to embeddings [b, 4, h, w]."""
    return F.conv2d(features, _kernel(4, features.shape[1], 3), torch.tensor([0.3, -0.2, 0.1, 0.4]), padding=1)


def embed_maps(maps: Maps) -> Maps:
    """The embedding of each map."""
    return tuple(map(embed, maps))


def parts_for(config: MethodConfig, *, strides: tuple[int, ...] = (16,), flow: Flow | None = None) -> MethodParts:
    """What a method of any kind works with: tiny parts, and its own modules, the same ones each time."""
    extract = Extract(strides)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        modules = {name: module.requires_grad_(False) for name, module in config.modules(extract.channels).items()}
    return MethodParts(extract, (flow or Flow()) if config.uses_flow else None, modules)


def run(
    method: TemporalMethod[Any], inputs: Sequence[NetworkInput], preview: Sequence[NetworkInput] = ()
) -> list[FrameFeatures]:
    """The features of a whole stream."""
    state, outputs = method.initial_state(preview), []
    for item in inputs:
        ready, state = method.step(item, state)
        outputs += ready
    return outputs + method.flush(state)


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value of dataclasses and tuples."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, tuple):
        yield from chain.from_iterable(map(tensors_in, value))
    elif is_dataclass(value):
        yield from tensors_in(tuple(getattr(value, each.name) for each in fields(value)))


class _Backbone(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.extract = Extract()
        self.weight = nn.Parameter(torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.extract(images) + self.weight
        return features


def tiny_detector(seed: int = 0) -> FasterRCNN:
    """A detector with random heads that finds many objects."""
    config = lite_detector_config()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rpn = RPN(config.rpn, _CHANNELS)
        roi_head = RoIHead(config.roi_head, _CHANNELS, len(_CLASSES))
        for head in (rpn.conv, rpn.objectness, rpn.deltas, roi_head.classes, roi_head.deltas):
            nn.init.normal_(head.weight, std=0.3)
        nn.init.normal_(roi_head.classes.weight, std=3.0)
    return FasterRCNN(config, _Backbone(), nn.Identity(), rpn, roi_head).eval()


def lite_detector_config() -> FasterRCNNConfig:
    """The detector of fgfa-lite, narrow."""
    return FasterRCNNConfig(
        EfficientNetLite0Config(),
        MergeNeckConfig(channels=_CHANNELS),
        RPNConfig(channels=8, scales=(1.0, 2.0), post_nms_top_n=40, training_post_nms_top_n=60, sampled=32),
        RoIHeadConfig(hidden=16, sampled=24),
    )


def lite_config() -> SystemConfig:
    """A single-frame system of the parts of fgfa-lite, all narrow."""
    return SystemConfig(
        name="tiny",
        class_names=_CLASSES,
        inputs=InputConfig(long_side=96, short_side=64, multiple=32),
        detector=lite_detector_config(),
        method=SingleFrameConfig(),
    )


def lite_flow_config() -> FlowNetConfig:
    """A narrow FlowNet-S."""
    return FlowNetConfig(encoder=(4, 6, 8, 8, 8, 8), decoder=(8, 8, 6, 4))


def tiny_system() -> VideoDetector:
    """A single-frame system of the tiny detector."""
    return VideoDetector(lite_config(), tiny_detector(), None, {})


def assert_batch_equals_one_by_one(system: VideoDetector) -> None:
    """Checks that two streams of different length find the same together as each by itself."""
    sources = [list(frames_of(video(length, seed=length, size=(64, 96)))) for length in (5, 3)]
    together: list[list[Detections]] = [[], []]
    for outcome in system.detect_many(sources):
        together[outcome.source].append(outcome.detections)
    for source, found in zip(sources, together, strict=True):
        for one, other in zip(found, system.detect(source), strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)
