"""The checks of a GPU, on a pretended one; speed and memory mean nothing there."""

import pytest
import torch

from scripts import gpu_check
from tests.comparison import TOLERANCES, Case
from tests.pretend_cuda import CUDA, pretend_cuda

TINY = gpu_check.Settings(
    cases=(Case("dff-r50", "b113x200pad128x208"),),
    case_frames=1,
    systems=("single-lite",),
    size=(64, 96),
    frames=1,
    training="dff-lite",
    seconds=0,
    steps=3,
)


def test_all_checks_run_and_hold_on_a_pretended_gpu() -> None:
    with pretend_cuda():
        report = gpu_check.check(TINY, CUDA)
    assert set(report["parity"]["cases"]) == {"dff_r50_b113x200pad128x208"}
    assert report["parity"]["ok"], report["parity"]
    assert report["stalls"]["systems"]["single-lite"]["most_in_a_frame"] == 3, report["stalls"]
    speeds = list(report["speed"]["systems"]["single-lite"])
    assert speeds == ["published_v100", "float32", "bf16", "fp16", "float32, cudnn.benchmark"]
    assert not torch.backends.cudnn.benchmark
    assert report["training"]["steps"] == 3, report["training"]
    assert "error" not in report["training"]


def test_a_wrong_tensor_fails_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOLERANCES, "img", -1.0)
    report = gpu_check.check(TINY, torch.device("cpu"), ["parity"])
    assert report["parity"]["cases"]["dff_r50_b113x200pad128x208"]["beyond"] == ["img"]
    assert not report["ok"]


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu_check.main([]) == 2
    assert "finds no GPU here" in capsys.readouterr().err
