import csv
import json
import tracemalloc
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flowdet.errors import ConfigError, VideoError
from flowdet.types import Detections
from flowdet.video.results import ResultsWriter, read_finished

NAMES = ("car", "dog", "Bär")
SETTINGS = {"model": "fgfa-lite", "score": 0.5, "weights": Path("weights") / "a.safetensors"}
SAVED_SETTINGS = {"model": "fgfa-lite", "score": 0.5, "weights": str(Path("weights") / "a.safetensors")}


@dataclass
class Clip:
    name: str = "clip"
    size: tuple[int, int] | None = (480, 640)
    fps: float | None = 25.0
    problems: list[str] = field(default_factory=list)


def detections(index: int, count: int) -> Detections:
    generator = np.random.default_rng(index)
    corners = generator.uniform(0, 200, (count, 2))
    return Detections(
        frame_index=index,
        time=index / 30,
        boxes=np.hstack([corners, corners + generator.uniform(1, 200, (count, 2))]).astype(np.float32),
        scores=np.sort(generator.uniform(0, 1, count)).astype(np.float32)[::-1],
        labels=generator.integers(0, 3, count),
        class_names=NAMES,
        image_size=(480, 640),
    )


EXAMPLES = [detections(0, 2), detections(3, 0), detections(6, 5)]


def write(path: Path, clip: Clip | None = None, examples: list[Detections] | None = None) -> None:
    with ResultsWriter(path, video=clip or Clip(), class_names=NAMES, settings=SETTINGS) as writer:
        for example in EXAMPLES if examples is None else examples:
            writer.write(example)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_lines_come_back_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, Clip(problems=["the file is cut short"]))
    header, *frames, footer = lines_of(path)
    assert header == {
        "format": "flowdet detections",
        "version": 2,
        "video": {"name": "clip", "width": 640, "height": 480, "fps": 25.0},
        "categories": [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}, {"id": 3, "name": "Bär"}],
        "settings": SAVED_SETTINGS,
    }
    assert footer == {"complete": True, "frames": 3, "problems": ["the file is cut short"]}
    assert len(frames) == 3
    for frame, example in zip(frames, EXAMPLES, strict=True):
        assert frame["frame_index"] == example.frame_index
        assert frame["time"] == pytest.approx(example.time, abs=1e-6)
        assert (frame["height"], frame["width"]) == example.image_size
        assert np.allclose(np.reshape(frame["boxes"], (-1, 4)), example.boxes, atol=5.1e-4)
        assert np.allclose(frame["scores"], example.scores, atol=5.1e-7)
        assert frame["category_ids"] == [label + 1 for label in example.labels.tolist()]
        assert frame["category_names"] == example.names
    assert [path.name for path in tmp_path.iterdir()] == ["out.jsonl"]


