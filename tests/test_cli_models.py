from pathlib import Path

import pytest

from flowdet.cli import main
from flowdet.systems.build import build
from flowdet.weights.native import save_native
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
        "fgfa-lite": ("FGFA", "4,705,735", "none published", "shipped", "classes    30: airplane, ", "domestic_cat"),
        "single-r50": ("62,231,827", "none published", "flowdet models download fgfa-r50", "resnet50-0676ba61.pth"),
        f"{tmp_path}/own.safetensors": ("tiny-dff", "DFF", "classes    3: cat, dog, fox", "own.safetensors"),
    }
    for system, words in wanted.items():
        with pytest.raises(SystemExit) as ended:
            main(["models", "show", system])
        assert not ended.value.code
        printed = capsys.readouterr().out
        assert [word for word in words if word not in printed] == []


def test_models_download_says_where_files_go(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["models", "download", "--help"])
    printed = " ".join(capsys.readouterr().out.split())
    assert "$FLOWDET_HOME, else to $XDG_CACHE_HOME/flowdet, else to ~/.cache/flowdet" in printed
