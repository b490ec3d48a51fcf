"""The examples of docs/extending.md do what the page says."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import flowdet
from flowdet.detectors.base import RoIAttention
from flowdet.errors import ConfigError
from flowdet.ops.boxes import choose_randomly
from flowdet.systems.build import build
from flowdet.types import FrameFeatures, Geometry, Targets
from flowdet.weights.native import save_native
from tests.examples.conftest import EXAMPLES
from tests.tiny import frames_of, video


def test_a_fading_memory_is_loaded_with_the_shipped_weights_and_fades() -> None:
    import_module("fading_memory")
    weights = flowdet.weights_of("fgfa-lite")
    model, single = flowdet.load("fading-lite", weights=weights), flowdet.load("single-lite")
    frames = list(frames_of(video(3, size=(64, 96))))
    found, alone = (list(system.detect(frames)) for system in (model, single))
    np.testing.assert_array_equal(found[0].scores, alone[0].scores)
    assert not np.array_equal(found[1].scores, alone[1].scores)
    maps = [outcome.features.maps[0] for outcome in model.detect_many([frames])]
    own = [outcome.features.maps[0] for outcome in single.detect_many([frames])]
    torch.testing.assert_close(maps[2], 0.25 * own[0] + 0.25 * own[1] + 0.5 * own[2])


def test_an_example_is_a_command(tmp_path: Path) -> None:
    picture = tmp_path / "frames"
    picture.mkdir()
    from PIL import Image

    for number, image in enumerate(video(2, size=(64, 96))):
        Image.fromarray(image).save(picture / f"{number}.png")
    weights = flowdet.weights_of("fgfa-lite")
    options = [
        "--system",
        "fading-lite",
        "--weights",
        str(weights),
        "--out",
        str(tmp_path / "out"),
        "--backend",
        "torch",
    ]
    example = str(EXAMPLES / "fading_memory.py")
    subprocess.run([sys.executable, example, "detect", str(picture), *options], check=True)
    assert (tmp_path / "out" / "frames.json").is_file()


def test_fcos_keeps_to_the_protocol() -> None:
    config = import_module("torchvision_fcos").FCOSConfig(score_threshold=0.0)
    torch.manual_seed(0)
    detector = config.build(3).eval()
    geometry = Geometry(original=(240, 480), valid=(120, 240), padded=(128, 256))
    features = FrameFeatures(0, detector.extract(torch.randn(2, 3, 128, 256)), (geometry,) * 2)
    assert [tuple(each.shape[1:]) for each in features.maps] == [
        (channels, 128 // stride, 256 // stride)
        for channels, stride in zip(detector.channels, detector.strides, strict=True)
    ]
    with torch.no_grad():
        for boxes, scores, labels in detector.detect(features):
            assert len(boxes) > 0
            assert (scores.diff() <= 0).all()
            assert ((labels >= 0) & (labels < 3)).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([480.0, 240.0, 480.0, 240.0]) + 1e-3).all()
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    targets = (Targets(torch.tensor([[8.0, 8.0, 90.0, 90.0]]), torch.tensor([2])), nothing)
    losses = detector.losses(features, targets, (choose_randomly,) * 2)
    assert torch.isfinite(torch.stack(list(losses.values())).sum())
    grown, own = config.build(5).state_dict(), detector.state_dict()
    changed = {key.rpartition(".")[0] for key, tensor in own.items() if tensor.shape != grown[key].shape}
    assert changed == set(config.classifier)
    with pytest.raises(ConfigError, match="no RoI head"):
        config.build(3, lambda widths: RoIAttention())


def test_fgfa_runs_over_fcos(tmp_path: Path) -> None:
    module = import_module("torchvision_fcos")
    torch.manual_seed(0)
    save_native(build(module.fgfa_fcos()), tmp_path / "fcos.safetensors", torch.float16)
    model = flowdet.load(weights=tmp_path / "fcos.safetensors")
    assert model.config == module.fgfa_fcos()
    found = list(model.detect(frames_of(video(2, size=(64, 96)))))
    assert [each.frame_index for each in found] == [0, 1]
