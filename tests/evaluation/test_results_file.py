import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowdet.data import json_reader
from flowdet.errors import DataError
from flowdet.evaluation import results_file
from flowdet.evaluation.results_file import read_results, write_results
from flowdet.metrics.detections import DetectionTable
from tests.metrics.fixtures import Made

IDS = [40, 7, 0]
DATA = Made(frames=[0, 0, None], objects=[], ids=IDS).data
GOOD = {
    "image_id": 7,
    "category_id": 2,
    "bbox": [1, 2.5, 3, 4],
    "score": 0.25,
    "segmentation": {"size": [1, 2], "counts": "},{"},
}


def write(folder: Path, content: Any) -> Path:
    path = folder / "results.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_what_is_in_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, [GOOD, {**GOOD, "image_id": 0, "category_id": 3, "score": 1}])
    told: list[int] = []
    table = read_results(path, DATA, progress=told.append).table
    assert table.images.tolist() == [1, 2]
    assert table.labels.tolist() == [1, 2]
    assert table.boxes.tolist() == [[1, 2.5, 4, 6.5]] * 2
    assert table.scores.tolist() == [0.25, 1]
    assert told[-1] == path.stat().st_size
    assert [column.dtype for column in (table.images, table.labels, table.boxes, table.scores)] == [
        int,
        int,
        float,
        float,
    ]


@pytest.mark.parametrize("text", ["[]", " [ ] \n", "\ufeff[\n]"])
def test_no_detection_at_all(tmp_path: Path, text: str) -> None:
    table = read_results(write(tmp_path, text), DATA).table
    assert (len(table), table.boxes.shape) == (0, (0, 4))


@pytest.mark.parametrize("piece", [1, 2, 3, 7, 64, 200, 1000])
@pytest.mark.parametrize("indent", [None, 0, 3])
def test_the_size_of_the_pieces_does_not_matter(
    tmp_path: Path, piece: int, indent: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "_FIRST_PIECE", piece)
    entries = [{**GOOD, "image_id": IDS[number % 3], "score": number / 7, "note": "é" * number} for number in range(20)]
    path = write(tmp_path, json.dumps(entries, indent=indent, ensure_ascii=False))
    table = read_results(path, DATA).table
    assert table.images.tolist() == [number % 3 for number in range(20)]
    assert table.scores.tolist() == [number / 7 for number in range(20)]


FAULTS = [
    ({**GOOD, "image_id": 8}, "is of image 8, which the data set does not have"),
    ({**GOOD, "image_id": 10**30}, "is of image 10"),
    ({**GOOD, "image_id": "7"}, "needs a whole number as its image_id, not '7'"),
    ({**GOOD, "image_id": 7.0}, "needs a whole number as its image_id, not 7.0"),
    ({**GOOD, "category_id": 0}, "is of category 0, which the data set does not have"),
    ({key: value for key, value in GOOD.items() if key != "category_id"}, "needs a whole number as its category_id"),
    (
        {**GOOD, "bbox": [1, 2, 3]},
        r"has no box of x, y, width, height, finite and not negative in size, but \[1, 2, 3\]",
    ),
    ({**GOOD, "bbox": [1, 2, 3, -4]}, "has no box"),
    ({**GOOD, "bbox": [1, 2, 3, float("nan")]}, "has no box"),
    ({**GOOD, "bbox": [1, 2, 3, "4"]}, "has no box"),
    ({**GOOD, "bbox": 5}, "has no box"),
    ({**GOOD, "bbox": {"x": 1}}, "has no box"),
    ({**GOOD, "score": float("inf")}, "needs a finite number as its score, not inf"),
    ({**GOOD, "score": None}, "needs a finite number as its score, not None"),
    ({**GOOD, "score": [1]}, "needs a finite number as its score"),
    ({**GOOD, "score": True}, "needs a finite number as its score, not True"),
    ({**GOOD, "score": 10**400}, "needs a finite number as its score, not 1000"),
    ({**GOOD, "bbox": [1e308, 1e308, 1e308, 1e308]}, "has no box"),
    ({**GOOD, "bbox": [1, 2, 3, 10**400]}, "has no box"),
    ({**GOOD, "bbox": [1, 2, True, 4]}, "has no box"),
    ({**GOOD, "image_id": True}, "needs a whole number as its image_id, not True"),
    ([1, 2], "is not an object"),
    (5, "is not an object"),
    ("text", "is not an object"),
]


