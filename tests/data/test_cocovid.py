import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowdet.data.cocovid import CocoVID, find_problems, read_cocovid
from flowdet.data.reading import read_json
from flowdet.errors import DataError

Document = dict[str, Any]


def document() -> Document:
    """Two videos, the frames of one out of order, a still, and three objects."""
    return {
        "categories": [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}],
        "videos": [{"id": 1, "name": "a"}, {"id": 5, "name": "b"}],
        "images": [
            {"id": 10, "file_name": "a/1.jpg", "height": 48, "width": 64, "video_id": 1, "frame_id": 1},
            {"id": 11, "file_name": "a/0.jpg", "height": 48, "width": 64, "video_id": 1, "frame_id": 0},
            {"id": 12, "file_name": "s.jpg", "height": 20, "width": 30},
            {
                "id": 13,
                "file_name": "b/4.jpg",
                "height": 9,
                "width": 8,
                "video_id": 5,
                "frame_id": 4,
                "is_vid_train_frame": False,
            },
        ],
        "annotations": [
            {"id": 100, "image_id": 13, "category_id": 3, "bbox": [1, 2, 3, 4], "instance_id": 0},
            {"id": 101, "image_id": 10, "category_id": 7, "bbox": [0.5, 2, 3.25, 0], "instance_id": None},
            {"id": 99, "image_id": 13, "category_id": 3, "bbox": [-1, 2, 3, 4], "area": 7.5, "iscrowd": 1},
        ],
    }


def read(path: Path, content: object) -> CocoVID:
    path.write_text(json.dumps(content))
    return read_cocovid(path)


def test_videos_frames_stills_and_objects(tmp_path: Path) -> None:
    data = read(tmp_path / "d.json", document())
    assert data.path == tmp_path / "d.json"
    assert data.class_names == ("dog", "cat")
    assert data.category_ids == (7, 3)
    assert [(video.id, video.name, video.frames) for video in data.videos] == [(1, "a", (1, 0)), (5, "b", (3,))]
    assert [(image.video, image.frame) for image in data.images] == [(0, 1), (0, 0), (None, None), (1, 4)]
    assert [image.is_training_frame for image in data.images] == [True, True, True, False]
    assert (data.images[2].id, data.images[2].file_name) == (12, "s.jpg")
    assert (data.images[2].height, data.images[2].width) == (20, 30)
    objects = data.objects
    assert len(objects) == 3
    assert objects.ids.tolist() == [100, 101, 99]
    assert objects.images.tolist() == [3, 0, 3]
    assert objects.labels.tolist() == [1, 0, 1]
    assert objects.boxes.tolist() == [[1, 2, 4, 6], [0.5, 2, 3.75, 2], [-1, 2, 2, 6]]
    assert objects.boxes.dtype == np.float64
    assert objects.areas.tolist() == [12, 0, 7.5]
    assert objects.tracks.tolist() == [0, -1, -1]
    assert objects.crowds.tolist() == [False, False, True]
    assert [positions.tolist() for positions in data.objects_by_image()] == [[1], [], [], [0, 2]]


def test_stills_alone_without_objects(tmp_path: Path) -> None:
    content = document()
    del content["videos"]
    content["images"] = [content["images"][2] | {"video_id": None}]
    content["annotations"] = []
    data = read(tmp_path / "d.json", content)
    assert data.videos == ()
    assert data.images[0].video is None
    assert data.objects.boxes.shape == (0, 4)
    assert [positions.tolist() for positions in data.objects_by_image()] == [[]]


def test_many_objects_of_an_image_stay_in_order(tmp_path: Path) -> None:
    content = document()
    content["annotations"] = [{**content["annotations"][0], "id": n, "image_id": 10 + n % 2} for n in range(200)]
    by_image = read(tmp_path / "d.json", content).objects_by_image()
    assert [positions.tolist() for positions in by_image] == [[*range(0, 200, 2)], [*range(1, 200, 2)], [], []]


def changed(*path: str | int, value: object) -> Document:
    """The document with one value replaced."""
    content = document()
    inner: Any = content
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return content


