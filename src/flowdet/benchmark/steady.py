"""A stream as it is measured: forward and post-processing of a frame, and the state in which a stream stays."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from flowdet.benchmark.parts import Meter, MeteredDetector, MeteredMethod, metered
from flowdet.detectors.faster_rcnn import Detector
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.base import TemporalMethod
from flowdet.temporal.dff import DFF
from flowdet.temporal.fast_fgfa import FastFGFA
from flowdet.temporal.fgfa import FGFA
from flowdet.temporal.recursive import Recursive
from flowdet.types import Detections, FrameFeatures, NetworkInput

__all__ = ["Runner", "first_detections", "frame_kinds", "runner", "steady_state"]


@dataclass(frozen=True)
class Runner:
    """Forward and post-processing, as `stream.detect` does them.

    Attributes:
        method: Gives features.
        detector: Its heads turn them into detections.
        class_names: In the order of the labels.
    """

    method: TemporalMethod[Any] | MeteredMethod
    detector: Detector | MeteredDetector
    class_names: tuple[str, ...]

    def __call__(self, inputs: NetworkInput, state: Any) -> tuple[list[Detections], Any]:
        """Takes the next frame; gives the detections that are now ready, and the state for the frame after."""
        with torch.inference_mode():
            ready, following = self.method.step(inputs, state)
            return [self._detections(features) for features in ready], following

    def _detections(self, features: FrameFeatures) -> Detections:
        ((boxes, scores, labels),) = self.detector.detect(features.features, features.geometries)
        return Detections(
            frame_index=features.index,
            time=0.0,
            boxes=boxes.cpu().numpy(),
            scores=scores.cpu().numpy(),
            labels=labels.cpu().numpy(),
            class_names=self.class_names,
            image_size=features.geometries[0].original,
        )


def runner(system: VideoDetector, meter: Meter | None = None) -> Runner:
    """What runs a system: as it is, or with a meter on its parts, which takes time of its own."""
    method, detector = metered(system, meter) if meter else (system.method, system.parts.detector)
    return Runner(method, detector, system.config.class_names)


def frame_kinds(method: TemporalMethod[Any]) -> tuple[str, ...]:
    """The kinds of the frames that take turns in a steady stream: "key" and "other", or one "frame"."""
    if isinstance(method, DFF | Recursive):
        return ("key", *["other"] * (method.config.key_frame_interval - 1))
    return ("frame",)


def first_detections(run: Runner, method: TemporalMethod[Any], inputs: Iterator[NetworkInput]) -> Any:
    """Runs a new stream until its first frame has its detections; gives the state after that."""
    ready, state = run(next(inputs), method.initial_state())
    while not ready:
        ready, state = run(next(inputs), state)
    return state


def steady_state(method: TemporalMethod[Any], state: Any, inputs: Iterator[NetworkInput]) -> Any:
    """The state before the first frame that costs what all later ones do: FGFA's window is full, DFF's key is due.

    The frames on the way there go into the window but are not aggregated, which would take most of the time.

    Args:
        method: Whose state it is.
        state: Where a stream stands.
        inputs: The frames that come next.
    """
    match method:
        case FGFA(config=config):
            window = (config.past + config.future) * config.stride
            state = _fill(replace(method, config=replace(config, future=window + 1)), state, inputs, window)
            return replace(state, emitted=state.received - method.lookahead)
        case FastFGFA(config=config):
            window = config.past + config.future
            state = _fill(replace(method, config=replace(config, offsets=(window + 1,))), state, inputs, window)
            return replace(state, emitted=state.received - method.lookahead)
        case Recursive(config=config):
            return _fill(method, method.initial_state(), inputs, config.key_frame_interval)
        case DFF():
            return method.initial_state()
        case _:
            return state


def _fill(method: TemporalMethod[Any], state: Any, inputs: Iterator[NetworkInput], received: int) -> Any:
    """The state after so many frames; what they give is left aside."""
    with torch.inference_mode():
        while state.received < received:
            _, state = method.step(next(inputs), state)
    return state
