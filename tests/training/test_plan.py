import json
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch.optim.lr_scheduler import CosineAnnealingLR, LinearLR, LRScheduler, MultiStepLR, SequentialLR

from flowdet.errors import ConfigError
from flowdet.training.plan import (
    SGD,
    AdamW,
    Cosine,
    Plan,
    StepDrops,
    check_warm_up,
    fine_tuning_plan,
    learning_rate,
    lite_plan,
    plan_from_json,
    plan_to_json,
    published_plan,
)


def test_the_published_recipe() -> None:
    plan = published_plan()
    assert (plan.epochs, plan.batch, plan.learning_rate, plan.weight_decay) == (7, 8, 0.01, 1e-4)
    assert plan.optimizer == SGD(momentum=0.9)
    assert plan.schedule == StepDrops((2, 5), factor=0.1)
    assert (plan.warm_up_steps, plan.warm_up_ratio, plan.max_gradient_norm) == (500, 1 / 3, 35)
    assert (plan.backbone_factor, plan.ema, plan.precision) == (1.0, None, "float32")


@pytest.mark.parametrize("plan", [published_plan(), lite_plan(), fine_tuning_plan(), Plan(schedule=StepDrops((3,)))])
def test_a_plan_survives_json(plan: Plan) -> None:
    assert plan_from_json(plan_to_json(plan)) == plan
    assert set(json.loads(plan_to_json(plan))) == {field.name for field in fields(Plan)}


def test_the_learning_rate_is_for_8_clips() -> None:
    assert Plan(batch=8, learning_rate=0.01).peak_rate == 0.01
    assert Plan(batch=32, learning_rate=0.01).peak_rate == pytest.approx(0.04)
    assert Plan(batch=2, learning_rate=0.01).peak_rate == pytest.approx(0.0025)


@pytest.mark.parametrize(
    ("batch", "clips", "processes", "rounds"), [(8, 1, 8, 1), (8, 1, 1, 8), (8, 2, 2, 2), (16, 4, 1, 4)]
)
def test_a_step_takes_as_many_rounds_as_it_needs(batch: int, clips: int, processes: int, rounds: int) -> None:
    assert Plan(batch=batch, clips_per_device=clips).rounds(processes) == rounds


@pytest.mark.parametrize(("batch", "clips", "processes"), [(8, 1, 3), (8, 3, 1), (4, 2, 4)])
def test_a_batch_that_cannot_be_shared_out_is_refused(batch: int, clips: int, processes: int) -> None:
    with pytest.raises(ConfigError, match=f"{batch} clips a step .* a multiple of {clips * processes}"):
        Plan(batch=batch, clips_per_device=clips).rounds(processes)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"epochs": 10**9},
        {"batch": 10**9},
        {"weight_decay": float("inf")},
        {"max_gradient_norm": float("inf")},
        {"max_gradient_norm": float("nan")},
        {"backbone_factor": float("inf")},
        {"batch": 0},
        {"clips_per_device": 0},
        {"save_every": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"warm_up_steps": -1},
        {"warm_up_ratio": 0.0},
        {"warm_up_ratio": 1.5},
        {"weight_decay": -1e-4},
        {"max_gradient_norm": 0.0},
        {"backbone_factor": -0.1},
        {"ema": 1.0},
        {"ema": -0.1},
        {"precision": "float64"},
        {"seed": -1},
        {"seed": 2**31},
        {"optimizer": SGD(momentum=1.0)},
        {"schedule": StepDrops((0,))},
        {"schedule": StepDrops((3, 2))},
        {"schedule": StepDrops((2,), factor=0.0)},
    ],
)
def test_a_plan_that_cannot_work_says_why(wrong: dict[str, Any]) -> None:
    (name,) = wrong
    name = {"optimizer": "momentum", "schedule": "drop"}.get(name, name)
    with pytest.raises(ConfigError, match=rf"{name}.* must be"):
        Plan(**wrong)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "not the plan"),
        ("{", "not the plan"),
        ('{"epoch": 3}', "epoch"),
        ('{"epochs": 0}', "epochs must be from 1 to 1000000"),
        ('{"epochs": 2.7}', "2.7 is no whole number"),
        ('{"epochs": true}', "True is no whole number"),
        ('{"batch": "8"}', "'8' is no whole number"),
        ('{"learning_rate": 1e999}', "inf is no number"),
        ('{"drops": 1}', "drops"),
        ('{"optimizer": {"kind": "Adagrad"}}', "Adagrad"),
    ],
)
def test_what_is_no_plan_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        plan_from_json(text)


def test_plans_for_small_systems_average_and_anneal() -> None:
    for plan in (lite_plan(), fine_tuning_plan()):
        assert plan.optimizer == AdamW()
        assert plan.schedule == Cosine()
        assert plan.ema is not None
        assert replace(plan, ema=None).ema is None


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
    check_warm_up(Plan(epochs=2, warm_up_steps=9), 5)
    with pytest.raises(
        ConfigError, match=r"warm-up of 10 steps does not fit in a training of 10 steps \(2 epochs of 5"
    ):
        check_warm_up(Plan(epochs=2, warm_up_steps=10), 5)
