import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowdet.data.cocovid import find_problems
from flowdet.data.cocovid_writer import Written
from flowdet.data.mot import MOT17_CLASSES, import_mot
from flowdet.errors import DataError

ROWS = (
    "1,2,11,21,30,40,1,1,0.5",
    "3, 2, 12.5, 21, 30, 40, 1, 1, 1",
    "1,5,1,1,10,10,0,7,1",
    "3,9,1,1,10.25,10,1,3,0",
    "",
)


def sequence(folder: Path, *rows: str, frames: int = 3, info: str | None = "imDir=img1\nseqLength=3") -> Path:
    for number in range(1, frames + 1):
        path = folder / "img1" / f"{number:06d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 48)).save(path)
    (folder / "gt").mkdir()
    (folder / "gt" / "gt.txt").write_text("\n".join(rows))
    if info is not None:
        (folder / "seqinfo.ini").write_text(f"[Sequence]\nname=x\n{info}\nimWidth=64\nimHeight=48\n")
    return folder


def run(root: Path, **options: Any) -> tuple[dict[str, Any], Written]:
    written = import_mot(root, root / "out.json", **options)
    document: dict[str, Any] = json.loads(written.path.read_text())
    assert list(find_problems(document)) == []
    return document, written


def test_a_sequence(tmp_path: Path) -> None:
    document, written = run(sequence(tmp_path / "MOT17-02", *ROWS))
    assert document["categories"] == [{"id": 1, "name": "pedestrian"}, {"id": 2, "name": "car"}]
    assert document["videos"] == [{"id": 1, "name": "MOT17-02"}]
    assert document["images"][2] == {
        "file_name": "img1/000003.jpg",
        "height": 48,
        "width": 64,
        "id": 3,
        "frame_id": 2,
        "video_id": 1,
    }
    assert document["annotations"][0] == {
        "id": 1,
        "video_id": 1,
        "image_id": 1,
        "category_id": 1,
        "instance_id": 2,
        "bbox": [10, 20, 30, 40],
        "area": 1200,
        "iscrowd": False,
        "visibility": 0.5,
    }
    assert [(box["image_id"], box["category_id"], box["bbox"]) for box in document["annotations"][1:]] == [
        (3, 1, [11.5, 20, 30, 40]),
        (3, 2, [0, 0, 10.25, 10]),
    ]
    assert written.remarks == {"rows marked as ignored, left out": 1}
    assert (written.problems, written.empty_images) == ((), 1)


def test_a_folder_of_sequences(tmp_path: Path) -> None:
    sequence(tmp_path / "B-FRCNN", *ROWS)
    sequence(tmp_path / "A-FRCNN", "1,1,1,1,5,5,1,4,1", info=None)
    sequence(tmp_path / "A-DPM", "1,1,1,1,5,5,1,4,1")
    (tmp_path / "test-1" / "img1").mkdir(parents=True)
    done: list[int] = []
    document, written = run(tmp_path, only="*-FRCNN", progress=done.append)
    assert done == [1, 2]
    assert [video["name"] for video in document["videos"]] == ["A-FRCNN", "B-FRCNN"]
    assert [category["name"] for category in document["categories"]] == ["pedestrian", "car", "bicycle"]
    assert document["images"][3]["file_name"] == "B-FRCNN/img1/000001.jpg"
    assert [image["id"] for image in document["images"]] == [1, 2, 3, 4, 5, 6]
    assert written.objects_per_class == {"pedestrian": 2, "car": 1, "bicycle": 1}
    assert len(run(tmp_path)[0]["videos"]) == 3
    with pytest.raises(DataError, match=r"--only 'X\*' fits none of 3 folders"):
        run(tmp_path, only="X*")


