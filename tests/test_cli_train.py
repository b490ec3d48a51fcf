import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from flowdet.cli.train import PlanOptions, StartOptions, train
from flowdet.errors import ConfigError, FlowdetError
from flowdet.systems import recipes
from flowdet.systems.build import build
from flowdet.systems.load import weights_of
from flowdet.training.plan import SGD, AdamW, Cosine, Plan, StepDrops, fine_tuning_plan, published_plan
from flowdet.training.run import AnnotatedImages, RunOptions
from flowdet.weights.native import read_native, save_native
from tests.data.annotated import Drawing
from tests.training.runs import SYSTEMS

SMALL = ("--epochs", "1", "--batch", "2", "--warm-up-steps", "0", "--workers", "0")


def run(*arguments: object) -> Any:
    return train(list(map(str, arguments)), result_action="return_value")


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("flowdet.training.records", "flowdet.cli.train"):
        monkeypatch.setattr(f"{module}.has_tensorboard", lambda: False)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    drawing = Drawing(tmp_path / "data", ("dog", "wolf"))
    drawing.video(range(3))
    drawing.still()
    drawing.read()
    return tmp_path / "data" / "data.json"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    save_native(build(SYSTEMS["tiny-dff"]), tmp_path / "tiny.safetensors")
    return tmp_path / "tiny.safetensors"


