"""Detections of many variants of a system in one pass over a data set: what they share is computed once a frame."""

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from flow_errors import ZeroFlow
from torch import Tensor

from flowdet.backends.choice import with_backend
from flowdet.data.cocovid import CocoVID, VideoRecord
from flowdet.data.image_files import read_picture
from flowdet.flow.base import FlowNet
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.inputs import prepare
from flowdet.metrics.detections import DetectionTable, concatenate
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, TemporalMethod
from flowdet.types import Aggregation, Frame, FrameFeatures, Geometry, Maps, NetworkInput, RoIs
from flowdet.weights.native import read_system

__all__ = ["Variant", "Work", "detect_variants", "seconds_per_frame", "work_of"]

Flow = Literal["own", "none", "dis"]
_COLUMNS = ("images", "labels", "boxes", "scores")


@dataclass(frozen=True)
class Variant:
    """A way to use a weight file.

    Attributes:
        name: What it is called.
        method: With all its parameters.
        weights: The file.
        flow: The flow net of the file; no flow, so that nothing is warped; or OpenCV's DIS.
    """

    name: str
    method: MethodConfig
    weights: Path
    flow: Flow = "own"


class Once:
    """Maps of the frames of one video, each computed once; a frame is known by where its pixels lie."""

    def __init__(self, detector: MapSource) -> None:
        self.detector = detector
        self.made: dict[int, Maps] = {}

    def extract(self, images: Tensor) -> Maps:
        """Returns the maps of images [1, 3, H, W]."""
        place = images.data_ptr()
        if place not in self.made:
            self.made[place] = self.detector.extract(images)
        return self.made[place]

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """As the detector."""
        return self.detector.rois(maps, geometries)


