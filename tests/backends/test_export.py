"""The ONNX files against the modules that they were made from, run by ONNX Runtime."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from flowdet.backends.export import ExportedSystem, export_onnx
from flowdet.backends.parts import FlowPreparation, FlowRoles, system_parts
from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlowConfig
from flowdet.flow.matching import MatchingFlowConfig
from flowdet.systems.build import build
from flowdet.systems.config import FlowConfig
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.types import Geometry
from tests.benchmark.systems import narrow_system
from tests.command import exit_code
from tests.tiny import lite_config, lite_flow_config

onnxruntime = pytest.importorskip("onnxruntime", reason="the package onnxruntime is not installed")


def test_without_onnx_there_is_a_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flowdet.backends.export.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"run `pip install onnx`"):
        export_onnx(build(lite_config()), tmp_path / "out", (64, 96))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "flow_net",
    [
        lite_flow_config(),
        MatchingFlowConfig(encoder=(4, 6, 8), refinement=8),
        CoarseToFineFlowConfig(encoder=(4, 6, 8), compared=(2, 3, 8), context=4, stage=6),
    ],
)
def test_every_file_computes_what_its_module_does(flow_net: FlowConfig, tmp_path: Path) -> None:
    torch.manual_seed(0)
    system = build(replace(lite_config(), method=FGFAConfig(embedding_channels=4), flow_net=flow_net))
    check_files(system, export_onnx(system, tmp_path / "o", (60, 90)), tmp_path / "o")


@pytest.mark.parametrize("name", ["single-nano", "fgfa-nano", "dff-nano"])
def test_one_stage_systems_are_exported_with_a_map_for_each_stride(name: str, tmp_path: Path) -> None:
    system = load(name, backend="torch")
    made = export_onnx(system, tmp_path, (64, 96))
    outputs = made.parts["features"].outputs
    assert [each.name for each in outputs] == ["features_0", "features_1", "features_2"]
    assert [each.shape[2:] for each in outputs] == [(36, 52), (18, 26), (9, 13)]
    assert {each.meaning for each in outputs} == {"maps of the backbone and neck, the finest first"}
    check_files(system, made, tmp_path)


def check_files(system: VideoDetector, made: ExportedSystem, folder: Path) -> None:
    geometry = Geometry(made.frame_size, made.resized, made.input_size)
    modules: dict[str, nn.Module] = dict(system_parts(system))
    if system.flow_net:
        modules["flow_preparation"] = FlowPreparation(system.flow_net, geometry)
        modules["flow_roles"] = FlowRoles(system.flow_net)
    assert set(made.parts) == set(modules)
    for name, part in made.parts.items():
        session = onnxruntime.InferenceSession(folder / part.file)
        count = 5
        inputs = [torch.randn([count if side == "n" else int(side) for side in tensor.shape]) for tensor in part.inputs]
        feed = {tensor.name: x.numpy() for tensor, x in zip(part.inputs, inputs, strict=True)}
        with torch.no_grad():
            found = modules[name](*inputs)
        expected = found if isinstance(found, tuple) else (found,)
        given = session.run([tensor.name for tensor in part.outputs], feed)
        for ours, theirs, tensor in zip(given, expected, part.outputs, strict=True):
            assert ours.shape == tuple(count if side == "n" else side for side in tensor.shape)
            assert np.abs(ours - theirs.numpy()).max() <= 1e-4 * theirs.abs().max(), name


def test_a_part_that_is_not_there_has_no_file(tmp_path: Path) -> None:
    made = export_onnx(narrow_system(SingleFrameConfig()), tmp_path, (64, 96))
    assert set(made.parts) == {"features", "rpn", "roi_head"}
    assert {path.stem for path in tmp_path.glob("*.onnx")} == set(made.parts)
    made = export_onnx(narrow_system(SELSAConfig(heads=4)), tmp_path / "selsa", (64, 96))
    assert set(made.parts) == {"features", "rpn"}


def test_a_folder_that_cannot_be_written_is_a_message(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be written"):
        export_onnx(narrow_system(SingleFrameConfig()), tmp_path / "file", (64, 96))


def call(*arguments: str) -> object:
    return exit_code("export", *arguments)


def test_the_command_writes_files_and_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("single-lite", "--out", str(tmp_path), "--size", "64x96") == 0
    assert "opset 17" in capsys.readouterr().out
    found = json.loads((tmp_path / "export.json").read_text())
    assert found["input_size"] == [64, 96]
    assert found["parts"]["roi_head"]["inputs"][0]["shape"] == ["n", 128, 5, 5]
    assert json.loads(found["config"])["name"] == "single-lite"


def test_a_size_that_cannot_be_is_a_message(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("single-lite", "--out", str(tmp_path), "--size", "4x4") == 1
    assert "16 to 8192" in capsys.readouterr().err
