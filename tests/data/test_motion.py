import gzip
import json
import sys
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from flowdet.data.cocovid import Objects
from flowdet.data.motion import motion_iou, read_motion_iou
from flowdet.errors import DataError
from tests.metrics.fixtures import Box, Case, Made, unpack

AUTHORS_FILE = (
    Path(__file__).resolve().parents[3] / "shared" / "data" / "lists" / "imagenet_vid_groundtruth_motion_iou.mat"
)


def at(x: float) -> Box:
    return x, 0.0, x + 9, 9.0  # 10 x 10 px, both edges


def test_the_recorded_values(tmp_path: Path) -> None:
    case = Case(unpack(tmp_path))
    np.testing.assert_allclose(motion_iou(case.data), case.motion, rtol=0, atol=1e-9)


def test_the_window_goes_by_frame_numbers() -> None:
    # In the file's order the frames are 30, 0, 10 and 21.
    made = Made([0] * 4, [(0, 0, at(0)), (1, 0, at(0)), (2, 0, at(5)), (3, 0, at(0))], numbers=[30, 0, 10, 21])
    third = 50 / 150
    assert motion_iou(made.data).tolist() == pytest.approx([1, third, third, 1])


def test_the_mean_is_over_the_frames_with_the_instance() -> None:
    made = Made([0] * 3, [(0, 0, at(0)), (1, 0, at(0)), (2, 0, at(100))])
    assert motion_iou(made.data).tolist() == [0.5, 0.5, 0]


def test_tracks_videos_and_stills_stay_apart() -> None:
    objects = [(image, 0, at(20 * image)) for image in range(6)] + [(0, 0, at(3)), (1, 1, at(3))]
    made = Made([0, 0, 1, 1, None, None], objects, tracks=[1, 2, -1, 1, 1, 1, 7, 7])
    assert np.array_equal(motion_iou(made.data), [1, 1, np.nan, 1, np.nan, np.nan, 1, 1], equal_nan=True)


def test_a_number_that_two_videos_use_is_of_two_tracks() -> None:
    made = Made([0, 1, 1], [(0, 0, at(0)), (2, 0, at(5))])
    assert motion_iou(made.data).tolist() == [1, 1]


def test_a_track_that_is_twice_in_a_frame_is_compared_with_other_frames_only() -> None:
    made = Made([0, 0], [(0, 0, at(0)), (0, 0, at(500)), (1, 0, at(0))])
    assert motion_iou(made.data).tolist() == [1, 0, 0.5]
    assert motion_iou(Made([0], []).data).tolist() == []


MADE = Made([0, 0, 1], [(2, 0, at(0)), (0, 0, at(0)), (0, 0, at(50))])