def test_lines_can_be_followed_while_they_grow(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with ResultsWriter(path, video=Clip(), class_names=NAMES, settings={}) as writer:
        for count, example in enumerate(EXAMPLES, start=2):
            writer.write(example)
            assert len(lines_of(path)) == count
        assert read_finished(path) is None


def test_the_document_holds_every_detection(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write(path, Clip(problems=["the file is cut short"]))
    document = json.loads(path.read_text(encoding="utf-8"))
    assert list(document) == ["info", "videos", "categories", "images", "annotations"]
    assert document["info"] == {
        "complete": True,
        "frames": 3,
        "problems": ["the file is cut short"],
        "settings": SAVED_SETTINGS,
    }
    assert document["videos"] == [{"id": 1, "name": "clip", "width": 640, "height": 480, "fps": 25.0}]
    assert [category["id"] for category in document["categories"]] == [1, 2, 3]
    assert document["images"][2] == {
        "id": 3,
        "video_id": 1,
        "frame_id": 6,
        "time": 0.2,
        "file_name": "clip/000006",
        "width": 640,
        "height": 480,
    }
    annotations = document["annotations"]
    assert [annotation["id"] for annotation in annotations] == list(range(1, 8))
    assert [annotation["frame_id"] for annotation in annotations] == [0, 0, 6, 6, 6, 6, 6]
    assert [annotation["image_id"] for annotation in annotations] == [1, 1, 3, 3, 3, 3, 3]
    boxes = np.concatenate([example.boxes for example in EXAMPLES])
    labels = np.concatenate([example.labels for example in EXAMPLES])
    for annotation, (x1, y1, x2, y2), label in zip(annotations, boxes.tolist(), labels, strict=True):
        assert annotation["bbox"] == pytest.approx([x1, y1, x2 - x1, y2 - y1], abs=2e-3)
        assert annotation["area"] == pytest.approx((x2 - x1) * (y2 - y1), rel=1e-2)
        assert annotation["category_id"] == label + 1
        assert annotation["iscrowd"] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]


def test_pycocotools_reads_the_document(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    path = tmp_path / "out.json"
    write(path)
    data = coco.COCO(str(path))
    assert data.getImgIds() == [1, 2, 3]
    assert len(data.loadAnns(data.getAnnIds(imgIds=[3]))) == 5


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_video_without_frames_or_a_known_size(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    write(path, Clip(size=None, fps=None), [])
    assert read_finished(path) == {"complete": True, "frames": 0, "problems": [], "settings": SAVED_SETTINGS}
    if suffix == ".json":
        assert json.loads(path.read_text())["annotations"] == []


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_keeps_what_was_done(tmp_path: Path, suffix: str, error: type[BaseException]) -> None:
    path = tmp_path / f"out{suffix}"

    def write_some() -> None:
        with ResultsWriter(path, video=Clip(), class_names=NAMES, settings=SETTINGS) as writer:
            writer.write(EXAMPLES[0])
            raise error

    with pytest.raises(error):
        write_some()
    assert [path.name for path in tmp_path.iterdir()] == [path.name]
    assert read_finished(path) is None
    if suffix == ".json":
        document = json.loads(path.read_text())
        assert document["info"]["complete"] is False
        assert len(document["annotations"]) == 2
    else:
        assert lines_of(path)[-1] == {"complete": False, "frames": 1, "problems": []}


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
def test_a_finished_result_tells_its_settings(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out{suffix}"
    assert read_finished(path) is None
    write(path)
    assert read_finished(path) == {"complete": True, "frames": 3, "problems": [], "settings": SAVED_SETTINGS}
    whole = path.read_bytes()
    for share in (0.0, 0.05, 0.5) if suffix == ".json" else (0.0, 0.05, 0.5, 0.99):
        path.write_bytes(whole[: int(share * len(whole))])
        if suffix == ".jsonl" or share < 0.5:
            assert read_finished(path) is None


@pytest.mark.parametrize("text", ["", "[]", "{}", "{}\n{}", '{"images": []}', "\x00\xff", '{"info": 3},\n'])
def test_something_else_is_no_result(tmp_path: Path, text: str) -> None:
    path = tmp_path / "out.json"
    path.write_text(text, encoding="latin-1")
    assert read_finished(path) is None


def test_an_earlier_result_is_replaced_only_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    write(path)
    earlier = path.read_bytes()
    with ResultsWriter(path, video=Clip(), class_names=NAMES, settings={}) as writer:
        writer.write(EXAMPLES[0])
        assert path.read_bytes() == earlier
    assert path.read_bytes() != earlier


def test_a_table_has_a_row_for_each_detection(tmp_path: Path) -> None:
    tracked = [EXAMPLES[0], EXAMPLES[1], replace(EXAMPLES[2], track_ids=np.arange(5) + 1)]
    write(tmp_path / "out.csv", examples=tracked)
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["frame_index"]) for row in rows] == [0] * 2 + [6] * 5
    assert [row["track_id"] for row in rows] == ["", "", "1", "2", "3", "4", "5"]
    for row, record in zip(rows, (record for frame in tracked for record in frame.records()), strict=True):
        assert (row["category_name"], int(row["category_id"])) == (record["class_name"], record["label"] + 1)
        for key in ("score", "x1", "y1", "x2", "y2"):
            assert float(row[key]) == pytest.approx(record[key], abs=1e-3)
    finished = read_finished(tmp_path / "out.csv")
    assert finished is not None
    assert finished["settings"] == SAVED_SETTINGS
    (tmp_path / "out.csv").unlink()
    assert read_finished(tmp_path / "out.csv") is None


def test_the_parquet_files_of_a_folder_are_one_data_set(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    dataset = pytest.importorskip("pyarrow.dataset")
    tracked = [EXAMPLES[0], EXAMPLES[1], replace(EXAMPLES[2], track_ids=np.arange(5) + 1)]
    write(tmp_path / "a.parquet", examples=tracked)
    write(tmp_path / "b.parquet", clip=Clip("other"), examples=[EXAMPLES[1]])
    write(tmp_path / "c.csv", examples=tracked)
    found = parquet.read_table(tmp_path / "a.parquet")
    with (tmp_path / "c.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert found.column_names == ["source", *rows[0]]
    texts = [{name: "" if value is None else str(value) for name, value in row.items()} for row in found.to_pylist()]
    assert texts == [{"source": "clip", **row} for row in rows]
    whole = dataset.dataset([tmp_path / name for name in ("a.parquet", "b.parquet")]).to_table()
    assert len(whole) == len(rows)
    assert whole.schema.equals(found.schema)
    for name, frames in (("a", 3), ("b", 1)):
        finished = read_finished(tmp_path / f"{name}.parquet")
        assert finished == {"complete": True, "frames": frames, "problems": [], "settings": SAVED_SETTINGS}
    assert read_finished(tmp_path / "missing.parquet") is None
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    assert read_finished(tmp_path / "a.parquet") is None
    assert {path.name for path in tmp_path.iterdir()} == {"a.parquet", "b.parquet", "c.csv", "c.jsonl"}


def test_duckdb_reads_the_parquet_files_of_a_folder(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    duckdb = pytest.importorskip("duckdb")
    for name in ("a", "b"):
        write(tmp_path / f"{name}.parquet", clip=Clip(name), examples=list(EXAMPLES))
    query = f"SELECT source, count(*) FROM '{tmp_path}/*.parquet' GROUP BY source ORDER BY source"
    count = sum(map(len, EXAMPLES))
    assert duckdb.sql(query).fetchall() == [("a", count), ("b", count)]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_track_ids_are_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"out.{suffix}"
    write(path, examples=[replace(EXAMPLES[0], track_ids=np.array([3, 8]))])
    if suffix == "json":
        assert [each["track_id"] for each in json.loads(path.read_text(encoding="utf-8"))["annotations"]] == [3, 8]
    else:
        assert lines_of(path)[1]["track_ids"] == [3, 8]


def test_what_cannot_work_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\.json, \.jsonl, \.csv or \.parquet"):
        write(tmp_path / "out.txt")
    with pytest.raises(VideoError, match="cannot be written"):
        write(tmp_path / "missing" / "out.json")
    with pytest.raises(ConfigError, match="finite"):
        ResultsWriter(tmp_path / "out.json", video=Clip(), class_names=NAMES, settings={"score": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
@pytest.mark.parametrize(("name", "target"), [("out.jsonl", "out.jsonl"), ("out.json", "out.json.partial.jsonl")])
def test_a_full_disk_is_told(tmp_path: Path, name: str, target: str) -> None:
    (tmp_path / target).symlink_to("/dev/full")
    with pytest.raises(VideoError, match="No space left on device; the 0 frames before are in"):
        write(tmp_path / name)


def test_a_full_disk_at_the_end_keeps_the_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(VideoError, match=r"the 3 frames before are in .*out\.json\.partial\.jsonl"):
        write(tmp_path / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json.partial.jsonl"]
    assert len(lines_of(tmp_path / "out.json.partial.jsonl")) == 4


def test_converting_needs_no_memory_for_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    tracemalloc.start()
    write(path, examples=[EXAMPLES[2]] * 1000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 5e5
    assert peak < 2e5
