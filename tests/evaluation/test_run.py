import json
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.errors import ConfigError, DataError
from flowdet.evaluation.run import DataSetDetections, detect_data_set
from flowdet.metrics.detections import DetectionTable
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.weights.native import weights_digest
from flowdet.work.cluster import Cluster
from tests.tiny import frames_of, lite_config, lite_flow_config, video

# Frames of each video by their numbers in it; the second is annotated only in part. Then come stills.
VIDEOS = {"long": range(6), "gaps": (2, 5, 9), "short": range(1)}
STILLS = 3
CATEGORIES = ("fox", "cow", "cat")  # the system knows cat, dog and fox


def pixels(number: int) -> NDArray[np.uint8]:
    image: NDArray[np.uint8] = video(1, seed=number)[0]
    return image


def save(image: NDArray[np.uint8], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path, quality=95)


@pytest.fixture
def document(tmp_path: Path) -> dict[str, Any]:
    """A data set of videos and stills; its images are written."""
    places = [(number, frame) for number, name in enumerate(VIDEOS, start=1) for frame in VIDEOS[name]]
    images: list[dict[str, Any]] = [
        {"file_name": f"video{number}/{frame:06d}.jpg", "video_id": number, "frame_id": frame}
        for number, frame in places
    ]
    images += [{"file_name": f"stills/{number}.png"} for number in range(STILLS)]
    for number, image in enumerate(images, start=1):
        image |= {"id": number, "height": 48, "width": 80}
        save(pixels(number), tmp_path / "images" / image["file_name"])
    return {
        "videos": [{"id": number, "name": name} for number, name in enumerate(VIDEOS, start=1)]
        + [{"id": 9, "name": "without frames"}],
        "categories": [{"id": 10 + number, "name": name} for number, name in enumerate(CATEGORIES)],
        "images": images,
        "annotations": [],
    }


@pytest.fixture
def data(document: dict[str, Any], tmp_path: Path) -> CocoVID:
    return written(document, tmp_path)


def written(document: dict[str, Any], folder: Path) -> CocoVID:
    path = folder / "data.json"
    path.write_text(json.dumps(document))
    return read_cocovid(path)


@pytest.fixture
def system() -> VideoDetector:
    return make_system(0)


def make_system(seed: int, method: FGFAConfig | None = None) -> VideoDetector:
    method = method or FGFAConfig(past=2, future=2, embedding_channels=4)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build(replace(lite_config(), method=method, flow_net=lite_flow_config()))


Run = Callable[..., DataSetDetections]


@pytest.fixture
def run(system: VideoDetector, data: CocoVID, tmp_path: Path) -> Run:
    def call(folder: str = "out", **options: Any) -> DataSetDetections:
        return detect_data_set(system, data, tmp_path / "images", tmp_path / folder, **options)

    return call


def assert_equal(first: DetectionTable, second: DetectionTable) -> None:
    for name in ("images", "labels", "boxes", "scores"):
        np.testing.assert_array_equal(getattr(first, name), getattr(second, name))


def of_image(table: DetectionTable, position: int) -> list[tuple[float, ...]]:
    rows = table.images == position
    return sorted(zip(table.scores[rows], table.labels[rows], *table.boxes[rows].T, strict=True))


def test_every_image_gets_what_its_stream_gives(run: Run, system: VideoDetector, data: CocoVID, tmp_path: Path) -> None:
    found = run()
    streams = [list(video.frames) for video in data.videos if video.frames]
    streams += [[position] for position, image in enumerate(data.images) if image.video is None]
    assert sorted(chain.from_iterable(streams)) == list(range(len(data.images)))
    left_out = 0
    for stream in streams:
        files = [tmp_path / "images" / data.images[position].file_name for position in stream]
        images = [np.array(Image.open(file).convert("RGB")) for file in files]
        for position, expected in zip(stream, system.detect(frames_of(images)), strict=True):
            rows = zip(expected.scores, expected.names, expected.boxes, strict=True)
            known = [(s, CATEGORIES.index(n), *map(float, b)) for s, n, b in rows if n in CATEGORIES]
            left_out += len(expected) - len(known)
            assert known
            assert of_image(found.table, position) == sorted(known)
    assert found.left_out == {"dog": left_out}
    assert found.table.boxes.dtype == found.table.scores.dtype == np.float64
    assert 0 < found.seconds_per_frame < 5