@pytest.mark.parametrize("suffix", [".json", ".json.gz"])
def test_values_by_annotation_id(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"motion{suffix}"
    content = json.dumps({"1": 0.25, "0": 1, "2": 0}).encode()
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    assert read_motion_iou(path, MADE.data).tolist() == [1, 0.25, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not a JSON file"),
        ("[1, 1, 1]", r"an object \{annotation id: value\}, not list"),
        ('{"0": 1, "1": 1}', "made.json: annotation 2 has no value; 1 of its 3 annotations have no value, 0 values"),
        ('{"0": 1, "1": 1, "2": 1, "9": 1}', "there is no annotation 9; 0 of its 3 .* 1 values have no annotation"),
        ('{"0": 1, "1": 1.5, "2": 1}', "the motion IoU of annotation 1 must be from 0 to 1, not 1.5"),
        ('{"0": 1, "1": NaN, "2": 1}', "annotation 1 must be from 0 to 1, not nan"),
        ('{"0": 1, "1": "1", "2": 1}', "annotation 1 must be from 0 to 1, not '1'"),
    ],
)
def test_faults_of_a_json_file(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "motion.json"
    path.write_text(content)
    with pytest.raises(DataError, match=rf"motion\.json.*{message}"):
        read_motion_iou(path, MADE.data)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    for name in ("none.json", "none.mat"):
        with pytest.raises(DataError, match=rf"{name} cannot be read: No such file"):
            read_motion_iou(tmp_path / name, MADE.data)
    for name, message in (("text.mat", "is not a MATLAB file"), ("text.json.gz", "is not a JSON file")):
        (tmp_path / name).write_text("no such thing")
        with pytest.raises(DataError, match=message):
            read_motion_iou(tmp_path / name, MADE.data)


def write_mat(path: Path, *frames: list[float], name: str = "motion_iou") -> Path:
    cells = np.empty((len(frames), 1), dtype=object)
    for number, values in enumerate(frames):
        cells[number, 0] = np.array(values, dtype=np.float64).reshape(-1, 1)
    scipy.io.savemat(path, {name: cells})
    return path


def test_the_authors_file_goes_by_frame_and_object(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "motion.mat", [0.5, 0.25], [], [1])
    assert read_motion_iou(path, MADE.data).tolist() == [1, 0.5, 0.25]
    # The frames of a video are in the order of their numbers, wherever they are in the file.
    turned = Made([0, 0], [(0, 0, at(0)), (1, 0, at(0))], numbers=[5, 2])
    path = write_mat(tmp_path / "motion.mat", [0.5], [0.25])
    assert read_motion_iou(path, turned.data).tolist() == [0.25, 0.5]


def test_the_authors_file_of_another_data_set(tmp_path: Path) -> None:
    path = write_mat(tmp_path / "motion.mat", [0.5, 0.25], [])
    with pytest.raises(DataError, match=r"motion\.mat has 2 frames, the videos of made\.json have 3"):
        read_motion_iou(path, MADE.data)
    path = write_mat(tmp_path / "motion.mat", [0.5, 0.25], [1], [])
    with pytest.raises(DataError, match=r"entry 2 has 1 value, 1\.png of made\.json has 0 objects"):
        read_motion_iou(path, MADE.data)
    path = write_mat(tmp_path / "motion.mat", [0.5, 1.25], [], [1])
    with pytest.raises(DataError, match=r"entry 1 has a value that is not from 0 to 1: \[0\.5, 1\.25\]"):
        read_motion_iou(path, MADE.data)
    path = write_mat(tmp_path / "motion.mat", [0.5, 0.25], [], [1], name="other")
    with pytest.raises(DataError, match="not a MATLAB file with a cell array 'motion_iou'"):
        read_motion_iou(path, MADE.data)
    with pytest.raises(DataError, match=r"made\.json has objects on stills, too"):
        read_motion_iou(write_mat(path, [1]), Made([0, None], [(0, 0, at(0)), (1, 0, at(0))]).data)


def test_without_scipy_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(DataError, match=r"needs SciPy: pip install scipy"):
        read_motion_iou(tmp_path / "motion.mat", MADE.data)


def test_the_file_of_the_authors_itself() -> None:
    if not AUTHORS_FILE.is_file():
        pytest.skip(f"the authors' file is not here: {AUTHORS_FILE}")
    cells = scipy.io.loadmat(AUTHORS_FILE)["motion_iou"].reshape(-1)
    sizes = [cell.size for cell in cells]
    assert (len(sizes), sum(sizes), sizes.count(0)) == (176_126, 273_505, 4046)
    start = Made([0], []).data
    count = sum(sizes)
    objects = Objects(
        ids=np.arange(count),
        images=np.repeat(np.arange(len(sizes)), sizes),
        labels=np.zeros(count, dtype=np.int64),
        boxes=np.zeros((count, 4)),
        areas=np.zeros(count),
        tracks=np.zeros(count, dtype=np.int64),
        crowds=np.zeros(count, dtype=np.bool_),
    )
    videos = (replace(start.videos[0], frames=tuple(range(len(sizes)))),)
    data = replace(start, images=start.images * len(sizes), videos=videos, objects=objects)
    values = read_motion_iou(AUTHORS_FILE, data)
    assert np.median(values) == pytest.approx(0.852, abs=5e-4)
    shares = [(values >= 0.9).mean(), ((values > 0.7) & (values < 0.9)).mean(), (values <= 0.7).mean()]
    assert shares == pytest.approx([0.3793, 0.3591, 0.2616], abs=1e-4)


def test_a_small_file_does_not_unpack_to_gigabytes(tmp_path: Path) -> None:
    path = tmp_path / "m.json.gz"
    path.write_bytes(gzip.compress(b" " * 50_000_000))
    with pytest.raises(DataError, match=r"m\.json\.gz holds more than 1000600 bytes, too many"):
        read_motion_iou(path, MADE.data)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_matlab_file_is_bounded_by_the_data_set(tmp_path: Path, compressed: bool) -> None:
    path = write_mat(tmp_path / "m.mat", [0.5, 0.25], [], [1])
    cells = scipy.io.loadmat(path)["motion_iou"]
    scipy.io.savemat(path, {"motion_iou": cells}, do_compression=compressed)
    assert read_motion_iou(path, MADE.data).tolist() == [1, 0.5, 0.25]
    cells[1, 0] = np.zeros(30_000_000)
    scipy.io.savemat(path, {"motion_iou": cells}, do_compression=compressed)
    assert (path.stat().st_size < 1_000_000) == compressed
    tracemalloc.start()
    with pytest.raises(DataError, match=r"m\.mat holds more than 1000600 bytes, too many"):
        read_motion_iou(path, MADE.data)
    assert tracemalloc.get_traced_memory()[1] < 20_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("name", ["m.json", "m.json.gz", "m.mat"])
def test_a_huge_file_is_not_read(name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(DataError, match=r"holds more than 1000600 bytes, too many"):
        read_motion_iou(path, MADE.data)


def test_a_track_with_many_boxes_in_a_frame_is_refused_at_once() -> None:
    count = 200_000
    made = Made([0, 0], [(0, 0, at(0)), (1, 0, at(0))]).data
    objects = Objects(
        ids=np.arange(count),
        images=np.arange(count) % 2,
        labels=np.zeros(count, dtype=np.int64),
        boxes=np.tile([0.0, 0.0, 1e9, 1e9], (count, 1)),
        areas=np.zeros(count),
        tracks=np.full(count, 2**63 - 1),
        crowds=np.zeros(count, dtype=np.bool_),
    )
    with pytest.raises(DataError, match=r"track 9223372036854775807 has more than 100 boxes in 0\.png; the objects"):
        motion_iou(replace(made, objects=objects))
