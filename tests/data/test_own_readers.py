"""Exports in the eyes of the programs whose formats they are."""

from pathlib import Path
from typing import Any

import pytest

from tests.command import exit_code
from tests.data.test_exports import ROWS, detections


def export(tmp_path: Path, to: str, out: str) -> Path:
    assert exit_code("data", "export", str(detections(tmp_path)), "--to", to, "--out", str(tmp_path / out)) == 0
    return tmp_path / out


def test_coco(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    evaluation = pytest.importorskip("pycocotools.cocoeval")
    labels = coco.COCO(str(export(tmp_path, "coco", "labels.json")))
    found = [
        (labels.imgs[one["image_id"]]["frame_id"], one["instance_id"], one["category_id"] - 1, one["bbox"])
        for one in labels.loadAnns(labels.getAnnIds())
    ]
    assert found == ROWS
    assert [one["name"] for one in labels.loadCats(labels.getCatIds())] == ["cat", "no"]
    results = [
        {name: one[name] for name in ("image_id", "category_id", "bbox", "score")} for one in labels.anns.values()
    ]
    judged = evaluation.COCOeval(labels, labels.loadRes(results), "bbox")
    judged.evaluate()
    judged.accumulate()
    judged.summarize()
    assert judged.stats[0] == 1


def test_mot(tmp_path: Path) -> None:
    trackeval = pytest.importorskip("trackeval")
    folder = export(tmp_path, "mot", "mot")
    # What was found is judged against itself as annotated.
    (tmp_path / "trackers" / "flowdet").mkdir(parents=True)
    (tmp_path / "trackers" / "flowdet" / "clip.txt").write_text((folder / "clip" / "det" / "det.txt").read_text())
    data = trackeval.datasets.MotChallenge2DBox(
        {
            "GT_FOLDER": str(folder),
            "TRACKERS_FOLDER": str(tmp_path / "trackers"),
            "TRACKER_SUB_FOLDER": "",
            "SKIP_SPLIT_FOL": True,
            "SEQ_INFO": {"clip": None},
            "DO_PREPROC": False,
            "PRINT_CONFIG": False,
        }
    )
    raw: dict[str, Any] = data.get_raw_seq_data("flowdet", "clip")
    rows = [
        (frame, int(track), int(label) - 1, [box[0] - 1, box[1] - 1, box[2], box[3]])
        for frame, found in enumerate(zip(raw["gt_ids"], raw["gt_classes"], raw["gt_dets"], strict=True))
        for track, label, box in zip(*found, strict=True)
    ]
    assert [row[:3] for row in rows] == [row[:3] for row in ROWS]
    assert [row[3] for row in rows] == [pytest.approx(row[3]) for row in ROWS]
    assert raw["num_timesteps"] == 6
    assert [list(ids) for ids in raw["tracker_ids"]] == [list(ids) for ids in raw["gt_ids"]]
