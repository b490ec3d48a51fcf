"""One system at work on a steady stream: as it is, stage by stage, and taken apart."""

from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from flowdet.benchmark.clip import FRAME_RATE, frames_forever
from flowdet.benchmark.machine import clock
from flowdet.benchmark.parts import Meter
from flowdet.benchmark.report import FrameCost, PartCost, Spread, mix, spread
from flowdet.benchmark.steady import frame_kinds, runner, steady_state
from flowdet.inputs import prepare
from flowdet.systems.detector import VideoDetector
from flowdet.types import NetworkInput
from flowdet.video.draw import draw_detections
from flowdet.video.writer import VideoWriter

__all__ = ["PARTS", "Lane", "Stages", "frame_costs", "mean_cost", "open_lane"]

PARTS = (
    "decode",
    "preparation",
    "backbone",
    "neck",
    "flow",
    "warp",
    "aggregation",
    "rpn",
    "proposals",
    "roi_head",
    "nms",
    "other",
    "drawing",
    "encoding",
)
"""In the order in which a frame goes through them."""

Stages = Mapping[str, float]
"""Seconds of decode, preparation, forward, drawing and encoding of one frame."""

_DRAWN_FROM = 0.3  # as `flowdet detect` does
_WARM_UP = 2


@dataclass(frozen=True, eq=False)
class Lane:
    """A system, warmed up, on its video.

    Attributes:
        system: What is measured.
        device: Where it runs.
        padded: (height, width) of the network input.
        kinds: Of the frames that take turns.
        inputs: Network inputs without end, from images in memory.
        start: The steady state.
        forward: Gives the seconds of forward and post-processing of one frame after the other; decoder and encoder,
            which go on in threads of their own, have no part in it. The first frame is the first of a turn.
        stages: Gives the stages of one frame after the other, from decoding to encoding.
    """

    system: VideoDetector
    device: torch.device
    padded: tuple[int, int]
    kinds: tuple[str, ...]
    inputs: Iterator[NetworkInput]
    start: Any
    forward: Iterator[float]
    stages: Iterator[Stages]

    def parts(self, turns: int) -> dict[str, list[Mapping[str, float]]]:
        """Seconds of the parts of forward and post-processing by kind of frame, with a meter on each part."""
        found = self._metered(self.system, Meter(lambda: clock(self.device)), 1 + turns)
        return {kind: costs[1:] for kind, costs in found.items()}  # the first turn warms up

    def gflop(self) -> dict[str, Mapping[str, float]]:
        """Arithmetic of the parts by kind of frame, counted in one frame of each kind on the system's own modules."""
        system = self.system.with_parts(None, "torch")
        with FlopCounterMode(display=False) as counter:
            counted = self._metered(system, Meter(lambda: counter.get_total_flops() / 1e9), 1)
        found = {kind: dict(costs[0]) for kind, costs in counted.items()}
        if isinstance(self.system.parts.detector.neck, nn.Identity):
            for costs in found.values():
                if "neck" in costs:  # as the seconds: a runtime computes both at once
                    costs["backbone"] += costs.pop("neck")
        return {**found}

    def _metered(self, system: VideoDetector, meter: Meter, turns: int) -> dict[str, list[Mapping[str, float]]]:
        """The costs of each kind of frame, once a turn; every turn begins with the same state."""
        run = runner(system, meter)
        found: dict[str, list[Mapping[str, float]]] = {kind: [] for kind in self.kinds}
        for _ in range(turns):
            state = self.start
            for costs in found.values():
                item = next(self.inputs)
                with meter.part("other"):
                    _, state = run(item, state)
                costs.append(meter.take())
        return found


@contextmanager
def open_lane(system: VideoDetector, images: Sequence[NDArray[np.uint8]], clip: Path, out: Path) -> Iterator[Lane]:
    """Brings a system to its steady state and warms it up.

    Args:
        system: What is measured.
        images: [h, w, 3] RGB each; they are shown over and over.
        clip: A video of them.
        out: The video that is written.
    """
    device, method = next(system.parameters()).device, system.method
    inputs = (prepare([image], system.config.inputs, device) for image in cycle(images))
    start = steady_state(method, method.initial_state(), inputs)
    for stream in (_forward(system, inputs, start), _stages(system, clip, out, start)):
        deque(islice(stream, _WARM_UP), maxlen=0)
        stream.close()
    with closing(_stages(system, clip, out, start)) as stages:
        yield Lane(
            system=system,
            device=device,
            padded=next(inputs).geometries[0].padded,
            kinds=frame_kinds(method),
            inputs=inputs,
            start=start,
            forward=_forward(system, inputs, start),
            stages=stages,
        )


