import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from flowdet.data.cocovid import find_faults, read_json
from flowdet.data.writing import CocoVIDWriter, Written, problems_path, replacing, write_json, writing_cocovid
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
    assert list(find_faults(document)) == []
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
        writing_cocovid(tmp_path / "file" / "d.json", categories=[]),
    ):
        pass


def test_json_for_machines(tmp_path: Path) -> None:
    write_json(tmp_path / "r.json", {"a": [1, 2]})
    assert json.loads((tmp_path / "r.json").read_text()) == {"a": [1, 2]}
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(DataError, match=r"folder\.json cannot be written"), replacing(tmp_path / "folder.json") as file:
        file.write("x")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder.json", "r.json"]
