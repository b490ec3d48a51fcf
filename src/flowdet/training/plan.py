"""How long and how fast to train: the plan of a run, its learning rates, and the plans that are known to work."""

import json
import math
from dataclasses import dataclass, field, replace
from typing import Literal, assert_never, get_args

from flowdet.errors import ConfigError, counted
from flowdet.systems.config import structure_json, tagging_converter
from flowdet.weights.limits import strict_numbers

__all__ = [
    "REFERENCE_BATCH",
    "SGD",
    "AdamW",
    "Cosine",
    "OptimizerConfig",
    "Plan",
    "Precision",
    "ScheduleConfig",
    "StepDrops",
    "check_warm_up",
    "fine_tuning_plan",
    "learning_rate",
    "lite_plan",
    "plan_from_json",
    "plan_to_json",
    "published_plan",
]

REFERENCE_BATCH = 8
"""Clips per step that a plan's learning rate is stated for."""

Precision = Literal["float32", "bfloat16", "float16"]

_MOST = 1_000_000  # of epochs, or of clips: more is a slip
_COUNT = f"from 1 to {_MOST}"


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent; the default momentum is the published one."""

    momentum: float = 0.9


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay."""


@dataclass(frozen=True)
class StepDrops:
    """The learning rate is multiplied by `factor` after each of these epochs."""

    after_epochs: tuple[int, ...] = ()
    factor: float = 0.1


@dataclass(frozen=True)
class Cosine:
    """The learning rate falls to zero along half a cosine."""


