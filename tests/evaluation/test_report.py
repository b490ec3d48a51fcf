import json
from dataclasses import replace
from pathlib import Path

import pytest

from flowdet.evaluation.compute import AllMetrics
from flowdet.evaluation.report import (
    Counts,
    Evaluation,
    SystemRow,
    headline_rows,
    percent,
    to_json,
    to_markdown,
    write_json,
)
from flowdet.metrics.average_precision import Metrics
from flowdet.metrics.intervals import Interval

COCO = Metrics(
    "coco",
    {"AP": 1 / 3, "AP50": 0.6641, "AP75": None},
    {"AP50": {"cat": 0.6641, "dog": None}, "AP": {"cat": 1 / 3, "dog": None}},
    {"bbox_mAP": 1 / 3, "bbox_mAP_50": 0.6641},
)
ILSVRC = Metrics("ilsvrc", {"mAP": 0.7}, {"AP": {"cat": 0.7, "dog": None}}, {"mAP": 0.7})
LINKED = Metrics("coco", {"AP": 0.4, "AP50": 0.65, "AP75": 0.1}, {}, {"bbox_mAP": 0.4})
ROW = SystemRow("R-50-DC5", "pytorch", "7e", 4.1, 0.125, "cpu, one process", "fgfa-r50", "[model](https://a.b/c|d.pth)")
EVALUATION = Evaluation(
    "fgfa-r50 on val.json",
    Counts(2, 30, 40, 500),
    AllMetrics({"coco": COCO, "ilsvrc": ILSVRC}),
    {"device": "cpu"},
    ("3 detections were left out: fox 3.",),
    ROW,
)


def table_after(markdown: str, title: str) -> list[list[str]]:
    """The rows of the first table after these words, its titles first."""
    lines = markdown[markdown.index(title) :].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    assert set(rows[1]) == {"---"}
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize(("value", "text"), [(0.66449, "66.4"), (0.0, "0.0"), (1.0, "100.0"), (None, "-")])
def test_percent(value: float | None, text: str) -> None:
    assert percent(value) == text


def test_every_figure_has_its_protocol_beside_it() -> None:
    titles, rows = headline_rows(EVALUATION.metrics)
    assert titles == ["protocol", "metric", "percent"]
    assert rows == [
        ["coco", "AP", "33.3"],
        ["coco", "AP50", "66.4"],
        ["coco", "AP75", "-"],
        ["ilsvrc", "mAP", "70.0"],
    ]


def test_intervals_seq_nms_and_differences_are_columns() -> None:
    metrics = AllMetrics(
        {"coco": COCO},
        intervals={"coco": {"AP50": Interval(0.6641, 0.5, 0.8)}},
        seq_nms={"coco": LINKED},
        versus={"coco": {"AP50": Interval(-0.02, -0.05, 0.01)}},
    )
    titles, rows = headline_rows(metrics)
    assert [len(row) for row in rows] == [len(titles)] * 3
    assert dict(zip(titles, rows[1], strict=True)) == {
        "protocol": "coco",
        "metric": "AP50",
        "percent": "66.4",
        "95 % interval": "50.0 to 80.0",
        "with Seq-NMS": "65.0",
        "change": "-1.4",
        "better than the other by": "-2.0",
        "95 % interval of that": "-5.0 to 1.0",
    }
    assert rows[2] == ["coco", "AP75", "-", "-", "10.0", "-", "-", "-"]
    assert rows[0][5] == "+6.7"


def test_markdown_has_the_columns_of_the_published_tables() -> None:
    titles, row = table_after(to_markdown(EVALUATION), "# fgfa-r50 on val.json")
    assert dict(zip(titles, row, strict=True)) == {
        "Backbone": "R-50-DC5",
        "Style": "pytorch",
        "Lr schd": "7e",
        "Mem (GB)": "4.10",
        "Inf time (fps)": "8.0",
        "AP50 (coco)": "66.4",
        "Config": "fgfa-r50",
        "Download": r"[model](https://a.b/c\|d.pth)",
    }


def test_markdown_says_what_is_not_known_with_a_dash() -> None:
    unknown = replace(ROW, style="", schedule="", memory_gb=None)
    _, row = table_after(to_markdown(replace(EVALUATION, row=unknown)), "# ")
    assert row[1:4] == ["-", "-", "-"]


def test_markdown_has_every_class_with_a_figure_by_protocol() -> None:
    text = to_markdown(EVALUATION)
    assert table_after(text, "## Classes, `coco`") == [["class", "AP50", "AP"], ["cat", "66.4", "33.3"]]
    assert table_after(text, "## Classes, `ilsvrc`") == [["class", "AP"], ["cat", "70.0"]]
    assert "2 videos, 30 frames, 40 boxes, 500 detections" in text
    assert "- 3 detections were left out: fox 3." in text
    assert "on cpu, one process" in text


@pytest.mark.parametrize(
    ("metrics", "title", "value"),
    [
        ({"ilsvrc": ILSVRC}, "AP50 (ilsvrc)", "70.0"),
        ({"ilsvrc-motion": Metrics("ilsvrc-motion", {"all": 0.2}, {}, {})}, "AP50 (ilsvrc-motion)", "20.0"),
    ],
)
def test_the_published_column_names_its_protocol(metrics: dict[str, Metrics], title: str, value: str) -> None:
    titles, row = table_after(to_markdown(replace(EVALUATION, metrics=AllMetrics(metrics))), "# ")
    assert row[titles.index(title)] == value


def test_a_result_of_an_unknown_system_has_no_published_table() -> None:
    assert "Backbone" not in to_markdown(replace(EVALUATION, row=None))


def test_json_holds_every_figure_unrounded(tmp_path: Path) -> None:
    metrics = AllMetrics(
        {"coco": COCO, "ilsvrc": ILSVRC},
        intervals={"coco": {"AP50": Interval(0.6641, 1 / 7, 0.8)}},
        seq_nms={"coco": LINKED},
        versus={"coco": {"AP50": Interval(-0.02, -0.05, 0.01)}},
    )
    write_json(tmp_path / "evaluation.json", replace(EVALUATION, metrics=metrics))
    found = json.loads((tmp_path / "evaluation.json").read_text())
    assert found["coco"] == {"bbox_mAP": 1 / 3, "bbox_mAP_50": 0.6641}
    assert found["ilsvrc"] == {"mAP": 0.7}
    assert found["intervals"] == {"coco": {"AP50": {"value": 0.6641, "low": 1 / 7, "high": 0.8}}}
    assert found["seq_nms"] == {"coco": {"bbox_mAP": 0.4}}
    assert found["versus"]["coco"]["AP50"]["low"] == -0.05
    assert found["data"] == {"videos": 2, "frames": 30, "boxes": 40, "detections": 500}
    assert found["seconds_per_frame"] == 0.125
    assert found["settings"] == {"device": "cpu"}
    assert found["notes"] == ["3 detections were left out: fox 3."]
    assert to_json(replace(EVALUATION, row=None))["seconds_per_frame"] is None
