"""What a backend may compute of a system: modules of tensors, and a system in which something else computes them."""

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn

from flowdet.detectors.base import Computed, Run
from flowdet.flow.base import FlowNet
from flowdet.systems.detector import Parts, VideoDetector
from flowdet.types import Frame, Geometry, NetworkInput

__all__ = [
    "ANY_NUMBER",
    "ComputedFlow",
    "FlowPreparation",
    "FlowRoles",
    "Inputs",
    "record_inputs",
    "system_parts",
    "with_runs",
]

ANY_NUMBER = frozenset({"roi_head"})
"""The parts whose inputs [n, ...] go through together, however many; n differs from frame to frame."""

Inputs = tuple[Tensor, ...]
"""What one call of a part is given."""


def system_parts(system: VideoDetector) -> dict[str, nn.Module]:
    """Returns the parts by name, each a module of tensors in evaluation mode.

    They are those of the detector; "flow", the flow of a pair in their roles, if the flow net has weights (OpenCV's DIS
    has none); and the method's own modules.
    """
    parts = {**system.detector.parts(), **system.method_modules}
    if system.flow_net and next(system.flow_net.parameters(), None) is not None:
        parts["flow"] = system.flow_net
    return {name: part.eval() for name, part in parts.items()}


def with_runs(
    system: VideoDetector, runs: Mapping[str, Run], prepare: Callable[[NetworkInput], Tensor] | None = None
) -> Parts:
    """Returns the system's parts, those of these names computed by these functions.

    Args:
        system: Its modules compute the rest.
        runs: Functions by the names of `system_parts`.
        prepare: As `FlowNet.prepare`; None: the flow net's own.
    """
    flow_net: FlowNet | None = system.flow_net
    if flow_net and "flow" in runs:
        flow_net = ComputedFlow(flow_net, prepare or flow_net.prepare, Computed(runs["flow"]))
    modules = {name: Computed(runs[name]) if name in runs else module for name, module in system.method_modules.items()}
    return Parts(system.detector.with_parts(runs).eval(), flow_net, modules)


def record_inputs(system: VideoDetector, clips: Sequence[Sequence[Frame]], most: int) -> dict[str, list[Inputs]]:
    """Detects objects in clips, and returns what each part was given on the way.

    Args:
        system: With the backend "torch".
        clips: Frames of videos.
        most: The number of calls to keep of each part, spread evenly. Of a batch the first row is kept, unless the part
            takes any number of rows.
    """
    calls = {name: _Thinned(most) for name in system_parts(system)}

    def recorder(name: str, module: nn.Module) -> Run:
        def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            calls[name].add(inputs if name in ANY_NUMBER else tuple(each[:1].clone() for each in inputs))
            found: Tensor | tuple[Tensor, ...] = module(*inputs)
            return found

        return run

    runs = {name: recorder(name, module) for name, module in system_parts(system).items()}
    recording = system.with_parts(with_runs(system, runs), "recording")
    for clip in clips:
        for _ in recording.detect(clip):
            pass
    return {name: thinned.spread() for name, thinned in calls.items()}


class _Thinned:
    """Keeps every nth of what comes, n doubling whenever twice too many are kept."""

    def __init__(self, most: int) -> None:
        self.kept: list[Inputs] = []
        self._most = most
        self._step = 1
        self._seen = 0

    def add(self, inputs: Inputs) -> None:
        """Takes the next one."""
        if self._seen % self._step == 0:
            self.kept.append(inputs)
        self._seen += 1
        if len(self.kept) >= 2 * self._most:
            self.kept, self._step = self.kept[::2], 2 * self._step

    def spread(self) -> list[Inputs]:
        """Returns as many as are wanted, spread evenly."""
        count = min(len(self.kept), self._most)
        return [self.kept[number * len(self.kept) // count] for number in range(count)]


class FlowPreparation(nn.Module):
    """What the flow net does with each frame once: images [b, 3, H, W] to its input, [b, ...].

    Args:
        flow_net: The system's.
        geometry: How every image lies in the network input.
    """

    def __init__(self, flow_net: FlowNet, geometry: Geometry) -> None:
        super().__init__()
        self.flow_net = flow_net
        self.geometry = geometry

    def forward(self, images: Tensor) -> Tensor:
        """As `FlowNet.prepare`."""
        return self.flow_net.prepare(NetworkInput(images, (self.geometry,) * len(images)))


class FlowRoles(nn.Module):
    """What the flow net needs of prepared frames [b, ...] in either role."""

    def __init__(self, flow_net: FlowNet) -> None:
        super().__init__()
        self.flow_net = flow_net

    def forward(self, prepared: Tensor) -> tuple[Tensor, Tensor]:
        """As `FlowNet.as_current` and `FlowNet.as_reference`."""
        return self.flow_net.as_current(prepared), self.flow_net.as_reference(prepared)


class ComputedFlow:
    """A flow net that something else computes, but for the little that depends on the role of a frame.

    Args:
        flow_net: The flow net.
        prepare: As `FlowNet.prepare`.
        pair: Frames in their roles to flow.
    """

    def __init__(
        self, flow_net: FlowNet, prepare: Callable[[NetworkInput], Tensor], pair: Callable[[Tensor, Tensor], Tensor]
    ) -> None:
        self.stride = flow_net.stride
        self.prepare = prepare
        self.as_current = flow_net.as_current
        self.as_reference = flow_net.as_reference
        self._pair = pair

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """As the flow net."""
        return self._pair(current, reference)
