"""What a temporal method is: a way to give each frame features that know of the frames around it."""

from collections.abc import Callable
from typing import Protocol, TypeVar

from torch import Tensor

from flowdet.types import ClipBatch, FrameFeatures, NetworkInput

__all__ = ["Embed", "Extract", "FlowNet", "TemporalMethod"]

Extract = Callable[[Tensor], Tensor]
"""Images [b, 3, H, W] to features [b, c, H / 16, W / 16]."""

Embed = Callable[[Tensor], Tensor]
"""Features [b, c, h, w] to embeddings [b, e, h, w]."""

State = TypeVar("State")


class FlowNet(Protocol):
    """Optical flow in steps, so that what concerns one frame alone is computed once for all its pairs."""

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """What the flow net needs of one frame, [b, ...]."""

    def as_current(self, prepared: Tensor) -> Tensor:
        """What it needs of a prepared frame as the current one, [b, ...]."""

    def as_reference(self, prepared: Tensor) -> Tensor:
        """What it needs of a prepared frame as a reference, [b, ...]."""

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Flow [b, 2, H / 16, W / 16] (dx, dy) from the current to the reference frame, in feature cells.

        Args:
            current: Of `as_current`.
            reference: Of `as_reference`.
        """


class TemporalMethod(Protocol[State]):
    """Frames in, features out, in the same order and as many; what lies between is a value, the state.

    A method holds no memory of its own: an old state replays to the same result, and two streams can share a method.
    One step takes one frame of each of b streams that run in lock step; what the state holds of each of them can be
    told apart, see `flowdet.temporal.rows.select_state`.
    """

    @property
    def lookahead(self) -> int:
        """How many frames later than it came a frame's features are given."""

    def initial_state(self) -> State:
        """The state before the first frame."""

    def step(self, inputs: NetworkInput, state: State) -> tuple[list[FrameFeatures], State]:
        """Takes the next frame; gives the features that are now ready, and the state for the frame after."""

    def flush(self, state: State) -> list[FrameFeatures]:
        """The features of the frames still held back, at the end of the stream."""

    def training_features(self, clips: ClipBatch) -> Tensor:
        """Features [b, c, H / 16, W / 16] of the current frames of training clips, with gradients."""