def test_classes_that_are_given_or_in_a_file(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", "1,1,1,1,5,5,1,2,1")
    document, _ = run(folder, classes=["person", "bus", "tram"])
    assert [category["name"] for category in document["categories"]] == ["person", "bus", "tram"]
    assert document["annotations"][0]["category_id"] == 2
    (folder / "gt" / "labels.txt").write_text("dog\nfox\n")
    document, _ = run(folder)
    assert document["categories"] == [{"id": 1, "name": "fox"}]
    with pytest.raises(DataError, match="the class 'a' is there more than once; name the classes with --classes"):
        run(folder, classes=["a", "a"])
    (folder / "gt" / "labels.txt").write_text("dog\n\nfox\n")
    with pytest.raises(DataError, match=r"labels\.txt: .* came an empty one; name the classes with --classes"):
        run(folder)


def test_rows_without_classes_as_in_mot15(tmp_path: Path) -> None:
    document, _ = run(sequence(tmp_path / "s", "1,1,1,1,5,5,1,-1,-1,-1", "1,-1,1,1,5,5,1"))
    assert [category["name"] for category in document["categories"]] == ["pedestrian"]
    first, second = document["annotations"]
    assert first["instance_id"] == 1
    assert "visibility" not in first
    assert "instance_id" not in second


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            "1,2,11,21,30,40",
            "expected the columns frame, track, left, top, width, height, active, class, visibility, but",
        ),
        ("1,2,11,21,30,40,1,1,1,1,1", "but there are 11"),
        ("0,2,11,21,30,40,1,1,1", "frames and tracks are whole numbers, frames from 1"),
        ("1.5,2,11,21,30,40,1,1,1", "frames and tracks are whole numbers, frames from 1"),
        ("1,2e300,11,21,30,40,1,1,1", "frames and tracks are whole numbers, frames from 1"),
        ("4,2,11,21,30,40,1,1,1", "there is no picture of frame 4"),
        ("1,2,11,21,-30,40,1,1,1", "the size of a box is not negative, as -30x40 is"),
        ("1,2,11,21,30,40,1,14,1", "the class is a number from 1 to 13, not 14"),
        ("1,2,11,21,30,40,1,0,1", "the class is a number from 1 to 13, not 0"),
        ("1,2,nan,21,30,40,1,1,1", "'nan' is no number"),
        ("1,2,a,21,30,40,1,1,1", "'a' is no number"),
    ],
)
def test_bad_rows_are_named_and_left_out(row: str, reason: str, tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", ROWS[0], "", row)
    document, written = run(folder)
    (problem,) = written.problems
    assert problem.kind == "row that cannot be used"
    assert f"{folder / 'gt' / 'gt.txt'}, line 3: " in problem.sentence
    assert reason in problem.sentence
    assert repr(row) in problem.sentence
    assert len(document["annotations"]) == 1
    with pytest.raises(DataError, match="line 3"):
        run(folder, strict=True)


def test_a_missing_picture_shifts_nothing(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", *ROWS)
    (folder / "img1" / "000002.jpg").unlink()
    document, written = run(folder)
    assert [image["frame_id"] for image in document["images"]] == [0, 2]
    assert [box["image_id"] for box in document["annotations"]] == [1, 2, 2]
    (problem,) = written.problems
    assert "says 3 frames" in problem.sentence
    assert "holds 2 pictures" in problem.sentence


def test_pictures_that_are_not_numbered(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", ROWS[1], info=None)
    for number in range(1, 4):
        (folder / "img1" / f"{number:06d}.jpg").rename(folder / "img1" / f"image{number + 4}.jpg")
    document, _ = run(folder)
    assert document["images"][document["annotations"][0]["image_id"] - 1]["file_name"] == "img1/image7.jpg"


def test_sequences_that_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        run(tmp_path / "none")
    with pytest.raises(DataError, match=r"nor a folder in it has a gt/gt\.txt$"):
        run(tmp_path)
    with pytest.raises(DataError, match=r"no row of any gt/gt\.txt can be used: all are marked"):
        run(sequence(tmp_path / "ignored", ROWS[2]))
    with pytest.raises(DataError, match=r"no row of any gt/gt\.txt can be used: .*line 1"):
        run(sequence(tmp_path / "bad", "x"))
    with pytest.raises(DataError, match="imDir is the name of a folder beside the file"):
        run(sequence(tmp_path / "away", *ROWS, info="imDir=../x"))
    with pytest.raises(DataError, match="imDir is the name of a folder beside the file"):
        run(sequence(tmp_path / "above", *ROWS, info="imDir=.."))
    with pytest.raises(DataError, match=r"seqinfo\.ini cannot be read"):
        run(sequence(tmp_path / "ini", *ROWS, info="seqLength=many"))
    with pytest.raises(DataError, match="cannot be read: No such file"):
        run(sequence(tmp_path / "lost", *ROWS, info="imDir=img2"))
    (tmp_path / "lost" / "img2").mkdir()
    with pytest.raises(DataError, match="img2 holds no picture"):
        run(tmp_path / "lost")
    folder = sequence(tmp_path / "damaged", *ROWS)
    (folder / "img1" / "000001.jpg").write_text("no picture")
    with pytest.raises(DataError, match=r"damaged.* cannot be read"):
        run(folder)


def test_the_thirteen_classes() -> None:
    assert len(set(MOT17_CLASSES)) == 13
    assert MOT17_CLASSES[0] == "pedestrian"
    assert MOT17_CLASSES[6] == "static_person"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_files_from_windows(encoding: str, tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", frames=3)
    lines = {"gt.txt": "1,1,1,1,5,5,1,1,1\r\n3,2,1,1,5,5,1,2,1\r\n", "labels.txt": "person\r\nd\u00f6g\r\n"}
    for name, content in lines.items():
        (folder / "gt" / name).write_text(content, encoding=encoding, newline="")
    info = "[Sequence]\r\nimDir=img1\r\nseqLength=3\r\n"
    (folder / "seqinfo.ini").write_text(info, encoding=encoding, newline="")
    document, written = run(folder)
    assert [category["name"] for category in document["categories"]] == ["person", "d\u00f6g"]
    assert [entry["image_id"] for entry in document["annotations"]] == [1, 3]
    assert written.problems == ()


def test_utf_16_is_named(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", *ROWS)
    (folder / "gt" / "gt.txt").write_text("1,1,1,1,5,5,1,1,1", encoding="utf-16")
    with pytest.raises(DataError, match=r"gt\.txt is UTF-16 or no text; save it as UTF-8"):
        run(folder)


def test_two_pictures_of_a_frame_are_refused(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", "3,1,1,1,5,5,1,1,1", info=None)
    (folder / "img1" / "000002.jpg").rename(folder / "img1" / "1.jpg")
    with pytest.raises(DataError, match="img1 has more than one picture of frame 1"):
        run(folder)


def test_numbers_that_are_too_large_are_no_frames(tmp_path: Path) -> None:
    folder = sequence(tmp_path / "s", "3,1,1,1,5,5,1,1,1", info=None)
    (folder / "img1" / "000002.jpg").rename(folder / "img1" / f"{10**20}.jpg")
    assert [image["frame_id"] for image in run(folder)[0]["images"]] == [0, 1, 2]