def test_a_weight_file_is_fine_tuned(
    tmp_path: Path, tiny: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(tiny, "--data", data, "--val", data, "--out", tmp_path / "run", *SMALL, "--ema", "0")
    out, err = capsys.readouterr()
    config, _ = read_native(tmp_path / "run" / "weights.safetensors")
    assert (config.name, config.class_names) == ("tiny-dff", ("dog", "wolf"))
    assert f"finished: {tmp_path / 'run' / 'weights.safetensors'}" in out
    for told in ("AdamW", "Cosine", "learning rate", "gradient checkpointing", "1 on cpu", "1 round a step"):
        assert told in out
    assert "TensorBoard is not installed" in out
    assert "new are wolf" in err
    assert "epoch 1: AP" in err
    steps = [line for line in err.splitlines() if line.startswith("epoch 1/1 step")]
    assert steps[0].startswith("epoch 1/1 step 1/2 loss ")
    assert steps[-1].startswith("epoch 1/1 step 2/2 loss ")
    assert steps[-1].endswith(" 0:00:00 left")
    assert steps[-1] in (tmp_path / "run" / "messages.txt").read_text()
    plan = json.loads((tmp_path / "run" / "config.json").read_text())["plan"]
    assert (plan["epochs"], plan["batch"], plan["clips_per_device"], plan["ema"]) == (1, 2, 2, None)

    run("plot", tmp_path / "run", "--out", tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 10_000


def test_several_data_sets_have_a_folder_each_or_one(
    tmp_path: Path, tiny: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[RunOptions] = []

    def remembered(task: RunOptions, plan: Plan, **options: Any) -> Path:
        del plan, options
        tasks.append(task)
        return task.folder

    monkeypatch.setattr("flowdet.cli.train.fit", remembered)
    (tmp_path / "other").mkdir()
    base = (tiny, "--data", data, "--data", data, "--out", tmp_path / "run")
    for folders in ((), (tmp_path,), (tmp_path, tmp_path / "other")):
        run(*base, *(word for folder in folders for word in ("--images", folder)))
    found = [[part.images for part in task.data] for task in tasks]
    assert found == [[data.parent] * 2, [tmp_path] * 2, [tmp_path, tmp_path / "other"]]
    assert tasks[0].data[0] == AnnotatedImages(data, data.parent)
    with pytest.raises(ConfigError, match="one folder of images for all 2 data files or one for each, not 3"):
        run(*base, *(word for folder in [tmp_path] * 3 for word in ("--images", folder)))


def changed(plan: Plan, world: int = 1, **options: Any) -> Plan:
    return PlanOptions(**options).applied_to(plan, world)


def test_nothing_given_changes_nothing() -> None:
    for plan in (published_plan(), fine_tuning_plan()):
        assert changed(plan) == plan


def test_what_is_given_changes_the_plan() -> None:
    plan = published_plan()
    assert changed(plan, epochs=3, channels_last=True) == replace(plan, epochs=3, channels_last=True)
    assert changed(plan, optimizer="adamw").optimizer == AdamW()
    assert changed(fine_tuning_plan(), optimizer="sgd").optimizer == SGD()
    assert changed(plan, schedule="cosine").schedule == Cosine()
    assert changed(plan, schedule="steps").schedule == plan.schedule
    assert changed(fine_tuning_plan(), schedule="steps").schedule == StepDrops((2, 5))
    assert changed(fine_tuning_plan(), drop_after=(8, 11)).schedule == StepDrops((8, 11))
    assert changed(fine_tuning_plan(), ema=0.0, max_gradient_norm=0.0).ema is None
    assert changed(plan, max_gradient_norm=0.0).max_gradient_norm is None
    with pytest.raises(ConfigError, match="a cosine has no drops"):
        changed(plan, schedule="cosine", drop_after=(3,))
    with pytest.raises(ConfigError, match="epochs must be from 1 to 1000000"):
        changed(plan, epochs=0)


@pytest.mark.parametrize(
    ("batch", "world", "clips"), [(8, 1, 4), (8, 2, 4), (8, 4, 2), (6, 1, 3), (7, 1, 1), (8, 3, 1)]
)
def test_clips_per_device_fit_the_batch_if_they_are_not_given(batch: int, world: int, clips: int) -> None:
    assert changed(fine_tuning_plan(), world, batch=batch).clips_per_device == clips
    assert changed(fine_tuning_plan(), world, batch=batch, clips_per_device=3).clips_per_device == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fgfa-r51"], "fgfa-r51"),
        (["nowhere.safetensors"], "there is no weight file nowhere.safetensors"),
        (["fgfa-lite", "--data", "nowhere.json"], "there is no file nowhere.json"),
        (["fgfa-lite", "--batch", "6", "--clips-per-device", "4"], "a multiple of 4"),
        (["fgfa-lite", "--device", "cuda:77"], "the device 'cuda:77' cannot be used here"),
        (["fgfa-lite", "--ema", "2"], "ema must be at least 0 and below 1"),
        (["fgfa-r50"], "is not here yet"),
    ],
)
def test_a_mistake_is_told_before_any_work(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, arguments: Sequence[str], message: str
) -> None:
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path / "cache"))
    own = [] if "--data" in arguments else ["--data", data]
    with pytest.raises(FlowdetError, match=message):
        run(*arguments, *own, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_plot_needs_a_run() -> None:
    with pytest.raises(ConfigError, match="name at least one run"):
        run("plot")


def test_the_published_systems_start_from_their_published_files(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks: list[tuple[RunOptions, Plan]] = []
    monkeypatch.setattr("flowdet.cli.train.fit", lambda task, plan, **_: tasks.append((task, plan)))
    files = {"backbone": tmp_path / "backbone.pth", "flow_net": tmp_path / "flow.pth"}
    for path in files.values():
        torch.save({}, path)
    monkeypatch.setattr("flowdet.cli.train.starting_weights", lambda _: files)
    run("fgfa-r50", "--data", data, "--out", tmp_path / "run")
    ((task, plan),) = tasks
    assert (task.backbone_weights, task.flow_net_weights, task.weights) == (*files.values(), None)
    assert task.config == recipes.fgfa_r50()
    assert plan == published_plan()


def test_the_weights_to_start_from_may_be_named_by_their_system() -> None:
    start = StartOptions(weights=Path("fgfa-lite")).completed("selsa-lite", recipes.recipe("selsa-lite"))
    assert start.weights == weights_of("fgfa-lite")
