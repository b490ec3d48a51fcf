"""The training loop, to be read from top to bottom."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from flowdet.errors import FlowdetError

__all__ = ["Plan", "train"]

Batch = TypeVar("Batch")


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    Attributes:
        steps: Steps of the optimizer.
        learning_rate: At its peak, reached after the warm-up and brought to zero along a cosine.
        backbone_factor: The backbone's share of the learning rate.
        weight_decay: Of AdamW.
        warm_up: Steps of linear rise.
        max_grad_norm: Norm to which gradients are clipped.
        ema: Decay of the averaged weights, which are the result.
        save_every: Steps between checkpoints.
    """

    steps: int
    learning_rate: float
    backbone_factor: float = 0.2
    weight_decay: float = 1e-4
    warm_up: int = 100
    max_grad_norm: float = 10.0
    ema: float = 0.998
    save_every: int = 250


def train(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    losses_of: Callable[[nn.Module, Batch], dict[str, Tensor]],
    plan: Plan,
    folder: Path,
) -> nn.Module:
    """Trains a model in place and returns its moving average; continues from the folder's checkpoint if there is one.

    On the CPU a run that stopped and went on ends with the same weights as one that did not stop.

    Args:
        model: What to train; parameters that need no gradient stay as they are.
        batches: Gives the training data from a step on, without end.
        losses_of: Named losses of a batch; their sum is minimised.
        plan: How long and how fast.
        folder: Takes `log.jsonl` and `checkpoint.pt`.

    Raises:
        FlowdetError: The loss or its gradient is no longer a finite number.
    """
    folder.mkdir(parents=True, exist_ok=True)
    checkpoint = folder / "checkpoint.pt"
    optimizer = torch.optim.AdamW(_groups(model, plan), weight_decay=plan.weight_decay)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(plan.ema))
    first = 0
    if checkpoint.exists():
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved["average"])
        optimizer.load_state_dict(saved["optimizer"])
        torch.set_rng_state(saved["random"])
        first = saved["step"]
    model.to(memory_format=torch.channels_last).train()
    data = batches(first)
    began = time.monotonic()
    with (folder / "log.jsonl").open("a") as log:
        log.write(json.dumps({"from_step": first, "plan": asdict(plan)}) + "\n")
        for step in range(first, plan.steps):
            rate = _rate(step, plan)
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            losses = losses_of(model, next(data))
            total = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            total.backward()
            norm = nn.utils.clip_grad_norm_(model.parameters(), plan.max_grad_norm)
            if not torch.isfinite(total + norm):
                raise FlowdetError(
                    f"in step {step} the loss is {total.item()} and its gradient {norm.item()}; "
                    f"{folder} holds what was saved before"
                )
            optimizer.step()
            average.update_parameters(model)
            entry = {"step": step, "rate": rate, "norm": norm.item(), "seconds": time.monotonic() - began}
            log.write(json.dumps(entry | {name: round(loss.item(), 5) for name, loss in losses.items()}) + "\n")
            log.flush()
            if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
                state = {
                    "step": step + 1,
                    "model": model.state_dict(),
                    "average": average.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "random": torch.get_rng_state(),
                }
                torch.save(state, checkpoint.with_suffix(".new"))
                os.replace(checkpoint.with_suffix(".new"), checkpoint)
    return average.module.eval()


def _groups(model: nn.Module, plan: Plan) -> list[dict[str, object]]:
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    backbone = [parameter for name, parameter in trained if ".backbone." in name]
    others = [parameter for name, parameter in trained if ".backbone." not in name]
    groups = ((backbone, plan.backbone_factor), (others, 1.0))
    return [{"params": parameters, "factor": factor, "lr": 0.0} for parameters, factor in groups if parameters]


def _rate(step: int, plan: Plan) -> float:
    if step < plan.warm_up:
        return plan.learning_rate * (step + 1) / plan.warm_up
    return plan.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - plan.warm_up) / (plan.steps - plan.warm_up)))
