"""What backbones have in common: frozen stages, and batch norm that keeps the statistics of the pre-training."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

from torch import Tensor, nn

__all__ = ["Backbone", "keep_norms_in_evaluation"]


class Backbone(ABC):
    """Makes a module a backbone, from images to maps, whose batch norm never leaves evaluation mode.

    Attributes:
        channels: The number of channels of each map.
    """

    channels: tuple[int, ...]

    @abstractmethod
    def blocks(self) -> Iterator[nn.Module]:
        """Yields the blocks whose activations gradient checkpointing may drop."""

    @abstractmethod
    def published_weights(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Returns weights of ImageNet, as they are published for this backbone, under its own names.

        Those of the classifier are left out; names that it does not know stay as they are.
        """

    def train(self, mode: bool = True) -> Self:
        """Switches the mode of everything but batch norm."""
        super().train(mode)  # type: ignore[misc]
        keep_norms_in_evaluation(self)  # type: ignore[arg-type]
        return self

    @staticmethod
    def freeze(stages: Sequence[nn.Module], frozen: int) -> None:
        """Freezes the stem and the first n stages; -1 freezes nothing."""
        for stage in stages[: frozen + 1]:
            stage.requires_grad_(False)


def keep_norms_in_evaluation(module: nn.Module) -> None:
    """Keeps every batch norm in evaluation mode, whatever mode the rest is in."""
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            each.eval()
