"""Tracks in the counters of supervision, and the example of docs/tracking.md."""

import re
from pathlib import Path

import numpy as np
import pytest

from flowdet.tracking.online import track
from flowdet.types import Detections

sv = pytest.importorskip("supervision", reason="the extra supervision is not installed")

ROOT = Path(__file__).parents[2]


def frame(index: int, centres: list[tuple[float, float]]) -> Detections:
    """Squares of 20 px in a video of 10 frames a second."""
    boxes = np.array([(x - 10, y - 10, x + 10, y + 10) for x, y in centres], np.float32).reshape(-1, 4)
    return Detections(
        frame_index=index,
        time=index / 10,
        boxes=boxes,
        scores=np.full(len(boxes), 0.9, np.float32),
        labels=np.zeros(len(boxes), np.int64),
        class_names=("car",),
        image_size=(200, 200),
    )


def test_each_object_that_crosses_a_line_counts_once() -> None:
    # Two go down over the line, one of them unseen for a frame on it; one goes up; one comes near and turns back.
    line = sv.LineZone(start=sv.Point(0, 100), end=sv.Point(200, 100))
    zone = sv.PolygonZone(polygon=np.array([(0, 100), (200, 100), (200, 200), (0, 200)]))
    inside = []
    for found in track(
        frame(
            t,
            [
                (30, 50 + 5 * t),
                *([] if t == 10 else [(80, 45 + 5 * t)]),
                (130, 150 - 5 * t),
                (180, 40 + 5 * min(t, 20 - t)),
            ],
        )
        for t in range(21)
    ):
        given = found.to_supervision()
        assert given.tracker_id is not None
        line.trigger(given)
        inside.append(int(zone.trigger(given).sum()))
    assert (line.in_count, line.out_count) == (1, 2)
    assert (inside[0], inside[-1]) == (1, 2)


def test_the_example_of_the_page_counts_a_car(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = re.findall(
        r"## Counting cars over a line.*?```python\n(.*?)```", (ROOT / "docs/tracking.md").read_text(), re.DOTALL
    )
    monkeypatch.chdir(ROOT / "demo")
    exec(compile(code, "docs/tracking.md", "exec"), {})
    assert capsys.readouterr().out == "in: 1 out: 0\n"
