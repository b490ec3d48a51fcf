import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowdet.errors import ConfigError, FlowdetError
from flowdet.training.plot import draw_runs

pytest.importorskip("matplotlib")


def write_run(folder: Path, losses: list[float], *, metrics: bool = True) -> Path:
    folder.mkdir(parents=True)
    lines: list[dict[str, Any]] = [
        {"step": step, "epoch": step / 10, "loss": loss, "learning_rate": 0.1 / step}
        for step, loss in enumerate(losses, 1)
    ]
    if metrics:
        lines += [
            {"step": 10 * epoch, "epoch": epoch, "metrics": {"coco": {"AP": 0.1 * epoch, "AP75": None}}}
            for epoch in (1, 2)
        ]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_runs_are_drawn_side_by_side(tmp_path: Path) -> None:
    runs = [
        write_run(tmp_path / name / "same", [slope / step for step in range(1, 21)])
        for name, slope in (("a", 1), ("b", 3))
    ]
    draw_runs(runs, tmp_path / "both.svg")
    drawn = (tmp_path / "both.svg").read_text()
    for word in (f"{runs[0]}", f"{runs[1]}: coco AP", "loss", "learning rate", "evaluation", "epoch"):
        assert f"<!-- {word} -->" in drawn
    assert "AP75" not in drawn
    draw_runs(runs[:1], tmp_path / "one.svg")
    assert "<!-- same -->" in (tmp_path / "one.svg").read_text()
    draw_runs(runs, tmp_path / "both.png")
    assert len(np.unique(np.array(Image.open(tmp_path / "both.png").convert("RGB")).reshape(-1, 3), axis=0)) > 20


def test_a_run_may_have_any_name(tmp_path: Path) -> None:
    draw_runs([write_run(tmp_path / r"5 $ or \frac$ 汽车", [1.0, 0.5])], tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()


def test_without_an_evaluation_there_is_no_panel_for_it(tmp_path: Path) -> None:
    draw_runs([write_run(tmp_path / "run", [1.0], metrics=False)], tmp_path / "plot.svg")
    assert "<!-- evaluation -->" not in (tmp_path / "plot.svg").read_text()


def test_what_cannot_be_drawn_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = write_run(tmp_path / "run", [1.0])
    with pytest.raises(FlowdetError, match=r"is .*nowhere a training run"):
        draw_runs([tmp_path / "nowhere"], tmp_path / "plot.png")
    with pytest.raises(FlowdetError, match="has no step yet"):
        draw_runs([write_run(tmp_path / "empty", [], metrics=False)], tmp_path / "plot.png")
    with pytest.raises(ConfigError, match=r"plot\.tree cannot be drawn"):
        draw_runs([run], tmp_path / "plot.tree")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ConfigError, match="pip install matplotlib"):
        draw_runs([run], tmp_path / "plot.png")
