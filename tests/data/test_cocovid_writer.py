from collections.abc import Sequence
from pathlib import Path

import pytest

from flowdet.data.cocovid import find_problems
from flowdet.data.cocovid_writer import CocoVIDWriter, Written, problems_path, writing_cocovid
from flowdet.data.reading import read_json
from flowdet.errors import ConfigError, DataError

CLASSES = [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
IMAGE = {"id": 1, "file_name": "a.jpg", "height": 4, "width": 6}
BOX = {"category_id": 2, "bbox": [0, 1, 2, 3]}


def write(path: Path, problems: Sequence[str] = (), *, strict: bool = False, error: Exception | None = None) -> Written:
    with writing_cocovid(path, categories=CLASSES, strict=strict) as writer:
        fill(writer)
        for problem in problems:
            writer.problem("kind", problem)
        if error:
            raise error
    return writer.written()


def fill(writer: CocoVIDWriter) -> None:
    writer.image({**IMAGE, "video_id": 1, "frame_id": 0, "is_vid_train_frame": False}, [BOX, BOX])
    writer.image({**IMAGE, "id": 3, "video_id": 1, "frame_id": 1}, [])
    writer.image({**IMAGE, "id": 4}, [{**BOX, "category_id": 1}])


def test_a_document_and_its_counts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "d.json"
    with writing_cocovid(path, categories=CLASSES, videos=[{"id": 1, "name": "v"}]) as writer:
        fill(writer)
        writer.remark("left out", 2)
        writer.remark("left out")
        assert not path.exists()
    document = read_json(path)
    assert list(document) == ["categories", "videos", "images", "annotations"]
    assert list(find_problems(document)) == []
    assert document["annotations"] == [
        {"id": 1, "video_id": 1, "image_id": 1, **BOX},
        {"id": 2, "video_id": 1, "image_id": 1, **BOX},
        {"id": 3, "image_id": 4, **BOX, "category_id": 1},
    ]
    written = writer.written()
    assert (written.path, written.videos, written.images, written.objects) == (path, 1, 3, 3)
    assert (written.training_images, written.empty_images) == (2, 1)
    assert written.objects_per_class == {"cat": 1, "dog": 2}
    assert written.remarks == {"left out": 3}
    assert [file.name for file in path.parent.iterdir()] == ["d.json"]


def test_no_videos_no_objects(tmp_path: Path) -> None:
    with writing_cocovid(tmp_path / "d.json", categories=CLASSES) as writer:
        writer.image(IMAGE, [])
    assert read_json(tmp_path / "d.json") == {"categories": CLASSES, "images": [IMAGE], "annotations": []}


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text("before")
    with pytest.raises(ZeroDivisionError):
        write(path, error=ZeroDivisionError())
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_problems_are_listed_beside_the_file_until_there_are_none(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    written = write(path, ["one is wrong", "two is wrong"])
    assert problems_path(path) == tmp_path / "d.problems.txt"
    assert problems_path(path).read_text() == "one is wrong\ntwo is wrong\n"
    assert [problem.kind for problem in written.problems] == ["kind", "kind"]
    write(path)
    assert not problems_path(path).exists()


def test_strict_writes_nothing_but_the_list(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    message = r"d\.json was not written: there are problems .*: n0 is wrong; n1 is wrong; n2 is wrong; and 2 more"
    with pytest.raises(DataError, match=message):
        write(path, [f"n{number} is wrong" for number in range(5)], strict=True)
    assert [file.name for file in tmp_path.iterdir()] == ["d.problems.txt"]
    write(path, strict=True)
    assert path.exists()


def test_nothing_to_write(tmp_path: Path) -> None:
    with (
        pytest.raises(DataError, match=r"there is no image to write .*: all is wrong"),
        writing_cocovid(tmp_path / "d.json", categories=CLASSES) as writer,
    ):
        writer.problem("kind", "all is wrong")
    assert not (tmp_path / "d.json").exists()


def test_another_suffix_and_a_folder_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"written to a \.json file"), writing_cocovid(tmp_path / "d", categories=[]):
        pass
    (tmp_path / "file").touch()
    with (
        pytest.raises(DataError, match="cannot be written"),
        writing_cocovid(tmp_path / "file" / "d.json", categories=CLASSES),
    ):
        pass


def test_a_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"folder\.json is a folder"):
        write(tmp_path / "folder.json")
    assert [path.name for path in tmp_path.iterdir()] == ["folder.json"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "d.json").symlink_to(tmp_path / "target.json")
    write(tmp_path / "d.json")
    assert (tmp_path / "d.json").is_symlink()
    assert len(read_json(tmp_path / "target.json")["images"]) == 3


def test_what_a_reader_would_refuse_is_a_problem_and_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    with writing_cocovid(path, categories=CLASSES) as writer:
        writer.image(IMAGE, [BOX, BOX | {"bbox": [0, 0, 1e308, 1e308]}, BOX | {"area": float("inf")}, BOX])
        writer.image(IMAGE | {"id": 2, "width": 2**31}, [BOX])
        writer.image(IMAGE | {"id": 3}, [BOX | {"instance_id": 2**63}])
    written = writer.written()
    assert (written.images, written.objects, written.empty_images) == (2, 2, 1)
    assert [problem.kind for problem in written.problems] == [
        "annotation with a wrong box",
        "annotation with a wrong area",
        "image with a wrong width",
        "annotation with a wrong instance_id",
    ]
    assert list(find_problems(read_json(path))) == []
    with pytest.raises(DataError, match="there are no categories"), writing_cocovid(path, categories=[]):
        pass
    wrong = [{"id": 1, "name": "a\x1b[2J"}]
    with pytest.raises(DataError, match="cannot be printed"), writing_cocovid(path, categories=wrong):
        pass
