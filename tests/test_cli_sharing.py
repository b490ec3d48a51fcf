"""flowdet detect with many sources: lists of them, progress for machines, the manifest, engines."""

import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, cast

import pytest

from flowdet.cli.source_report import SourceReport
from flowdet.cli.sources import sources_in
from flowdet.errors import ConfigError, DataError, FlowdetError
from flowdet.video.description import describe_source
from flowdet.work.detection import Settings, SourceJob
from flowdet.work.jobs import Failed
from flowdet.work.manifest import open_manifest
from tests.command import exit_code
from tests.video.clips import make_clip, noise

Run = Callable[..., int]


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `flowdet detect` on untrained weights in a folder with three clips; returns the exit code."""
    monkeypatch.chdir(tmp_path)
    for number in range(3):
        make_clip(tmp_path / f"{number}.mp4", noise(2 + number))

    def call(*arguments: str) -> int:
        return exit_code("detect", *arguments, "--weights", str(weights), "--score", "0", "--out", "o", "--no-video")

    return call


def records(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.mark.parametrize("processes", ["1", "2"])
def test_progress_for_machines(processes: str, run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    call = ("--list", "list.txt", "--json-progress", "--processes", processes)
    Path("list.txt").write_text("\ufeff# my clips\n1.mp4\n\nmissing.mp4\n  2.mp4\n", encoding="utf-8")
    assert run("0.mp4", *call) == 1
    told = records(capfd.readouterr().out)
    ended = {event["source"]: event for event in told if event["event"] == "source"}
    assert {name: event["state"] for name, event in ended.items()} == {
        "0.mp4": "done",
        "1.mp4": "done",
        "2.mp4": "done",
        "missing.mp4": "failed",
    }
    assert ended["2.mp4"]["frames"] == 4
    assert ended["2.mp4"]["results"] == "2.json"
    assert "does not exist" in ended["missing.mp4"]["reason"]
    end = told[-1]
    assert {key: end[key] for key in ("event", "sources", "done", "skipped", "failed", "frames", "seconds_left")} == {
        "event": "end",
        "sources": 4,
        "done": 3,
        "skipped": 0,
        "failed": 1,
        "frames": 9,
        "seconds_left": 0.0,
    }
    assert run(*call) == 1
    again = records(capfd.readouterr().out)
    assert [event["state"] for event in again if event["event"] == "source"] == ["skipped", "failed", "skipped"]
    assert [event.get("results") for event in again if event["event"] == "source"] == ["1.json", None, "2.json"]
    assert Path("o/_manifest.ndjson").exists() == (processes == "2")
    if processes == "2":  # it says the same
        noted = records(Path("o/_manifest.ndjson").read_text())
        assert {name: event.get("results") for name, event in ended.items()} == {
            record["source"]: record.get("results") for record in noted
        }


def test_the_manifest_has_the_state_of_every_source(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("0.mp4", "--processes", "1") == 0
    assert run("0.mp4", "missing.mp4", "1.mp4", "--processes", "2") == 1
    lines = Path("o/_manifest.ndjson")
    states = {record["source"]: record for record in records(lines.read_text())}
    assert states["0.mp4"] == {"source": "0.mp4", "state": "done", "results": "0.json", "frames": 2}
    assert states["1.mp4"].keys() == {*states["0.mp4"], "detections", "seconds", "problems"}
    assert "does not exist" in states["missing.mp4"]["reason"]
    with lines.open("a") as file:
        file.write('{"source": "2.m')  # a killed run
    Path("2.mp4").rename("missing.mp4")
    assert run("0.mp4", "missing.mp4", "1.mp4", "--processes", "2") == 0
    *_, torn, last = lines.read_text().splitlines()
    assert torn == '{"source": "2.m'
    assert json.loads(last)["state"] == "done"
    assert len(records("\n".join(lines.read_text().splitlines()[:-2]))) == 3


@pytest.mark.parametrize("is_shared", [True, False])
def test_a_failure_names_its_source_once(
    is_shared: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("clip.mp4").touch()
    job = SourceJob("clip.mp4", describe_source("clip.mp4"), Path("clip.json"), None, cast("Settings", None))
    with ExitStack() as stack:
        manifest = stack.enter_context(open_manifest(tmp_path)) if is_shared else None
        report = stack.enter_context(SourceReport(2, manifest, as_json=False))
        report.tell(Failed(job, FlowdetError("its worker was killed")))
        report.tell(Failed(job, FlowdetError("'clip.mp4' is empty")))
    told = capsys.readouterr().err
    assert "flowdet: 'clip.mp4': its worker was killed\n" in told
    assert "flowdet: 'clip.mp4' is empty\n" in told


def test_a_second_run_on_the_same_folder_is_refused(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("o").mkdir()
    with open_manifest(Path("o")):
        assert run("0.mp4", "--processes", "2") == 1
    assert "works on o; wait for it, or name another folder with --out" in " ".join(capfd.readouterr().err.split())


def test_sources_of_a_list(tmp_path: Path) -> None:
    table = tmp_path / "list.csv"
    table.write_text('camera,source\n1,a.mp4\n2,"b, c.mp4"\n3,\n')
    assert sources_in(table) == ["a.mp4", "b, c.mp4"]
    table.write_text("a.mp4\nb.mp4\n")  # without a line of names, the first source would be one
    with pytest.raises(ConfigError, match=r"no column named source; its columns are: a.mp4"):
        sources_in(table)
    with pytest.raises(DataError, match=r"missing.txt cannot be read"):
        sources_in(tmp_path / "missing.txt")


def test_sources_of_a_parquet_list(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.table({"n": [1, 2], "source": ["a.mp4", "b.mp4"]}), tmp_path / "list.parquet")
    assert sources_in(tmp_path / "list.parquet") == ["a.mp4", "b.mp4"]
    (tmp_path / "list.parquet").write_bytes(b"PAR1")
    with pytest.raises(ConfigError, match=r"list.parquet cannot be read"):
        sources_in(tmp_path / "list.parquet")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--workers", "2", "--address", "auto"], "--address and --workers without effect: add --engine ray"),
        (["--engine", "ray", "--processes", "2"], "--processes has no effect with --engine ray: name --workers"),
        (["--engine", "ray", "--gpus-per-worker", "0.5"], "--gpus-per-worker without effect: add --device cuda"),
        (["--engine", "ray", "--workers", "0"], "the number of workers is 1 or more, not 0"),
        (["--processes", "0"], "--processes is a whole number from 1 on, not 0"),
    ],
)
def test_engine_options_that_cannot_work(
    options: list[str], message: str, run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("0.mp4", *options) == 1
    assert message in " ".join(capfd.readouterr().err.split())


def test_long_videos_are_split_and_joined(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    make_clip(Path("long.mp4"), noise(40))
    call = ("0.mp4", "long.mp4", "--track")
    assert run(*call, "--results", "jsonl") == 0
    wanted = {name: Path(f"o/{name}.jsonl").read_text().splitlines() for name in ("0", "long")}
    capfd.readouterr()
    assert (
        run(*call, "--results", "jsonl", "--overwrite", "--segment", "0.5", "--processes", "2", "--json-progress") == 0
    )
    end = records(capfd.readouterr().out)[-1]
    assert (end["done"], end["frames"]) == (2, 42)
    for name, lines in wanted.items():
        assert Path(f"o/{name}.jsonl").read_text().splitlines() == lines
    assert sorted(path.name for path in Path("o").iterdir()) == ["0.jsonl", "_manifest.ndjson", "long.jsonl"]
