import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from flowdet.data.check import CheckReport, check
from flowdet.data.image_files import picture_names
from flowdet.errors import DataError
from tests.data.pictures import waves

SHARED = Path(__file__).resolve().parents[3] / "shared"
REAL = SHARED / "data" / "real_vid"

Entry = dict[str, Any]


def frame(number: int, video: int | None = 1, frame_id: int | None = None, **values: object) -> Entry:
    place = {} if video is None else {"video_id": video, "frame_id": number if frame_id is None else frame_id}
    return {"id": number, "file_name": f"{number}.png", "height": 100, "width": 200, **place, **values}


def box(number: int, image: int, *sides: float, label: int = 1, **values: object) -> Entry:
    return {"id": number, "image_id": image, "category_id": label, "bbox": sides or [10, 10, 20, 40], **values}


def write(folder: Path, images: list[Entry], annotations: list[Entry], **lists: object) -> Path:
    document = {
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}],
        "videos": [{"id": 1, "name": "one"}, {"id": 2, "name": "two"}],
        "images": images,
        "annotations": annotations,
        **lists,
    }
    path = folder / "d.json"
    path.write_text(json.dumps(document))
    return path


def warnings(report: CheckReport) -> dict[str, list[str]]:
    return {warning.what: list(warning.where) for warning in report.warnings}


def good(folder: Path) -> Path:
    """Two videos of two frames, one still, and an object of each class with a track, in every video."""
    images = [frame(0), frame(1), frame(2, 2), frame(3, 2, is_vid_train_frame=False), frame(4, None)]
    annotations = [
        box(1, 0, instance_id=1),
        box(2, 1, instance_id=1),
        box(3, 2, label=2, instance_id=1),
        box(4, 3, 0, 0, 200, 100, label=2, instance_id=1),
        # Numbers of tracks mean nothing on a still.
        box(5, 4, 10, 10, 20, 40, instance_id=3),
        box(6, 4, 10, 10, 20, 40, instance_id=3, iscrowd=1),
    ]
    return write(folder, images, annotations)


def test_what_a_good_data_set_looks_like(tmp_path: Path) -> None:
    report = check(good(tmp_path))
    assert report.problems == ()
    assert warnings(report) == {}
    assert report.pictures is None
    summary = report.summary
    assert summary is not None
    assert (summary.videos, summary.frames, summary.stills, summary.objects) == (2, 4, 1, 6)
    assert (summary.training_images, summary.empty_images, summary.crowds, summary.tracks) == (4, 0, 1, 2)
    assert summary.objects_per_class == {"cat": 4, "dog": 2}
    assert summary.images_per_class == {"cat": 3, "dog": 2}
    assert summary.images_by_objects == (0, 4, 1)
    assert summary.video_length is not None
    assert (summary.video_length.smallest, summary.video_length.median, summary.video_length.largest) == (2, 2, 2)
    assert summary.box_size is not None
    assert summary.box_size.smallest == pytest.approx(0.2)
    assert summary.box_size.median == pytest.approx(0.2)
    assert summary.box_size.percentile_90 == pytest.approx(0.6)
    assert summary.box_size.largest == 1
    assert summary.speeds is not None
    # The cat stays where it is, the dog becomes 24 times as large.
    assert (summary.speeds.objects, summary.speeds.slow, summary.speeds.fast) == (4, 0.5, 0.5)
    assert summary.speeds.medium == 0


def test_a_data_set_without_videos_or_objects(tmp_path: Path) -> None:
    report = check(write(tmp_path, [frame(4, None)], [], videos=[]))
    assert report.summary is not None
    assert (report.summary.video_length, report.summary.box_size, report.summary.speeds) == (None, None, None)
    assert report.summary.images_by_objects == (1,)
    assert warnings(report) == {"no image has an object": [], "2 classes have no object": ["cat", "dog"]}


def test_faults_are_counted_by_kind_and_end_the_check(tmp_path: Path) -> None:
    report = check(write(tmp_path, [frame(0)], [box(1, 5), box(2, 6), box(3, 0, label=9)]))
    assert report.problem_counts() == {"annotation of an unknown image": 2, "annotation of an unknown category": 1}
    assert report.problems[0].sentence == "annotation 1: there is no image 5"
    assert report.summary is None
    assert report.warnings == ()
    assert json.loads(json.dumps(report.to_json()))["errors"]["counts"]["annotation of an unknown image"] == 2


BASIS = [box(1, 0, instance_id=1), box(2, 1, instance_id=1), box(9, 1, label=2, instance_id=2)]
FRAMES = [frame(0), frame(1), frame(2, 2)]


