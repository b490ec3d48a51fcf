import json
from pathlib import Path

import pytest

from flowdet.benchmark.report import Report
from tests.benchmark.test_report import MACHINE, cost, frame
from tests.command import exit_code


def call(*arguments: str) -> int:
    return exit_code("benchmark", *arguments)


def test_two_systems_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flowdet.benchmark.benchmark._IMAGES", 3)
    file = tmp_path / "o" / "out.json"
    options = ("--size", "64x96", "--frames", "3", "--threads", "1", "--vs.size", "32x64", "--json", str(file))
    assert call("single-lite", *options) == 0
    shown = capsys.readouterr().out
    assert "frames 64x96, network input 64x96" in shown
    assert "frames 32x64, network input 32x64" in shown
    assert "forward and post-processing" in shown
    assert "takes" in shown
    found = json.loads(file.read_text())
    assert found["seconds_per_frame"] > 0
    assert found["seconds_per_frame_everything"] > 0
    assert found["system"] == found["versus"]["system"]["system"] == "single-lite"
    assert found["gflop_per_frame"] > found["versus"]["system"]["gflop_per_frame"] > 0
    memory = found["first"]["memory"]
    assert memory is None or memory > found["first"]["memory_before"] > 10_000_000
    assert found["first"]["seconds"] > 0
    assert found["frames"]["frame"]["count"] == 3
    assert {"decode", "features", "rpn", "after rpn", "roi_head", "after roi_head", "encoding"} <= set(
        found["mean"]["parts"]
    )
    assert (not found["trusted"]) == bool(found["warnings"])
    assert ("Not to be trusted" in shown) == bool(found["warnings"])


@pytest.mark.parametrize(("gflop", "is_told"), [(99.0, False), (150.0, True)])
def test_a_share_of_more_than_100_percent_is_explained(
    gflop: float, is_told: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(MACHINE, cost({"frame": frame(1.0, gflop=gflop)}))  # of 100 GFLOP/s
    monkeypatch.setattr("flowdet.cli.benchmark.measure", lambda *arguments, **options: report)
    assert call("single-lite") == 0
    shown = capsys.readouterr().out
    assert f"{gflop:.0f} %" in shown
    assert ("note: more than 100 % of peak: the backend needs fewer operations" in shown) == is_told


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fgfa-lite", "--size", "600"], "such as 600x1000, not '600'"),
        (["fgfa-lite", "--size", "4x4"], "16 to 8192"),
        (["fgfa-lite", "--frames", "0"], "frames is a whole number from 1 on"),
        (["fgfa-lite", "--threads", "0"], "threads is a whole number from 1 on"),
        (["fgfa"], "there is no system 'fgfa'"),
        (["--weights", "none.safetensors"], "there is no weight file"),
        (["fgfa-lite", "--json", "."], "is a folder"),
    ],
)
def test_a_mistake_is_one_message(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments) == 1
    assert words in capsys.readouterr().err.replace("\n", " ")
