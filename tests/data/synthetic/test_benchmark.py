import hashlib
import io
import json
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flowdet.class_names import VID_CLASSES
from flowdet.data.check import check
from flowdet.data.cocovid import read_cocovid
from flowdet.data.synthetic import benchmark
from flowdet.data.synthetic.benchmark import CLIPS, FRAMES, SEED, Benchmark, clip_count, synthesize
from flowdet.data.synthetic.config import SPEC, SyntheticConfig
from flowdet.errors import ConfigError, DataError

from ...golden import FOLDER

FROZEN = json.loads((FOLDER / "synthetic.json").read_text())


@pytest.fixture
def short_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "FRAMES", {"train": 3, "val": 3})


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.usefixtures("short_clips")
def test_every_run_writes_the_same_bytes(tmp_path: Path) -> None:
    first = synthesize(tmp_path / "a", ["val"], VID_CLASSES, clips=2)
    second = synthesize(tmp_path / "b", ["val"], VID_CLASSES, clips=2)
    assert [path.name for path in first] == ["synthetic_val.json"]
    assert first[0].read_bytes() == second[0].read_bytes()
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_any_number_of_processes_writes_the_same_bytes(tmp_path: Path) -> None:
    told: list[int] = []
    synthesize(tmp_path / "one", ["train"], VID_CLASSES, clips=2)
    synthesize(tmp_path / "two", ["train"], VID_CLASSES, clips=2, processes=2, progress=told.append)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert told == [1, 2]


@pytest.mark.usefixtures("short_clips")
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    synthesize(tmp_path / "whole", ["val"], VID_CLASSES, clips=3)

    def interrupt(clips: int) -> None:
        if clips == 2:
            raise KeyboardInterrupt

    out = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        synthesize(out, ["val"], VID_CLASSES, clips=3, progress=interrupt)
    assert not (out / "annotations").exists()
    kept = out / "val/synthetic_val_00000/000000.jpg"
    before = kept.stat().st_mtime_ns
    # As if it had been interrupted in the middle of the second clip.
    (out / "val/synthetic_val_00001/clip.json").unlink()
    (out / "val/synthetic_val_00001/000002.jpg").unlink()
    synthesize(out, ["val"], VID_CLASSES, clips=3)
    assert contents(out) == contents(tmp_path / "whole")
    assert kept.stat().st_mtime_ns == before


@pytest.mark.usefixtures("short_clips")
def test_the_annotations_are_those_of_the_frames(tmp_path: Path) -> None:
    paths = synthesize(tmp_path, ["train", "val"], VID_CLASSES, clips=2)
    for path, split in zip(paths, ("train", "val"), strict=True):
        data = read_cocovid(path)
        assert data.class_names == VID_CLASSES
        assert [len(video.frames) for video in data.videos] == [3, 3]
        assert not check(path, tmp_path).problems
        assert all(image.is_training_frame == (split == "train") for image in data.images)
        document = json.loads(path.read_text())
        assert document["info"]["description"] == SPEC
        assert document["info"]["parameters"]["size"] == [192, 320]
        _compare(document, Benchmark(split, VID_CLASSES))  # type: ignore[arg-type]


def _compare(document: dict[str, Any], made: Benchmark) -> None:
    for image in document["images"]:
        clip = made.clip(image["video_id"] - 1)
        frame = clip.frame(image["frame_id"])
        assert image["degraded"] == (frame.degradation is not None)
        assert image["degradation"] == frame.degradation
        entries = [entry for entry in document["annotations"] if entry["image_id"] == image["id"]]
        assert len(entries) == len(frame.objects)
        for entry, each in zip(entries, frame.objects, strict=True):
            x, y, width, height = entry["bbox"]
            assert (x, y, x + width, y + height) == each.box
            assert VID_CLASSES[entry["category_id"] - 1] == each.class_name
            assert (entry["instance_id"], entry["occluded"]) == (each.track, each.is_occluded)
            assert entry["visibility"] == pytest.approx(each.visible, abs=1e-4)


