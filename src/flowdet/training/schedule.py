"""The learning rate of every step, as a pure function."""

import math

from flowdet.errors import ConfigError
from flowdet.training.plan import Cosine, Plan, StepDrops

__all__ = ["check_schedule", "learning_rate"]


def check_schedule(plan: Plan, steps_per_epoch: int) -> None:
    """Passes if the warm-up ends before the training does.

    Raises:
        ConfigError: It does not.
    """
    steps = plan.epochs * steps_per_epoch
    if plan.warm_up_steps >= steps:
        raise ConfigError(
            f"a warm-up of {plan.warm_up_steps} steps does not fit in a training of {steps} steps "
            f"({plan.epochs} epochs of {steps_per_epoch}); shorten it or train longer"
        )


def learning_rate(plan: Plan, step: int, steps_per_epoch: int) -> float:
    """The learning rate of a step.

    Args:
        plan: Its peak is for 8 clips a step, its actual batch scales it.
        step: Steps done before it.
        steps_per_epoch: What the schedule counts its epochs in.
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
