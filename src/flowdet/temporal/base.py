"""What a temporal method is: it turns the maps of single frames into maps that know of the frames around them.

A method is one file. Its configuration answers every question that the rest of the package asks about it, so that
nobody else looks at its type; whoever adds a method writes that file, a recipe and a test.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, Self, TypeVar

from torch import Tensor, nn

from flowdet.data.sampling import ReferenceSampling
from flowdet.detectors.base import RoIAttention
from flowdet.errors import ConfigError, counted
from flowdet.flow.base import FlowNet
from flowdet.types import ClipBatch, FrameFeatures, Geometry, Maps, NetworkInput, RoIs

__all__ = ["MapSource", "MethodConfig", "MethodParts", "Overlay", "TemporalMethod"]

State = TypeVar("State")

Overlay = Literal["flow", "weights", "key", "references"]
"""What can be drawn of a method: flow as colours, aggregation weights as heat maps, a mark on key frames, the RoIs of
reference frames that objects attend to."""


class MapSource(Protocol):
    """The side of a detector that methods see."""

    def extract(self, images: Tensor) -> Maps:
        """Returns the maps of images [b, 3, H, W]."""

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """Returns the proposals in maps, for RoI-level methods."""


@dataclass(frozen=True, eq=False)
class MethodParts:
    """What a method works with: the modules of a system, or the same functions in another backend.

    Attributes:
        detector: Extracts maps.
        flow: None where the method needs no flow.
        modules: The method's own trained modules by name, see `MethodConfig.modules`.
    """

    detector: MapSource
    flow: FlowNet | None = None
    modules: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    @property
    def flow_net(self) -> FlowNet:
        """The flow net of a method that needs one."""
        if self.flow is None:
            raise ConfigError("this method needs a flow net, and the system has none")
        return self.flow


class TemporalMethod(Protocol[State]):
    """Frames in, features out, in the same order and as many; what lies between is a value, the state.

    A method holds no memory of its own: an old state replays to the same result, and two streams can share a method.
    One step takes one frame of each of b streams that run in lock step. A state holds what belongs to single streams as
    tensors with b rows (or tuples of b geometries), in dataclasses and tuples, so that streams can be told apart.
    """

    @property
    def lookahead(self) -> int:
        """How many frames later than it came a frame's features are ready, at the latest."""

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> State:
        """Returns the state before the first frame.

        Args:
            preview: `MethodConfig.preview` frames spread evenly over the whole video, in order.
        """

    def step(self, inputs: NetworkInput, state: State) -> tuple[list[FrameFeatures], State]:
        """Takes the next frame; returns the features that are now ready, and the state for the frame after."""

    def flush(self, state: State) -> list[FrameFeatures]:
        """Returns the features of the frames still held back, at the end of the stream."""

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """Returns the features of the current frames of training clips, with gradients."""


class MethodConfig(ABC):
    """The settings of a method, a frozen dataclass, and its answers to what others ask about it.

    The name of the class stands in weight files as "kind". An answer that holds for most methods has a default here; a
    method for which it does not hold must override it.
    """

    @abstractmethod
    def build(self, parts: MethodParts) -> TemporalMethod[Any]:
        """Returns the method over these parts."""

    @property
    @abstractmethod
    def uses_flow(self) -> bool:
        """Whether the method needs a flow net."""

    @property
    @abstractmethod
    def references(self) -> ReferenceSampling | None:
        """How training draws reference frames; None if it needs none."""

    @property
    @abstractmethod
    def kinds(self) -> tuple[str, ...]:
        """The kinds of frames that take turns in the steady state, such as "key" and "other"; one turn, in order.

        Frames that wait for each other are of one kind, as they are computed together.
        """

    @property
    @abstractmethod
    def overlays(self) -> frozenset[Overlay]:
        """What can be drawn of the method."""

    @abstractmethod
    def causal(self) -> Self:
        """Returns the form of the method that looks at no later frame.

        Raises:
            ConfigError: There is none, or the method is causal as it is.
        """

    @property
    def window(self) -> tuple[int, int]:
        """The number of reference frames before and after the current one that an overlay has room for."""
        return 1, 0

    @property
    def frames_used(self) -> str:
        """The frames that the features of a frame are made of beside its own, in words."""
        past, future = self.window
        return f"{counted(past, 'frame')} before and {future} after the current one"

    @property
    def reach(self) -> int:
        """The number of frames before the current one to which its references go back."""
        return self.window[0]

    def first_needed(self, frame: int) -> int:
        """Returns where a stream may begin that finds in this frame what it would find from the first one on.

        0 stands for a method that remembers all that went by.
        """
        del frame
        return 0

    @property
    def preview(self) -> int:
        """The number of frames of the whole video that the method sees before the first one."""
        return 0

    def modules(self, channels: Sequence[int]) -> dict[str, nn.Module]:
        """Returns the method's own trained modules with random weights, by the names they have in weight files.

        Args:
            channels: The number of channels of each of the detector's maps.
        """
        del channels
        return {}

    @property
    def attention(self) -> Callable[[Sequence[int]], RoIAttention] | None:
        """Makes what the method adds to the RoI head, see `DetectorConfig.build`; None for map-level methods."""
        return None

    @property
    def variants(self) -> Mapping[str, "MethodConfig"]:
        """Other forms of the method that take the same weights, by name; most are cheaper."""
        return {}

    def _already_causal(self, name: str) -> ConfigError:
        return ConfigError(f"{name} never looks at later frames; it is causal without that option, so leave it out")
