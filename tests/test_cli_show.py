"""flowdet detect --show: what happens inside a system, in its video."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
import torch

from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.weights.native import save_native
from tests.command import exit_code
from tests.tiny import lite_config, lite_flow_config
from tests.video.clips import make_clip, quadrants

Run = Callable[..., int]


def config_of(kind: str) -> SystemConfig:
    single = lite_config()
    match kind:
        case "fgfa":
            method = FGFAConfig(past=2, future=2, embedding_channels=4)
            return replace(single, method=method, flow_net=lite_flow_config())
        case "dff":
            return replace(single, method=DFFConfig(3), flow_net=lite_flow_config())
        case _:
            return single


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    for kind in ("fgfa", "dff", "single"):
        save_native(build(config_of(kind)), folder / f"{kind}.safetensors")
    return folder


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `flowdet detect` on a clip of 5 frames with untrained weights of this kind; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 5)

    def call(kind: str, *arguments: str) -> int:
        file = weights / f"{kind}.safetensors"
        return exit_code("detect", "clip.mp4", *arguments, "--weights", str(file), "--score", "0")

    return call


def video_of(path: str) -> tuple[int, int, int]:
    """Frames, height and width."""
    with av.open(path) as container:
        stream = container.streams.video[0]
        return sum(1 for _ in container.decode(video=0)), stream.height, stream.width


def objects_in(path: str) -> Any:
    return json.loads(Path(path).read_text())["annotations"]


@pytest.mark.parametrize(("kind", "parts"), [("fgfa", "flow,weights"), ("dff", "flow, key")])
def test_panels_are_added_to_the_video_and_nothing_else_changes(kind: str, parts: str, run: Run) -> None:
    assert run(kind, "--out", "plain") == 0
    assert run(kind, "--out", "shown", "--show", parts) == 0
    count, height, width = video_of("plain/clip.mp4")
    shown_count, shown_height, shown_width = video_of("shown/clip.mp4")
    assert count == shown_count == 5
    assert shown_width >= width
    assert shown_height / shown_width > height / width
    assert objects_in("plain/clip.json") == objects_in("shown/clip.json") != []


def test_the_option_may_be_repeated(run: Run) -> None:
    assert run("fgfa", "--out", "o", "--show", "weights", "--show", "flow") == 0
    assert json.loads(Path("o/clip.json").read_text())["info"]["settings"]["show"] == ["flow", "weights"]


@pytest.mark.parametrize(
    ("kind", "arguments", "expected"),
    [
        ("single", ["--show", "flow"], "no flow to show; what it can show is nothing, for every frame stands for"),
        ("dff", ["--show", "flow,weights"], "no aggregation weights to show; what it can show is flow and key"),
        ("fgfa", ["--show", "key"], "no key frames to show; what it can show is flow and weights"),
        ("fgfa", ["--show", "flwo"], "there is no 'flwo' to show; name some of flow, weights, key"),
        ("fgfa", ["--show", "flow", "--no-video"], "leave --no-video out"),
    ],
)
def test_what_cannot_be_shown_is_one_message(
    kind: str, arguments: list[str], expected: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(kind, "--out", "o", *arguments) == 1
    printed = capsys.readouterr().err
    assert expected in " ".join(printed.split())
    assert printed.count("flowdet: ") == 1
    assert not Path("o").exists()


def test_a_video_without_panels_is_not_taken_for_one_with_them(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dff", "--out", "o") == 0
    assert run("dff", "--out", "o", "--show", "key") == 1
    assert "other settings (show)" in capsys.readouterr().err


def test_settings_are_the_same_whether_they_are_named_or_not(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("dff", "--out", "o") == 0
    assert run("dff", "--out", "o", "--key-frame-interval", "3", "--start", "0") == 0
    assert "finished before" in capsys.readouterr().out
    assert run("dff", "--out", "o", "--key-frame-interval", "4") == 1
    assert "other settings (key_frame_interval)" in capsys.readouterr().err


def test_results_from_before_there_was_the_option_are_still_finished(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("dff", "--out", "o") == 0
    path = Path("o/clip.json")
    text = path.read_text()
    assert text.count('"show"') == 1
    path.write_text(re.sub(r', ?"show": ?\[\]', "", text))
    assert '"show"' not in path.read_text()
    assert run("dff", "--out", "o") == 0
    assert "finished before" in capsys.readouterr().out
