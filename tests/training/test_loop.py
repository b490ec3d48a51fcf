import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from flowdet.build import build
from flowdet.errors import FlowdetError
from flowdet.system import VideoDetector
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.training.loop import Plan, train
from flowdet.types import ClipBatch, Targets
from tests.tiny import inputs_of, lite_config, lite_flow_config, video

PLAN = Plan(steps=12, learning_rate=0.05, warm_up=3, ema=0.5, save_every=4)
Batches = Callable[[int], Iterator[Tensor]]


class Model(nn.Module):
    """A line through points; half of it is a backbone."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict({"backbone": nn.Linear(3, 4), "head": nn.Linear(4, 1)})
        for number, parameter in enumerate(self.parameters()):
            generator = torch.Generator().manual_seed(number)
            nn.init.normal_(parameter, std=0.5, generator=generator)

    def forward(self, points: Tensor) -> Tensor:
        values: Tensor = self.body["head"](self.body["backbone"](points))
        return values


def batches(first: int) -> Iterator[Tensor]:
    for step in count(first):
        yield torch.randn(16, 3, generator=torch.Generator().manual_seed(step))


def losses_of(model: nn.Module, points: Tensor) -> dict[str, Tensor]:
    """Random like the choice of boxes is, from torch's global generator."""
    chosen = torch.randperm(len(points))[:12]
    error = model(points[chosen]) - points[chosen].sum(dim=1, keepdim=True)
    return {"squared": error.square().mean(), "absolute": 0.1 * error.abs().mean()}


def log_of(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "step" in line]


def weights(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(*pair) for pair in zip(weights(one), weights(other), strict=True))


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


def test_the_loss_goes_down(tmp_path: Path) -> None:
    trained = train(Model(), batches, losses_of, replace(PLAN, steps=150), tmp_path)
    log = log_of(tmp_path)
    assert log[-1]["squared"] < 0.05 * log[0]["squared"]
    with torch.random.fork_rng():
        assert losses_of(trained, next(batches(999)))["squared"] < 0.05 * log[0]["squared"]
    assert not trained.training


def test_the_log_tells_the_plan_and_every_step(tmp_path: Path) -> None:
    train(Model(), batches, losses_of, PLAN, tmp_path)
    train(Model(), batches, losses_of, replace(PLAN, steps=13), tmp_path)
    starts = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines() if "plan" in line]
    assert [(start["from_step"], start["plan"]["steps"]) for start in starts] == [(0, 12), (12, 13)]
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == list(range(13))
    rates = [entry["rate"] for entry in log[:12]]
    assert rates[:4] == pytest.approx([0.05 / 3, 0.1 / 3, 0.05, 0.05])
    assert rates[3:] == sorted(rates[3:], reverse=True)
    assert rates[-1] < 0.05 * 0.05


class StoppedError(Exception):
    pass


def stopping(before: int) -> Batches:
    def limited(first: int) -> Iterator[Tensor]:
        for step, batch in zip(count(first), batches(first), strict=False):
            if step == before:
                raise StoppedError
            yield batch

    return limited


def start(batches: Batches, folder: Path) -> tuple[nn.Module, nn.Module]:
    """A new process, whose generator knows nothing of the one before; gives the model and its average."""
    torch.manual_seed(0)
    model = Model()
    return model, train(model, batches, losses_of, PLAN, folder)


@pytest.mark.parametrize("stops", [(4,), (7,), (8, 11), (2, 3, 9)])
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole = start(batches, tmp_path / "whole")
    for stop in stops:
        with pytest.raises(StoppedError):
            start(stopping(stop), tmp_path / "parts")
    parts = start(batches, tmp_path / "parts")
    for one, other in zip(parts, whole, strict=True):
        assert_equal(one, other)
    losses = [{entry["step"]: entry["squared"] for entry in log_of(tmp_path / name)} for name in ("whole", "parts")]
    assert losses[0] == losses[1]


