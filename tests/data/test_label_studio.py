import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from flowdet.data.cocovid import find_problems
from flowdet.data.cocovid_writer import Written
from flowdet.data.label_studio import export_label_studio, import_label_studio
from flowdet.data.labels import Box, LabelledVideo, Labels, Picture
from flowdet.data.shapes import numbered
from flowdet.errors import ConfigError, DataError


def key(frame: int, x: object = 10, *, enabled: bool = True, **more: object) -> dict[str, Any]:
    """A key frame as Label Studio writes it; frames count from 1, sides are percent."""
    return {"frame": frame, "enabled": enabled, "rotation": 0, "x": x, "y": 50, "width": 20, "height": 25, **more}


def region(name: str, label: str | None, *keys: dict[str, Any], frames: int = 6) -> dict[str, Any]:
    value = {
        "framesCount": frames,
        "duration": frames / 25,
        "sequence": [*keys],
        **({"labels": [label]} if label else {}),
    }
    return {"id": name, "type": "videorectangle", "from_name": "box", "to_name": "video", "value": value}


def task(*regions: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"id": 1, "data": {"video": "/data/upload/1/clip.mp4"}, "annotations": [{"result": [*regions]}], **more}


def run(folder: Path, *tasks: dict[str, Any], **options: Any) -> tuple[dict[str, Any], Written]:
    (folder / "images" / "clip").mkdir(parents=True, exist_ok=True)
    Image.new("L", (200, 100)).save(folder / "images" / "clip" / "000000.png")
    (folder / "tasks.json").write_text(json.dumps(tasks))
    written = import_label_studio([folder / "tasks.json"], folder / "out.json", **options)
    document: dict[str, Any] = json.loads(written.path.read_text())
    assert list(find_problems(document)) == []
    return document, written


def rows(document: dict[str, Any]) -> list[tuple[int, int | None, list[float]]]:
    """(frame, track, box) of every object."""
    frames = {image["id"]: image["frame_id"] for image in document["images"]}
    return [(frames[one["image_id"]], one.get("instance_id"), one["bbox"]) for one in document["annotations"]]


def test_a_lifespan_ends_with_the_key_frame_that_is_not_enabled(tmp_path: Path) -> None:
    keys = key(1), key(3, 30, enabled=False), key(5, 40, enabled=False)
    document, written = run(tmp_path, task(region("abc", "car", *keys)))
    assert rows(document) == [
        (0, 0, [20, 50, 40, 25]),
        (1, 0, [40, 50, 40, 25]),
        (2, 0, [60, 50, 40, 25]),
        (4, 0, [80, 50, 40, 25]),
    ]
    assert document["images"][5]["file_name"] == "images/clip/000005.png"
    assert document["videos"] == [{"id": 1, "name": "clip"}]
    assert written.remarks["boxes interpolated between those of the file"] == 1


def test_a_rectangle_that_stays_enabled_goes_on_to_the_end(tmp_path: Path) -> None:
    document, _ = run(tmp_path, task(region("abc", "car", key(4))))
    assert rows(document) == [(frame, 0, [20, 50, 40, 25]) for frame in (3, 4, 5)]


def test_the_newest_annotation_counts(tmp_path: Path) -> None:
    last = {"result": [region("b", "dog", key(1, enabled=False))], "updated_at": "2026-01-02"}
    first = {"result": [region("a", "car", key(1))], "updated_at": "2026-01-01"}
    cancelled = {"result": [region("a", "cat", key(1))], "updated_at": "2026-01-03", "was_cancelled": True}
    prediction = {"result": [region("p", "emu", key(1, enabled=False, score=0.5))]}
    document, written = run(tmp_path, task(annotations=[last, first, cancelled], predictions=[prediction]))
    assert [one["name"] for one in document["categories"]] == ["dog"]
    assert written.remarks["annotations of a task beside its newest one, left out"] == 1
    document, _ = run(tmp_path, task(annotations=[], predictions=[prediction]))
    assert [(one["category_id"], one["score"]) for one in document["annotations"]] == [(1, 0.5)]