@pytest.mark.parametrize(("entry", "message"), FAULTS, ids=str)
@pytest.mark.parametrize("piece", [100, 1 << 20])
def test_a_fault_is_named_with_its_place(
    tmp_path: Path, entry: object, message: str, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_reader, "_FIRST_PIECE", piece)
    path = write(tmp_path, [GOOD, GOOD, entry, GOOD])
    with pytest.raises(DataError, match=rf"results\.json: entry 2 \(from 0\) {message}"):
        read_results(path, DATA)
    with pytest.raises(DataError, match=r"entry 0 \(from 0\)"):
        read_results(write(tmp_path, [entry]), DATA)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"is a list .*, not ''"),
        ('{"info": 1}', "is a list of detections or what `flowdet detect` wrote, and this one has no images"),
        ("[", "after 0 entries the list is cut off"),
        (json.dumps([GOOD, GOOD])[:-1], "after 2 entries the list is cut off"),
        (json.dumps([GOOD, GOOD])[:-20], "after 1 entries the list is cut off or not JSON"),
        (json.dumps([GOOD])[:-1] + ",]", "after 1 entries the list is cut off or not JSON: ']'"),
        (json.dumps([GOOD]) + "[]", "there is more after the end of the list"),
        ("[" * 100_000, "after 0 entries"),
        ("[{'a': 1}]", "after 0 entries"),
    ],
)
def test_a_file_that_is_no_list(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=rf"results\.json: .*{message}"):
        read_results(write(tmp_path, text), DATA)


def test_several_files_must_not_share_images(tmp_path: Path) -> None:
    one, other = tmp_path / "one.json", tmp_path / "other.json"
    one.write_text(json.dumps([GOOD, GOOD]))
    other.write_text(json.dumps([{**GOOD, "image_id": 40}]))
    results = read_results([one, other], DATA)
    assert results.table.images.tolist() == [1, 1, 0]
    assert results.notes == ()
    with pytest.raises(DataError, match=r"one\.json: image 7 of made\.json has results already, in .*one\.json"):
        read_results([one, one], DATA)


def test_nesting_and_length_are_bounded(tmp_path: Path) -> None:
    for text in ('[{"image_id": ' + "[" * 100_000, '{"a": ' * 100_000, '{"images": [' + "[" * 100_000):
        with pytest.raises(DataError, match=r"results\.json: after 0 entries"):
            read_results(write(tmp_path, text), DATA)


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match=r"none\.json cannot be read: No such file"):
        read_results(tmp_path / "none.json", DATA)
    (tmp_path / "binary.json").write_bytes(b"[\xff\xfe")
    with pytest.raises(DataError, match=r"binary\.json is not a text file"):
        read_results(tmp_path / "binary.json", DATA)
    monkeypatch.setattr(json_reader, "_FIRST_PIECE", 8)
    monkeypatch.setattr(json_reader, "_LONGEST_VALUE", 100)
    with pytest.raises(DataError, match="after 0 entries"):
        read_results(write(tmp_path, "[" + " " * 1000), DATA)


def table_of(count: int) -> DetectionTable:
    random = np.random.default_rng(count)
    corners = random.random((count, 2)).astype(np.float32).astype(np.float64) * 1000
    boxes = np.concatenate([corners, corners + random.random((count, 2))], axis=1)
    return DetectionTable(random.integers(0, 3, count), random.integers(0, 3, count), boxes, random.random(count))


@pytest.mark.parametrize("count", [0, 1, 7, 8])
def test_written_and_read_again(tmp_path: Path, count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results_file, "_ROWS_WRITTEN_AT_ONCE", 4)
    path, table = tmp_path / "out.json", table_of(count)
    write_results(table, DATA, path)
    again = read_results(path, DATA).table
    assert again.images.tolist() == table.images.tolist()
    assert again.labels.tolist() == table.labels.tolist()
    assert again.scores.tolist() == table.scores.tolist()
    np.testing.assert_allclose(again.boxes, table.boxes, rtol=0, atol=1e-9)
    assert [entry["image_id"] for entry in json.loads(path.read_text())] == [IDS[image] for image in table.images]
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    path, table = write(tmp_path, "old"), table_of(3)
    table.scores[1] = np.nan
    with pytest.raises(DataError, match=r"results\.json is not written: boxes and scores must be finite"):
        write_results(table, DATA, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(DataError, match="cannot be written: No such file"):
        write_results(table, DATA, tmp_path / "none" / "results.json")