def test_a_finished_run_gives_its_result_without_training(tmp_path: Path) -> None:
    average = train(Model(), batches, losses_of, PLAN, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert_equal(train(Model(), batches, losses_of, PLAN, tmp_path), average)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert len(log_of(tmp_path)) == 12


def poisoned(model: nn.Module, points: Tensor, *, step: int, where: str, steps: Iterator[int]) -> dict[str, Tensor]:
    losses = losses_of(model, points)
    if next(steps) == step:
        if where == "loss":
            losses["squared"] = losses["squared"] * float("nan")
        else:
            # Finite, but the root of zero has an infinite slope.
            losses["root"] = (next(model.parameters()).sum() * 0).sqrt()
    return losses


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("step", [5, 7])
def test_what_is_not_a_number_stops_the_run_and_keeps_the_checkpoint(tmp_path: Path, where: str, step: int) -> None:
    """Step 7 would be saved."""
    steps = count()
    model = Model()
    with pytest.raises(FlowdetError, match=rf"in step {step} the loss is .*(nan|inf).*; {tmp_path}"):
        train(model, batches, lambda m, b: poisoned(m, b, step=step, where=where, steps=steps), PLAN, tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4
    for tensors in (saved["model"], saved["average"], model.state_dict()):
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert [entry["step"] for entry in log_of(tmp_path)] == list(range(step))


def test_a_checkpoint_is_replaced_only_by_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(Model(), batches, losses_of, replace(PLAN, steps=4), tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        train(Model(), batches, losses_of, PLAN, tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_frozen_parameters_stay_and_the_backbone_goes_slower(tmp_path: Path) -> None:
    model = Model()
    model.body["backbone"].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    plan = Plan(steps=1, learning_rate=0.1, backbone_factor=0.2, weight_decay=0.0, warm_up=1, ema=0.0)
    train(model, batches, losses_of, plan, tmp_path)
    moved = {name: (tensor - before[name]).abs() for name, tensor in model.state_dict().items()}
    assert moved["body.backbone.bias"].max() == 0
    # The first step of Adam is as long as its rate.
    for name, length in (("body.backbone.weight", 0.02), ("body.head.weight", 0.1), ("body.head.bias", 0.1)):
        torch.testing.assert_close(moved[name], torch.full_like(moved[name], length), rtol=1e-3, atol=0)


def test_the_result_is_the_moving_average(tmp_path: Path) -> None:
    seen: list[list[Tensor]] = []

    def watched(model: nn.Module, points: Tensor) -> dict[str, Tensor]:
        seen.append(weights(model))
        return losses_of(model, points)

    model = Model()
    average = train(model, batches, watched, replace(PLAN, steps=3, ema=0.75), tmp_path)
    after = [*seen[1:], weights(model)]
    for number, found in enumerate(weights(average)):
        first, second, third = (step[number] for step in after)
        torch.testing.assert_close(found, 0.75 * (0.75 * first + 0.25 * second) + 0.25 * third)


def clips() -> ClipBatch:
    current, *references = inputs_of(video(3, size=(64, 96)), video(3, seed=1, size=(64, 96)))
    targets = (
        Targets(torch.tensor([[10.0, 8, 60, 50]]), torch.tensor([1])),
        Targets(torch.tensor([[30.0, 4, 90, 40], [4, 30, 40, 60]]), torch.tensor([0, 2])),
    )
    return ClipBatch(current, tuple(references), targets, (False, False))


def test_a_whole_system_learns_a_batch_by_heart(tmp_path: Path) -> None:
    config = replace(lite_config(), method=FGFAConfig(2, 2, embedding_channels=8), flow_net=lite_flow_config())
    system = build(config)

    def of_system(model: nn.Module, batch: ClipBatch) -> dict[str, Tensor]:
        assert isinstance(model, VideoDetector)
        return model.losses(batch)

    plan = Plan(steps=40, learning_rate=3e-3, warm_up=5, ema=0.5)
    train(system, lambda _: iter([clips()] * 40), of_system, plan, tmp_path)
    log = log_of(tmp_path)
    names = {"rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"}
    assert names <= set(log[0])
    first, last = (sum(entry[name] for name in names) for entry in (log[0], log[-1]))
    assert last < 0.6 * first
