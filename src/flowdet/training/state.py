"""The state of a training run: model, average, optimizer; saved so that a kill at any moment leaves a whole file."""

import json
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, assert_never

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from flowdet.detectors.backbone import Backbone
from flowdet.errors import CheckpointError, FlowdetError
from flowdet.files import replacing
from flowdet.training.plan import SGD, AdamW, Plan

__all__ = ["TrainingState", "begin", "differences", "recomputable_blocks", "restore", "save", "save_activation_memory"]

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"
_SHOWN_DIFFERENCES = 8
_FORMAT = 1
_Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True)
class TrainingState:
    """What changes while a model trains.

    Attributes:
        model: The model in training mode.
        average: The moving average of its weights; None if the plan has none.
        optimizer: Has a parameter group for the backbone and one for the rest.
        scaler: Scales the loss for float16; disabled for other precisions.
    """

    model: nn.Module
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @property
    def can_scale_down(self) -> bool:
        """Whether the loss scale can still be lowered; a step that overflows is then skipped."""
        return self.scaler.is_enabled() and self.scaler.get_scale() > 1

    @property
    def result(self) -> nn.Module:
        """The model that the training returns: the moving average if there is one."""
        return self.average.module if self.average else self.model

    def update(self, rate: float) -> None:
        """Takes an optimizer step at this learning rate and clears the gradients."""
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["factor"]
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad()
        if self.average:
            self.average.update_parameters(self.model)

    def to_dict(self) -> dict[str, Any]:
        """Returns the state as plain containers of tensors and numbers."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_dict(self, saved: Mapping[str, Any]) -> None:
        """Loads what `to_dict` returned."""
        self.model.load_state_dict(saved["model"])
        if self.average:
            self.average.load_state_dict(saved["average"])
        self.optimizer.load_state_dict(saved["optimizer"])
        self.scaler.load_state_dict(saved["scaler"])


def begin(model: nn.Module, plan: Plan, device: torch.device) -> TrainingState:
    """Returns the state before the first step, the model on its device and in training mode.

    Only parameters that need a gradient are trained.
    """
    model.to(device).train()
    if plan.channels_last:
        model.to(memory_format=torch.channels_last)
    groups = _groups(model, plan)
    optimizer: torch.optim.Optimizer
    match plan.optimizer:
        case SGD(momentum):
            optimizer = torch.optim.SGD(groups, momentum=momentum, weight_decay=plan.weight_decay)
        case AdamW():
            optimizer = torch.optim.AdamW(groups, weight_decay=plan.weight_decay)
        case _:
            assert_never(plan.optimizer)
    average = None if plan.ema is None else AveragedModel(model, multi_avg_fn=_moving_average(plan.ema))
    if plan.gradient_checkpointing:
        save_activation_memory(model)
    return TrainingState(
        model, average, optimizer, torch.amp.GradScaler(device.type, enabled=plan.precision == "float16")
    )


def _groups(model: nn.Module, plan: Plan) -> list[dict[str, Any]]:
    """The parameter groups of the backbone and of the rest, each with its factor of the learning rate of a step."""
    trained = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
    backbone = [parameter for name, parameter in trained if ".backbone." in name]
    others = [parameter for name, parameter in trained if ".backbone." not in name]
    groups = ((backbone, plan.backbone_factor), (others, 1.0))
    return [{"params": parameters, "factor": factor, "lr": 0.0} for parameters, factor in groups if parameters]


def _moving_average(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """Lets the decay begin low, so that the average of a short training does not remember its start."""

    @torch.no_grad()
    def update(averages: _Tensors, weights: _Tensors, count: Tensor | int) -> None:
        done = int(count)
        share = 1 - min(decay, (1 + done) / (10 + done))
        for average, weight in zip(averages, weights, strict=True):
            average.lerp_(weight, share)

    return update


def save_activation_memory(model: nn.Module) -> None:
    """Lets every trained block of a backbone recompute its activations in the backward pass (gradient checkpointing).

    Weights, gradients and results stay as they are.
    """
    for block in recomputable_blocks(model):
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)


def recomputable_blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yields the trained blocks of every backbone in a model."""
    blocks = chain.from_iterable(module.blocks() for module in model.modules() if isinstance(module, Backbone))
    return (block for block in blocks if any(parameter.requires_grad for parameter in block.parameters()))


