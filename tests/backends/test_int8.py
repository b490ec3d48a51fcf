"""int8 parts: made, measured, read back; what is wrong with a folder is said."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from flowdet.backends.choice import with_backend
from flowdet.backends.int8 import Calibration, load_int8, quantise, read_manifest
from flowdet.backends.parts import record_inputs, system_parts
from flowdet.errors import ConfigError
from flowdet.inputs import prepare
from flowdet.systems.build import build
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.types import Frame
from flowdet.weights.native import save_native
from tests.benchmark.systems import narrow_system
from tests.command import exit_code
from tests.tiny import frames_of, lite_config, lite_flow_config, video

pytest.importorskip("openvino", reason="the extra openvino is not installed")

DFF = DFFConfig(key_frame_interval=2)


def clip(seed: int, count: int = 9) -> tuple[Frame, ...]:
    return tuple(frames_of(video(count, seed=seed)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the narrow DFF."""
    pytest.importorskip("nncf", reason="the extra quantise is not installed")
    folder = tmp_path_factory.mktemp("quantised") / "int8"
    quantise(narrow_system(DFF), Calibration(("a",), (clip(1),)), folder, tolerance=0.5)
    return folder


def copy_of(folder: Path, to: Path) -> Path:
    return shutil.copytree(folder, to / "int8")


def test_the_parts_are_in_int8_and_as_near_as_measured(made: Path) -> None:
    system, manifest = narrow_system(DFF), read_manifest(made)
    assert {"features", "rpn", "roi_head"} <= set(manifest.parts) <= set(system_parts(system))
    assert manifest.input_size == (64, 96)
    assert "i8" in (made / "features.xml").read_text()
    with torch.inference_mode():
        for frame in clip(1)[::4]:
            item = prepare([frame.image], system.config.inputs)
            (ours,) = load_int8(system, made).parts.detector.extract(item.images)
            (theirs,) = system.detector.extract(item.images)
            error = float((ours - theirs).norm() / theirs.norm())
            assert 1e-4 < error < 2 * manifest.parts["features"].error + 0.05


def test_a_system_runs_with_them(made: Path) -> None:
    system = with_backend(narrow_system(DFF), str(made))
    assert system.backend == str(made)
    state = system.method.initial_state()
    with torch.inference_mode():
        for frame in clip(2, 3):
            (ready,), state = system.method.step(prepare([frame.image], system.config.inputs), state)
            assert ready.maps[0].isfinite().all()
            boxes, scores, _ = system.parts.detector.detect(ready)[0]
            assert boxes.isfinite().all()
            assert len(scores)


def test_a_part_that_cannot_meet_the_tolerance_stays_in_float(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("nncf", reason="the extra quantise is not installed")
    monkeypatch.setattr("flowdet.backends.int8._GROUPS", 2)
    system = narrow_system(SingleFrameConfig())
    manifest = quantise(system, Calibration(("a",), (clip(1),)), tmp_path, tolerance=1e-9)
    assert manifest.parts == {}
    assert manifest.errors_given_up["features"] > 1e-9
    assert not (tmp_path / "features.xml").exists()


def test_layers_in_float_lower_the_error(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.backends.int8._GROUPS", 3)
    system = narrow_system(SingleFrameConfig())
    before = read_manifest(made).parts["features"].error_all_int8
    manifest = quantise(system, Calibration(("a",), (clip(1),)), tmp_path, tolerance=0.9 * before)
    assert manifest.parts["features"].error <= 0.9 * before
    assert manifest.parts["features"].float_layers


def test_other_weights_are_refused(made: Path) -> None:
    system = narrow_system(DFF)
    with torch.no_grad():
        next(system.parameters()).add_(1)
    with pytest.raises(ConfigError, match="quantised from other weights"):
        load_int8(system, made)


def test_another_size_is_refused(made: Path) -> None:
    system = load_int8(narrow_system(DFF), made)
    with torch.inference_mode(), pytest.raises(ConfigError, match="for network inputs of 64x96"):
        system.parts.detector.extract(torch.zeros(1, 3, 64, 64))


def test_a_damaged_part_is_refused(made: Path, tmp_path: Path) -> None:
    folder = copy_of(made, tmp_path)
    with (folder / "features.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ConfigError, match="missing or damaged"):
        load_int8(narrow_system(DFF), folder)
    (folder / "features.bin").unlink()
    with pytest.raises(ConfigError, match="missing or damaged"):
        load_int8(narrow_system(DFF), folder)


def test_a_part_with_another_name_is_refused(made: Path, tmp_path: Path) -> None:
    folder = copy_of(made, tmp_path)
    document = json.loads((folder / "quantised.json").read_text())
    document["parts"]["../features"] = document["parts"].pop("features")
    (folder / "quantised.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError, match="missing or damaged"):
        load_int8(narrow_system(DFF), folder)


@pytest.mark.parametrize("text", [None, "", "{}", "[1]", '{"parts": 3}'])
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str | None) -> None:
    if text is not None:
        (tmp_path / "quantised.json").write_text(text)
    with pytest.raises(ConfigError, match=r"quantised\.json"):
        with_backend(narrow_system(DFF), str(tmp_path))


def test_too_few_frames_or_two_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 8 frames"):
        Calibration(("a",), (clip(1, 7),))
    other = tuple(frames_of(video(9, size=(80, 48))))
    with pytest.raises(ConfigError, match="one size"):
        Calibration(("a", "b"), (clip(1), other))


@pytest.mark.parametrize(("most", "kept"), [(9, [0, 1, 2, 3, 4, 5]), (4, [0, 1, 3, 4]), (2, [0, 2]), (1, [0])])
def test_parts_are_recorded_with_what_they_are_given_evenly_over_the_clips(most: int, kept: list[int]) -> None:
    system = narrow_system(DFF)
    videos = [clip(1, 5), clip(2, 6)]
    found = record_inputs(system, videos, most)
    assert set(found) == set(system_parts(system)) == {"features", "rpn", "roi_head", "flow"}
    key_frames = [frames[number] for frames in videos for number in (0, 2, 4)]
    wanted = [prepare([key_frames[number].image], system.config.inputs).images for number in kept]
    assert len(found["features"]) == len(wanted)
    assert all(torch.equal(images, each) for (images,), each in zip(found["features"], wanted, strict=True))
    assert len(found["rpn"]) == len(found["roi_head"]) == min(most, 11)
    assert all(len(pooled) > 1 for (pooled,) in found["roi_head"])
    assert all(len(current) == len(reference) == 1 for current, reference in found["flow"])


def test_the_command_makes_a_folder_that_detect_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("nncf", reason="the extra quantise is not installed")
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    config = replace(lite_config(), method=DFF, flow_net=lite_flow_config())
    save_native(build(config), tmp_path / "w.safetensors")
    Path("frames").mkdir()
    for number, image in enumerate(video(9)):
        Image.fromarray(image).save(f"frames/{number}.png")

    made = ("quantise", "frames", "--weights", "w.safetensors", "--every", "1", "--out", "int8")
    assert exit_code(*made, "--tolerance", "9") == 0
    detect = ("detect", "frames", "--weights", "w.safetensors", "--no-video", "--out", "o", "--backend", "int8")
    assert exit_code(*detect) == 0
    assert json.loads(Path("o/frames.json").read_text())["info"]["settings"]["backend"] == "int8"
    assert exit_code("quantise", "--system", "dff-lite", "--out", "int8") == 1
    assert exit_code(*made, "--backend", "openvino") == 1
    assert "--backend has no effect here" in capsys.readouterr().err
