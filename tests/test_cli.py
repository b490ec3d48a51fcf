import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import av
import pytest
import torch

from tests.command import exit_code
from tests.video.clips import cut, make_clip, noise, quadrants

Run = Callable[..., int]


@pytest.fixture
def run(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `flowdet detect` on untrained weights in an empty folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, score: str = "0") -> int:
        return exit_code("detect", *arguments, "--weights", str(weights), "--score", score)

    return call


def document(path: str) -> dict[str, list[dict[str, object]]]:
    content: dict[str, list[dict[str, object]]] = json.loads(Path(path).read_text())
    return content


def frames_of(path: str) -> int:
    with av.open(path) as container:
        return sum(1 for _ in container.decode(video=0))


def test_a_clip_becomes_a_video_and_a_document(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 5)
    assert run("clip.mp4", "--out", "o") == 0
    assert frames_of("o/clip.mp4") == 5
    found = document("o/clip.json")
    assert [image["time"] for image in found["images"]] == pytest.approx([0, 0.04, 0.08, 0.12, 0.16])
    assert found["annotations"]
    assert len(found["categories"]) == 30
    assert "5 frames" in capsys.readouterr().out


def test_json_lines_without_a_video(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 3)
    assert run("clip.mp4", "--out", "o", "--results", "jsonl", "--no-video") == 0
    lines = [json.loads(line) for line in Path("o/clip.jsonl").read_text().splitlines()]
    assert [line["frame_index"] for line in lines[1:-1]] == [0, 1, 2]
    assert lines[-1]["complete"] is True
    assert os.listdir("o") == ["clip.jsonl"]


def test_tracks_are_in_the_results_and_the_video(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 4)
    call = ("clip.mp4", "--track", "--trail", "1", "--rescore", "tracks")
    assert run(*call, "--results", "csv", "--out", "o") == 0
    rows = Path("o/clip.csv").read_text().splitlines()
    numbers = [row.rsplit(",", 1)[1] for row in rows[1:]]
    assert numbers
    # The picture stands still, so each object of the first frame is in all four.
    assert {numbers.count(number) for number in numbers} == {4}
    assert frames_of("o/clip.mp4") == 4


def test_seq_nms_rescores_the_whole_video(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 4)
    assert run("clip.mp4", "--rescore", "seq-nms", "--out", "o") == 0
    assert frames_of("o/clip.mp4") == 4
    found = document("o/clip.json")["annotations"]
    by_frame = [[each["score"] for each in found if each["image_id"] == image] for image in (1, 2, 3, 4)]
    assert by_frame[0] == by_frame[1] == by_frame[2] == by_frame[3] != []


def test_start_end_every_and_classes(run: Run, tmp_path: Path) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 20)
    assert run("clip.mp4", "--out", "o", "--start", "0.2", "--end", "0.6", "--every", "2", "--classes", "car,dog") == 0
    found = document("o/clip.json")
    assert [image["frame_id"] for image in found["images"]] == [5, 7, 9, 11, 13]
    assert {annotation["category_id"] for annotation in found["annotations"]} <= {7, 9}