def test_progress_is_told_after_every_frame(run: Run) -> None:
    told: list[int] = []
    run(progress=told.append)
    assert told == list(range(14))
    told.clear()
    run(progress=told.append)
    assert told == [13]


def test_an_interrupted_run_continues_with_what_is_missing(run: Run, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(progress=interrupt)
    assert os.listdir(tmp_path / "out") == ["video-1.safetensors"]
    made = (tmp_path / "out" / "video-1.safetensors").stat().st_mtime_ns
    told: list[int] = []
    found = run(progress=told.append)
    assert told == list(range(6, 14))
    assert (tmp_path / "out" / "video-1.safetensors").stat().st_mtime_ns == made
    assert_equal(found.table, run("whole").table)


def test_a_damaged_file_is_made_again(run: Run, tmp_path: Path) -> None:
    whole = run()
    file = tmp_path / "out" / "video-2.safetensors"
    for damage in (b"", file.read_bytes()[:-1], b"{}" * 100):
        file.write_bytes(damage)
        told: list[int] = []
        assert_equal(run(progress=told.append).table, whole.table)
        assert told[0] == 10


def test_a_file_is_there_in_full_or_not_at_all(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(ConfigError, match=r"video-1.safetensors cannot be written: No space left"):
        run()
    assert os.listdir(tmp_path / "out") == []


def test_many_stills_are_several_files(
    run: Run, tmp_path: Path, data: CocoVID, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run()
    monkeypatch.setattr("flowdet.evaluation.run._STILLS_IN_A_FILE", 2)
    assert_equal(run("many").table, whole.table)
    assert {"stills-0.safetensors", "stills-1.safetensors"} < set(os.listdir(tmp_path / "many"))


def test_threads_are_as_before_afterwards(run: Run) -> None:
    seen: set[int] = set()
    run(threads=2, progress=lambda _: seen.add(torch.get_num_threads()))
    assert 2 in seen
    assert torch.get_num_threads() == 1


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_processes_give_the_same_to_the_bit_even_if_one_is_killed(run: Run, tmp_path: Path) -> None:
    killed: list[int] = []

    def kill(done: int) -> None:
        if done == 2 and not killed:
            child = next(one for one in psutil.Process().children() if "spawn_main" in " ".join(one.cmdline()))
            child.kill()
            killed.append(child.pid)

    spread = run(processes=2, progress=kill)
    assert killed
    assert_equal(spread.table, run("alone").table)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "alone"))


def test_what_is_finished_is_kept_when_it_is_interrupted(run: Run, tmp_path: Path) -> None:
    def interrupt(done: int) -> None:
        if done == 10:  # the two longest videos have nine, so that one of them is a file
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(processes=2, progress=interrupt)
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.safetensors")}
    assert 0 < len(kept) < 4
    told: list[int] = []
    spread = run(processes=2, progress=told.append)
    assert told == list(range(told[0], 14))
    assert told[0] >= 3
    assert all(path.stat().st_mtime_ns == made for path, made in kept.items())
    assert_equal(spread.table, run("alone").table)


def test_workers_of_ray_give_the_same_to_the_bit(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    told: list[int] = []
    found = run(cluster=Cluster(workers=2), progress=told.append)
    assert (told[0], told[-1]) == (0, 13)
    assert_equal(found.table, run("alone").table)
    assert sorted(os.listdir(tmp_path / "out")) == sorted(os.listdir(tmp_path / "alone"))


@pytest.mark.parametrize("change", ["weights", "system", "images", "frames"])
def test_detections_of_something_else_are_refused(
    change: str, run: Run, system: VideoDetector, document: dict[str, Any], tmp_path: Path
) -> None:
    run()
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    images = tmp_path / "images"
    match change:
        case "weights":
            system = make_system(1)
        case "system":
            system = make_system(0, FGFAConfig(past=2, future=0, embedding_channels=4))
        case "images":
            images = images.rename(tmp_path / "others")
        case "frames":
            document["images"][0]["file_name"] = document["images"][1]["file_name"]
    with pytest.raises(ConfigError, match=rf"video-1.*with other {change}; name another folder"):
        detect_data_set(system, written(document, tmp_path), images, tmp_path / "out")
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before


def test_other_annotations_of_the_same_frames_use_what_is_there(
    run: Run, system: VideoDetector, document: dict[str, Any], tmp_path: Path
) -> None:
    before = run()
    document["categories"].reverse()
    told: list[int] = []
    data = written(document, tmp_path)
    after = detect_data_set(system, data, tmp_path / "images", tmp_path / "out", progress=told.append)
    assert told == [13]
    np.testing.assert_array_equal(after.table.labels, 2 - before.table.labels)


def test_a_digest_is_of_the_weights() -> None:
    assert weights_digest(make_system(0)) == weights_digest(make_system(0))
    assert weights_digest(make_system(0)) != weights_digest(make_system(1))


@pytest.mark.parametrize("processes", [1, 2])
def test_an_image_of_another_size_is_named(processes: int, run: Run, tmp_path: Path) -> None:
    save(video(1, size=(80, 48))[0], tmp_path / "images" / "video2" / "000005.jpg")
    with pytest.raises(DataError, match=r"data.json: image 8: .*000005.jpg is 48x80 px, the annotations say 80x48"):
        run(processes=processes)


def test_an_image_that_cannot_be_decoded_is_named(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "images" / "video2" / "000005.jpg"
    for content in (file.read_bytes()[:300], b"nothing"):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"data.json: image 8: .*000005.jpg cannot be read"):
            run()


def test_missing_images_are_named_before_any_work(run: Run, tmp_path: Path) -> None:
    (tmp_path / "images" / "stills" / "1.png").unlink()
    told: list[int] = []
    with pytest.raises(DataError, match=r"data.json: 1 of its images are not below .*: stills/1.png \(image 12\);"):
        run(progress=told.append)
    assert not told


def test_the_tilt_that_a_camera_noted_is_applied_where_the_annotations_know_of_it(run: Run, tmp_path: Path) -> None:
    whole = run()
    file = tmp_path / "images" / "stills" / "1.png"
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels(12)).save(file, exif=exif)
    assert_equal(run("tilted").table, whole.table)


def test_pictures_of_16_bits_get_what_their_8_bit_copies_get(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "images" / "stills" / "1.png"
    grey = pixels(12)[..., 0]
    Image.fromarray(grey).save(file)
    whole = run()
    Image.fromarray(grey.astype(np.uint16) * 257).save(file)
    assert_equal(run("of 16 bits").table, whole.table)


def test_no_class_in_common(run: Run, system: VideoDetector, document: dict[str, Any], tmp_path: Path) -> None:
    document["categories"] = [{"id": 1, "name": "teapot"}]
    with pytest.raises(DataError, match="teapot"):
        detect_data_set(system, written(document, tmp_path), tmp_path / "images", tmp_path / "out")


@pytest.mark.parametrize("options", [{"processes": 0}, {"threads": 0}])
def test_at_least_one_process_and_thread(options: dict[str, int], run: Run) -> None:
    with pytest.raises(ConfigError, match="processes and threads must be 1 or more"):
        run(**options)


def test_a_folder_that_cannot_be_made(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"the folder .*file.* cannot be made"):
        run("file/out")


def test_a_system_in_training_is_refused(run: Run, system: VideoDetector) -> None:
    system.train()
    with pytest.raises(ValueError, match="evaluation mode"):
        run()
