"""Meters on the one path from frames to detections: what each part of a system costs, in seconds or in arithmetic."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import cycle
from typing import Any

from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from flowdet.benchmark.clip import FRAME_RATE, Clip
from flowdet.benchmark.machine import clock
from flowdet.flow.base import FlowNet
from flowdet.systems.detector import Parts, VideoDetector
from flowdet.temporal.base import MethodConfig
from flowdet.types import Frame
from flowdet.video.draw import draw_detections
from flowdet.video.writer import VideoWriter

__all__ = ["Costs", "Meter", "MeteredStream", "count_gflop", "metered", "warm_up"]

Costs = Mapping[str, float]
"""What a frame costs by part."""

_DRAWN_FROM = 0.3  # as `flowdet detect` does


class Meter:
    """Charges all that a clock or a counter advances to one part after the other, so that nothing is left out.

    What follows a part, up to the next one, is charged to "after" that part; what comes before the first one, to
    "preparation".

    Args:
        read: The total so far: of seconds, or of operations.

    Attributes:
        by_part: Whether parts are told apart; else all of them together are "forward".
    """

    def __init__(self, read: Callable[[], float]) -> None:
        self.by_part = False
        self._read = read
        self._costs: dict[str, float] = {}
        self._part, self._since = "", 0.0

    @property
    def current(self) -> str:
        """The part that is charged now."""
        return self._part

    def start(self, part: str) -> None:
        """Begins a frame with this part."""
        self._costs, self._part, self._since = {}, part, self._read()

    def enter(self, part: str) -> None:
        """Ends the part before and begins this one."""
        now = self._read()
        self._costs[self._part] = self._costs.get(self._part, 0.0) + now - self._since
        self._part, self._since = part, now

    def stop(self) -> Costs:
        """Ends the frame and returns its costs."""
        self.enter("")
        return self._costs

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Charges what happens in this `with` statement to a part of the system."""
        if self.by_part:
            self.enter(name)
            yield
            self.enter(f"after {name}")
            return
        if self._part == "preparation":
            self.enter("forward")
        yield


class _Metered(nn.Module):
    """A function of a system, metered; if it is a module, its parameters still tell where the system runs."""

    def __init__(self, name: str, run: Callable[..., Any], meter: Meter) -> None:
        super().__init__()
        self.run = run
        self._name = name
        self._meter = meter

    def forward(self, *inputs: Any) -> Any:
        """As the function."""
        with self._meter.part(self._name):
            return self.run(*inputs)


class _MeteredFlow:
    """A flow net, metered in all that it does for a frame or a pair."""

    def __init__(self, flow_net: FlowNet, meter: Meter) -> None:
        self.stride = flow_net.stride
        self.prepare = _Metered("flow", flow_net.prepare, meter)
        self.as_current = _Metered("flow", flow_net.as_current, meter)
        self.as_reference = _Metered("flow", flow_net.as_reference, meter)
        self._pair = _Metered("flow", flow_net, meter)

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """As the flow net."""
        flow: Tensor = self._pair(current, reference)
        return flow


def metered(system: VideoDetector, meter: Meter) -> VideoDetector:
    """Returns the same system, the parts of its backend metered."""
    parts = system.parts
    runs = {name: _Metered(name, part, meter) for name, part in parts.detector.parts().items()}
    modules = {name: _Metered(name, run, meter) for name, run in parts.modules.items()}
    flow_net = _MeteredFlow(parts.flow_net, meter) if parts.flow_net else None
    return system.with_parts(Parts(parts.detector.with_parts(runs), flow_net, modules), system.backend)


def warm_up(method: MethodConfig) -> int:
    """Returns the number of frames, whole turns of the kinds of frames, after which every turn costs the same."""
    turn = len(method.kinds)
    return -(-max(method.reach, 1) // turn) * turn


class MeteredStream:
    """A system at work on a clip without end, in its steady state, where kinds of frames take turns.

    It iterates over the frames itself, so that the meter learns when each has come.

    Args:
        system: What is measured.
        clip: What it sees.
        read: As for a meter; the clock of the system's device if not given.

    Attributes:
        padded: (height, width) of the network input.
    """

    def __init__(self, system: VideoDetector, clip: Clip, read: Callable[[], float] | None = None) -> None:
        device = next(system.parameters()).device
        self._clip = clip
        self._meter = Meter(read or (lambda: clock(device)))
        self._source: Iterator[Frame] = cycle(clip.frames)
        self._outcomes = metered(system, self._meter).detect_many([self])
        self.preview = clip.preview
        for _ in range(warm_up(system.config.method)):
            outcome = next(self._outcomes)
        self.padded = outcome.features.geometries[0].padded

    def __iter__(self) -> Iterator[Frame]:
        while True:
            self._meter.enter("decode")
            frame = next(self._source)
            self._meter.enter("preparation")
            yield frame

    def frames(self, *, by_part: bool = False, writer: VideoWriter | None = None) -> Iterator[Costs]:
        """Yields the costs of one frame after the other.

        Args:
            by_part: Whether the parts of the system are told apart.
            writer: Takes the frames with their boxes; then they are decoded from the video, else they come from memory.
        """
        self._meter.by_part = by_part
        self._source = iter(self._clip) if writer else cycle(self._clip.frames)
        part = "decode"
        while True:
            # Detections that waited with those before are still to come: what that takes belongs to the same part.
            self._meter.start(part)
            outcome = next(self._outcomes)
            part = self._meter.current
            if writer:
                self._meter.enter("drawing")
                image = draw_detections(outcome.frame.image, outcome.detections.select(_DRAWN_FROM))
                self._meter.enter("encoding")
                writer.write(image, writer.frame_count / FRAME_RATE)
            yield self._meter.stop()


def count_gflop(system: VideoDetector, clip: Clip) -> list[Costs]:
    """Returns the arithmetic of each frame of a turn by part: 10^9 operations of convolutions and matrix products.

    It is counted while the system's own modules compute, whatever its backend.
    """
    counter = FlopCounterMode(display=False)
    stream = MeteredStream(system.with_parts(None, "torch"), clip, lambda: counter.get_total_flops() / 1e9)
    with counter:
        return [costs for _, costs in zip(system.config.method.kinds, stream.frames(by_part=True), strict=False)]
