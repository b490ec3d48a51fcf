"""What a flow net is: optical flow in steps, so that what concerns one frame alone is computed once for all pairs."""

from typing import Protocol

from torch import Tensor

from flowdet.types import NetworkInput

__all__ = ["FlowNet"]


class FlowNet(Protocol):
    """Flow from a current to a reference frame, for warping features."""

    @property
    def stride(self) -> int:
        """Network-input pixels from one cell of the flow to the next: 16 or a divisor of it."""

    def prepare(self, inputs: NetworkInput) -> Tensor:
        """Returns what the flow net needs of one frame, [b, ...]."""

    def as_current(self, prepared: Tensor) -> Tensor:
        """Returns what it needs of a prepared frame in the role of the current one, [b, ...]."""

    def as_reference(self, prepared: Tensor) -> Tensor:
        """Returns what it needs of a prepared frame in the role of a reference, [b, ...]."""

    def __call__(self, current: Tensor, reference: Tensor) -> Tensor:
        """Returns flow [b, 2, H / stride, W / stride] (dx, dy) from the current to the reference frame, in its cells.

        Args:
            current: As `as_current` returns it.
            reference: As `as_reference` returns it.
        """
