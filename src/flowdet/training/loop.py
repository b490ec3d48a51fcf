"""The training loop, to be read from top to bottom."""

import json
import math
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import nn

from flowdet.errors import FlowdetError
from flowdet.training.environment import describe_environment, peak_memory, write_description
from flowdet.training.interruption import Interruption
from flowdet.training.log import TrainingLog
from flowdet.training.plan import Plan, plan_to_json
from flowdet.training.processes import Processes
from flowdet.training.schedule import check_schedule, learning_rate
from flowdet.training.state import TrainingState, begin, restore, save
from flowdet.training.step import ClipsOf, Losses, LossesOf, accumulate, clip_gradients, find_offenders

__all__ = ["AfterEpoch", "Feed", "Report", "train"]

Batch = TypeVar("Batch")
Batch_co = TypeVar("Batch_co", covariant=True)

AfterEpoch = Callable[[int, nn.Module], Mapping[str, Any]]
"""Takes the number of an epoch, from 1, and the model as it would be the result; gives figures for the log."""

# A run may go on with other values of these: the result is the same but for rounding.
_FREE = ("clips_per_device", "gradient_checkpointing", "save_every")


class Feed(Protocol[Batch_co]):
    """Training data."""

    @property
    def steps_per_epoch(self) -> int:
        """Steps in which all data is seen once."""

    def __call__(self, first_step: int) -> Generator[Sequence[Batch_co], None, None]:
        """The batches of this process for each step after so many, without end; every batch has as many clips."""


@dataclass(frozen=True)
class Report:
    """How far a training is: `step` of `steps` done, in `epoch` of `epochs`, with the loss of the last step."""

    step: int
    steps: int
    epoch: int
    epochs: int
    loss: float
    clips_per_second: float