def _forward(system: VideoDetector, inputs: Iterator[NetworkInput], state: Any) -> Generator[float, None, None]:
    run, device = runner(system), next(system.parameters()).device
    while True:
        item = next(inputs)
        began = clock(device)
        _, state = run(item, state)
        yield clock(device) - began


def _stages(system: VideoDetector, clip: Path, out: Path, state: Any) -> Generator[Stages, None, None]:
    """Every frame from decoding to encoding, one step after the other, with a look at the clock in between."""
    run, inputs, device = runner(system), system.config.inputs, next(system.parameters()).device
    names = ("decode", "preparation", "forward", "drawing", "encoding")
    with closing(frames_forever(clip)) as frames, ExitStack() as stack:
        frame = next(frames)
        writer = stack.enter_context(VideoWriter(out, frame.image.shape[:2], FRAME_RATE))
        while True:
            times = [clock(device)]
            frame = next(frames)
            times.append(clock(device))
            item = prepare([frame.image], inputs, device)
            times.append(clock(device))
            ready, state = run(item, state)
            times.append(clock(device))
            # Of a method that looks ahead they are the boxes of an earlier frame, which cost the same to draw.
            image = draw_detections(frame.image, ready[0].select(_DRAWN_FROM))
            times.append(clock(device))
            writer.write(image, writer.frame_count / FRAME_RATE)
            times.append(clock(device))
            yield {name: end - begin for name, begin, end in zip(names, times[:-1], times[1:], strict=True)}


def frame_costs(lane: Lane, forward: Sequence[float], stages: Sequence[Stages]) -> dict[str, FrameCost]:
    """What a frame of each kind costs; the seconds of the parts are measured here.

    Args:
        lane: What is measured.
        forward: What its `forward` gave, whole turns.
        stages: What its `stages` gave, whole turns.
    """
    count = len(lane.kinds)
    parts, gflop = lane.parts(len(stages) // count), lane.gflop()
    costs = {}
    for kind in parts:
        mine = [position for position, each in enumerate(lane.kinds) if each == kind]
        seconds = [forward[turn + position] for turn in range(0, len(forward), count) for position in mine]
        seen = [stages[turn + position] for turn in range(0, len(stages), count) for position in mine]
        costs[kind] = _cost(seconds, seen, parts[kind], gflop[kind])
    return costs


def _cost(
    forward: Sequence[float], stages: Sequence[Stages], parts: Sequence[Mapping[str, float]], gflop: Mapping[str, float]
) -> FrameCost:
    seconds = {name: spread([each[name] for each in stages]) for name in stages[0] if name != "forward"}
    seconds |= {name: spread([each[name] for each in parts]) for name in parts[0]}
    return FrameCost(
        count=len(forward),
        forward=spread(forward),
        everything=spread([sum(each.values()) for each in stages]),
        parts={name: PartCost(seconds[name], gflop.get(name, 0.0)) for name in PARTS if name in seconds},
    )


def mean_cost(kinds: Sequence[str], frames: Mapping[str, FrameCost]) -> FrameCost:
    """What a frame costs on average over a turn."""
    turn = [frames[kind] for kind in kinds]
    nothing = PartCost(Spread(0, 0, 0), 0)
    names = [name for name in PARTS if any(name in frame.parts for frame in frames.values())]
    found = {name: [frame.parts.get(name, nothing) for frame in turn] for name in names}
    return FrameCost(
        count=sum(frame.count for frame in frames.values()),
        forward=mix([frame.forward for frame in turn]),
        everything=mix([frame.everything for frame in turn]),
        parts={
            name: PartCost(mix([part.seconds for part in parts]), sum(part.gflop for part in parts) / len(turn))
            for name, parts in found.items()
        },
    )
