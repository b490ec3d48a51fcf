"""Freezing the first stages of a backbone, and the statistics of its batch norm."""

from collections.abc import Sequence

from torch import nn

__all__ = ["freeze_stages", "keep_norms_in_evaluation"]


def freeze_stages(stages: Sequence[nn.Module], frozen: int) -> None:
    """Freezes the stem and the first n stages; -1 freezes nothing."""
    for stage in stages[: frozen + 1]:
        stage.requires_grad_(False)


def keep_norms_in_evaluation(backbone: nn.Module) -> None:
    """Keeps every batch norm in evaluation mode, whatever mode the rest is in."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
