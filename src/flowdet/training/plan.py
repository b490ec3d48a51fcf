"""How long and how fast to train: the plan of a run, and the plans that are known to work."""

import json
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from flowdet.errors import ConfigError, check_positive
from flowdet.systems.config import structure_json, tagging_converter

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
    "fine_tuning_plan",
    "lite_plan",
    "plan_from_json",
    "plan_to_json",
    "published_plan",
]

REFERENCE_BATCH = 8
"""Clips a step for which a plan gives its learning rate."""

Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent; `momentum` is that of the published systems."""

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
    """The learning rate goes down to zero along half a cosine."""


OptimizerConfig = SGD | AdamW
ScheduleConfig = StepDrops | Cosine


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train; the defaults are the published recipe.

    Attributes:
        epochs: Passes over the data.
        batch: Clips a step of the optimizer, over all processes.
        clips_per_device: Clips that go through a device together; a step takes as many rounds as it needs.
        learning_rate: For 8 clips a step; scaled linearly to `batch`.
        optimizer: SGD or AdamW.
        schedule: How the learning rate goes down.
        warm_up_steps: Steps in which it rises linearly.
        warm_up_ratio: Share of the learning rate at which it begins.
        weight_decay: Of every trained parameter.
        max_gradient_norm: Norm to which gradients are clipped; None leaves them.
        backbone_factor: The backbone's share of the learning rate.
        ema: Decay of the moving average of the weights, which is then the result; None takes the weights as they are.
        precision: Of the operations that allow a lower one.
        channels_last: Keep images and maps in the memory order that suits convolutions best.
        gradient_checkpointing: Compute the backbone's activations twice instead of keeping them.
        seed: Of everything that is drawn at random.
        save_every: Steps between checkpoints; one is written after each epoch too.
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
        check_positive(self, "epochs", "batch", "clips_per_device", "save_every")
        momentum = self.optimizer.momentum if isinstance(self.optimizer, SGD) else 0.0
        norm = self.max_gradient_norm
        drops = self.schedule if isinstance(self.schedule, StepDrops) else StepDrops()
        for name, value, is_fine, wanted in (
            ("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "above 0"),
            ("warm_up_steps", self.warm_up_steps, self.warm_up_steps >= 0, "0 or more"),
            ("warm_up_ratio", self.warm_up_ratio, 0 < self.warm_up_ratio <= 1, "above 0 and at most 1"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "0 or more"),
            ("max_gradient_norm", norm, norm is None or norm > 0, "above 0"),
            ("backbone_factor", self.backbone_factor, self.backbone_factor >= 0, "0 or more"),
            ("ema", self.ema, 0 <= (self.ema or 0) < 1, "at least 0 and below 1"),
            ("precision", self.precision, self.precision in get_args(Precision), "float32, bfloat16 or float16"),
            ("seed", self.seed, 0 <= self.seed < 2**31, "a number of 0 or more, below 2147483648"),
            ("momentum", momentum, 0 <= momentum < 1, "at least 0 and below 1"),
            ("drops", drops.after_epochs, _rises_from_1(drops.after_epochs), "epochs from 1 on, in rising order"),
            ("drop_factor", drops.factor, 0 < drops.factor <= 1, "above 0 and at most 1"),
        ):
            if not is_fine:
                raise ConfigError(f"a plan's {name} must be {wanted}, not {value}")

    @property
    def peak_rate(self) -> float:
        """The learning rate at this number of clips a step."""
        return self.learning_rate * self.batch / REFERENCE_BATCH

    def rounds(self, processes: int) -> int:
        """Forward and backward passes of each process in a step.

        Raises:
            ConfigError: The clips of a step cannot be shared out evenly.
        """
        together = processes * self.clips_per_device
        if self.batch % together:
            raise ConfigError(
                f"{self.batch} clips a step cannot be shared out evenly over {processes} processes with "
                f"{self.clips_per_device} clips at a time; take a batch that is a multiple of {together}"
            )
        return self.batch // together


def _rises_from_1(numbers: tuple[int, ...]) -> bool:
    return all(before < after for before, after in zip((0, *numbers), numbers, strict=False))


def published_plan() -> Plan:
    """The recipe of the published systems: SGD, 7 epochs, the rate dropped after the second and the fifth."""
    return Plan()


def lite_plan() -> Plan:
    """For the small systems from ImageNet weights: AdamW, a cosine, a moving average."""
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
    """For weights that detect already and are to learn other classes or another camera."""
    return replace(lite_plan(), clips_per_device=4, learning_rate=3e-4, warm_up_steps=50, save_every=100)


_CONVERTER = tagging_converter(OptimizerConfig, ScheduleConfig)


def plan_to_json(plan: Plan) -> str:
    """The plan as JSON text; the choice of optimizer and schedule is named by its "kind"."""
    return json.dumps(_CONVERTER.unstructure(plan))


def plan_from_json(text: str) -> Plan:
    """The plan that `plan_to_json` wrote.

    Raises:
        ConfigError: The text is no plan.
    """
    return structure_json(text, Plan, _CONVERTER, "the plan of a training run")
