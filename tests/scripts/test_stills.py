import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowdet.errors import FlowdetError
from scripts.lite_clips.stills import read_stills

TRIANGLE = [0, 0, 10, 0, 5, 8]
SQUARE = [20, 20, 30, 20, 30, 30, 20, 30]


def annotation(image: int, category: int, *polygons: list[int], crowd: int = 0) -> dict[str, Any]:
    segmentation: object = list(polygons) if not crowd else {"counts": [1, 2], "size": [3, 4]}
    return {"image_id": image, "category_id": category, "segmentation": segmentation, "iscrowd": crowd}


def write(path: Path, annotations: list[dict[str, Any]]) -> Path:
    document = {
        "images": [{"id": n, "file_name": f"{n}.jpg"} for n in (3, 5, 7)],
        "categories": [{"id": 17, "name": "cat"}, {"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": annotations,
    }
    path.write_text(json.dumps(document))
    return path


def test_pictures_and_outlines_of_the_wanted_classes(tmp_path: Path) -> None:
    annotations = [
        annotation(5, 18, TRIANGLE, SQUARE),
        annotation(3, 1, SQUARE),
        annotation(5, 17, SQUARE),
        annotation(5, 1, TRIANGLE),
    ]
    (found,) = read_stills(write(tmp_path / "coco.json", annotations), Path("images"), ("dog", "cat"))
    assert found.path == Path("images/5.jpg")
    assert [outlined.label for outlined in found.objects] == [0, 1]
    first, second = found.objects[0].polygons
    assert first.tolist() == [[0, 0], [10, 0], [5, 8]]
    assert second.dtype == np.float32
    assert found.objects[0].points.shape == (7, 2)


def test_pictures_with_a_crowd_of_a_wanted_class_are_left_out(tmp_path: Path) -> None:
    annotations = [
        annotation(3, 17, SQUARE),
        annotation(3, 17, crowd=1),
        annotation(5, 17, SQUARE),
        annotation(5, 1, crowd=1),
    ]
    (found,) = read_stills(write(tmp_path / "coco.json", annotations), tmp_path, ("cat",))
    assert found.path.name == "5.jpg"


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"images": [], "categories": []}'])
def test_files_that_are_not_coco(tmp_path: Path, text: str) -> None:
    path = tmp_path / "coco.json"
    path.write_text(text)
    with pytest.raises(FlowdetError, match="not a COCO file"):
        read_stills(path, tmp_path, ("cat",))
    with pytest.raises(FlowdetError, match="not a COCO file"):
        read_stills(tmp_path / "none.json", tmp_path, ("cat",))


def test_a_file_without_any_wanted_object(tmp_path: Path) -> None:
    with pytest.raises(FlowdetError, match="no picture with an object of cat, emu"):
        read_stills(write(tmp_path / "coco.json", [annotation(3, 1, SQUARE)]), tmp_path, ("cat", "emu"))


@pytest.mark.parametrize("outline", [[], [[0, 0, 1, 1]], [[0, 0, 1, 1, 2]], {"counts": [1], "size": [2, 2]}, None])
def test_an_object_without_polygons_is_named(tmp_path: Path, outline: object) -> None:
    entry = annotation(3, 17, SQUARE) | {"id": 41, "segmentation": outline}
    with pytest.raises(FlowdetError, match="annotation 41 of image 3 has no outline of polygons"):
        read_stills(write(tmp_path / "coco.json", [entry]), tmp_path, ("cat",))
