"""What the exporters write, the importers read back; and a person's way from detections to a trained system."""

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.labelled_sources import read_labels
from flowdet.errors import DataError
from flowdet.video.writer import VideoWriter
from tests.command import exit_code
from tests.data.annotated import Drawing

# (frame, track or None, label, box xywh px)
Rows = list[tuple[int, int | None, int, list[float]]]
ROWS: Rows = [
    (0, 3, 1, [4.125, 6, 20.5, 10]),
    (0, 7, 0, [30, 20, 10, 12.25]),
    (1, 3, 1, [5.125, 6, 20.5, 10]),
    (3, 3, 1, [7, 6.5, 20, 10]),  # a gap of one frame
    (4, 7, 0, [33, 20, 10, 12]),
]


def call(*arguments: object) -> None:
    assert exit_code(*arguments) == 0


def detections(folder: Path, rows: Rows = ROWS, *, tracks: bool = True, lines: bool = False) -> Path:
    """A result of `flowdet detect` for 6 frames of 64x48 px."""
    path = folder / ("clip.jsonl" if lines else "clip.json")
    classes = [{"id": 1, "name": "cat"}, {"id": 2, "name": "no"}]
    video = {"name": "clip", "width": 64, "height": 48, "fps": 25.0}
    settings = {"source": "/somewhere/clip.mp4"}
    if lines:
        header = {"format": "flowdet detections", "version": 2}
        written: list[Any] = [{**header, "video": video, "categories": classes, "settings": settings}]
        for frame in range(6):
            own = [row for row in rows if row[0] == frame]
            boxes = [[x, y, x + w, y + h] for *_, (x, y, w, h) in own]
            place = {"frame_index": frame, "time": frame / 25, "width": 64, "height": 48, "boxes": boxes}
            ids = [row[2] + 1 for row in own]
            place |= {"track_ids": [-1 if row[1] is None else row[1] for row in own]} if tracks else {}
            written.append({**place, "scores": [0.75] * len(own), "category_ids": ids})
        written.append({"complete": True, "frames": 6, "problems": []})
        path.write_text("".join(json.dumps(line) + "\n" for line in written))
        return path
    images = [
        {
            "id": n + 1,
            "video_id": 1,
            "frame_id": n,
            "file_name": f"clip/{n:06d}",
            "time": n / 25,
            "width": 64,
            "height": 48,
        }
        for n in range(6)
    ]
    annotations = []
    for number, (frame, track, label, box) in enumerate(rows, start=1):
        own_track = {"track_id": track} if tracks and track is not None else {}
        place = {"id": number, "image_id": frame + 1, "category_id": label + 1, "bbox": box, "score": 0.75}
        annotations.append({**place, **own_track})
    document = {"info": {"complete": True, "settings": settings}, "videos": [{"id": 1, **video}], "categories": classes}
    path.write_text(json.dumps({**document, "images": images, "annotations": annotations}))
    return path


def clip(folder: Path) -> Path:
    path = folder / "clip.mp4"
    with VideoWriter(path, (48, 64), 25.0) as writer:
        for frame in range(6):
            writer.write(np.full((48, 64, 3), 40 * frame, np.uint8), frame / 25)
    return path


def rows_of(data: CocoVID) -> Rows:
    found = []
    objects = data.objects
    for image, label, box, track in zip(objects.images, objects.labels, objects.boxes, objects.tracks, strict=True):
        x1, y1, x2, y2 = box.tolist()
        sides = [round(side, 3) for side in (x1, y1, x2 - x1, y2 - y1)]
        frame = data.images[image].frame
        assert frame is not None
        found.append((frame, None if track < 0 else int(track), int(label), sides))
    return sorted(found, key=lambda row: (row[0], -row[2]))


def scores_of(path: Path) -> set[float | None]:
    return {entry.get("score") for entry in json.loads(path.read_text())["annotations"]}


IMPORTS: dict[str, tuple[str, ...]] = {
    "cvat": ("import-cvat", "{out}/annotations.xml"),
    "label-studio": ("import-label-studio", "{out}/tasks.json"),
    "mot": ("import-mot", "{out}", "--classes", "cat,no"),
    "yolo": ("import-yolo", "{out}"),
    "yolo-tracks": ("import-yolo", "{out}"),
}