OptimizerConfig = SGD | AdamW
ScheduleConfig = StepDrops | Cosine


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; the defaults are the published recipe.

    Attributes:
        epochs: Passes over the data.
        batch: Clips per optimizer step, over all processes.
        clips_per_device: Clips per forward pass; a step accumulates the gradients of as many passes as it needs.
        learning_rate: For 8 clips per step; scaled linearly to `batch`.
        optimizer: SGD or AdamW.
        schedule: How the learning rate falls.
        warm_up_steps: Steps over which the learning rate rises linearly.
        warm_up_ratio: Share of the learning rate at which the warm-up begins.
        weight_decay: Applied to every trained parameter.
        max_gradient_norm: Norm to which gradients are clipped; None does not clip.
        backbone_factor: The backbone's learning rate relative to that of the other parameters.
        ema: Decay of the moving average of the weights, which is then the result; None keeps no average.
        precision: What autocast computes in.
        channels_last: Whether images and maps are stored channels last, which suits convolutions.
        gradient_checkpointing: Whether the backbone's activations are recomputed in the backward pass to save memory.
        seed: Seeds the order of the clips and everything random in them.
        save_every: Steps between checkpoints; one more is written after each epoch.

    Raises:
        ConfigError: A value cannot work; the message names it.
    """

    epochs: int = 7
    batch: int = REFERENCE_BATCH
    clips_per_device: int = 1
    learning_rate: float = 0.01
    optimizer: OptimizerConfig = field(default_factory=SGD)
    schedule: ScheduleConfig = field(default_factory=lambda: StepDrops((2, 5)))
    warm_up_steps: int = 500
    warm_up_ratio: float = 1 / 3
    weight_decay: float = 1e-4
    max_gradient_norm: float | None = 35.0
    backbone_factor: float = 1.0
    ema: float | None = None
    precision: Precision = "float32"
    channels_last: bool = False
    gradient_checkpointing: bool = False
    seed: int = 0
    save_every: int = 500

    def __post_init__(self) -> None:
        momentum = self.optimizer.momentum if isinstance(self.optimizer, SGD) else 0.0
        norm = self.max_gradient_norm
        drops = self.schedule if isinstance(self.schedule, StepDrops) else StepDrops()
        counts = ("epochs", "batch", "clips_per_device", "save_every")
        for name, value, is_fine, expected in (
            *((name, getattr(self, name), _is_count(getattr(self, name)), _COUNT) for name in counts),
            ("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "above 0"),
            ("warm_up_steps", self.warm_up_steps, self.warm_up_steps >= 0, "0 or more"),
            ("warm_up_ratio", self.warm_up_ratio, 0 < self.warm_up_ratio <= 1, "above 0 and at most 1"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "0 or more"),
            ("max_gradient_norm", norm, norm is None or 0 < norm < math.inf, "above 0"),
            ("backbone_factor", self.backbone_factor, 0 <= self.backbone_factor < math.inf, "0 or more"),
            ("ema", self.ema, 0 <= (self.ema or 0) < 1, "at least 0 and below 1"),
            ("precision", self.precision, self.precision in get_args(Precision), "float32, bfloat16 or float16"),
            ("seed", self.seed, 0 <= self.seed < 2**31, "a number of 0 or more, below 2147483648"),
            ("momentum", momentum, 0 <= momentum < 1, "at least 0 and below 1"),
            ("drops", drops.after_epochs, _rises_from_1(drops.after_epochs), "epochs from 1 on, in rising order"),
            ("drop_factor", drops.factor, 0 < drops.factor <= 1, "above 0 and at most 1"),
        ):
            if not is_fine:
                raise ConfigError(f"a plan's {name} must be {expected}, not {value}")

    @property
    def peak_rate(self) -> float:
        """The learning rate after the warm-up, for `batch` clips per step."""
        return self.learning_rate * self.batch / REFERENCE_BATCH

    def rounds(self, processes: int) -> int:
        """Returns the number of forward and backward passes per process and step.

        Raises:
            ConfigError: The batch cannot be divided evenly.
        """
        together = processes * self.clips_per_device
        if self.batch % together:
            raise ConfigError(
                f"{counted(self.batch, 'clip')} a step cannot be divided over "
                f"{counted(processes, 'process', 'processes')} with "
                f"{counted(self.clips_per_device, 'clip')} per pass; take a batch that is a multiple of {together}"
            )
        return self.batch // together


def _is_count(value: int) -> bool:
    return 1 <= value <= _MOST


def _rises_from_1(numbers: tuple[int, ...]) -> bool:
    return all(before < after for before, after in zip((0, *numbers), numbers, strict=False))


def check_warm_up(plan: Plan, steps_per_epoch: int) -> None:
    """Checks that the warm-up ends before the training does.

    Raises:
        ConfigError: It does not.
    """
    steps = plan.epochs * steps_per_epoch
    if plan.warm_up_steps >= steps:
        raise ConfigError(
            f"a warm-up of {counted(plan.warm_up_steps, 'step')} does not fit in a training of "
            f"{counted(steps, 'step')} ({counted(plan.epochs, 'epoch')} of {steps_per_epoch}); "
            "shorten it or train longer"
        )


def learning_rate(plan: Plan, step: int, steps_per_epoch: int) -> float:
    """Returns the learning rate of a step.

    Args:
        plan: The warm-up ends before the training does.
        step: The number of steps done before it.
        steps_per_epoch: The number of steps in which the schedule counts one epoch.
    """
    rate = plan.peak_rate
    if step < plan.warm_up_steps:
        rate *= plan.warm_up_ratio + (1 - plan.warm_up_ratio) * step / plan.warm_up_steps
    match plan.schedule:
        case StepDrops(after_epochs, factor):
            return rate * factor ** sum(step >= epoch * steps_per_epoch for epoch in after_epochs)
        case Cosine():
            length = plan.epochs * steps_per_epoch - plan.warm_up_steps
            done = max(step - plan.warm_up_steps, 0) / length
            return rate * 0.5 * (1 + math.cos(math.pi * done))
        case _:
            assert_never(plan.schedule)


def published_plan() -> Plan:
    """Returns the recipe of the published systems: SGD, 7 epochs, rate drops after the second and the fifth."""
    return Plan()


def lite_plan() -> Plan:
    """Returns the plan for small systems that start from ImageNet weights: AdamW, cosine, moving average."""
    return Plan(
        epochs=12,
        clips_per_device=8,
        learning_rate=1e-3,
        optimizer=AdamW(),
        schedule=Cosine(),
        warm_up_steps=100,
        warm_up_ratio=0.01,
        max_gradient_norm=10.0,
        backbone_factor=0.2,
        ema=0.998,
        channels_last=True,
        save_every=250,
    )


def fine_tuning_plan() -> Plan:
    """Returns the plan for trained systems that learn other classes or another camera."""
    return replace(lite_plan(), clips_per_device=4, learning_rate=3e-4, warm_up_steps=50, save_every=100)


_CONVERTER = tagging_converter(OptimizerConfig, ScheduleConfig)
strict_numbers(_CONVERTER, 2**31)


def plan_to_json(plan: Plan) -> str:
    """Returns the plan as JSON; "kind" names the optimizer and the schedule."""
    return json.dumps(_CONVERTER.unstructure(plan))


def plan_from_json(text: str) -> Plan:
    """Returns the plan that `plan_to_json` wrote.

    Raises:
        ConfigError: The text is not a valid plan.
    """
    return structure_json(text, Plan, _CONVERTER, "the plan of a training run")
