"""`--flow`: another flow in place of a system's own, in every command that has it."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowdet.systems.build import build
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.weights.native import save_native
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


def test_detections_are_made_with_it_and_know_it(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    detect = ("detect", "frames", "--weights", str(weights), "--score", "0", "--no-video", "--out")
    assert exit_code(*detect, "dis", "--flow", "dis") == 0
    assert exit_code(*detect, "own") == 0
    dis, own = (json.loads(Path(f"{name}/frames.json").read_text()) for name in ("dis", "own"))
    assert dis["annotations"]
    assert dis["annotations"] != own["annotations"]
    capsys.readouterr()
    assert exit_code(*detect, "dis") == 1
    assert "other settings (flow)" in " ".join(capsys.readouterr().err.split())


def test_an_evaluation_says_which_flow_it_is_of(weights: Path) -> None:
    images = [{"id": n, "video_id": 1, "frame_id": n - 1, "file_name": f"{n - 1}.png"} for n in (1, 2, 3)]
    document = {
        "videos": [{"id": 1, "name": "frames"}],
        "categories": [{"id": 1, "name": "cat"}],
        "images": [{**image, "height": 48, "width": 80} for image in images],
        "annotations": [{"id": n, "image_id": n, "category_id": 1, "bbox": [10, 10, 30, 20]} for n in (1, 2, 3)],
    }
    Path("data.json").write_text(json.dumps(document))
    where = ("--data", "data.json", "--images", "frames", "--bootstrap", "0", "--pictures", "0")
    assert exit_code("evaluate", "--weights", str(weights), "--flow", "dis", *where) == 0
    settings = json.loads(Path("evaluation/evaluation.json").read_text())["settings"]
    assert settings["config"]["flow_net"] == {"kind": "DISFlowConfig", "preset": "fast", "stride": 1}


def test_a_system_without_flow_is_refused(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_native(build(lite_config()), weights)
    assert exit_code("detect", "frames", "--weights", str(weights), "--flow", "dis") == 1
    assert "tiny uses no flow" in " ".join(capsys.readouterr().err.split())
