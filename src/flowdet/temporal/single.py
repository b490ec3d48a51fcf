"""No temporal method: every frame for itself."""

from dataclasses import dataclass

from torch import Tensor

from flowdet.temporal.base import Extract
from flowdet.types import ClipBatch, FrameFeatures, NetworkInput

__all__ = ["SingleFrame", "SingleFrameConfig"]


@dataclass(frozen=True)
class SingleFrameConfig:
    """There is nothing to choose."""


@dataclass(frozen=True)
class SingleFrame:
    """The features of a frame are those of the frame; the state counts the frames."""

    extract: Extract

    @property
    def lookahead(self) -> int:
        """No frame waits."""
        return 0

    def initial_state(self) -> int:
        """No frame yet."""
        return 0

    def step(self, inputs: NetworkInput, state: int) -> tuple[list[FrameFeatures], int]:
        """The features of this frame."""
        return [FrameFeatures(state, self.extract(inputs.images), inputs.geometries)], state + 1

    def flush(self, state: int) -> list[FrameFeatures]:
        """Nothing is ever held back."""
        del state
        return []

    def training_features(self, clips: ClipBatch) -> Tensor:
        """The features of the current frames."""
        return self.extract(clips.current.images)