@pytest.mark.parametrize("tracks", [True, False])
@pytest.mark.parametrize("to", ["coco", *IMPORTS])
def test_there_and_back_again(to: str, tracks: bool, tmp_path: Path) -> None:
    result, video, out, back = (
        detections(tmp_path, tracks=tracks),
        clip(tmp_path),
        tmp_path / "out",
        tmp_path / "b.json",
    )
    if to == "coco":
        back = tmp_path / "coco" / "labels.json"
        call("data", "export", result, "--to", to, "--out", back, "--images", video)
    else:
        call("data", "export", result, "--to", to, "--out", out, "--images", video)
        command, *rest = IMPORTS[to]
        images = ["--images", out] if to == "cvat" else []
        call("data", command, *(part.format(out=out) for part in rest), "--out", back, "--strict", *images)
    data = read_cocovid(back)
    has_tracks = tracks and to != "yolo"
    assert data.class_names == ("cat", "no")
    assert rows_of(data) == [(f, t if has_tracks else None, label, box) for f, t, label, box in ROWS]
    assert [image.frame for image in data.images] == list(range(6))
    assert [video.name for video in data.videos] == ["clip"]
    assert scores_of(back) == ({0.75} if to in ("coco", "cvat", "label-studio") else {None})
    folder = back.parent if to == "coco" else out
    assert all((folder / image.file_name).is_file() for image in data.images)
    call("data", "check", back, "--images", folder, "--decode")


@pytest.mark.parametrize("tracks", [True, False])
def test_json_lines_are_read_as_json(tracks: bool, tmp_path: Path) -> None:
    lines, document = (detections(tmp_path, tracks=tracks, lines=lines) for lines in (True, False))
    assert read_labels([lines]) == read_labels([document])


def test_json_lines_of_version_1_are_read_as_those_of_version_2(tmp_path: Path) -> None:
    new, old = detections(tmp_path, lines=True), tmp_path / "old" / "clip.jsonl"
    first, *rest = map(json.loads, new.read_text().splitlines())
    written = [{key: value for key, value in first.items() if key not in ("format", "version")}]
    for line in rest:
        labels = {"labels": [number - 1 for number in line.pop("category_ids")]} if "boxes" in line else {}
        written.append(line | labels)
    old.parent.mkdir()
    old.write_text("".join(json.dumps(line) + "\n" for line in written))
    assert read_labels([old]) == read_labels([new])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"scores": [0.75', '"scores": [true', "line 2: a detection needs a finite number as its score"),
        ('"boxes": [[4.125', '"boxes": [[1e999', "line 2: a detection has no box"),
        ('"category_ids": [2', '"category_ids": [3', "line 2: a detection is of class 3"),
    ],
)
def test_json_lines_are_checked_as_for_an_evaluation(old: str, new: str, message: str, tmp_path: Path) -> None:
    path = detections(tmp_path, lines=True)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(DataError, match=message):
        read_labels([path])


def test_what_a_format_cannot_hold_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawing = Drawing(tmp_path / "set")
    drawing.video([0, 1])
    still = drawing.still(file_name="../a:b.png", write=False)
    drawing.box(still, (60, 40, 20, 20))  # beyond the edge
    drawing.box(still, (70, 40, 20, 20))  # outside
    drawing.box(1, (0, 0, 64, 48), iscrowd=1)
    drawing.read()
    source = tmp_path / "set" / "data.json"
    call("data", "export", source, "--to", "yolo", "--out", tmp_path / "yolo")
    assert (tmp_path / "yolo" / "labels" / "stills" / "a_b.txt").read_text().split("\n")[1] == (
        "0 0.96875000 0.91666667 0.06250000 0.16666667"
    )
    call("data", "export", source, "--to", "mot", "--out", tmp_path / "mot")
    assert (tmp_path / "mot" / "video 1" / "gt" / "gt.txt").read_text().split() == [
        "1,0,5,7,20,10,1,1,1",
        "1,-1,1,1,64,48,0,1,1",
        "2,0,5,7,20,10,1,1,1",
    ]
    told = capsys.readouterr().out
    assert "regions with many objects (iscrowd), left out: 1" in told
    assert "boxes outside the picture, left out: 1" in told
    assert "stills, left out: 1" in told
    assert exit_code("data", "export", source, "--to", "mot", "--out", tmp_path / "mot") == 1
    assert "is not empty: name a new folder" in capsys.readouterr().err


def test_an_object_that_was_corrected_in_cvat_is_trained_on(tmp_path: Path) -> None:
    out, corrected = tmp_path / "cvat", tmp_path / "corrected.json"
    call("data", "export", detections(tmp_path), "--to", "cvat", "--out", out, "--images", clip(tmp_path))
    tree = ElementTree.parse(out / "annotations.xml")
    first, second = tree.getroot().findall("track")
    first.set("label", "cat")  # a wrong class
    tree.getroot().remove(second)  # a false alarm
    for box in first.findall("box"):
        box.set("xbr", "40")  # boxes that were too narrow
    tree.write(out / "annotations.xml")
    call("data", "import-cvat", out / "annotations.xml", "--out", out / "corrected.json", "--strict")
    data, corrected = read_cocovid(out / "corrected.json"), out / "corrected.json"
    assert {(row[1], row[2], row[3][0] + row[3][2]) for row in rows_of(data)} == {(3, 0, 40.0)}
    run = tmp_path / "run"
    call("train", "single-nano", "--data", corrected, "--out", run, "--epochs", 1, "--warm-up-steps", 0)
    assert (run / "weights.safetensors").is_file()