def save(state: TrainingState, step: int, identity: Mapping[str, Any], folder: Path) -> None:
    """Writes a checkpoint; the one before it stays beside it until the next.

    Args:
        state: The state to save.
        step: The number of steps done.
        identity: What a run must have in common with this one to continue it, as JSON values.
        folder: The folder of the run.

    Raises:
        CheckpointError: A weight is not a finite number, or the file cannot be written.
    """
    saved = {"format": _FORMAT, "step": step, "identity": json.dumps(identity), **state.to_dict()}
    bad = _first_not_finite(saved)
    if bad:
        raise CheckpointError(f"after step {step} {bad} is not a finite number any more; the checkpoint is not written")
    newest = folder / NEWEST
    try:
        with replacing(newest, error=CheckpointError) as unfinished:
            with unfinished.open("wb") as file:
                torch.save(saved, file)
                file.flush()
                os.fsync(file.fileno())
            if newest.exists():
                newest.replace(folder / PREVIOUS)
    except (CheckpointError, RuntimeError) as error:  # torch raises RuntimeError where the disk is full
        raise CheckpointError(f"the checkpoint {newest} cannot be written: {error}; the one before is kept") from error


def _first_not_finite(saved: Mapping[str, Any]) -> str | None:
    """The name of a tensor with a value that is not finite; the host waits once for each device."""
    checks: dict[torch.device, dict[str, Tensor]] = {}
    for name, tensor in _tensors(saved):
        checks.setdefault(tensor.device, {})[name] = torch.isfinite(tensor).all()
    for finite in checks.values():
        for name, is_finite in zip(finite, torch.stack(list(finite.values())).tolist(), strict=True):
            if not is_finite:
                return name
    return None


def _tensors(value: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _tensors(inner, f"{name}.{key}" if name else f"{key}")


def restore(
    state: TrainingState,
    identity: Mapping[str, Any],
    folder: Path,
    to_current: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> tuple[int, list[str]]:
    """Loads the newest whole checkpoint of a folder.

    Args:
        state: Takes the content of the checkpoint.
        identity: What the checkpoint must have in common with this run, as JSON values.
        folder: The folder of the run.
        to_current: Writes the identity of a checkpoint of an older version as this version would.

    Returns:
        The number of steps done, 0 without a checkpoint, and a sentence for each damaged checkpoint.

    Raises:
        FlowdetError: The checkpoint is of another run; the message names what differs.
        CheckpointError: There are checkpoints, but none is whole.
    """
    problems: list[str] = []
    for path in (folder / NEWEST, folder / PREVIOUS):
        if not path.exists():
            continue
        try:
            saved = _read(path)
            before = to_current(json.loads(saved["identity"]))
        except Exception as error:  # a damaged file can make its readers raise anything
            problems.append(f"{path} is damaged ({error}) and was passed over")
            continue
        differing = differences(before, identity)
        if differing:
            shown = "; ".join(differing[:_SHOWN_DIFFERENCES])
            more = f"; and {len(differing) - _SHOWN_DIFFERENCES} more" if len(differing) > _SHOWN_DIFFERENCES else ""
            raise FlowdetError(
                f"{folder} holds another training run, which this one cannot continue: {shown}{more}. "
                "Take another folder, or the settings of that run"
            )
        try:
            state.load_dict(saved)
        except (RuntimeError, ValueError) as error:
            raise FlowdetError(
                f"{path} is of another model: {error}. If the run was begun with an older flowdet, finish it with that "
                "version, or start again in another folder"
            ) from error
        return saved["step"], problems
    if problems:
        raise CheckpointError(f"{'; '.join(problems)}. No checkpoint is left: start again in another folder")
    return 0, []


def _read(path: Path) -> dict[str, Any]:
    """Reads a checkpoint whose bytes are those that were written.

    Raises:
        ValueError: They are not.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            bad = archive.testzip()
    except zipfile.BadZipFile as error:
        raise ValueError("it is not whole") from error
    if bad:
        raise ValueError(f"the bytes of {bad} are not those that were written")
    saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    if saved.get("format") != _FORMAT:
        raise ValueError("it is of another version of flowdet")
    return saved


def differences(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Returns a phrase for each value that differs between two nested dictionaries of JSON values."""
    found = []
    for key in dict.fromkeys((*before, *now)):
        old, new = before.get(key), now.get(key)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differences(old, new, f"{prefix}{key}.")
        elif json.dumps(old) != json.dumps(new):
            found.append(f"{prefix}{key} was {json.dumps(old)} and is {json.dumps(new)}")
    return found
