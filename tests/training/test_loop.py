import signal
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass, replace
from itertools import count
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowdet.errors import CheckpointError, ConfigError, FlowdetError
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.training.loop import RunDescription, TrainingTask, train
from flowdet.training.plan import SGD, Plan, StepDrops, learning_rate
from flowdet.training.records import TrainingProgress
from tests.training.runs import (
    BAD_KIND,
    PLAN,
    SYSTEMS,
    Heads,
    Line,
    Points,
    TinyClips,
    line_losses,
    log_of,
    losses_of_system,
    start_all,
    steps_of,
    system_of,
    train_heads,
    train_line,
    train_system,
    wait_for,
)

# Importing tensorboard takes longer than all the steps here.
pytestmark = pytest.mark.usefixtures("no_tensorboard")
STEPS = 12


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.training.records.has_tensorboard", lambda: False)


@pytest.fixture(autouse=True)
def _own_randomness() -> Iterator[None]:
    with torch.random.fork_rng():
        yield


def weights(model: nn.Module) -> list[Tensor]:
    return [tensor.clone() for tensor in model.state_dict().values()]


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    assert all(torch.equal(*pair) for pair in zip(weights(one), weights(other), strict=True))


def test_the_loss_goes_down(tmp_path: Path) -> None:
    _, trained = train_line(tmp_path, replace(PLAN, epochs=38))
    log = steps_of(tmp_path)
    assert log[-1][1] < 0.1 * log[0][1]
    torch.manual_seed(0)
    losses = line_losses(trained, *next(Points()(999)))
    assert losses["squared"] < 0.05 * log[0][2]["squared"]
    assert not trained.training


def test_the_log_tells_of_every_step(tmp_path: Path) -> None:
    seen: list[TrainingProgress] = []
    train_line(tmp_path, watch=seen.append)
    log = log_of(tmp_path)
    assert [entry["step"] for entry in log] == list(range(1, STEPS + 1))
    assert [entry["epoch"] for entry in log] == [step / 4 for step in range(1, STEPS + 1)]
    assert [entry["learning_rate"] for entry in log] == [learning_rate(PLAN, step, 4) for step in range(STEPS)]
    for entry, report in zip(log, seen, strict=True):
        assert entry["loss"] == pytest.approx(sum(entry["losses"].values()))
        assert set(entry["losses"]) == {"squared", "absolute"}
        assert entry["gradient_norm"] > 0
        assert 0 <= entry["seconds_waiting"] <= entry["seconds"]
        assert entry["clips_per_second"] == pytest.approx(8 / entry["seconds"])
        assert entry["peak_memory"] > 1e7
        assert (report.step, report.steps, report.epochs, report.loss) == (entry["step"], STEPS, 3, entry["loss"])
        assert report.epoch == -(-report.step // 4)


class StoppedError(Exception):
    pass


@dataclass
class Stopping(Points):
    """Fails before the step of this number, from 0."""

    before: int = 0

    def __call__(self, first_step: int) -> Generator[tuple[Tensor], None, None]:
        for step, batch in zip(count(first_step), super().__call__(first_step), strict=False):
            if step == self.before:
                raise StoppedError
            yield batch


@pytest.mark.parametrize("stops", [(1,), (4,), (7,), (8, 11), (2, 5, 9)])
def test_a_run_that_stopped_and_went_on_equals_one_that_did_not(tmp_path: Path, stops: tuple[int, ...]) -> None:
    whole = train_line(tmp_path / "whole")
    for number, stop in enumerate(stops):
        torch.manual_seed(number)  # a new process knows nothing of the generator of the one before
        with pytest.raises(StoppedError):
            train_line(tmp_path / "parts", feed=Stopping(before=stop))
    said: list[str] = []
    parts = train_line(tmp_path / "parts", say=said.append)
    for one, other in zip(parts, whole, strict=True):
        assert_equal(one, other)
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")
    saved = max((step for step in (*range(0, STEPS, 3), 4, 8) if step <= stops[-1]), default=0)
    assert said == ([f"goes on after step {saved} of {tmp_path / 'parts'}"] if saved else [])


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_run_that_is_killed_anywhere_goes_on_as_if_it_was_not(tmp_path: Path) -> None:
    whole = train_line(tmp_path / "whole")
    rng = np.random.default_rng(4)
    killed = 0
    for _ in range(6):
        options = {"folder": tmp_path / "parts", "feed": Points(pause=0.01), "plan": replace(PLAN, save_every=2)}
        process = get_context("fork").Process(target=train_line, kwargs=options)
        before = _size(tmp_path / "parts")
        process.start()
        while _size(tmp_path / "parts") <= before and process.is_alive():
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.06))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed > 1
    parts = train_line(tmp_path / "parts")
    for one, other in zip(parts, whole, strict=True):
        assert_equal(one, other)
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")
    assert len(steps_of(tmp_path / "whole")) == STEPS