@pytest.mark.usefixtures("short_clips")
def test_frames_are_compressed_pictures_of_the_clip(tmp_path: Path) -> None:
    synthesize(tmp_path, ["val"], VID_CLASSES, clips=1)
    clip = Benchmark("val", VID_CLASSES).clip(0)
    content = (tmp_path / "val/synthetic_val_00000/000001.jpg").read_bytes()
    image = clip.frame(1).image
    assert content == clip.jpeg(image)
    decoded = np.array(Image.open(io.BytesIO(content)))
    assert decoded.shape == (192, 320, 3)
    assert 0 < np.abs(decoded.astype(int) - image).mean() < 20


def test_clips_differ_by_seed_split_and_number() -> None:
    made = [
        Benchmark("val", VID_CLASSES).clip(0),
        Benchmark("val", VID_CLASSES).clip(30),
        Benchmark("val", VID_CLASSES, seed=SEED + 1).clip(0),
        Benchmark("train", VID_CLASSES).clip(0),
    ]
    assert len({clip.frame(0).image.tobytes() for clip in made}) == 4


def test_the_classes_take_turns() -> None:
    made = Benchmark("val", VID_CLASSES)
    for number in (0, 7, 29, 30, 67):
        assert VID_CLASSES[number % 30] in made.clip(number).scene.class_names
    assert CLIPS["val"] % 30 == CLIPS["train"] % 30 == 0


@pytest.mark.usefixtures("short_clips")
def test_a_folder_of_another_seed_is_not_mixed(tmp_path: Path) -> None:
    synthesize(tmp_path, ["val"], VID_CLASSES, clips=1)
    with pytest.raises(DataError, match=r"synthetic_val_00000 was made with .*'seed': 2.*; name another folder"):
        synthesize(tmp_path, ["val"], VID_CLASSES, clips=1, seed=SEED + 1)


@pytest.mark.usefixtures("short_clips")
def test_what_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no drawing of dragon"):
        Benchmark("val", ("dog", "dragon"))
    with pytest.raises(ConfigError, match="no class at all"):
        Benchmark("val", ())
    with pytest.raises(ConfigError, match="train and val, not 'test'"):
        Benchmark("test", ("dog",))  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="0 or more, not -1"):
        Benchmark("val", ("dog",), seed=-1)
    for clips, processes in ((0, 1), (1, 0)):
        with pytest.raises(ConfigError, match="1 or more"):
            synthesize(tmp_path, ["val"], VID_CLASSES, clips=clips, processes=processes)
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written to"):
        synthesize(tmp_path / "file", ["val"], VID_CLASSES, clips=1)


def test_the_counts_of_clips() -> None:
    assert clip_count(["train", "val"]) == CLIPS["train"] + CLIPS["val"]
    assert clip_count(["train", "val"], 5) == 10


def test_the_benchmark_is_frozen() -> None:
    pack = files("flowdet.data.synthetic").joinpath("pack")
    packs = {name: hashlib.sha256(pack.joinpath(name).read_bytes()).hexdigest() for name in FROZEN["packs"]}
    assert packs == FROZEN["packs"]
    assert FROZEN["sizes"] == {"clips": CLIPS, "frames": FRAMES, "seed": SEED, "spec": SPEC}
    assert json.loads(json.dumps(asdict(SyntheticConfig()))) == FROZEN["parameters"]


@pytest.mark.parametrize("number", range(3))
def test_the_boxes_are_those_of_the_first_release(number: int) -> None:
    clip = Benchmark("val", VID_CLASSES).clip(number)
    for frame in (0, 17):
        boxes = [[each.class_name, *each.box] for each in clip.frame(frame).objects]
        recorded = FROZEN["boxes"][f"{number}/{frame}"]
        assert [box[0] for box in boxes] == [box[0] for box in recorded]
        # Another processor may round the last bit of a coordinate otherwise.
        assert np.abs(np.array([b[1:] for b in boxes]) - np.array([b[1:] for b in recorded])).max(initial=0) <= 1
