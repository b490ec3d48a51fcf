import json
from dataclasses import fields, replace
from typing import Any

import pytest

from flowdet.errors import ConfigError
from flowdet.training.plan import (
    SGD,
    AdamW,
    Cosine,
    Plan,
    StepDrops,
    fine_tuning_plan,
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
        ('{"epochs": 0}', "epochs must be 1 or more"),
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