FAULTS = [
    ([1], "an object with images, annotations and categories, not list"),
    (None, "not nothing"),
    (changed("images", value={}), "'images' must be a list, not dict"),
    (changed("videos", value=None), "'videos' must be a list, not nothing"),
    (changed("categories", 0, "id", value="7"), "category number 0 of the list has no whole number as its id"),
    (changed("categories", 0, "id", value=True), "category number 0"),
    (changed("images", 2, "id", value=2**63), "image number 2"),
    (changed("images", 1, value="a"), "image number 1"),
    (changed("annotations", 1, value=None), "annotation number 1"),
    (changed("videos", 1, "id", value=1), "video id 1 is there more than once"),
    (changed("images", 1, "id", value=10), "image id 10 is there more than once"),
    (changed("annotations", 1, "id", value=100), "annotation id 100 is there more than once"),
    (changed("categories", 1, "name", value="dog"), "two categories are called 'dog'"),
    (changed("categories", 1, "name", value=4), "category 3: name must be text, not int '4'"),
    (changed("videos", 1, "name", value=None), "video 5: name must be text, not nothing"),
    (changed("images", 0, "file_name", value=None), "image 10: file_name must be text"),
    (changed("images", 0, "file_name", value="\ud800.png"), "image 10: no file can be called"),
    (changed("images", 0, "file_name", value=""), "image 10: no file can be called"),
    (changed("images", 0, "height", value=2**31), "image 10: its height is 2147483648"),
    (changed("categories", 0, "name", value="\ud800dog"), "category 7: its name '\\ud800dog' holds a character that"),
    (changed("categories", 0, "name", value="\x1b[2J"), "category 7: its name '\\x1b[2J' holds a character that"),
    (changed("annotations", 0, "bbox", value=[1, 2, 10, 1e308]), "annotation 100: a box is"),
    (changed("annotations", 0, "area", value=1e300), "annotation 100: an area is a finite number"),
    (changed("images", 0, "frame_id", value=2**60), "image 10: a frame of a video needs a whole number"),
    (changed("images", 0, "height", value=48.0), "image 10: height must be a whole number, not float '48.0'"),
    (changed("images", 0, "width", value=0), "image 10: its width is 0"),
    (changed("images", 0, "video_id", value=2), "image 10: there is no video '2'"),
    (changed("images", 0, "video_id", value=[1]), "image 10: there is no video '[1]'"),
    (changed("images", 0, "frame_id", value=None), "image 10: a frame of a video needs a whole number as frame_id"),
    (changed("images", 0, "frame_id", value=0), "image 11: frame 0 of video 1 is there more than once"),
    (changed("annotations", 0, "image_id", value=14), "annotation 100: there is no image 14"),
    (changed("annotations", 0, "image_id", value="13"), "annotation 100: image_id must be a whole number"),
    (changed("annotations", 0, "category_id", value=1), "annotation 100: there is no category 1"),
    (changed("annotations", 0, "bbox", value=None), "annotation 100: bbox must be a list, not nothing"),
    (changed("annotations", 0, "bbox", value=[1, 2, 3]), "annotation 100: a box is [x, y, width, height]"),
    (changed("annotations", 0, "bbox", value=[1, 2, -3, 4]), "not [1, 2, -3, 4]"),
    (changed("annotations", 0, "bbox", value=[1, 2, 3, -4]), "not [1, 2, 3, -4]"),
    (changed("annotations", 0, "bbox", value=[1, 2, 3, float("nan")]), "not [1, 2, 3, nan]"),
    (changed("annotations", 0, "bbox", value=[float("inf"), 2, 3, 4]), "not [inf, 2, 3, 4]"),
    (changed("annotations", 0, "bbox", value=[1e308, 2, 1e308, 4]), "not [1e+308, 2, 1e+308, 4]"),
    (changed("annotations", 0, "bbox", value=[10**400, 2, 3, 4]), "annotation 100: a box is"),
    (changed("annotations", 0, "bbox", value=[True, 2, 3, 4]), "not [True, 2, 3, 4]"),
    (changed("annotations", 0, "bbox", value=["1", 2, 3, 4]), "not ['1', 2, 3, 4]"),
    (changed("annotations", 0, "area", value=-1), "annotation 100: an area is a finite number from 0 or left out"),
    (changed("annotations", 0, "area", value=float("nan")), "not float 'nan'"),
    (changed("annotations", 0, "instance_id", value=-1), "annotation 100: an instance_id is a whole number from 0"),
    (changed("annotations", 0, "instance_id", value="0"), "not str '0'"),
    (changed("annotations", 0, "instance_id", value=2**64), "an instance_id is a whole number from 0"),
]


@pytest.mark.parametrize(("content", "sentence"), FAULTS, ids=[sentence for _, sentence in FAULTS])
def test_every_fault_is_told_once_and_keeps_the_file_from_being_read(
    content: object, sentence: str, tmp_path: Path
) -> None:
    told = [problem for problem in find_problems(content) if sentence in problem.sentence]
    assert len(told) == 1
    with pytest.raises(DataError) as raised:
        read(tmp_path / "d.json", content)
    assert sentence in str(raised.value)
    assert str(tmp_path / "d.json") in str(raised.value)


def test_a_good_document_has_no_fault() -> None:
    assert list(find_problems(document())) == []


@pytest.mark.parametrize("name", ["images", "categories"])
def test_nothing_to_work_on(name: str) -> None:
    assert f"there are no {name}" in [problem.sentence for problem in find_problems(document() | {name: []})]


def test_the_first_faults_are_named_and_the_rest_is_counted(tmp_path: Path) -> None:
    content = document()
    content["annotations"] = [{**content["annotations"][0], "id": n, "bbox": []} for n in range(12)]
    with pytest.raises(DataError, match=r"annotation 4: .*; and 7 more, which `flowdet data check .*` lists") as raised:
        read(tmp_path / "d.json", content)
    assert "annotation 5" not in str(raised.value)
    assert {problem.kind for problem in find_problems(content)} == {"annotation with a wrong box"}


@pytest.mark.parametrize("text", ["", "{", '{"a": 1', "\xff", "[" * 100_000])
def test_what_is_no_json(text: str, tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=r"d\.json is not JSON"):
        read_json(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="No such file"):
        read_cocovid(tmp_path / "none.json")