def _size(folder: Path) -> int:
    log = folder / "log.jsonl"
    return log.stat().st_size if log.exists() else 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 1), (signal.SIGTERM, 128 + signal.SIGTERM), (signal.SIGHUP, 129)]
)
def test_signals_save_the_step_that_is_done(tmp_path: Path, number: signal.Signals, code: int) -> None:
    class Interrupted(Points):
        def __call__(self, first_step: int) -> Generator[tuple[Tensor], None, None]:
            for step, batch in zip(count(first_step), super().__call__(first_step), strict=False):
                if step == 4:
                    signal.raise_signal(number)
                yield batch

    handler = signal.getsignal(number)
    with pytest.raises((KeyboardInterrupt, SystemExit)) as stopped:
        train_line(tmp_path / "parts", feed=Interrupted())
    assert isinstance(stopped.value, KeyboardInterrupt) if number == signal.SIGINT else stopped.value.args == (code,)
    assert signal.getsignal(number) == handler
    assert torch.load(tmp_path / "parts" / "checkpoint.pt", weights_only=True)["step"] == 5
    for one, other in zip(train_line(tmp_path / "parts"), train_line(tmp_path / "whole"), strict=True):
        assert_equal(one, other)


def test_what_the_process_ignores_stays_ignored(tmp_path: Path) -> None:
    class Hung(Points):
        def __call__(self, first_step: int) -> Generator[tuple[Tensor], None, None]:
            signal.raise_signal(signal.SIGHUP)
            yield from super().__call__(first_step)

    handler = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        train_line(tmp_path, feed=Hung())
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, handler)
    assert len(log_of(tmp_path)) == STEPS


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path) -> None:
    class Impatient(Points):
        def __call__(self, first_step: int) -> Generator[tuple[Tensor], None, None]:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            return super().__call__(first_step)

    class Late(Impatient):
        def __call__(self, first_step: int) -> Generator[tuple[Tensor], None, None]:
            yield from super().__call__(first_step)

    with pytest.raises(KeyboardInterrupt):
        train_line(tmp_path, feed=Late())
    assert not (tmp_path / "checkpoint.pt").exists()


