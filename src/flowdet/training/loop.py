"""The training loop, to be read from top to bottom."""

import json
import math
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from flowdet.errors import ConfigError, FlowdetError
from flowdet.training.interruption import Interruption
from flowdet.training.plan import Plan, Precision, check_warm_up, learning_rate, plan_from_json, plan_to_json
from flowdet.training.processes import Processes
from flowdet.training.records import TrainingLog, TrainingProgress, describe_environment, peak_memory, write_description
from flowdet.training.state import TrainingState, begin, restore, save

__all__ = ["AfterEpoch", "ClipsOf", "Feed", "LossesOf", "RunDescription", "TrainingTask", "train"]

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)

LossesOf = Callable[[nn.Module, Batch], dict[str, Tensor]]
"""Returns the named losses of a model on a batch, each the mean over its clips; their sum is minimised."""

ClipsOf = Callable[[Batch], Iterable[tuple[str, Batch]]]
"""Yields the clips of a batch one by one, each with the name of its sample."""

AfterEpoch = Callable[[int, nn.Module], Mapping[str, Any]]
"""Takes the number of an epoch, from 1, and the model that the training would return; returns metrics for the log."""

# A run may be continued with other values of these: its result changes by rounding alone.
_FREE = ("clips_per_device", "gradient_checkpointing", "save_every")
_DTYPES: Mapping[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Feed(Protocol[Batch_co]):
    """Training data."""

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps in which all data is seen once."""

    def __call__(self, first_step: int) -> Generator[Sequence[Batch_co], None, None]:
        """Yields the batches of this process step by step, from `first_step` on, without end; equally large batches."""


@dataclass(frozen=True)
class TrainingTask(Generic[Batch]):
    """What is trained, and how its loss is computed.

    Attributes:
        model: Trained in place; parameters that need no gradient stay as they are.
        feed: The training data.
        losses_of: Anything random in it comes from the batch or from torch's global generator.
        clips_of: Splits a batch, to name the samples whose loss is not finite; None if they cannot be named.
        after_epoch: Called by every process after each epoch, to evaluate and to save.
    """

    model: nn.Module
    feed: Feed[Batch]
    losses_of: LossesOf[Batch]
    clips_of: ClipsOf[Batch] | None = None
    after_epoch: AfterEpoch | None = None


@dataclass(frozen=True)
class RunDescription:
    """What a run is beside its plan, as JSON values.

    Attributes:
        identity: What a run must have in common with this one to continue it.
        notes: Goes into `config.json` too.
        to_current: Writes the identity in a checkpoint of an older version as this version would.
    """

    identity: Mapping[str, Any] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    to_current: Callable[[dict[str, Any]], dict[str, Any]] = dict


def train(
    task: TrainingTask[Batch],
    plan: Plan,
    folder: Path,
    *,
    processes: Processes | None = None,
    description: RunDescription | None = None,
    watch: Callable[[TrainingProgress], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> nn.Module:
    """Trains a model in place and returns the result, which is its moving average if the plan has one.

    Continues from the folder's checkpoint if there is one. On one machine's CPU a run that was killed and continued
    ends with the same weights as one that was not. On GPUs it ends with similar ones: the backward passes of RoIAlign,
    of sampling along flow, of bilinear resizing and of indexing add in an order that changes from run to run, cuDNN may
    choose another algorithm, and NCCL's sums depend on the number of GPUs. Convolutions use TF32 on GPUs that have it,
    as PyTorch does by default; set `torch.backends.cudnn.allow_tf32 = False` to compare with a CPU.

    Args:
        task: What to train.
        plan: How long and how fast.
        folder: Takes `log.jsonl`, `config.json`, `environment.json`, `checkpoint.pt` and the checkpoint before; all
            processes see the same folder.
        processes: Which share of the work this process does; all of it if not given.
        description: What the run is beside its plan.
        watch: Called after each step.
        say: Called with messages about what happens beside the steps.

    Raises:
        ConfigError: The plan does not fit the data.
        FlowdetError: The loss is not finite any more, or the folder holds another run or cannot be written.
        CheckpointError: A checkpoint can be neither read nor written.
        KeyboardInterrupt: After SIGINT, when a checkpoint is written.
        SystemExit: After SIGTERM, when a checkpoint is written; the exit code is 143.
    """
    processes, description = processes or Processes(), description or RunDescription()
    description = replace(description, identity={"plan": _identity(plan), **description.identity})
    per_epoch, steps = task.feed.steps_per_epoch, plan.epochs * task.feed.steps_per_epoch
    check_warm_up(plan, per_epoch)
    folder.mkdir(parents=True, exist_ok=True)
    state = begin(task.model, plan, processes.device)
    done = first = _restore(state, description, folder, processes, say)
    if processes.is_first:
        config = {**description.identity, "plan": json.loads(plan_to_json(plan)), **description.notes}
        write_description(folder, config, describe_environment(processes) | {"from_step": done})
    losses = _Losses(state.model, task.losses_of, plan.precision)
    shared = processes.share(losses)
    started = time.monotonic()

    with closing(task.feed(done)) as data, TrainingLog(folder, done) if processes.is_first else nullcontext() as log:
        epochs_done, rest = divmod(done, per_epoch)
        if processes.from_first(log is not None and rest == 0 < epochs_done and not log.was_evaluated(done)):
            _evaluate(state, epochs_done, done, task.after_epoch, log)
        for epoch in range(epochs_done + 1, plan.epochs + 1):
            with Interruption() as interruption:
                for step in range(done + 1, epoch * per_epoch + 1):
                    began = time.monotonic()
                    batches = next(data)
                    waited = time.monotonic() - began

                    rate = learning_rate(plan, step - 1, per_epoch)
                    torch.manual_seed((plan.seed << 32) + step)
                    terms = _accumulate(shared, batches, state.scaler)
                    norm = _clip_gradients(state, losses.trained, plan.max_gradient_norm)
                    own = torch.stack(list(terms.values())).tolist()
                    is_bad = not math.isfinite(sum(own)) or not (math.isfinite(norm) or state.can_scale_down)
                    bad, interrupted, terminated, *means = processes.mean([is_bad, *interruption.signals, *own])
                    if bad:
                        offenders = processes.gather(_find_offenders(losses, batches, task.clips_of))
                        raise FlowdetError(_not_finite(step, sum(means), norm, offenders, folder))
                    state.update(rate)

                    done, loss = step, sum(means)
                    stops = interrupted + terminated > 0
                    now = time.monotonic()
                    speed = plan.batch / (now - began)
                    if log:
                        log.write(
                            {
                                "step": step,
                                "epoch": step / per_epoch,
                                "loss": loss,
                                "losses": dict(zip(terms, means, strict=True)),
                                "learning_rate": rate,
                                "gradient_norm": norm if math.isfinite(norm) else None,
                                "seconds": now - began,
                                "seconds_waiting": waited,
                                "clips_per_second": speed,
                                "peak_memory": peak_memory(processes.device),
                            }
                        )
                        if stops or step % plan.save_every == 0 or step == epoch * per_epoch:
                            log.sync()
                            save(state, step, description.identity, folder)
                        left = (now - started) / (step - first) * (steps - step)
                        watch(TrainingProgress(step, steps, epoch, plan.epochs, loss, speed, left))
                    if stops:
                        say(f"stopped after step {step} of {steps}, which is saved; the same command goes on from here")
                        interruption.obey(interrupted > 0)
            _evaluate(state, epoch, done, task.after_epoch, log)
            processes.wait()
    return state.result.eval()


def _evaluate(
    state: TrainingState, epoch: int, step: int, after_epoch: AfterEpoch | None, log: TrainingLog | None
) -> None:
    metrics = after_epoch(epoch, state.result.eval()) if after_epoch else {}
    if log and metrics:
        log.write({"step": step, "epoch": epoch, "metrics": dict(metrics)})
    state.model.train()


def _restore(
    state: TrainingState,
    description: RunDescription,
    folder: Path,
    processes: Processes,
    say: Callable[[str], None],
) -> int:
    """Restores the state from the folder and returns the number of steps done, the same in every process."""

    def to_current(saved: dict[str, Any]) -> dict[str, Any]:
        try:
            plan = _identity(plan_from_json(json.dumps(saved["plan"])))
        except ConfigError:
            plan = saved["plan"]
        return description.to_current({**saved, "plan": plan})

    done, problems = restore(state, description.identity, folder, to_current)
    for problem in problems:
        say(problem)
    if len(set(processes.gather(done))) > 1:
        raise FlowdetError(f"the processes found different checkpoints in {folder}; all must see the same folder")
    if done:
        say(f"goes on after step {done} of {folder}")
    return done


def _identity(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in json.loads(plan_to_json(plan)).items() if name not in _FREE}


class _TakePart(torch.autograd.Function):
    """Returns its first argument and makes the others part of its graph without a gradient."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, *parameters: Tensor) -> Tensor:
        ctx.parameters = len(parameters)
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (*gradients, *(None,) * ctx.parameters)


class _Losses(nn.Module, Generic[Batch]):
    """A model whose forward pass goes from a batch to its losses, in the plan's precision.

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
        """Returns the sum of the losses, with gradients, and each loss by name, without."""
        device = self.trained[0].device.type
        with torch.autocast(device, self.dtype, enabled=self.dtype != torch.float32):
            losses = self.losses_of(self.model, batch)
        total = torch.stack([loss.float() for loss in losses.values()]).sum()
        return _TakePart.apply(total, *self.trained), {name: loss.detach().float() for name, loss in losses.items()}


def _accumulate(losses: nn.Module, batches: Sequence[Batch], scaler: torch.amp.GradScaler) -> dict[str, Tensor]:
    """Adds up the gradients of the mean loss of equally large batches and averages them over the processes.

    Args:
        losses: `_Losses`, shared between the processes or not.
        batches: The batches of this process.
        scaler: Scales the gradients.

    Returns:
        The mean of each loss over these batches.
    """
    means: dict[str, Tensor] = {}
    for number, batch in enumerate(batches, 1):
        # Gradients travel between the processes once, after the last batch.
        is_partial = isinstance(losses, DistributedDataParallel) and number < len(batches)
        with losses.no_sync() if is_partial else nullcontext():  # type: ignore[operator]
            total, parts = losses(batch)
            scaler.scale(total / len(batches)).backward()
        for name, part in parts.items():
            means[name] = means.get(name, 0.0) + part / len(batches)
    return means


def _clip_gradients(state: TrainingState, trained: Sequence[nn.Parameter], most: float | None) -> float:
    """Unscales and clips the gradients and returns their norm before clipping.

    A parameter that no clip of the step has reached gets a gradient of zero, as it has with several processes.
    """
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    state.scaler.unscale_(state.optimizer)
    return nn.utils.clip_grad_norm_(trained, math.inf if most is None else most).item()


def _find_offenders(losses: _Losses[Batch], batches: Iterable[Batch], clips_of: ClipsOf[Batch] | None) -> list[str]:
    """Returns the names of the samples whose own loss or gradient is not finite."""
    names = []
    for name, clip in (named for batch in batches for named in clips_of(batch)) if clips_of else ():
        losses.zero_grad()
        total, _ = losses(clip)
        total.backward()
        gradients = (parameter.grad for parameter in losses.trained if parameter.grad is not None)
        if not (torch.isfinite(total) and all(torch.isfinite(gradient).all() for gradient in gradients)):
            names.append(name)
    return names


def _not_finite(step: int, loss: float, norm: float, offenders: Sequence[Sequence[str]], folder: Path) -> str:
    names = sorted(chain.from_iterable(offenders))
    who = f"the samples {', '.join(names)} are the reason" if names else "no sample alone is the reason"
    return (
        f"in step {step} the loss is {loss} and the norm of its gradient {norm}: {who}. Look at them, or take a lower "
        f"learning rate or a higher precision; {folder} holds what was saved before"
    )
