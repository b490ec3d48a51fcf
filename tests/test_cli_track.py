"""`flowdet detect` with tracks, in every output."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from flowdet.cli import main
from flowdet.systems.build import build
from flowdet.weights.native import save_native
from tests.tiny import lite_config
from tests.video.clips import make_clip, quadrants

Run = Callable[..., int]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `flowdet detect` on a clip of 5 equal frames with untrained weights; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 5)
    torch.manual_seed(0)
    save_native(build(lite_config()), tmp_path / "tiny.safetensors")

    def call(*arguments: str) -> int:
        with pytest.raises(SystemExit) as ended:
            main(["detect", "clip.mp4", *arguments, "--weights", "tiny.safetensors", "--score", "0"])
        code = ended.value.code
        assert isinstance(code, int)
        return code

    return call


def test_every_output_has_the_same_ids(run: Run) -> None:
    for kind in ("json", "jsonl", "csv"):
        assert run("--track", "--no-video", "--results", kind) == 0
    lines = [json.loads(line) for line in Path("detections/clip.jsonl").read_text().splitlines()][1:-1]
    ids = [track_id for line in lines for track_id in line["track_ids"]]
    assert lines[0]["track_ids"]
    assert None not in ids
    assert all(len(set(line["track_ids"])) == len(line["track_ids"]) for line in lines)
    annotations = json.loads(Path("detections/clip.json").read_text())["annotations"]
    assert [annotation["track_id"] for annotation in annotations] == ids
    with Path("detections/clip.csv").open(newline="") as file:
        assert [int(row["track_id"]) for row in csv.DictReader(file)] == ids


def test_the_csv_of_a_finished_source_is_skipped(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--no-video", "--results", "csv") == 0
    assert run("--no-video", "--results", "csv") == 0
    assert "finished before" in capsys.readouterr().out
    assert run("--no-video", "--results", "csv", "--track") == 1
    assert "other settings (track)" in capsys.readouterr().err.replace("\n", " ")


@pytest.mark.parametrize("rescore", ["mean", "seq-nms"])
def test_a_rescored_video_is_whole(run: Run, rescore: str) -> None:
    assert run("--track", "--rescore", rescore, "--trail", "1") == 0
    with av.open("detections/clip.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 5
    document = json.loads(Path("detections/clip.json").read_text())
    assert document["info"]["frames"] == 5
    assert {annotation["frame_id"] for annotation in document["annotations"]} == set(range(5))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--trail", "1"], "--trail is about tracks: add --track"),
        (["--agnostic-tracks"], "--agnostic-tracks is about tracks: add --track"),
        (["--rescore", "mean"], "--rescore mean is about tracks: add --track"),
        (["--track", "--trail", "-1"], "--trail is a number of seconds from 0 on"),
        (["--track", "--trail", "1", "--no-video"], "leave --no-video out"),
        (["--rescore", "seq-nms", "--show", "flow"], "draws in a second pass"),
    ],
)
def test_what_has_no_effect_is_refused(
    arguments: list[str], message: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*arguments) != 0
    assert message in " ".join(capsys.readouterr().err.split())