def test_finished_sources_are_skipped(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_clip(tmp_path / "a.mp4", [quadrants()] * 2)
    make_clip(tmp_path / "b.mp4", [quadrants()] * 3)
    assert run("a.mp4", "--out", "o") == 0
    made = Path("o/a.mp4").stat().st_mtime_ns
    assert run("a.mp4", "b.mp4", "--out", "o") == 0
    assert "a.mp4: finished before" in capsys.readouterr().out
    assert Path("o/a.mp4").stat().st_mtime_ns == made
    assert frames_of("o/b.mp4") == 3
    assert run("a.mp4", "--out", "o", "--overwrite") == 0
    assert Path("o/a.mp4").stat().st_mtime_ns > made


def test_other_settings_do_not_replace_finished_work(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "a.mp4", [quadrants()] * 2)
    assert run("a.mp4", "--out", "o") == 0
    before = Path("o/a.json").read_bytes()
    assert run("a.mp4", "--out", "o", "--every", "2") == 1
    assert "other settings (every)" in capsys.readouterr().err
    assert Path("o/a.json").read_bytes() == before


def test_sources_of_one_name_do_not_meet(run: Run, tmp_path: Path) -> None:
    for path, count in (("clip-2.mp4", 1), ("x/clip.mp4", 2), ("y/Clip.mp4", 3)):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        make_clip(tmp_path / path, [quadrants()] * count)
    assert run("clip-2.mp4", "x/clip.mp4", "y/Clip.mp4", "--out", "o") == 0
    assert (frames_of("o/clip-2.mp4"), frames_of("o/clip.mp4"), frames_of("o/Clip-3.mp4")) == (1, 2, 3)


def test_a_pattern_of_videos_is_each_of_them(run: Run, tmp_path: Path) -> None:
    for name in ("a", "b"):
        make_clip(tmp_path / f"{name}.mp4", [quadrants()] * 2)
    assert run("*.mp4", "--out", "o", "--no-video") == 0
    assert sorted(os.listdir("o")) == ["a.json", "b.json"]


def test_another_video_of_the_same_name_is_not_taken_for_finished(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "a.mp4", [quadrants()] * 2)
    assert run("a.mp4", "--out", "o") == 0
    make_clip(tmp_path / "a.mp4", [quadrants()] * 4)
    assert run("a.mp4", "--out", "o") == 1
    assert "source_bytes" in capsys.readouterr().err
    assert run(str(tmp_path / "a.mp4"), "--out", "p") == 0
    assert run("./a.mp4", "--out", "p") == 0
    assert "finished before" in capsys.readouterr().out


@pytest.mark.parametrize("score", ["2", "-0.1", "nan"])
def test_a_score_lies_between_0_and_1(score: str, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("clip.mp4", score=score) == 1
    assert "a score lies between 0 and 1" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["missing", "empty", "text", "folder"])
def test_nothing_to_detect_in_is_one_message(
    kind: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "clip.mp4"
    match kind:
        case "empty":
            source.touch()
        case "text":
            source.write_text("no video at all\n" * 50)
        case "folder":
            source.mkdir()
    make_clip(tmp_path / "good.mp4", [quadrants()] * 2)
    assert run("clip.mp4", "good.mp4", "--out", "o") == 1
    printed = capsys.readouterr()
    assert printed.err.count("\n") == 1
    assert printed.err.startswith("flowdet: ")
    assert "clip.mp4" in printed.err
    assert "Traceback" not in printed.err
    assert sorted(os.listdir("o")) == ["good.json", "good.mp4"]


def test_a_truncated_clip_keeps_its_good_frames(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cut(make_clip(tmp_path / "clip.mkv", noise(20)), 0.6)
    assert run("clip.mkv", "--out", "o") == 0
    kept = frames_of("o/clip.mp4")
    assert 5 < kept < 20
    assert len(document("o/clip.json")["images"]) == kept
    assert "clip.mkv" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["clip.mp4", "--classes", "unicorn"], "there is no class 'unicorn'; the classes are airplane"),
        (["clip.mp4", "--classes", "dgo, car"], "there is no class 'dgo'; did you mean dog?"),
        (["clip.mp4", "--every", "0"], "every"),
        (["clip.mp4", "--out", "."], "would replace its source"),
        (["clip.mp4", "--device", "abacus"], "the device abacus cannot be used here"),
        (["clip.mp4", "--system", "fgfa-r51"], "there is no system 'fgfa-r51'; did you mean fgfa-r50?"),
        (["clip.mp4", "--trail", "1"], "--trail without effect: add --track"),
        (["clip.mp4", "--rescore", "tracks"], "--rescore tracks without effect: add --track"),
        ([], "name at least one source"),
        ([""], "a source has no name"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], expected: str, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 2)
    assert run(*arguments) == 1
    assert expected in capsys.readouterr().err


@pytest.mark.parametrize(("old", "new"), [("--mode", "--variant"), ("--runtime", "--backend")])
@pytest.mark.parametrize("value", [["=fast"], ["", "fast"]])
def test_options_of_version_0_1_are_told_their_new_names(
    old: str, new: str, value: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("detect", "clip.mp4", old + value[0], *value[1:]) == 2
    assert f"{old} was an option of version 0.1; it is called {new} now" in capsys.readouterr().err


# A shell has its background jobs ignore Ctrl-C, and what they start with them.
_HEARING_INTERRUPTS = """
import signal, runpy
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("flowdet", run_name="__main__")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for another process")
@pytest.mark.parametrize("processes", [1, 2])
def test_interrupting_keeps_what_was_done(weights: Path, tmp_path: Path, processes: int) -> None:
    names = ["long", "other"][:processes]
    for name in names:
        make_clip(tmp_path / f"{name}.mp4", (quadrants() for _ in range(3000)))
    command = [sys.executable, "-c", _HEARING_INTERRUPTS, "detect", *(f"{name}.mp4" for name in names)]
    written = [tmp_path / "o" / f"{name}.jsonl" for name in names]
    deadline = time.monotonic() + 240
    arguments = ["--weights", str(weights), "--out", "o", "--results", "jsonl", "--processes", str(processes)]
    with subprocess.Popen([*command, *arguments], cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        try:
            while not all(results.exists() and results.read_text().count("\n") >= 20 for results in written):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.1)
            process.send_signal(signal.SIGINT)
            _, errors = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    for results in written:
        lines = [json.loads(line) for line in results.read_text().splitlines()]
        assert lines[-1]["complete"] is False
        assert 10 < len(lines) - 2 < 3000
        # The interrupt may fall between the two files of one frame.
        assert 0 <= len(lines) - 2 - frames_of(str(results.with_suffix(".mp4"))) <= 1


def test_processes_find_what_one_finds(run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    for number in range(3):
        make_clip(tmp_path / f"{number}.mp4", noise(2 + number))
    sources = ("0.mp4", "missing.mp4", "1.mp4", "2.mp4")
    assert run(*sources, "--out", "one", "--no-video") == 1
    capfd.readouterr()
    assert run(*sources, "--out", "two", "--no-video", "--processes", "2") == 1
    printed = capfd.readouterr()
    assert "missing.mp4" in printed.err
    assert sum("detections in" in line for line in printed.out.splitlines()) == 3
    for number in range(3):
        one, two = (document(f"{folder}/{number}.json") for folder in ("one", "two"))
        assert one["annotations"]
        assert len(one["annotations"]) == len(two["annotations"])
        scores = [[row["score"] for row in each["annotations"]] for each in (one, two)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-5)
    assert run(*sources[2:], "--out", "two", "--no-video", "--processes", "2") == 0
    assert "skipped" in capfd.readouterr().out


def test_a_source_that_fails_in_a_process_stops_no_other(
    run: Run, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.mp4").write_bytes(b"no video" * 100)
    make_clip(tmp_path / "clip.mp4", [quadrants()] * 2)
    assert run("broken.mp4", "clip.mp4", "--out", "o", "--no-video", "--processes", "2") == 1
    assert "broken.mp4" in capfd.readouterr().err
    assert document("o/clip.json")["images"]


def test_a_table_in_a_pipe_is_whole(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    assert exit_code("models") == 0
    line = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("dff-nano "))
    assert line.rstrip().endswith("0.05 (2.6)  shipped")


def test_models_lists_every_system(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("models") == 0
    printed = capsys.readouterr().out
    for system, figure in (
        ("fgfa-x101", "79.6"),
        ("dff-r50", "44.0"),
        ("fgfa-lite", "4.7 M"),
        ("dff-lite", "0.9 (2.8)"),
    ):
        assert any(line.split()[:1] == [system] and figure in line for line in printed.splitlines())


def test_download_knows_its_systems(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("models", "download", "fgfa-r18") == 1
    assert "no published weights of 'fgfa-r18'" in capsys.readouterr().err


def test_convert_writes_the_native_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save(
        {"meta": {"CLASSES": ("cup",)}, "state_dict": {"detector.neck.convs.0.conv.bias": torch.zeros(3)}}, "x.pth"
    )
    for out, expected in (
        ("y.safetensors", "does not hold the weights of fgfa-r50"),
        ("y.pth", "to a .safetensors file"),
    ):
        assert exit_code("models", "convert", "x.pth", out, "--system", "fgfa-r50") == 1
        assert expected in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["x.pth"]


def test_help_does_not_wait_for_pytorch() -> None:
    lines = ("import sys", "from flowdet.cli import main", "try:", "    main(['--help'])", "finally:")
    code = "\n".join((*lines, "    assert 'torch' not in sys.modules"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "detect" in done.stdout
