from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR

from flowdet.errors import ConfigError
from flowdet.training.plan import Cosine, Plan, StepDrops, published_plan
from flowdet.training.schedule import check_schedule, learning_rate


def torch_rates(plan: Plan, steps: int, after: Callable[..., LRScheduler], **options: Any) -> list[float]:
    """The same schedule by PyTorch, whose second part begins to count after the warm-up."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=plan.peak_rate)
    warm_up = LinearLR(optimizer, plan.warm_up_ratio, total_iters=plan.warm_up_steps)
    later = after(optimizer, **options)
    schedule = SequentialLR(optimizer, [warm_up, later], [plan.warm_up_steps])
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_the_published_schedule_is_that_of_torch() -> None:
    plan, per_epoch = replace(published_plan(), batch=16), 700
    milestones = [2 * per_epoch - 500, 5 * per_epoch - 500]
    wanted = torch_rates(plan, 7 * per_epoch, MultiStepLR, milestones=milestones)
    assert [learning_rate(plan, step, per_epoch) for step in range(7 * per_epoch)] == pytest.approx(wanted, rel=1e-9)
    assert wanted[0] == pytest.approx(0.02 / 3)


@pytest.mark.filterwarnings("ignore:The epoch parameter")
def test_a_cosine_is_that_of_torch() -> None:
    plan = Plan(epochs=3, schedule=Cosine(), warm_up_steps=20, warm_up_ratio=0.1)
    wanted = torch_rates(plan, 300, CosineAnnealingLR, T_max=280)
    assert [learning_rate(plan, step, 100) for step in range(300)] == pytest.approx(wanted, rel=1e-6)


def test_drops_within_the_warm_up_count_too() -> None:
    plan = Plan(epochs=3, schedule=StepDrops((1, 2), factor=0.5), warm_up_steps=25, learning_rate=1.0)
    assert learning_rate(plan, 10, 10) == pytest.approx(0.5 * (1 / 3 + 2 / 3 * 10 / 25))
    assert learning_rate(plan, 25, 10) == 0.25


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate(Plan(warm_up_steps=0), 0, 10) == 0.01
    assert learning_rate(Plan(warm_up_steps=0, schedule=Cosine()), 0, 10) == 0.01


def test_a_warm_up_must_end_before_the_training() -> None:
    check_schedule(Plan(epochs=2, warm_up_steps=9), 5)
    with pytest.raises(
        ConfigError, match=r"warm-up of 10 steps does not fit in a training of 10 steps \(2 epochs of 5"
    ):
        check_schedule(Plan(epochs=2, warm_up_steps=10), 5)