def test_a_finished_run_gives_its_result_without_training(tmp_path: Path) -> None:
    _, average = train_line(tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert_equal(train_line(tmp_path)[1], average)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before
    assert len(log_of(tmp_path)) == STEPS


@dataclass
class Poisoned:
    """Clips of which one spoils its loss, or the gradient of a finite loss, in a step counted from 1."""

    step: int
    where: str
    steps_per_epoch: int = 4

    def __call__(self, first_step: int) -> Generator[tuple[Tensor, ...], None, None]:
        for step, (points,) in zip(count(first_step + 1), Points()(first_step), strict=False):
            poison = torch.zeros(16, 1)
            poison[5] = {"loss": float("nan"), "gradient": 1.0}[self.where] if step == self.step else 0.0
            yield (torch.cat((points, poison), dim=1)[:8], torch.cat((points, poison), dim=1)[8:])


def poisoned_losses(model: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    points, poison = batch[:, :3], batch[:, 3]
    error = model(points) - points.sum(dim=1, keepdim=True)
    if poison.sum() == 1:
        # Finite, but the root of zero has an infinite slope.
        return {"squared": error.square().mean() + (next(model.parameters()).sum() * 0).sqrt()}
    return {"squared": error.square().mean() + poison.sum()}


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("step", [5, 6])
def test_what_is_not_a_number_stops_the_run_and_names_the_sample(tmp_path: Path, where: str, step: int) -> None:
    """Step 6 would be saved."""
    line = Line()

    def clips_of(batch: Tensor) -> list[tuple[str, Tensor]]:
        return [(f"clip {number}", row[None]) for number, row in enumerate(batch)]

    feed, plan = Poisoned(step, where), replace(PLAN, clips_per_device=4)
    with pytest.raises(FlowdetError, match=rf"in step {step} the loss is .*: the samples clip 5 are .*; {tmp_path}"):
        train(TrainingTask(line, feed, poisoned_losses, clips_of), plan, tmp_path)
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert saved["step"] == 4
    for tensors in (saved["model"], saved["average"], line.state_dict()):
        assert all(torch.isfinite(tensor).all() for tensor in tensors.values())
    assert [entry["step"] for entry in log_of(tmp_path)] == list(range(1, step))


def test_weights_that_are_not_numbers_are_never_saved(tmp_path: Path) -> None:
    plan = replace(PLAN, optimizer=SGD(), learning_rate=1e38, warm_up_steps=0, save_every=1, max_gradient_norm=1e3)
    with pytest.raises((CheckpointError, FlowdetError), match=r"not a finite number|the loss is"):
        train_line(tmp_path, plan)
    if (tmp_path / "checkpoint.pt").exists():
        saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
        assert all(torch.isfinite(tensor).all() for tensor in saved["model"].values())


@pytest.mark.parametrize(
    ("changes", "about", "message"),
    [
        ({"learning_rate": 0.01}, {}, "plan.learning_rate was 0.05 and is 0.01"),
        ({"optimizer": SGD()}, {}, 'plan.optimizer.kind was "AdamW" and is "SGD"'),
        ({}, {"system": {"name": "b"}}, 'system.name was "a" and is "b"'),
    ],
)
def test_another_run_in_the_folder_is_not_continued(
    tmp_path: Path, changes: dict[str, Any], about: dict[str, Any], message: str
) -> None:
    train_line(tmp_path, description=RunDescription({"system": {"name": "a"}}))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(FlowdetError, match=rf"{tmp_path} holds another training run.*: {message}"):
        train_line(tmp_path, replace(PLAN, **changes), description=RunDescription(about or {"system": {"name": "a"}}))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_does_not_change_the_result_may_change_between_parts(tmp_path: Path) -> None:
    with pytest.raises(StoppedError):
        train_line(tmp_path, feed=Stopping(before=7))
    parts = train_line(tmp_path, replace(PLAN, save_every=1, clips_per_device=2, gradient_checkpointing=True))
    for one, other in zip(parts, train_line(tmp_path / "whole"), strict=True):
        assert_equal(one, other)


def test_frozen_parameters_stay_and_the_backbone_goes_slower(tmp_path: Path) -> None:
    line = Line()
    line.body["backbone"].bias.requires_grad_(False)
    before = {name: tensor.clone() for name, tensor in line.state_dict().items()}
    plan = replace(PLAN, epochs=1, learning_rate=0.1, weight_decay=0.0, warm_up_steps=0, ema=0.0)
    train(TrainingTask(line, Points(steps_per_epoch=1), line_losses), plan, tmp_path)
    moved = {name: (tensor - before[name]).abs() for name, tensor in line.state_dict().items()}
    assert moved["body.backbone.bias"].max() == 0
    # The first step of Adam is as long as its rate.
    for name, length in (("body.backbone.weight", 0.02), ("body.head.weight", 0.1), ("body.head.bias", 0.1)):
        torch.testing.assert_close(moved[name], torch.full_like(moved[name], length), rtol=1e-3, atol=0)


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_frozen_stem_and_the_statistics_of_batch_norm_stay(tmp_path: Path, name: str) -> None:
    system, _ = train_system(name, tmp_path, 2, weight_decay=0.5)
    before = system_of(name).state_dict()
    frozen = ("detector.backbone.stem", "detector.backbone.stages.0")
    for key, tensor in system.state_dict().items():
        stays = key.startswith(frozen) or "running_" in key or "num_batches" in key
        assert torch.equal(tensor, before[key]) == stays, key


def test_the_result_is_the_moving_average_if_there_is_one(tmp_path: Path) -> None:
    seen: list[list[Tensor]] = []

    def watched(model: nn.Module, points: Tensor) -> dict[str, Tensor]:
        seen.append(weights(model))
        return line_losses(model, points)

    line = Line()
    plan = replace(PLAN, epochs=1, ema=0.15)
    average = train(TrainingTask(line, Points(), watched), plan, tmp_path / "average")
    expected = seen[1]
    for done, after in enumerate([*seen[2:], weights(line)], 1):
        decay = min(0.15, (1 + done) / (10 + done))
        expected = [decay * old + (1 - decay) * new for old, new in zip(expected, after, strict=True)]
    for found, wanted in zip(weights(average), expected, strict=True):
        torch.testing.assert_close(found, wanted)
    line, result = train_line(tmp_path / "plain", replace(PLAN, epochs=1, ema=None))
    assert result is line


def test_the_average_of_a_short_training_forgets_its_start(tmp_path: Path) -> None:
    line, average = train_line(tmp_path, replace(PLAN, ema=0.998))
    moved = [(new - old).norm() for new, old in zip(weights(line), weights(Line()), strict=True)]
    behind = [(new - mean).norm() for new, mean in zip(weights(line), weights(average), strict=True)]
    assert all(distance < 0.5 * way for distance, way in zip(behind, moved, strict=True))


def test_after_each_epoch_the_result_is_evaluated_once(tmp_path: Path) -> None:
    seen: list[tuple[int, bool]] = []

    def evaluate(epoch: int, model: nn.Module) -> dict[str, Any]:
        seen.append((epoch, model.training))
        if len(seen) == 2:
            raise StoppedError
        return {"coco": {"AP": epoch / 10, "AP50": None}}

    trained: list[bool] = []

    def losses(model: nn.Module, points: Tensor) -> dict[str, Tensor]:
        trained.append(model.training)
        return line_losses(model, points)

    plan = replace(PLAN, ema=None)
    with pytest.raises(StoppedError):
        train(TrainingTask(Line(), Points(), losses, after_epoch=evaluate), plan, tmp_path)
    train(TrainingTask(Line(), Points(), losses, after_epoch=evaluate), plan, tmp_path)
    train(TrainingTask(Line(), Points(), losses, after_epoch=evaluate), plan, tmp_path)
    assert seen == [(1, False), (2, False), (2, False), (3, False)]
    assert all(trained)
    metrics = [(entry["step"], entry["metrics"]) for entry in log_of(tmp_path) if "metrics" in entry]
    assert metrics == [(4 * epoch, {"coco": {"AP": epoch / 10, "AP50": None}}) for epoch in (1, 2, 3)]


def test_the_folder_says_what_the_run_is(tmp_path: Path) -> None:
    import json

    with pytest.raises(StoppedError):
        train_line(tmp_path, feed=Stopping(before=7))
    train_line(tmp_path, description=RunDescription(notes={"data": "here"}))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["plan"]["learning_rate"] == 0.05
    assert config["plan"]["optimizer"] == {"kind": "AdamW"}
    assert config["data"] == "here"
    first, second = json.loads((tmp_path / "environment.json").read_text())
    assert (first["from_step"], second["from_step"]) == (0, 6)
    assert first["torch"] == torch.__version__
    assert first["world_size"] == 1
    assert {"flowdet", "commit", "changed", "python", "torchvision", "platform", "device", "command"} <= set(first)


def test_a_warm_up_longer_than_the_training_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a warm-up of 12 steps does not fit in a training of 12 steps"):
        train_line(tmp_path, replace(PLAN, warm_up_steps=12))
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes, FGFA with two clips at a time, DFF with one."""
    folder = tmp_path_factory.mktemp("two")
    assert wait_for(start_all(2, folder)) == [(0, "")] * 2
    return folder


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_number_of_processes_and_of_rounds_changes_nothing(tmp_path: Path, two_processes: Path, name: str) -> None:
    """One step has two stills and two clips of videos: with two processes the stills are all in the first one."""
    before = system_of(name).state_dict()
    whole, result = train_system(name, tmp_path / "whole", 4)
    rounds, result_of_rounds = train_system(name, tmp_path / "rounds", 2)
    saved = [torch.load(two_processes / name / f"weights{rank}.pt", weights_only=True) for rank in (0, 1)]
    for wanted, others in (
        (whole.state_dict(), [rounds.state_dict(), *(parts["model"] for parts in saved)]),
        (result.state_dict(), [result_of_rounds.state_dict(), *(parts["result"] for parts in saved)]),
    ):
        for other in others:
            for key, tensor in wanted.items():
                way = (tensor - before[key]).double().norm()
                rounding = torch.finfo(torch.float32).eps * tensor.double().norm()
                assert (tensor - other[key]).double().norm() <= 1e-3 * way + rounding, key
    curves = [steps_of(folder) for folder in (tmp_path / "whole", tmp_path / "rounds", two_processes / name)]
    for curve in curves[1:]:
        for one, other in zip(curves[0], curve, strict=True):
            assert one[0] == other[0]
            assert one[1] == pytest.approx(other[1], rel=1e-5)
            assert one[2] == pytest.approx(other[2], rel=1e-4)
            assert one[4] == pytest.approx(other[4], rel=1e-4)


@pytest.mark.parametrize("clips_per_device", [1, 2])
def test_parts_that_some_processes_do_not_reach_are_trained_all_the_same(
    tmp_path: Path, two_processes: Path, clips_per_device: int
) -> None:
    whole = train_heads(tmp_path / "whole", 4).state_dict()
    rounds = train_heads(tmp_path / "rounds", clips_per_device).state_dict()
    folder = two_processes / f"heads{clips_per_device}"
    saved = [torch.load(folder / f"weights{rank}.pt", weights_only=True) for rank in (0, 1)]
    before = Heads().state_dict()
    for key, tensor in whole.items():
        assert not torch.equal(tensor, before[key]), "weight decay reaches the head of the kind that never comes"
        for other in (rounds, *saved):
            torch.testing.assert_close(other[key], tensor, rtol=1e-5, atol=1e-7)


def test_all_processes_stop_when_one_meets_what_is_not_a_number(two_processes: Path) -> None:
    for rank in (0, 1):
        message = (two_processes / f"bad{rank}").read_text()
        assert message.startswith("in step 3 the loss is nan")
        assert f"the samples kind {BAD_KIND} are the reason" in message
    assert len(log_of(two_processes / "bad")) == 2


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights of a run without any of the switches."""
    return train_system("tiny-dff", tmp_path_factory.mktemp("plain"), 4)[0].state_dict()


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({"gradient_checkpointing": True}, 0.0),
        ({"channels_last": True}, 1e-3),
        ({"precision": "bfloat16"}, 0.2),
        ({"precision": "float16"}, 0.05),
    ],
)
def test_switches_change_the_result_as_little_as_they_should(
    tmp_path: Path, plain: dict[str, Tensor], changes: dict[str, Any], tolerance: float
) -> None:
    before = system_of("tiny-dff").state_dict()
    other = train_system("tiny-dff", tmp_path, 4, **changes)[0].state_dict()
    way, off = (
        torch.cat([(one[key] - two[key]).double().flatten() for key in before]).norm().item()
        for one, two in ((plain, before), (plain, other))
    )
    assert off <= tolerance * way
    assert (off > 0) == (tolerance > 0)