class OnceFlow:
    """Flows between the frames of one video, each pair computed once; what is prepared of a frame is its number."""

    def __init__(self, flow_net: FlowNet) -> None:
        self.flow_net = flow_net
        self.numbers: dict[int, int] = {}
        self.prepared: list[Tensor] = []
        self.flows: dict[tuple[int, int], Tensor] = {}

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """The frame's number, [1, 1]."""
        place = inputs.images.data_ptr()
        if place not in self.numbers:
            self.numbers[place] = len(self.prepared)
            self.prepared.append(self.flow_net.prepare(inputs))
        return torch.tensor([[self.numbers[place]]])

    def as_current(self, prepared: Tensor) -> Tensor:
        """The same number."""
        return prepared

    def as_reference(self, prepared: Tensor) -> Tensor:
        """The same number."""
        return prepared

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Flow [n, 2, H / 16, W / 16] between the frames with these numbers [n, 1], in feature cells."""
        pairs = list(zip(current.flatten().tolist(), reference.flatten().tolist(), strict=True))
        missing = [pair for pair in dict.fromkeys(pairs) if pair not in self.flows]
        if missing:
            first, second = (torch.cat([self.prepared[n] for n in side]) for side in zip(*missing, strict=True))
            self.flows |= dict(
                zip(
                    missing,
                    self.flow_net(self.flow_net.as_current(first), self.flow_net.as_reference(second)).split(1),
                    strict=True,
                )
            )
        return torch.cat([self.flows[pair] for pair in pairs])


@cache
def _system(weights: Path) -> VideoDetector:
    return with_backend(read_system(weights), "auto")


def _flow_net(system: VideoDetector, flow: Flow) -> FlowNet:
    match flow:
        case "own":
            assert system.parts.flow_net
            return system.parts.flow_net
        case "none":
            return ZeroFlow()
        case "dis":
            return DISFlow(DISFlowConfig(), system.config.inputs)


@torch.inference_mode()
def _detect_video(
    variants: Sequence[Variant], data: CocoVID, video: VideoRecord, images: Path
) -> dict[str, DetectionTable]:
    """What each variant finds in one video."""
    found = {}
    for weights in dict.fromkeys(variant.weights for variant in variants):
        system = _system(weights)
        inputs = [prepare([image], system.config.inputs) for image in _pictures(data, video, images)]
        once = Once(system.parts.detector)
        flows = {
            flow: OnceFlow(_flow_net(system, flow))
            for flow in dict.fromkeys(variant.flow for variant in variants if variant.weights == weights)
        }
        for variant in variants:
            if variant.weights == weights:
                parts = MethodParts(once, flows[variant.flow], system.parts.modules)
                method = variant.method.build(parts)
                found[variant.name] = _table(system, method, inputs, video.frames)
    return found


def _table(
    system: VideoDetector, method: TemporalMethod[Any], inputs: Sequence[NetworkInput], positions: Sequence[int]
) -> DetectionTable:
    tables = []
    for features in _features(method, inputs):
        ((boxes, scores, labels),) = system.parts.detector.detect(features)
        where = np.full(len(boxes), positions[features.index])
        tables.append(DetectionTable(where, labels.numpy(), boxes.double().numpy(), scores.double().numpy()))
    return concatenate(tables)


def _features(method: TemporalMethod[Any], inputs: Sequence[NetworkInput]) -> Iterator[FrameFeatures]:
    """The features of a whole video."""
    state = method.initial_state()
    for item in inputs:
        ready, state = method.step(item, state)
        yield from ready
    yield from method.flush(state)


def _pictures(data: CocoVID, video: VideoRecord, images: Path) -> Iterator[Any]:
    for position in video.frames:
        record = data.images[position]
        yield read_picture(images / record.file_name, (record.height, record.width), record.file_name)


def _do_video(variants: Sequence[Variant], data: CocoVID, number: int, images: Path, folder: Path) -> None:
    path = folder / f"video-{data.videos[number].id}.npz"
    if path.exists():
        return
    tables = _detect_video(variants, data, data.videos[number], images)
    columns = {f"{name}/{column}": getattr(table, column) for name, table in tables.items() for column in _COLUMNS}
    partial = path.with_suffix(".part.npz")
    np.savez(partial, allow_pickle=False, **columns)
    partial.replace(path)


def detect_variants(
    variants: Sequence[Variant],
    data: CocoVID,
    images: Path,
    folder: Path,
    *,
    processes: int,
    progress: Callable[[int], None],
) -> dict[str, DetectionTable]:
    """What each variant finds in a data set, by its name.

    Args:
        variants: Their names differ.
        data: Its class names are those of the systems, in their order.
        images: The folder that its file names lie below.
        folder: Takes a file for each finished video; another call goes on from there.
        processes: How many work at the same time, with a thread each.
        progress: Told 1 after each video.
    """
    folder.mkdir(parents=True, exist_ok=True)
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, context, torch.set_num_threads, (1,)) as pool:
        jobs = [pool.submit(_do_video, variants, data, n, images, folder) for n in range(len(data.videos))]
        for job in as_completed(jobs):
            job.result()
            progress(1)
    tables: dict[str, list[DetectionTable]] = {variant.name: [] for variant in variants}
    for video in data.videos:
        with np.load(folder / f"video-{video.id}.npz") as file:
            for name, parts in tables.items():
                parts.append(DetectionTable(*(file[f"{name}/{column}"] for column in _COLUMNS)))
    return {name: concatenate(parts) for name, parts in tables.items()}


def seconds_per_frame(
    variants: Sequence[Variant], data: CocoVID, images: Path, *, videos: int, rounds: int
) -> dict[str, float]:
    """Median time of each variant for one frame, from the decoded frame to its detections, in alternation.

    The backend is "optimised", which needs nothing but PyTorch.

    Args:
        variants: Their names differ.
        data: Its first videos are taken.
        images: The folder that its file names lie below.
        videos: How many.
        rounds: How often each video is gone through.
    """
    clips = [
        [Frame(number, float(number), image) for number, image in enumerate(_pictures(data, video, images))]
        for video in data.videos[:videos]
    ]
    seconds: dict[str, list[float]] = {variant.name: [] for variant in variants}
    for _ in range(rounds):
        for clip in clips:
            for variant in variants:
                system = _with_method(variant)
                began = time.perf_counter()
                for _ in system.detect(clip):
                    pass
                seconds[variant.name].append((time.perf_counter() - began) / len(clip))
    return {name: statistics.median(values) for name, values in seconds.items()}


@dataclass(frozen=True)
class Work:
    """What a frame takes in the mean.

    Attributes:
        backbone: Frames that go through the backbone.
        flows: Evaluations of the flow net.
        fallbacks: Of these, flows that were to be composed and had drifted.
    """

    backbone: float
    flows: float
    fallbacks: float


@torch.inference_mode()
def work_of(variants: Sequence[Variant], data: CocoVID, images: Path, *, videos: int) -> dict[str, Work]:
    """How often each variant needs its parts, counted on the first videos of a data set.

    Args:
        variants: Their names differ.
        data: The data set.
        images: The folder that its file names lie below.
        videos: How many.
    """
    sums = {variant.name: np.zeros(3) for variant in variants}
    count = 0
    for video in data.videos[:videos]:
        inputs = [
            prepare([image], _system(variants[0].weights).config.inputs) for image in _pictures(data, video, images)
        ]
        count += len(inputs)
        parts: dict[Path, tuple[Once, OnceFlow]] = {}
        for variant in variants:
            system = _system(variant.weights)
            once = parts.setdefault(
                variant.weights, (Once(system.parts.detector), OnceFlow(_flow_net(system, variant.flow)))
            )
            detector, flow_net = Counted(once[0]), CountedFlow(once[1])
            method = variant.method.build(MethodParts(detector, flow_net, system.parts.modules))
            origins = [features.origin for features in _features(method, inputs)]
            fallbacks = sum(
                int(origin.fallbacks.sum())
                for origin in origins
                if isinstance(origin, Aggregation) and origin.fallbacks is not None
            )
            sums[variant.name] += (detector.frames, flow_net.pairs, fallbacks)
    return {name: Work(*(total / count).tolist()) for name, total in sums.items()}


class Counted:
    """Counts the frames whose maps are asked for."""

    def __init__(self, detector: MapSource) -> None:
        self.detector = detector
        self.frames = 0

    def extract(self, images: Tensor) -> Maps:
        """As the detector."""
        self.frames += len(images)
        return self.detector.extract(images)

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """As the detector."""
        return self.detector.rois(maps, geometries)


class CountedFlow:
    """Counts the pairs that go through a flow net."""

    def __init__(self, flow_net: FlowNet) -> None:
        self.flow_net = flow_net
        self.pairs = 0

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """As the other."""
        return self.flow_net.prepare(inputs)

    def as_current(self, prepared: Tensor) -> Tensor:
        """As the other."""
        return self.flow_net.as_current(prepared)

    def as_reference(self, prepared: Tensor) -> Tensor:
        """As the other."""
        return self.flow_net.as_reference(prepared)

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """As the other."""
        self.pairs += len(current)
        return self.flow_net(current, reference)


@cache
def _with_method(variant: Variant) -> VideoDetector:
    system = read_system(variant.weights)
    flow_net: Any = _flow_net(system, variant.flow) if variant.method.uses_flow else None
    config = replace(
        system.config, method=variant.method, flow_net=system.config.flow_net if variant.method.uses_flow else None
    )
    modules = {name: system.method_modules[name] for name in variant.method.modules(system.detector.channels)}
    return with_backend(VideoDetector(config, system.detector, flow_net, modules).eval(), "optimised")
