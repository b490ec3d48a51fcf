"""A method that is one file loads, detects, evaluates, trains, is measured and drawn without any other change.

Two that the package does not know do, and SELSA and Temporal RoI Align, which attend to RoIs.
"""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import flowdet
from flowdet.errors import ConfigError
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.systems.recipes import RECIPES
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.temporal_roi_align import TemporalRoIAlignConfig
from flowdet.weights.native import save_native
from tests.command import exit_code
from tests.temporal.toys import LastRoIsConfig, MeanOfPastConfig
from tests.tiny import assert_batch_equals_one_by_one, frames_of, lite_config, video

TOYS: dict[str, MethodConfig] = {
    "mean": MeanOfPastConfig(),
    "rois": LastRoIsConfig(),
    "selsa": SELSAConfig(heads=4, memory=3),
    "troia": TemporalRoIAlignConfig(heads=4, memory=3),
}
EVERY_TOY = pytest.mark.parametrize("name", TOYS)


def config_of(method: MethodConfig) -> SystemConfig:
    return replace(lite_config(), name="toy", method=method)


@pytest.fixture
def weights(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weight file, and the recipe, which is all that a new system needs."""
    torch.manual_seed(0)
    system = build(config_of(TOYS[name]))
    # So that no difference between features is rounded away on the way to the scores.
    nn.init.normal_(system.detector.get_parameter("roi_head.classes.weight"), std=0.1)
    path = tmp_path / "toy.safetensors"
    save_native(system, path)
    monkeypatch.setitem(RECIPES, "toy", lambda: config_of(TOYS[name]))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two videos of 4 frames with an object each, as CocoVID."""
    images: list[dict[str, object]] = []
    annotations: list[dict[str, object]] = []
    videos: list[dict[str, object]] = []
    for clip in range(2):
        videos.append({"id": clip + 1, "name": f"v{clip}"})
        for number, picture in enumerate(video(4, seed=clip, size=(64, 96))):
            name, key = f"v{clip}/{number:02}.png", len(images) + 1
            (tmp_path / f"v{clip}").mkdir(exist_ok=True)
            Image.fromarray(picture).save(tmp_path / name)
            entry = {"id": key, "video_id": clip + 1, "frame_id": number, "file_name": name, "is_vid_train_frame": True}
            images.append({**entry, "width": 96, "height": 64})
            box = {"bbox": [8 + number, 8, 40, 32], "area": 1280, "iscrowd": 0, "instance_id": 1}
            annotations.append({"id": key, "image_id": key, "video_id": clip + 1, "category_id": 1, **box})
    categories = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "fox"}]
    path = tmp_path / "data.json"
    document = {"categories": categories, "videos": videos, "images": images, "annotations": annotations}
    path.write_text(json.dumps(document))
    return path


def run(*arguments: object) -> None:
    assert exit_code(*arguments) == 0


@EVERY_TOY
def test_it_is_built_saved_loaded_and_detects(name: str, weights: Path) -> None:
    by_name, by_file = flowdet.load("toy", weights=weights), flowdet.load(weights=weights)
    assert by_name.config == by_file.config == config_of(TOYS[name])
    frames = list(frames_of(video(5, size=(64, 96))))
    found = list(by_file.detect(frames))
    assert [each.frame_index for each in found] == [0, 1, 2, 3, 4]
    single = flowdet.load(weights=weights, backend="torch")
    alone = [next(single.detect([frame])) for frame in frames]
    assert any(not np.array_equal(one.scores, other.scores) for one, other in zip(found[1:], alone[1:], strict=True))


@EVERY_TOY
@pytest.mark.parametrize("backend", ["optimised", "openvino"])
def test_every_backend_equals_torch(name: str, weights: Path, backend: str) -> None:
    frames = list(frames_of(video(4, size=(64, 96))))
    found, wanted = (list(flowdet.load(weights=weights, backend=each).detect(frames)) for each in (backend, "torch"))
    for one, other in zip(found, wanted, strict=True):
        assert len(one) == len(other) > 0
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


@EVERY_TOY
def test_streams_in_a_batch_equal_one_by_one(name: str, weights: Path) -> None:
    assert_batch_equals_one_by_one(flowdet.load(weights=weights))


@EVERY_TOY
def test_options_without_effect_are_refused(name: str, weights: Path) -> None:
    causal = {"causal": True, "variant": "fast"} if TOYS[name].preview else {"causal": True}
    for options in (causal, {"variant": "fast"}, {"key_frame_interval": 3}, {"flow": "dis"}):
        with pytest.raises(ConfigError):
            flowdet.load(weights=weights, **options)


@EVERY_TOY
def test_the_command_line_detects_and_draws(name: str, weights: Path, data: Path, tmp_path: Path) -> None:
    shown = [f"--show={each}" for each in TOYS[name].overlays]
    run("detect", tmp_path / "v0", "--weights", weights, "--out", tmp_path / "out", "--score", 0, *shown)
    assert len(json.loads((tmp_path / "out" / "v0.json").read_text())["images"]) == 4
    assert (tmp_path / "out" / "v0.mp4").stat().st_size > 0


@EVERY_TOY
def test_it_is_evaluated(name: str, weights: Path, data: Path, tmp_path: Path) -> None:
    run("evaluate", "--weights", weights, "--data", data, "--out", tmp_path / "report", "--bootstrap", 0)
    assert (tmp_path / "report" / "evaluation.json").is_file()


@EVERY_TOY
def test_it_is_measured(name: str, weights: Path, tmp_path: Path) -> None:
    out = tmp_path / "cost.json"
    run("benchmark", "--weights", weights, "--size", "64x96", "--frames", 2, "--backend", "torch", "--json", out)
    assert json.loads(out.read_text())


@EVERY_TOY
def test_it_is_trained(name: str, weights: Path, data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run("train", "toy", "--weights", weights, "--data", data, "--out", folder, "--epochs", 2, "--workers", 0)
    trained = flowdet.load(weights=folder / "weights.safetensors")
    assert trained.config == config_of(TOYS[name])
    before = flowdet.load(weights=weights).state_dict()
    assert any(not torch.equal(tensor, before[key]) for key, tensor in trained.state_dict().items())


def test_a_method_that_was_not_imported_is_named(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "toy.safetensors"
    save_native(build(config_of(MeanOfPastConfig())), path)
    path.write_bytes(path.read_bytes().replace(b"MeanOfPastConfig", b"MeanOfLostConfig"))
    with pytest.raises(flowdet.CheckpointError, match="MeanOfLostConfig is not known here: import the file"):
        flowdet.load(weights=path)
