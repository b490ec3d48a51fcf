"""Files of `flowdet detect` as results: matched by video and frame number, and classes by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.errors import ConfigError, DataError
from flowdet.evaluation.results_file import read_results, results_files
from flowdet.types import Detections
from flowdet.video.results import ResultsWriter

CATEGORIES = ("dog", "domestic_cat", "watercraft")
KNOWN = ("cat", "dog", "person")  # what the system finds
# Boxes xyxy by frame of "clip", with the class and the score.
FOUND: dict[int, list[tuple[tuple[float, ...], str, float]]] = {
    0: [((1, 2, 11, 22), "cat", 0.9), ((5, 5, 9, 9), "person", 0.8)],
    1: [],
    2: [((3.5, 4, 8, 9.25), "dog", 0.7)],
}


def data_set(folder: Path, names: tuple[str, ...] = ("val/clip", "val/other"), first: int = 0) -> CocoVID:
    """Videos of three frames of 64 x 48 px, whose ids and order are not those of results."""
    images = [
        {
            "id": 100 - 10 * video - frame,
            "video_id": video,
            "frame_id": frame + first,
            "file_name": f"{name}/{frame}.jpg",
        }
        | {"width": 64, "height": 48}
        for video, name in enumerate(names, start=1)
        for frame in range(3)
    ]
    document = {
        "categories": [{"id": 7 + number, "name": name} for number, name in enumerate(CATEGORIES)],
        "videos": [{"id": video, "name": name} for video, name in enumerate(names, start=1)],
        "images": images,
        "annotations": [],
    }
    (folder / "data.json").write_text(json.dumps(document))
    return read_cocovid(folder / "data.json")


class Clip:
    """What a results writer asks of a video."""

    name, size, fps, problems = "clip", (48, 64), 25.0, ()


def by_writer(path: Path) -> Path:
    with ResultsWriter(path, video=Clip(), class_names=KNOWN, settings={}) as writer:
        for frame, found in FOUND.items():
            boxes = np.array([box for box, _, _ in found], np.float32).reshape(-1, 4)
            labels = np.array([KNOWN.index(name) for _, name, _ in found], np.int64)
            scores = np.array([score for _, _, score in found], np.float32)
            writer.write(Detections(frame, frame / 25, boxes, scores, labels, KNOWN, (48, 64)))
    return path


def header(**more: Any) -> dict[str, Any]:
    categories = [{"id": number, "name": name} for number, name in enumerate(KNOWN, start=1)]
    return {
        "video": {"name": "clip", "width": 64, "height": 48, "fps": 25},
        "categories": categories,
        "settings": {},
    } | more


def lines(version: int, frames: dict[int, Any] = FOUND) -> list[dict[str, Any]]:
    """JSON lines: version 1 counts classes from 0, version 2 has the category ids of the header."""
    made = [header() if version == 1 else header(format="flowdet detections", version=version)]
    for frame, found in frames.items():
        labels = [KNOWN.index(name) for _, name, _ in found]
        classes = {"labels": labels} if version == 1 else {"category_ids": [label + 1 for label in labels]}
        boxes, scores = [box for box, _, _ in found], [score for _, _, score in found]
        made.append(
            {"frame_index": frame, "time": 0.0, "width": 64, "height": 48, "boxes": boxes, "scores": scores} | classes
        )
    return [*made, {"complete": True, "frames": len(frames), "problems": []}]


def write_lines(path: Path, content: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in content))
    return path


def found_of(data: CocoVID, path: Path, **options: Any) -> list[tuple[Any, ...]]:
    """File name, class, box and score of each detection."""
    table = read_results(path, data, **options).table
    return [
        (data.images[image].file_name, data.class_names[label], tuple(box), round(score, 6))
        for image, label, box, score in zip(table.images, table.labels, table.boxes.tolist(), table.scores, strict=True)
    ]


EXPECTED = [
    ("val/clip/0.jpg", "domestic_cat", (1, 2, 11, 22), 0.9),
    ("val/clip/2.jpg", "dog", (3.5, 4, 8, 9.25), 0.7),
]
MAKERS: dict[str, Callable[[Path], Path]] = {
    "json": lambda folder: by_writer(folder / "clip.json"),
    "jsonl": lambda folder: by_writer(folder / "clip.jsonl"),
    "version 1": lambda folder: write_lines(folder / "clip.jsonl", lines(1)),
    "version 2": lambda folder: write_lines(folder / "clip.jsonl", lines(2)),
}
EVERY_FORMAT = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


@EVERY_FORMAT
def test_frames_and_classes_are_matched_and_what_is_not_is_said(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data = data_set(tmp_path)
    path = make(tmp_path)
    assert found_of(data, path) == EXPECTED
    results = read_results(path, data)
    assert results.class_names == KNOWN
    assert results.renamed == {"cat": "domestic_cat"}
    assert results.left_out == {"person": 1}
    assert results.notes == ("3 of 6 frames of data.json have no results: their objects are missed.",)


@EVERY_FORMAT
def test_frames_that_are_not_annotated_are_left_out_and_named(make: Callable[[Path], Path], tmp_path: Path) -> None:
    data_set(tmp_path)
    document = json.loads((tmp_path / "data.json").read_text())
    document["images"] = [image for image in document["images"] if image["frame_id"] != 0]
    (tmp_path / "data.json").write_text(json.dumps(document))
    data = read_cocovid(tmp_path / "data.json")
    path = make(tmp_path)
    assert found_of(data, path) == EXPECTED[1:]
    first = read_results(path, data).notes[0]
    assert "1 of 3 frames are not in data.json, so that their 2 detections were left out: clip frame 0." in first


def test_a_data_set_that_counts_from_1_is_seen(tmp_path: Path) -> None:
    data = data_set(tmp_path, first=1)
    assert found_of(data, by_writer(tmp_path / "clip.json")) == EXPECTED
    # Part of a video says nothing about where the data set begins to count.
    part = write_lines(tmp_path / "clip.jsonl", lines(2, {frame: FOUND[frame] for frame in (1, 2)}))
    assert [one[0] for one in found_of(data, part)] == ["val/clip/1.jpg"]


def test_keys_in_another_order(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    path = by_writer(tmp_path / "clip.json")
    document = json.loads(path.read_text())
    assert list(document) != sorted(document)
    path.write_text(json.dumps(document, sort_keys=True))
    assert found_of(data, path) == EXPECTED


def test_several_files_and_their_folder(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    folder = tmp_path / "found"
    folder.mkdir()
    one = by_writer(folder / "clip.json")
    renamed = lines(2)
    renamed[0]["video"]["name"] = "other"
    other = write_lines(folder / "other.jsonl", renamed)
    (folder / "third.json.partial.jsonl").write_text("{")
    assert results_files(folder) == [one, other]
    results = read_results([one, other], data)
    assert len(results.table) == 4
    assert results.left_out == {"person": 2}
    assert results.notes == ()
    with pytest.raises(DataError, match=r"image 90 of .*data.json has results already, in .*clip.json"):
        read_results([one, one], data)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"clip.csv is a table: expected .* name clip.jsonl beside it"):
        results_files(Path("clip.csv"))
    with pytest.raises(DataError, match=r"empty has no results: expected .json or .jsonl files"):
        results_files(tmp_path / "empty")


def test_an_interrupted_run_is_said(tmp_path: Path) -> None:
    data = data_set(tmp_path, ("clip",))
    for content in (lines(2)[:-1], [*lines(2)[:-1], {"complete": False, "frames": 3, "problems": []}]):
        notes = read_results(write_lines(tmp_path / "clip.jsonl", content), data).notes
        assert notes == ("clip.jsonl is not complete: the run that wrote it did not come to its end.",)


@EVERY_FORMAT
def test_a_threshold_of_the_scores_is_said(make: Callable[[Path], Path], tmp_path: Path) -> None:
    path = make(tmp_path)
    path.write_text(path.read_text().replace('"settings": {}', '"settings": {"score": 0.3}'))
    notes = read_results(path, data_set(tmp_path, ("clip",))).notes
    assert len(notes) == 1
    assert "lacks detections below a score of 0.3, which lowers AP" in notes[0]


def test_given_class_maps_come_first(tmp_path: Path) -> None:
    data = data_set(tmp_path)
    path = by_writer(tmp_path / "clip.json")
    assert [one[1] for one in found_of(data, path, class_map={"person": "watercraft", "cat": "dog"})] == [
        "dog",
        "watercraft",
        "dog",
    ]
    with pytest.raises(ConfigError, match="there is no class 'cow'"):
        read_results(path, data, class_map={"cow": "dog"})
    with pytest.raises(ConfigError, match="there is no class 'boat'; did you mean watercraft"):
        read_results(path, data, class_map={"person": "boat"})


@pytest.mark.parametrize("names", [("a/clip.mp4",), ("clip",), ("x/y/clip", "x/clip2")])
def test_names_of_videos_with_and_without_folder_and_suffix(names: tuple[str, ...], tmp_path: Path) -> None:
    data = data_set(tmp_path, names)
    assert len(read_results(by_writer(tmp_path / "clip.json"), data).table) == 2


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("a", "b"), r"none of its 3 frames, of video clip, is in .*data.json, whose videos are a, b"),
        (("a/clip", "b/clip"), r"its video 'clip' may be any of a/clip, b/clip"),
    ],
)
def test_videos_that_cannot_be_matched(names: tuple[str, ...], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        read_results(by_writer(tmp_path / "clip.json"), data_set(tmp_path, names))


def test_frames_of_another_size(tmp_path: Path) -> None:
    content = lines(2)
    content[1]["width"] = 640
    with pytest.raises(DataError, match=r"clip frame 0 has 640x48 px, and .*data.json says 64x48"):
        read_results(write_lines(tmp_path / "clip.jsonl", content), data_set(tmp_path))


def test_stills_are_matched_by_file_name(tmp_path: Path) -> None:
    data_set(tmp_path)
    document = json.loads((tmp_path / "data.json").read_text())
    document["videos"] = []
    for image in document["images"]:
        del image["video_id"], image["frame_id"]
    (tmp_path / "data.json").write_text(json.dumps(document))
    data = read_cocovid(tmp_path / "data.json")
    box = {"id": 1, "image_id": 3, "category_id": 2, "bbox": [1, 2, 3, 4], "score": 0.5}
    image = {"id": 3, "file_name": "val/other/1.jpg", "width": 64, "height": 48}
    content = {"categories": [{"id": 2, "name": "dog"}], "images": [image], "annotations": [box]}
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert found_of(data, tmp_path / "r.json") == [("val/other/1.jpg", "dog", (1, 2, 4, 6), 0.5)]


HUGE = 10**400


@pytest.mark.parametrize("make", [MAKERS["json"], MAKERS["version 1"], MAKERS["version 2"]])
@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("0.9", "true", "needs a finite number as its score, not True"),
        ("0.9", str(HUGE), "needs a finite number as its score, not 1000"),
        ("0.9", "1e999", "needs a finite number as its score, not inf"),
        ("0.9", "NaN", "needs a finite number as its score, not nan"),
        ("0.9", '"high"', "needs a finite number as its score, not high"),
        ("1, 2", "1e308, 2", "has no box"),
        ("1, 2", "true, 2", "has no box"),
        ("1, 2", f"{HUGE}, 2", "has no box"),
    ],
)
def test_implausible_numbers_are_refused_in_every_format(
    make: Callable[[Path], Path], old: str, new: str, message: str, tmp_path: Path
) -> None:
    path = make(tmp_path)
    text = path.read_text().replace("[1.0, 2.0", "[1, 2")
    assert text.count(old) == 1 or old == "1, 2"
    path.write_text(text.replace(old, new, 1) if old != "1, 2" else text.replace("[1, 2", f"[{new}", 1))
    with pytest.raises(DataError, match=rf"clip\.json.*: .* {message}"):
        read_results(path, data_set(tmp_path))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "is empty"),
        ([{"frame_index": 0}], "line 1 is not the header of a .jsonl file"),
        ([[1, 2]], "line 1 is not the header"),
        ([header(version=3)], "version 3 of the format, and this flowdet reads 1 and 2: update"),
        ([header(), {"frame_index": 0}], "line 2 is not a frame"),
        ([header(), 5], "line 2 is not a frame"),
        (
            [header(), lines(2)[1] | {"category_ids": [9, 1]}],
            "line 2: a detection is of class 9, which the header does not",
        ),
        ([header(), lines(1)[1] | {"labels": [0, 3]}], "line 2: a detection is of class 3, which the header does not"),
        ([header(), lines(1)[1] | {"labels": [0]}], "line 2 is not a frame"),
        ([header(), lines(2)[1] | {"track_ids": [0]}], "line 2 is not a frame .*1 track_ids for 2 boxes"),
        ([header(), lines(2)[1] | {"boxes": [[3, 1, 2, 4]] * 2}], "line 2: a detection has no box of finite x1 <= x2"),
        ([header(categories=[{"id": "1", "name": "cat"}])], "line 1 is not the header .*whole number as its id"),
    ],
)
def test_lines_that_are_not_those_of_detect(content: list[Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=rf"clip\.jsonl.*{message}"):
        read_results(write_lines(tmp_path / "clip.jsonl", content), data_set(tmp_path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": []}, "has no images"),
        ({"categories": []}, "has no categories"),
        ({"categories": [{"id": 1}]}, "is neither a COCO results file nor one of `flowdet detect`"),
        ({"videos": 5, "images": 7}, "has no images"),
        ({"videos": [3]}, "is neither a COCO results file"),
        (
            {"categories": [{"id": 9, "name": "dog"}]},
            "entry 0 .* is of an image or a category that the file does not list",
        ),
        (
            {"categories": [{"id": 1, "name": "chair"}, {"id": 2, "name": "a"}, {"id": 3, "name": "b"}]},
            "none of the system",
        ),
    ],
)
def test_documents_that_are_not_those_of_detect(change: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = by_writer(tmp_path / "clip.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=message):
        read_results(path, data_set(tmp_path))
