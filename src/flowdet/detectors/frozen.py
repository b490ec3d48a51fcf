"""What does not train: the first stages of a backbone, and the statistics of its batch norm."""

from collections.abc import Sequence

from torch import nn

__all__ = ["freeze_stages", "keep_norms_in_evaluation"]


def freeze_stages(stages: Sequence[nn.Module], frozen: int) -> None:
    """Stops the training of the stem, which is stage 0, and of so many stages after it; -1 freezes none."""
    for stage in stages[: frozen + 1]:
        stage.requires_grad_(False)


def keep_norms_in_evaluation(backbone: nn.Module) -> None:
    """Keeps every batch norm at the statistics of its pre-training, whatever mode the rest is in."""
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
