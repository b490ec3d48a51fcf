"""flowdet detect with odd sources, names, outputs and ends."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from PIL import Image

from flowdet.cli.sources import each_once, expanded
from flowdet.errors import VideoError
from flowdet.video.description import describe_source
from flowdet.video.reader import Video, open_video
from tests.command import exit_code
from tests.video.clips import make_clip, noise, quadrants

Run = Callable[..., int]
ESCAPE = "\x1b]0;clip.mp4"


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `flowdet detect` on untrained weights in an empty folder; returns the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> int:
        return exit_code("detect", *arguments, "--weights", str(weights), "--score", "0", "--out", "o")

    return call


def save_pictures(folder: Path, names: str) -> None:
    folder.mkdir(exist_ok=True)
    for name in names.split():
        Image.fromarray(quadrants()).save(folder / name)


def started(folder: Path, *arguments: str, **options: object) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "flowdet", "detect", *arguments, "--backend", "torch"]
    return subprocess.Popen(command, cwd=folder, text=True, **options)  # type: ignore[call-overload, no-any-return]


def test_every_file_of_a_folder_or_a_pattern_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save_pictures(tmp_path / "both", "1.jpg 2.png")
    (tmp_path / "both" / "notes.txt").touch()
    for name in ("both/a.mp4", "both/b.MKV", "both/.hidden.mp4"):
        (tmp_path / name).touch()
    assert list(expanded(["both"])) == ["both/a.mp4", "both/b.MKV", "both"]
    assert list(expanded(["both/*"])) == ["both/a.mp4", "both/b.MKV", "both/notes.txt", "both/*"]
    assert list(expanded(["both/*.mp4", "both/*.jpg"])) == ["both/a.mp4", "both/*.jpg"]
    assert list(expanded(["missing", "*.mkv", "7"])) == ["missing", "*.mkv", "7"]


def test_videos_beside_pictures_are_not_lost(run: Run, tmp_path: Path) -> None:
    save_pictures(tmp_path / "both", "1.png 2.png")
    make_clip(tmp_path / "both" / "clip.mp4", [quadrants()] * 3)
    assert run("both", "--no-video") == 0
    assert run("both/*", "--no-video") == 0
    found = {name: len(json.loads(Path("o", name).read_text())["images"]) for name in sorted(os.listdir("o"))}
    assert found == {"both-all.json": 2, "both.json": 2, "clip.json": 3}


def test_a_pattern_without_a_match_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("*.mkv") == 1
    assert "the pattern '*.mkv' matches no file" in capsys.readouterr().err


def test_a_folder_and_a_pattern_in_it_have_results_of_their_own(run: Run, tmp_path: Path) -> None:
    save_pictures(tmp_path / "frames", "001.jpg 002.jpg 101.jpg")
    assert run("frames", "--no-video") == 0
    assert run("frames/00*.jpg", "--no-video") == 0
    assert sorted(os.listdir("o")) == ["frames-00-jpg.json", "frames.json"]


@pytest.mark.parametrize(("name", "out"), [("p.png", "p.png"), ("p.jpeg", "p.jpg"), ("p.tif", "p.png")])
def test_a_still_picture_becomes_a_picture(name: str, out: str, run: Run, tmp_path: Path) -> None:
    save_pictures(tmp_path, name)
    assert run(name) == 0
    assert sorted(os.listdir("o")) == sorted(["p.json", out])
    with Image.open(Path("o", out)) as drawn:
        assert drawn.size == (64, 48)
        assert np.abs(np.asarray(drawn.convert("RGB")).astype(int) - quadrants()).max() > 50
    assert run(name) == 0


def test_pages_become_a_video(run: Run, tmp_path: Path) -> None:
    pages = [Image.fromarray(image) for image in noise(4)]
    pages[0].save(tmp_path / "p.tif", save_all=True, append_images=pages[1:])
    assert run("p.tif") == 0
    with av.open("o/p.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--device", "0", "clip.mp4"], "a device is cpu, cuda or cuda:0, not 0; a camera is a source"),
        (["--source", "x.mp4"], "sources are named without an option: `flowdet detect x.mp4`"),
    ],
)
def test_hints(arguments: list[str], expected: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*arguments) == 1
    assert expected in " ".join(capsys.readouterr().err.split())


def test_long_names_are_shortened_and_stay_apart(run: Run, tmp_path: Path) -> None:
    for end in ("a", "b"):
        make_clip(tmp_path / f"{'x' * 240}{end}.mp4", [quadrants()] * 2)
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 2)
    assert run(f"{'x' * 240}a.mp4", f"{'x' * 240}b.mp4", "clip.mp4") == 0
    names = sorted(os.listdir("o"))
    assert len(names) == 6
    assert max(len(name) for name in names) <= 205
    assert describe_source(tmp_path / f"{'x' * 240}a.mp4").name != describe_source(tmp_path / f"{'x' * 240}b.mp4").name


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are any bytes")
@pytest.mark.parametrize("name", [b"a\xffb.mp4", ESCAPE.encode(), "автомобиль.mp4".encode(), b"a\nb.mp4"])
@pytest.mark.parametrize("encoding", ["utf-8", "cp1252"])
def test_any_name_is_printed_and_done(
    name: bytes, encoding: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 2).rename(tmp_path / os.fsdecode(name))
    make_clip(tmp_path / "next.mp4", [quadrants()] * 2)
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    assert run(os.fsdecode(name), "next.mp4", os.fsdecode(name) + ".missing") == 1
    printed = [stream.buffer.getvalue() for stream in streams]
    assert printed[0].count(b" detections in 2 frames") == 2
    assert printed[1].count(b"does not exist") == 1
    assert b"\x1b" not in printed[0] + printed[1]
    content = json.loads(next(Path("o").glob("*a*.json")).read_text() if name[:1] == b"a" else "{}")
    json.dumps(content, ensure_ascii=False).encode()  # no lone surrogates, which other readers refuse


def test_labels_are_printable() -> None:
    with pytest.raises(VideoError, match=r"'\\x1b\]0;\\udcff' does not exist"):
        describe_source("\x1b]0;\udcff")


def test_a_second_run_of_the_same_result_is_refused(weights: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", noise(4000))
    arguments = ("clip.mp4", "--weights", str(weights), "--out", "o", "--results", "jsonl", "--no-video")
    with started(tmp_path, *arguments, "--score", "0.02") as first:
        try:
            wait_for_lines(tmp_path / "o" / "clip.jsonl", first)
            for kind in ("jsonl", "json"):  # they would write the same video
                second = started(tmp_path, *arguments[:-2], kind, "--score", "0.5", stderr=subprocess.PIPE)
                _, errors = second.communicate(timeout=100)
                assert second.returncode == 1
                assert f"another run (process {first.pid}) writes o/clip.{kind}" in " ".join(errors.split())
                assert "Traceback" not in errors
            first.send_signal(signal.SIGTERM)
            assert first.wait(60) == 143
        finally:
            first.kill()
    lines = [json.loads(line) for line in (tmp_path / "o" / "clip.jsonl").read_text().splitlines()]
    assert sum("complete" in line for line in lines) == 1
    assert lines[0]["settings"]["score"] == 0.02
    assert os.listdir(tmp_path / "o") == ["clip.jsonl"]


def wait_for_lines(path: Path, process: "subprocess.Popen[str]", count: int = 20) -> None:
    deadline = time.monotonic() + 200
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_sigterm_leaves_a_playable_video_and_sigkill_no_orphans(weights: Path, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", noise(4000))
    lines = tmp_path / "o" / "clip.json.partial.jsonl"
    arguments = ("clip.mp4", "--weights", str(weights), "--out", "o", "--score", "0.02")
    for number in (signal.SIGKILL, signal.SIGTERM):
        lines.unlink(missing_ok=True)
        with started(tmp_path, *arguments, stderr=subprocess.PIPE) as process:
            try:
                wait_for_lines(lines, process)
                process.send_signal(number)
                _, errors = process.communicate(timeout=60)
            finally:
                process.kill()
        left = os.listdir(tmp_path / "o")
        if number == signal.SIGKILL:
            assert any(name.endswith(".part") for name in left)
    assert process.returncode == 143
    assert "terminated; what was done is kept" in errors
    assert "Traceback" not in errors
    assert sorted(left) == ["clip.json", "clip.mp4"]
    result = json.loads((tmp_path / "o" / "clip.json").read_text())
    assert result["info"]["complete"] is False
    with av.open(str(tmp_path / "o" / "clip.mp4")) as container:
        assert 0 <= len(result["images"]) - sum(1 for _ in container.decode(video=0)) <= 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_closed_or_full_output_is_one_sentence(tmp_path: Path) -> None:
    for redirection, code in ((">&-", 0), ("> /dev/full", 1), (">&- 2>&-", 0), ("| true", None)):
        done = subprocess.run(
            f"'{sys.executable}' -m flowdet models {redirection}",
            shell=True,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert "Traceback" not in done.stderr
        assert "Exception ignored" not in done.stderr
        assert code is None or done.returncode == code
        if code:
            assert "No space left on device" in done.stderr
            assert done.stderr.count("\n") == 1


def test_a_source_that_is_too_large_for_the_memory_stops_no_other(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "large.mp4", [quadrants()])
    make_clip(tmp_path / "small.mp4", [quadrants()])

    def opened(source: str, **options: Any) -> Video:
        if source == "large.mp4":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return open_video(source, **options)

    monkeypatch.setattr("flowdet.work.detection.open_video", opened)
    assert run("large.mp4", "small.mp4") == 1
    assert "'large.mp4': too little memory (CUDA out of memory)" in capsys.readouterr().err
    assert Path("o/small.json").exists()


def test_what_is_left_becomes_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    import flowdet.cli

    for error, expected in (
        (OSError(28, "No space left on device"), "No space left on device"),
        (MemoryError(), "too little memory; try"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), "too little memory (CUDA out of"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), "too little memory (Default"),
        (ImportError("libtorch.so: cannot allocate memory"), "cannot allocate memory"),
    ):

        def fail(*_: object, error: Exception = error, **__: object) -> None:
            raise error

        monkeypatch.setattr(flowdet.cli, "app", fail)
        assert exit_code() == 1
        assert expected in capsys.readouterr().err


def test_a_source_that_is_named_twice_is_done_once(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "clips").mkdir()
    make_clip(tmp_path / "clips" / "a.mp4", [quadrants()])
    make_clip(tmp_path / "clips" / "b.mp4", [quadrants()])
    Path("list.txt").write_text("clips/b.mp4\n")
    assert run("clips", "./clips/a.mp4", "--list", "list.txt", "--no-video") == 0
    assert sorted(os.listdir("o")) == ["a.json", "b.json"]
    assert "named more than once, done once: ./clips/a.mp4, clips/b.mp4" in capsys.readouterr().err


def test_addresses_are_one_source_only_if_they_are_equal() -> None:
    sources = ["s3://a/b.mp4", "0", "s3://a/./b.mp4", "0", "~/x.mp4", str(Path("~/x.mp4").expanduser())]
    assert each_once(sources) == (sources[:3] + sources[4:5], ["0", sources[5]])


def test_a_run_in_another_format_replaces_no_video_of_other_settings(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 3)
    assert run("clip.mp4") == 0
    before = Path("o/clip.mp4").read_bytes()
    assert run("clip.mp4", "--results", "jsonl", "--every", "2") == 1
    assert "clip.json was made with other settings (every)" in capsys.readouterr().err.replace("\n", " ")
    assert Path("o/clip.mp4").read_bytes() == before
    assert run("clip.mp4", "--results", "jsonl") == 0


def test_an_address_of_a_local_file_is_that_file(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "o").mkdir()
    kept = make_clip(tmp_path / "o" / "clip.mp4", [quadrants()] * 2).read_bytes()
    assert run(f"file://{tmp_path}/o/clip.mp4") == 1
    assert "would replace its source" in capsys.readouterr().err.replace("\n", " ")
    assert (tmp_path / "o" / "clip.mp4").read_bytes() == kept


def test_patterns_of_one_name_are_different_sources(run: Run, tmp_path: Path) -> None:
    for folder, count in (("a", 2), ("b", 3)):
        (tmp_path / folder / "shots").mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (32, 24)).save(tmp_path / folder / "shots" / f"{number}.png")
    for _ in range(2):
        for folder in ("b", "a"):
            assert run(f"{folder}/shots/*.png", "--no-video") == 0
    frames = [len(json.loads(path.read_text())["images"]) for path in sorted(Path("o").glob("*.json"))]
    assert sorted(frames) == [2, 3]


def test_passwords_of_addresses_stay_out_of_the_manifest(run: Run) -> None:
    assert run("http://user:secret@127.0.0.1:9/clip.mp4?token=secret", "--processes", "2") == 1
    manifest = Path("o/_manifest.ndjson").read_text()
    assert "http://127.0.0.1:9/clip.mp4" in manifest
    assert "secret" not in manifest
