"""Which backend is chosen, from Python and from the command line."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import flowdet
from flowdet.backends.choice import with_backend
from flowdet.errors import ConfigError
from flowdet.systems.build import build
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.weights.native import save_native
from tests.benchmark.systems import narrow_system
from tests.command import exit_code
from tests.tiny import lite_config, lite_flow_config, video


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of an untrained FGFA, in the current folder with three frames."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    method = FGFAConfig(past=1, future=1, embedding_channels=4)
    save_native(build(replace(lite_config(), method=method, flow_net=lite_flow_config())), tmp_path / "w.safetensors")
    Path("frames").mkdir()
    for number, image in enumerate(video(3)):
        Image.fromarray(image).save(f"frames/{number}.png")
    return Path("w.safetensors")


def without_openvino(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    monkeypatch.setattr("flowdet.backends.choice.find_spec", lambda name: None)
    monkeypatch.setattr("flowdet.backends.openvino.core", lambda: flowdet.backends.openvino.openvino_module().Core())


def test_python_takes_torch_unless_told() -> None:
    assert flowdet.load("single-lite").backend == "torch"


def test_torch_is_the_modules_themselves() -> None:
    system = narrow_system(SingleFrameConfig())
    assert with_backend(system, "torch").parts.detector is system.detector


def test_auto_without_openvino_is_the_optimised_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    system = flowdet.load("single-lite", backend="auto")
    assert system.backend == "optimised"
    assert system.parts.detector is not system.detector
    assert not any(isinstance(module, nn.BatchNorm2d) for module in system.parts.detector.modules())


def test_openvino_that_is_not_installed_is_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    without_openvino(monkeypatch)
    with pytest.raises(ConfigError, match=r"run `pip install openvino`"):
        flowdet.load("single-lite", backend="openvino")


def test_an_unknown_backend_is_a_message() -> None:
    with pytest.raises(
        ConfigError, match=r"the backends are torch, optimised, openvino, auto or a folder.*not 'tensorrt'"
    ):
        flowdet.load("single-lite", backend="tensorrt")


def test_on_a_device_without_openvino_auto_is_the_optimised_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.backends.choice.find_spec", lambda name: name)
    assert with_backend(narrow_system(SingleFrameConfig()).to("meta"), "auto").backend == "optimised"


def test_detect_says_what_ran(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    detect = ("detect", "frames", "--weights", str(weights), "--score", "0", "--no-video", "--out")
    assert exit_code(*detect, "o", "--backend", "openvino") == 0
    assert exit_code(*detect, "t", "--backend", "torch") == 0
    ours, theirs = (json.loads(Path(folder, "frames.json").read_text()) for folder in ("o", "t"))
    assert ours["info"]["settings"]["backend"] == "openvino"
    assert theirs["info"]["settings"]["backend"] == "torch"
    scores, others = ([each["score"] for each in found["annotations"]] for found in (ours, theirs))
    assert len(scores) == len(others) > 0
    assert sorted(scores) == pytest.approx(sorted(others), abs=1e-3)
    assert exit_code(*detect, "o", "--backend", "torch") == 1
    assert "other settings (backend)" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_evaluate_says_what_ran(weights: Path, processes: str) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    names = ["cat", "dog", "fox"]
    box = {"category_id": 1, "bbox": [8, 8, 32, 24], "area": 768, "iscrowd": 0}
    images = [
        {"id": n + 1, "video_id": 1, "frame_id": n, "file_name": f"{n}.png", "height": 48, "width": 80}
        for n in range(3)
    ]
    document = {
        "videos": [{"id": 1, "name": "v"}],
        "images": images,
        "annotations": [{**box, "id": n + 1, "image_id": n + 1, "video_id": 1, "instance_id": 1} for n in range(3)],
        "categories": [{"id": n + 1, "name": name} for n, name in enumerate(names)],
    }
    Path("data.json").write_text(json.dumps(document))
    evaluate = ("evaluate", "--data", "data.json", "--images", "frames", "--weights", str(weights), "--pictures", "0")
    run = ("--bootstrap", "0", "--processes", processes, "--threads", "1")
    for backend in ("openvino", "torch"):
        assert exit_code(*evaluate, *run, "--backend", backend, "--out", backend, "--json", f"{backend}.json") == 0
    ours, theirs = (json.loads(Path(f"{backend}.json").read_text()) for backend in ("openvino", "torch"))
    assert ours["settings"]["backend"] == "openvino"
    assert ours["settings"]["weights_digest"] == theirs["settings"]["weights_digest"]


def test_benchmark_compares_backends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("openvino", reason="the extra openvino is not installed")
    monkeypatch.setattr("flowdet.benchmark.benchmark._IMAGES", 3)
    options = ("--size", "64x96", "--frames", "3", "--threads", "1", "--json", str(tmp_path / "out.json"))
    assert exit_code("benchmark", "single-lite", *options, "--backend", "openvino", "--vs.backend", "torch") == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "single-lite (torch) takes" in shown
    assert "the time of single-lite (openvino) in forward" in shown
    found = json.loads((tmp_path / "out.json").read_text())
    other = found["versus"]["system"]
    assert (found["backend"], other["backend"]) == ("openvino", "torch")
    assert found["gflop_per_frame"] == pytest.approx(other["gflop_per_frame"])
    for each in (found, other):
        assert {"features", "rpn", "roi_head"} <= set(each["mean"]["parts"])


def test_an_empty_backend_is_told_as_one() -> None:
    with pytest.raises(ConfigError, match="--backend is empty, "):
        with_backend(build(lite_config()), "")