def train(
    model: nn.Module,
    feed: Feed[Batch],
    losses_of: LossesOf[Batch],
    plan: Plan,
    folder: Path,
    *,
    processes: Processes | None = None,
    about: Mapping[str, Any] | None = None,
    notes: Mapping[str, Any] | None = None,
    clips_of: ClipsOf[Batch] | None = None,
    after_epoch: AfterEpoch | None = None,
    watch: Callable[[Report], None] = lambda _: None,
    say: Callable[[str], None] = lambda _: None,
) -> nn.Module:
    """Trains a model in place and gives the result, which is its moving average if the plan has one.

    Goes on from the folder's checkpoint if there is one: on one machine a run that was killed and went on ends with the
    same weights as one that was not.

    Args:
        model: What to train; parameters that need no gradient stay as they are.
        feed: The training data.
        losses_of: Losses of a batch. What is random in them comes from the batch or from torch's global generator.
        plan: How long and how fast.
        folder: Takes `log.jsonl`, `config.json`, `environment.json`, `checkpoint.pt` and the one before; all processes
            see the same one.
        processes: Which share of the work is done here; all of it if not given.
        about: What else a run must have in common with this one to be continued, as JSON holds it.
        notes: What else belongs into config.json.
        clips_of: Takes a batch apart, so that a sample whose loss is not a finite number can be named.
        after_epoch: Called by every process after each epoch, to evaluate and to save.
        watch: Called after each step.
        say: Takes sentences about what happens beside the steps.

    Raises:
        ConfigError: The plan does not fit the data.
        FlowdetError: The loss is not a finite number any more, or the folder holds another run.
        CheckpointError: A checkpoint can be neither read nor written.
        KeyboardInterrupt: After Ctrl-C, when a checkpoint is written.
        SystemExit: After SIGTERM, when a checkpoint is written.
    """
    processes = processes or Processes()
    per_epoch, steps = feed.steps_per_epoch, plan.epochs * feed.steps_per_epoch
    check_schedule(plan, per_epoch)
    folder.mkdir(parents=True, exist_ok=True)
    state = begin(model, plan, processes.device)
    identity = {"plan": _identity(plan), **(about or {})}
    done = _restore(state, identity, folder, processes, say)
    if processes.is_first:
        config = {"plan": json.loads(plan_to_json(plan)), **(about or {}), **(notes or {})}
        write_description(folder, config, describe_environment(processes) | {"from_step": done})
    losses = Losses(state.model, losses_of, plan.precision)
    shared = processes.share(losses)

    with closing(feed(done)) as data, TrainingLog(folder, done) if processes.is_first else nullcontext() as log:
        epochs_done, rest = divmod(done, per_epoch)
        if processes.agree(log is not None and rest == 0 < epochs_done and not log.was_evaluated(done)):
            _evaluate(state, epochs_done, done, after_epoch, log)
        for epoch in range(epochs_done + 1, plan.epochs + 1):
            with Interruption() as interruption:
                for step in range(done + 1, epoch * per_epoch + 1):
                    began = time.monotonic()
                    batches = next(data)
                    waited = time.monotonic() - began

                    rate = learning_rate(plan, step - 1, per_epoch)
                    torch.manual_seed((plan.seed << 32) + step)
                    terms = accumulate(shared, batches, state.scaler)
                    norm = clip_gradients(state, losses.trained, plan.max_gradient_norm)
                    own = torch.stack(list(terms.values())).tolist()
                    is_bad = not math.isfinite(sum(own)) or not (math.isfinite(norm) or state.can_scale_down)
                    bad, interrupted, terminated, *means = processes.mean([is_bad, *interruption.wishes, *own])
                    if bad:
                        offenders = processes.gather(find_offenders(losses, batches, clips_of) if clips_of else [])
                        raise FlowdetError(_not_finite(step, sum(means), norm, offenders, folder))
                    state.update(rate)

                    done, loss = step, sum(means)
                    stops = interrupted + terminated > 0
                    seconds = time.monotonic() - began
                    if log:
                        log.write(
                            {
                                "step": step,
                                "epoch": step / per_epoch,
                                "loss": loss,
                                "losses": dict(zip(terms, means, strict=True)),
                                "learning_rate": rate,
                                "gradient_norm": norm if math.isfinite(norm) else None,
                                "seconds": seconds,
                                "seconds_waiting": waited,
                                "clips_per_second": plan.batch / seconds,
                                "peak_memory": peak_memory(processes.device),
                            }
                        )
                        if stops or step % plan.save_every == 0 or step == epoch * per_epoch:
                            log.keep()
                            save(state, step, identity, folder)
                        watch(Report(step, steps, epoch, plan.epochs, loss, plan.batch / seconds))
                    if stops:
                        say(f"stopped after step {step} of {steps}, which is saved; the same command goes on from here")
                        interruption.obey(interrupted > 0)
            _evaluate(state, epoch, done, after_epoch, log)
    return state.result.eval()


def _evaluate(
    state: TrainingState, epoch: int, step: int, after_epoch: AfterEpoch | None, log: TrainingLog | None
) -> None:
    figures = after_epoch(epoch, state.result.eval()) if after_epoch else {}
    if log and figures:
        log.write({"step": step, "epoch": epoch, "figures": dict(figures)})
    state.model.train()


def _restore(
    state: TrainingState, identity: Mapping[str, Any], folder: Path, processes: Processes, say: Callable[[str], None]
) -> int:
    """The steps done before, the same in every process."""
    done, problems = restore(state, identity, folder)
    for problem in problems:
        say(problem)
    if len(set(processes.gather(done))) > 1:
        raise FlowdetError(f"the processes found different checkpoints in {folder}; it must be one folder for all")
    if done:
        say(f"goes on after step {done} of {folder}")
    return done


def _identity(plan: Plan) -> dict[str, Any]:
    return {name: value for name, value in json.loads(plan_to_json(plan)).items() if name not in _FREE}


def _not_finite(step: int, loss: float, norm: float, offenders: Sequence[Sequence[str]], folder: Path) -> str:
    names = sorted(chain.from_iterable(offenders))
    who = f"the samples {', '.join(names)} are the reason" if names else "no sample alone is the reason"
    return (
        f"in step {step} the loss is {loss} and the norm of its gradient {norm}: {who}. Look at them, or take a lower "
        f"learning rate or a higher precision; {folder} holds what was saved before"
    )
