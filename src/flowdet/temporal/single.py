"""No temporal method: every frame by itself."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Never

from flowdet.temporal.base import MapSource, MethodConfig, MethodParts, Overlay
from flowdet.types import ClipBatch, FrameFeatures, NetworkInput

__all__ = ["SingleFrame", "SingleFrameConfig"]


@dataclass(frozen=True)
class SingleFrameConfig(MethodConfig):
    """There is nothing to choose."""

    uses_flow = False
    references = None
    kinds = ("frame",)
    overlays: ClassVar[frozenset[Overlay]] = frozenset()
    frames_used = "the frame alone"

    def build(self, parts: MethodParts) -> "SingleFrame":
        """Returns the method."""
        return SingleFrame(parts.detector)

    def first_needed(self, frame: int) -> int:
        """The frame itself."""
        return frame

    def causal(self) -> Never:
        """A single frame is causal as it is."""
        raise self._already_causal("a single-frame system")


@dataclass(frozen=True)
class SingleFrame:
    """The features of a frame are its own maps; the state counts the frames."""

    detector: MapSource

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self, preview: Sequence[NetworkInput] = ()) -> int:
        """No frame yet."""
        del preview
        return 0

    def step(self, inputs: NetworkInput, state: int) -> tuple[list[FrameFeatures], int]:
        """Returns the maps of this frame."""
        return [FrameFeatures(state, self.detector.extract(inputs.images), inputs.geometries)], state + 1

    def flush(self, state: int) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> FrameFeatures:
        """Returns the maps of the current frames."""
        return FrameFeatures(0, self.detector.extract(clips.current.images), clips.current.geometries)