def test_what_cannot_be_used_is_named(tmp_path: Path) -> None:
    regions = [
        region("a", "car", key(1, rotation=30), key(2, x="7", enabled=False), key(9), key(3, enabled=False)),
        region("b", None, key(1, enabled=False)),
        {"type": "choices", "value": {"choices": ["x"]}},
    ]
    document, written = run(tmp_path, task(*regions))
    assert [frame for frame, _, _ in rows(document)] == [2]
    assert written.remarks["shapes that are not upright boxes, left out"] == 1
    assert written.remarks["results that are no rectangles in a video, left out"] == 1
    where = f"{tmp_path / 'tasks.json'}, task 1"
    assert sorted(problem.sentence for problem in written.problems) == [
        f"{where}, frame 0: the task has no label ''",
        f"{where}: rectangle a, frame 2: a frame from 1 on, x, y, and a width and height of 0 or more were expected",
        f"{where}: rectangle a, frame 9: the video has no such frame",
    ]


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        ({}, "a list of tasks was expected"),
        ([{"video": "clip.mp4", "box": []}], '"JSON-MIN" is not read'),
        ([task()], "no rectangle in .* has a label"),
        ([task(), task(region("a", "car", key(1)))], "does not say how many frames its video has"),
        ([task(region("a", "car", key(1), frames=10**9))], "has 1000000000 frames, but .* holds only 0 files"),
    ],
)
def test_files_that_cannot_be_imported(document: Any, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match=reason):
        import_label_studio([tmp_path / "a.json"], tmp_path / "out.json")


def test_no_file_and_a_pattern_without_a_number(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one JSON file"):
        import_label_studio([], tmp_path / "out.json")
    with pytest.raises(ConfigError, match="holds %06d or %d once"):
        import_label_studio([tmp_path / "a.json"], tmp_path / "out.json", frames="x.png")


def test_every_second_frame_of_a_video_comes_back_with_its_number(tmp_path: Path) -> None:
    box = Box(0, (1.5, 2, 10.125, 9), track=4)
    pictures = tuple(
        Picture(f"{frame}.jpg", 64, 48, () if frame == 5 else (box,), frame=frame) for frame in (3, 5, 7, 9)
    )
    labels = Labels(("car & cart",), (LabelledVideo("a/b", pictures, fps=30.0, source="b c.mp4"),))
    done = export_label_studio(labels, tmp_path / "out")
    assert next(place for *_, place in done.pictures) == tmp_path / "out" / "images" / "a/b" / "000003.jpg"
    (found,) = json.loads((tmp_path / "out" / "tasks.json").read_text())
    assert (found["data"]["video"], found["data"]["fps"]) == ("/data/local-files/?d=b%20c.mp4", 30)
    (drawn,) = found["annotations"][0]["result"]
    assert [(one["frame"], one["enabled"]) for one in drawn["value"]["sequence"]] == [
        (4, False),
        (8, True),
        (10, False),
    ]
    tags = ElementTree.parse(tmp_path / "out" / "labels.xml").getroot()
    assert (drawn["from_name"], drawn["to_name"]) == (tags[2].get("name"), tags[1].get("name"))
    assert tags[0][0].get("value") == "car & cart"
    written = import_label_studio([tmp_path / "out" / "tasks.json"], tmp_path / "back.json")
    document = json.loads(written.path.read_text())
    assert document["videos"] == [{"id": 1, "name": "a/b", "fps": 30.0}]
    assert [image["frame_id"] for image in document["images"]] == [3, 5, 7, 9]
    assert rows(document) == [(frame, 4, [1.5, 2, 8.625, 7]) for frame in (3, 7, 9)]
    assert "boxes interpolated between those of the file" not in written.remarks


def test_stills_are_left_out(tmp_path: Path) -> None:
    still = LabelledVideo(None, (Picture("a.png", 64, 48, ()),))
    video = LabelledVideo("v", (Picture("0.png", 64, 48, (), frame=0),))
    assert export_label_studio(Labels(("a",), (still, video)), tmp_path / "out").remarks == {"stills, left out": 1}
    with pytest.raises(DataError, match="there is no video to write"):
        export_label_studio(Labels(("a",), (still,)), tmp_path / "other")


def test_numbered_names_differ_from_those_that_are_given() -> None:
    assert numbered(["cam-2", "cam", "cam", "cam"]) == ["cam-2", "cam", "cam-3", "cam-4"]
    assert numbered(["cam", "cam", "cam-2"]) == ["cam", "cam-2", "cam-2-2"]