@pytest.mark.parametrize(
    ("images", "annotations", "warning", "where"),
    [
        (
            FRAMES,
            [box(3, 1, 190, 10, 11, 5, instance_id=5), box(4, 1, -1, 10, 11, 5, instance_id=6)],
            "2 boxes reach beyond their image",
            ["annotation 3 in 1.png (200x100): 190, 10, 201, 15", "annotation 4 in 1.png (200x100): -1, 10, 10, 15"],
        ),
        (
            [frame(0), frame(1, width=300), frame(2, 2), frame(3, None, width=90)],
            [],
            "1 video has frames that differ in size, which training refuses",
            ["one: 200x100, 300x100"],
        ),
        (
            FRAMES,
            [box(3, 1, 10, 96, 11, 5, instance_id=5)],
            "1 box reaches beyond its image",
            ["annotation 3 in 1.png (200x100): 10, 96, 21, 101"],
        ),
        (
            FRAMES,
            [box(3, 1, 200, 10, 11, 5, instance_id=5), box(4, 1, 10, -6, 11, 5, instance_id=6)],
            "2 boxes lie wholly outside their image",
            ["annotation 3 in 1.png (200x100): 200, 10, 211, 15", "annotation 4 in 1.png (200x100): 10, -6, 21, -1"],
        ),
        (
            FRAMES,
            [box(3, 1, 10, 10, 0, 5, instance_id=5)],
            "1 box has no area",
            ["annotation 3 in 1.png (200x100): 10, 10, 10, 15"],
        ),
        (
            [*FRAMES, frame(7, 2, 3, file_name="0.png")],
            [],
            "1 image has the file of another one",
            ["0.png: images 0 and 7"],
        ),
        (
            [*FRAMES, frame(5), frame(9), frame(8, 2, 3)],
            [],
            "6 frame numbers are missing within 1 video",
            ["one: 2 to 4, 6 to 8"],
        ),
        (FRAMES[:2], [], "1 video has no frames", ["two"]),
        (
            FRAMES,
            [box(3, 1), box(4, 2)],
            "2 objects of videos have no track number (instance_id) while others have one; metrics by motion speed "
            "leave them out",
            [],
        ),
        (
            FRAMES,
            [box(3, 1, instance_id=1), box(4, 2, label=2, instance_id=1)],  # the other video has tracks of its own
            "1 box is the second of its track in the same frame",
            ["track 1 in 1.png: annotation 3"],
        ),
        (
            FRAMES,
            [box(3, 0, instance_id=4), box(4, 1, label=2, instance_id=4)],
            "1 track changes its class",
            ["track 4 of one: cat and dog"],
        ),
        (
            FRAMES,
            [box(n, 0, instance_id=n) for n in range(10, 110)],
            "classes are far from balanced: cat has 102 objects, dog 1",
            [],
        ),
    ],
)
def test_what_looks_wrong(
    images: list[Entry], annotations: list[Entry], warning: str, where: list[str], tmp_path: Path
) -> None:
    shown = {image["id"] for image in images}
    basis = [annotation for annotation in BASIS if annotation["image_id"] in shown]
    report = check(write(tmp_path, images, [*basis, *annotations]))
    assert warnings(report) == {warning: where}


def test_no_tracks_at_all(tmp_path: Path) -> None:
    report = check(write(tmp_path, FRAMES, [box(1, 0), box(2, 2, label=2)]))
    assert list(warnings(report)) == [
        "no object has a track number (instance_id): metrics by motion speed are not possible"
    ]
    assert report.summary is not None
    assert report.summary.speeds is None


def put_pictures(folder: Path, *names: str, size: tuple[int, int] = (200, 100)) -> None:
    folder.mkdir(exist_ok=True)
    for name in names:
        Image.new("L", size).save(folder / name)


def test_pictures_beside_the_file_or_in_a_folder(tmp_path: Path) -> None:
    path = good(tmp_path)
    put_pictures(tmp_path / "p", "0.png", "1.png", "2.png", "3.png", "4.png")
    done: list[int] = []
    report = check(path, tmp_path / "p", progress=done.append)
    assert (report.pictures, warnings(report), done) == (tmp_path / "p", {}, [5])
    assert check(path).pictures is None
    put_pictures(tmp_path, "3.png")
    beside = check(path)
    assert beside.pictures == tmp_path
    assert list(warnings(beside)) == ["4 x picture that is missing"]