def test_a_step_whose_gradients_overflow_in_float16_is_skipped_and_the_scale_survives(tmp_path: Path) -> None:
    def large(model: nn.Module, points: Tensor) -> dict[str, Tensor]:
        return {name: 20 * loss for name, loss in line_losses(model, points).items()}

    plan = replace(PLAN, precision="float16", ema=None)
    whole = train(TrainingTask(Line(), Points(), large), plan, tmp_path / "whole")
    log = log_of(tmp_path / "whole")
    skipped = [entry["step"] for entry in log if entry["gradient_norm"] is None]
    assert skipped
    assert skipped == list(range(1, len(skipped) + 1))
    assert len(skipped) < STEPS
    with pytest.raises(StoppedError):
        train(TrainingTask(Line(), Stopping(before=7), large), plan, tmp_path / "parts")
    assert_equal(train(TrainingTask(Line(), Points(), large), plan, tmp_path / "parts"), whole)
    assert steps_of(tmp_path / "parts") == steps_of(tmp_path / "whole")


def test_a_whole_system_learns_a_batch_by_heart(tmp_path: Path) -> None:
    @dataclass
    class Same:
        steps_per_epoch: int = 20

        def __call__(self, first_step: int) -> Generator[Any, None, None]:
            yield from [(TinyClips(2, 2).batch([2, 3]),)] * 20

    plan = replace(PLAN, epochs=1, learning_rate=3e-3, save_every=20, backbone_factor=1.0)
    torch.manual_seed(1)
    system = build(SYSTEMS["tiny-fgfa"])
    assert isinstance(train(TrainingTask(system, Same(), losses_of_system), plan, tmp_path), VideoDetector)
    log = steps_of(tmp_path)
    assert set(log[0][2]) == {"rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"}
    assert log[-1][1] < 0.7 * log[0][1]


def test_the_plan_of_a_step_drop_is_followed(tmp_path: Path) -> None:
    plan = Plan(epochs=3, warm_up_steps=2, schedule=StepDrops((1, 2)), save_every=100)
    train_line(tmp_path, plan)
    rates = [entry["learning_rate"] for entry in log_of(tmp_path)]
    assert rates == pytest.approx([0.01 / 3, 0.02 / 3, 0.01, 0.01, *[0.001] * 4, *[0.0001] * 4])
