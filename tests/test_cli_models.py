import re
from pathlib import Path

import pytest

from flowdet.errors import CheckpointError
from flowdet.systems.build import build
from flowdet.systems.load import weights_of
from flowdet.systems.recipes import RECIPES
from flowdet.weights.native import save_native
from flowdet.weights.zoo import SHIPPED
from tests.command import exit_code
from tests.training.runs import SYSTEMS


def test_models_show_lists_classes_and_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_native(build(SYSTEMS["tiny-dff"]), tmp_path / "own.safetensors")
    wanted = {
        "fgfa-r50": (
            "FGFA",
            "103,267,171",
            "74.7 % on ImageNet VID val",
            "6.9 frames/s",
            "-f42016f3.pth",
            "domestic_cat",
        ),
        "fgfa-nano": (
            "5 frames before and 5 after the current one",
            "delay      5 frames at most",
            "--show     weights\n",
        ),
        "dff-nano": (
            "the last key frame and the next; one frame in 3 is a key frame",
            "delay      2 frames at most",
            "--show     flow, key\n",
        ),
        "selsa-r50": ("14 frames of the whole video", "but the whole video has to be there", "--show     references\n"),
        "single-nano": ("the frame alone", "delay      none\n", "--show     nothing"),
        "fgfa-lite": ("FGFA", "4,705,735", "none published", "shipped", "classes    30: airplane, ", "domestic_cat"),
        "dff-yolox-s": ("16 GFLOP a key frame",),
        "single-yolox-s": (
            "SingleFrame",
            "8,968,255",
            "40.5 % on COCO",
            "0.1.1rc0/yolox_s.pth",
            "classes    80: person",
        ),
        "single-r50": ("62,231,827", "none published", "-f42016f3.pth", "resnet50-0676ba61.pth"),
        f"{tmp_path}/own.safetensors": ("tiny-dff", "DFF", "classes    3: cat, dog, fox", "own.safetensors"),
    }
    for system, words in wanted.items():
        assert exit_code("models", "show", system) == 0
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == []


def test_the_list_fits_a_terminal_and_says_what_is_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path))
    (tmp_path / "yolox_s.pth").touch()
    assert exit_code("models") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines if len(line) > 80] == []
    states = {line.split()[0]: line.split()[-1] for line in lines[1 : 1 + len(RECIPES)]}
    assert list(states) == list(RECIPES)
    named = ("fgfa-nano", "fgfa-yolox-s", "fgfa-yolox-m", "single-r50", "fgfa-r50", "selsa-lite")
    assert [states[name] for name in named] == ["shipped", "here", "download", "download", "download", "own"]


def test_models_download_says_where_files_go(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("models", "download", "--help") == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "$FLOWDET_HOME, else to $XDG_CACHE_HOME/flowdet, else to ~/.cache/flowdet" in printed


def test_every_download_that_is_asked_for_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What a missing weight file's message says to run is a command that works."""
    fetched: list[str] = []

    def fetch(url: str, *others: object, **options: object) -> Path:
        fetched.append(Path(url).name)
        (tmp_path / fetched[-1]).touch()
        return tmp_path / fetched[-1]

    for name in ("flowdet.cli.models.fetch", "flowdet.weights.download.download"):
        monkeypatch.setattr(name, fetch)
    monkeypatch.setenv("FLOWDET_HOME", str(tmp_path))
    for system in set(RECIPES) - set(SHIPPED) - {"selsa-lite"}:  # which everyone trains for themselves
        with pytest.raises(CheckpointError, match="run `flowdet models download") as missing:
            weights_of(system)
        advised = re.findall(r"`flowdet (.*)`", str(missing.value))[0]
        for command in (advised, f"models download {system}"):
            assert exit_code(*command.split()) == 0
            assert weights_of(system) == tmp_path / fetched[-1]
            (tmp_path / fetched[-1]).unlink()


def test_there_is_no_log_of_yolox(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("models", "download", "yolox-s", "--log") == 1
    assert "no training log of yolox-s was published" in capsys.readouterr().err