def test_pictures_that_are_not_as_the_file_says(tmp_path: Path) -> None:
    path = good(tmp_path)
    put_pictures(tmp_path, "1.png", "2.png", size=(100, 200))
    put_pictures(tmp_path, "4.png")
    (tmp_path / "3.png").write_text("no picture")
    found = warnings(check(path))
    assert list(found) == [
        "1 x picture that is missing",
        "2 x picture of another size",
        "1 x picture that cannot be read",
    ]
    assert found["1 x picture that is missing"] == [f"{tmp_path / '0.png'} is not there"]
    assert found["2 x picture of another size"][0] == (
        f"{tmp_path / '1.png'} has 100x200 pixels, the data set says 200x100"
    )


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    images = [frame(0), frame(1), frame(2, 2, file_name="a\0b"), frame(3, 2, file_name="x" * 5000)]
    report = check(write(tmp_path, images, BASIS), tmp_path)
    assert [warning.count for warning in report.warnings] == [4]


def test_files_and_folders_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read"):
        check(tmp_path / "none.json")
    with pytest.raises(DataError, match="there is no folder"):
        check(good(tmp_path), tmp_path / "none")


def test_names_of_pictures_in_natural_order(tmp_path: Path) -> None:
    for name in ("10.jpg", "2.JPG", "a1.png", ".3.png", "b.txt"):
        (tmp_path / name).touch()
    (tmp_path / "folder.jpg").mkdir()
    assert picture_names(tmp_path) == ["2.JPG", "10.jpg", "a1.png"]


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the recorded files are not here: {REAL}")
def test_real_clips(tmp_path: Path) -> None:
    report = check(REAL / "annotations" / "davis_vid_val.json", REAL / "Data" / "VID")
    assert [warning.what for warning in report.warnings] == ["26 classes have no object"]
    assert report.summary is not None
    assert report.summary.speeds is not None
    shares = (report.summary.speeds.slow, report.summary.speeds.medium, report.summary.speeds.fast)
    assert [round(share, 2) for share in shares] == [0.17, 0.45, 0.38]


def test_a_half_picture_is_found_where_all_are_decoded(tmp_path: Path) -> None:
    path = good(tmp_path)
    put_pictures(tmp_path, "0.png", "1.png", "2.png", "3.png")
    Image.fromarray(waves((100, 200), 0)).save(tmp_path / "4.png", "JPEG")
    content = (tmp_path / "4.png").read_bytes()
    (tmp_path / "4.png").write_bytes(content[: len(content) // 2])
    assert warnings(check(path)) == {}
    done: list[int] = []
    found = warnings(check(path, decode=True, progress=done.append))
    assert list(found) == ["1 x picture that cannot be read"]
    assert found["1 x picture that cannot be read"][0].startswith(f"{tmp_path / '4.png'} cannot be read: ")
    assert done == [5]


def test_decoding_needs_pictures(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no pictures in .* to decode; name their folder with --images"):
        check(good(tmp_path), decode=True)


def test_frame_numbers_far_apart(tmp_path: Path) -> None:
    report = check(write(tmp_path, [frame(0, frame_id=-(2**53)), frame(1, frame_id=2**53), frame(2, 2)], BASIS))
    assert list(warnings(report)) == [f"{2**54 - 1} frame numbers are missing within 1 video"]
    assert check(write(tmp_path, [frame(0, frame_id=2**53 + 1)], [])).problem_counts() == {"frame without a number": 1}


def test_boxes_that_are_there_twice(tmp_path: Path) -> None:
    boxes = [box(1, 4), box(2, 4), box(3, 4, 10, 10, 20, 41), box(4, 4), box(5, 4, label=2)]
    found = warnings(check(write(tmp_path, [frame(4, None)], boxes, videos=[])))
    assert found == {
        "2 boxes repeat another one of their class": [
            f"annotation {number} in 4.png (200x100): 10, 10, 30, 50" for number in (2, 4)
        ]
    }


VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([0, 1, -1, 2**31 - 1, 2**31, 2**53, 2**63 - 1, 2**63, 10**400, 0.5, 1e308, -1e308, 5e-324]),
    st.sampled_from([float("nan"), float("inf"), "", "0", "\ud800", "\0", "x" * 5000, [], {}, [[]], [1, 2, 3, 4]]),
    st.integers(),
    st.floats(),
)


@given(st.lists(st.tuples(st.integers(0, 10**6), VALUES), max_size=3))
def test_whatever_a_file_holds_is_told_and_fits_into_json(changes: list[tuple[int, Any]]) -> None:
    with TemporaryDirectory() as folder:
        path = good(Path(folder))
        document = json.loads(path.read_text())
        for place, value in changes:
            entry = document[list(document)[place % 4]]
            if isinstance(entry, list) and entry and isinstance(entry[place % len(entry)], dict):
                inner = entry[place % len(entry)]
                inner[list(inner)[place // 7 % len(inner)]] = value
        path.write_text(json.dumps(document))
        for decode in (False, True):
            report = check(path, Path(folder), decode=decode)
            json.dumps(report.to_json(), allow_nan=False)
            assert bool(report.problems) == (report.summary is None)
