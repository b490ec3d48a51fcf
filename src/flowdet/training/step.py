"""The pieces of one training step: losses, gradients, and who spoilt them."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowdet.training.plan import Precision
from flowdet.training.state import TrainingState

__all__ = ["ClipsOf", "Losses", "LossesOf", "accumulate", "clip_gradients", "find_offenders"]

Batch = TypeVar("Batch")

LossesOf = Callable[[nn.Module, Batch], dict[str, Tensor]]
"""Named losses of a model on a batch, each the mean over its clips; their sum is minimised."""

ClipsOf = Callable[[Batch], Iterable[tuple[str, Batch]]]
"""The clips of a batch one by one, each with the name of its sample."""

_DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class _TakePart(torch.autograd.Function):
    """Gives back its first argument, and makes the others part of its graph without a gradient."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = len(parameters)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*gradients, *(None,) * ctx.parameters)


class Losses(nn.Module, Generic[Batch]):
    """A model whose forward pass is that of the training: from a batch to its losses.

    Every trained parameter takes part in every pass. Some clips leave a part of the model without a gradient (a still
    has no flow), and processes that average their gradients must do so for the same parameters.
    """

    def __init__(self, model: nn.Module, losses_of: LossesOf[Batch], precision: Precision) -> None:
        super().__init__()
        self.model = model
        self.losses_of = losses_of
        self.dtype = _DTYPES[precision]
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The sum of the losses, with gradients, and each of them by name, without."""
        device = self.trained[0].device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.losses_of(self.model, batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        return _TakePart.apply(total, *self.trained), {name: loss.detach().float() for name, loss in losses.items()}


def accumulate(losses: nn.Module, batches: Sequence[Batch], scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """Adds up the gradients of the mean loss of some batches, and averages them over the processes.

    Args:
        losses: Of the class `Losses`, shared between the processes or not.
        batches: Of as many clips each.
        scaler: What gradients are scaled by.

    Returns:
        The mean of each loss over these batches.
    """
    means: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, 1):
        # Gradients travel between the processes once, after the last batch.
        is_waiting = isinstance(losses, DistributedDataParallel) and number < len(batches)
        with losses.no_sync() if is_waiting else nullcontext():  # type: ignore[operator]
            total, parts = losses(batch)
            scaler.scale(total / len(batches)).backward()
        for name, part in parts.items():
            means[name] = means.get(name, 0.0) + part / len(batches)
    return means


def clip_gradients(state: TrainingState, trained: Sequence[nn.Parameter], most: float | None) -> float:
    """Scales the gradients back and clips them; gives their norm before that.

    A parameter that no clip of the step has reached has a gradient of zero, as it has when others share the work.
    """
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    state.scaler.unscale_(state.optimizer)
    return nn.utils.clip_grad_norm_(trained, math.inf if most is None else most).item()


def find_offenders(losses: Losses[Batch], batches: Iterable[Batch], clips_of: ClipsOf[Batch]) -> list[str]:
    """The names of the samples whose loss or gradient alone is not a finite number."""
    names = []
    for name, clip in (named for batch in batches for named in clips_of(batch)):
        losses.zero_grad()
        total, _ = losses(clip)
        total.backward()
        gradients = (parameter.grad for parameter in losses.trained if parameter.grad is not None)
        if not (torch.isfinite(total) and all(torch.isfinite(gradient).all() for gradient in gradients)):
            names.append(name)
    return names
