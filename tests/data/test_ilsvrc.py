import json
import lzma
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from flowdet.class_names import VID_WORDNET_IDS
from flowdet.data.cocovid import find_problems
from flowdet.data.ilsvrc import (
    FramesJob,
    ListedSet,
    convert_ilsvrc,
    find_lists,
    read_det_list,
    read_frames,
    read_train_list,
    read_val_list,
)
from flowdet.errors import DataError

SHARED = Path(__file__).resolve().parents[3] / "shared"
TINY = SHARED / "evaluation" / "ilsvrc_tiny"
REAL = SHARED / "data" / "real_vid"
LISTS = SHARED / "data" / "lists"
NAMES = ("imagenet_vid_train", "imagenet_vid_val", "imagenet_det_30plus1cls")
CODES = VID_WORDNET_IDS

Box = tuple[object, object, object, object]
Found = tuple[str, Box, int | None]


def needs(folder: Path) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not folder.is_dir(), reason=f"the recorded files are not here: {folder}")


def xml(*objects: Found, size: str = "<width>64</width><height>48</height>", extra: str = "") -> str:
    parts = [
        f"<object>{'' if track is None else f'<trackid>{track}</trackid>'}<name>{CODES.get(name, name)}</name><bndbox>"
        f"<xmax>{x2}</xmax><xmin>{x1}</xmin><ymax>{y2}</ymax><ymin>{y1}</ymin></bndbox>{extra}</object>"
        for name, (x1, y1, x2, y2), track in objects
    ]
    return f"<annotation><size>{size}</size>{''.join(parts)}</annotation>"


BOX: Box = (1, 2, 11, 22)
DOG: Found = ("dog", BOX, 0)
CAT: Found = ("domestic_cat", (5, 6, 9, 8), 1)


def put(root: Path, kind: str, name: str, content: str | None, *, picture: bool = True) -> None:
    for folder, suffix, text in (("Annotations", "xml", content), ("Data", "JPEG", "" if picture else None)):
        path = root / folder / kind / f"{name}.{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is not None:
            path.write_text(text)


def put_list(root: Path, name: str, *lines: str, folder: str = "Lists") -> Path:
    path = root / folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Three videos of validation with 1 + 4 + 1 frames."""
    put(tmp_path, "VID", "val/a/000000", xml(CAT, DOG))
    put(tmp_path, "VID", "val/b/000000", xml(DOG))
    put(tmp_path, "VID", "val/b/000001", xml())
    put(tmp_path, "VID", "val/b/000002", xml(("n00007846", BOX, 9), CAT))
    put(tmp_path, "VID", "val/b/000003", xml(CAT, DOG, extra="<occluded>1</occluded><generated>0</generated>"))
    put(tmp_path, "VID", "val/c/000000", xml(DOG, extra="<occluded>0</occluded><generated>1</generated>"))
    put_list(tmp_path, "VID_val_videos.txt", "val/a 1 0 1", "val/b 2 0 4", "val/c 6 0 1")
    return tmp_path


def only(root: Path) -> ListedSet:
    (found,) = find_lists(root)
    return found


def convert(root: Path, **options: Any) -> dict[str, Any]:
    written = convert_ilsvrc(only(root), root / "out", **options)
    document: dict[str, Any] = json.loads(written.path.read_text())
    assert list(find_problems(document)) == []
    return document


def entry(annotation: dict[str, Any]) -> tuple[object, ...]:
    return tuple(annotation[key] for key in ("id", "video_id", "image_id", "category_id", "instance_id", "bbox"))


def test_videos_frames_objects_and_instances(root: Path) -> None:
    done: list[int] = []
    document = convert(root, progress=done.append)
    assert done == [1, 5, 6]
    assert document["videos"][1] == {"id": 2, "name": "val/b", "vid_train_frames": []}
    assert [image["id"] for image in document["images"]] == [1, 2, 3, 4, 5, 6]
    assert document["images"][3] == {
        "file_name": "val/b/000002.JPEG",
        "height": 48,
        "width": 64,
        "id": 4,
        "frame_id": 2,
        "video_id": 2,
        "is_vid_train_frame": False,
    }
    dog, cat = 9, 10
    assert [entry(annotation) for annotation in document["annotations"]] == [
        (1, 1, 1, cat, 1, [5, 6, 4, 2]),
        (2, 1, 1, dog, 2, [1, 2, 10, 20]),
        (3, 2, 2, dog, 3, [1, 2, 10, 20]),
        (4, 2, 4, cat, 4, [5, 6, 4, 2]),
        (5, 2, 5, cat, 4, [5, 6, 4, 2]),
        (6, 2, 5, dog, 3, [1, 2, 10, 20]),
        (7, 3, 6, dog, 5, [1, 2, 10, 20]),
    ]
    marks = [(annotation["occluded"], annotation["generated"]) for annotation in document["annotations"]]
    assert marks[3:] == [(False, False), (True, False), (True, False), (False, True)]
    assert document["annotations"][0]["area"] == 8
    assert document["categories"][8] == {"id": 9, "name": "dog", "encode_name": "n02084071"}
    assert len(document["categories"]) == 30


def test_the_counts_of_a_conversion(root: Path) -> None:
    written = convert_ilsvrc(only(root), root / "out")
    assert (written.videos, written.images, written.empty_images, written.objects) == (3, 6, 1, 7)
    assert written.training_images == 0
    assert written.remarks == {"objects of a class outside the 30, left out": 1}
    assert {name: count for name, count in written.objects_per_class.items() if count} == {"dog": 4, "domestic_cat": 3}
    assert written.problems == ()


def test_the_number_of_processes_changes_nothing(tmp_path: Path) -> None:
    for number in range(1, 21):
        put(tmp_path, "VID", f"val/{number}/000000", xml(DOG, size=f"<width>{number}</width><height>1</height>"))
    put_list(tmp_path, "VID_val_videos.txt", *(f"val/{number} {number} 0 1" for number in range(1, 21)))
    (tmp_path / "Annotations/VID/val/7/000000.xml").unlink()
    texts = []
    for processes in (1, 2):
        path = convert_ilsvrc(only(tmp_path), tmp_path / str(processes), processes=processes).path
        texts.append(path.read_text() + path.with_suffix(".problems.txt").read_text())
    assert texts[0] == texts[1]
    assert texts[0].count('"width": ') == 19


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGKILL")
def test_killed_processes_change_nothing(tmp_path: Path) -> None:
    for number in range(8):
        put(tmp_path, "VID", f"val/{number}/000000", xml(DOG))
    put_list(tmp_path, "VID_val_videos.txt", *(f"val/{number} {number} 0 1" for number in range(8)))
    killed: list[int] = []

    def kill(done: int) -> None:
        if not killed:
            for child in psutil.Process().children():
                if child.status() != psutil.STATUS_ZOMBIE and "spawn_main" in " ".join(child.cmdline()):
                    child.kill()
                    killed.append(child.pid)

    found = convert_ilsvrc(only(tmp_path), tmp_path / "out", processes=2, progress=kill)
    assert killed
    assert found.path.read_text() == convert_ilsvrc(only(tmp_path), tmp_path / "peace").path.read_text()


DAMAGED = {
    "cut off": xml(DOG)[:-30],
    "not XML": "0" * 40,
    "without a size": "<annotation/>",
    "zero wide": xml(DOG, size="<width>0</width><height>48</height>"),
    "a wordy size": xml(DOG, size="<width>many</width><height>48</height>"),
    "an entity": '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + xml(DOG),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_named_and_shifts_nothing(content: str, root: Path) -> None:
    before = convert(root)
    put(root, "VID", "val/b/000000", content)
    written = convert_ilsvrc(only(root), root / "out")
    ((kind, sentence),) = [(problem.kind, problem.sentence) for problem in written.problems]
    assert kind == "damaged XML file"
    assert "val/b/000000.xml" in sentence
    after = json.loads(written.path.read_text())
    assert after["images"] == [image for image in before["images"] if image["id"] != 2]
    assert [annotation["image_id"] for annotation in after["annotations"]] == [1, 1, 4, 5, 5, 6]
    assert after["videos"] == before["videos"]
    with pytest.raises(DataError, match="val/b/000000"):
        convert_ilsvrc(only(root), root / "strict", strict=True)
    assert not (root / "strict" / "imagenet_vid_val.json").exists()


@pytest.mark.parametrize(
    ("path", "kind"),
    [("Annotations/VID/val/b/000003.xml", "missing XML file"), ("Data/VID/val/b/000003.JPEG", "missing picture")],
)
def test_a_missing_file_is_named_and_shifts_nothing(path: str, kind: str, root: Path) -> None:
    (root / path).unlink()
    written = convert_ilsvrc(only(root), root / "out")
    assert [(problem.kind, problem.sentence) for problem in written.problems] == [(kind, f"{root / path} is not there")]
    assert [image["id"] for image in json.loads(written.path.read_text())["images"]] == [1, 2, 3, 4, 6]


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((11, 2, 1, 22), "whose end lies before its beginning"),
        ((1, 22, 11, 2), "whose end lies before its beginning"),
        ((1, 2, "nan", 22), "has 'nan' as xmax of its box"),
        ((1, 2, 11, "inf"), "has 'inf' as ymax of its box"),
        (("", 2, 11, 22), "has '' as xmin of its box"),
        ((1, "x" * 50, 11, 22), f"has '{'x' * 20}' as ymin of its box"),
    ],
)
def test_an_object_with_a_damaged_box_is_named_and_left_out(box: Box, reason: str, root: Path) -> None:
    put(root, "VID", "val/b/000000", xml(CAT, ("dog", box, 0)))
    written = convert_ilsvrc(only(root), root / "out")
    (problem,) = written.problems
    assert problem.kind == "damaged object"
    assert f"{root}/Annotations/VID/val/b/000000.xml: object 2" in problem.sentence
    assert reason in problem.sentence
    assert (written.images, written.objects) == (6, 7)


def test_an_object_without_name_or_box(root: Path) -> None:
    put(root, "VID", "val/a/000000", xml(DOG).replace("</size>", "</size><object/><object><name>n</name></object>"))
    written = convert_ilsvrc(only(root), root / "out")
    assert [problem.sentence.partition("xml: ")[2] for problem in written.problems] == [
        "object 1 has no name",
        "object 2 has no box",
    ]


def test_flat_boxes_fractions_and_no_track(root: Path) -> None:
    put(root, "VID", "val/a/000000", xml(("dog", (1, 2, 1, 22), 0), ("dog", (1.5, "2.0", 11, 22), None)))
    first, second = convert(root)["annotations"][:2]
    assert first["bbox"] == [1, 2, 0, 20]
    assert second["bbox"] == [1.5, 2, 9.5, 20]
    assert "instance_id" not in second


def test_pictures_are_not_looked_for_where_there_is_no_folder_of_them(root: Path) -> None:
    (root / "Data" / "VID").rename(root / "elsewhere")
    written = convert_ilsvrc(only(root), root / "out")
    assert (written.images, written.problems) == (6, ())
    folder = root / "Data" / "VID"
    assert written.remarks[f"frames whose pictures were not looked for, as there is no folder {folder}"] == 6


def test_no_frame_is_left(root: Path) -> None:
    put_list(root, "VID_val_videos.txt", "val/d 1 0 2")
    with pytest.raises(DataError, match=r"no image to write .*val/d/000000.JPEG is not there"):
        convert_ilsvrc(only(root), root / "out")


def training_set(root: Path) -> Path:
    for name in ("train/x/a", "train/x/b"):
        for frame in range(3):
            put(root, "VID", f"{name}/{frame:06d}", xml(DOG))
    lines = ("train/x/b 1 0 3", "train/x/a 1 1 3", "train/x/b 1 2 3")
    return put_list(root, "VID_train_15frames.txt", *lines, folder="ImageSets")


def test_training_frames_count_from_zero(tmp_path: Path) -> None:
    path = training_set(tmp_path)
    assert only(tmp_path).list_file == path
    document = convert(tmp_path)
    assert [(video["name"], video["vid_train_frames"]) for video in document["videos"]] == [
        ("train/x/b", [0, 2]),
        ("train/x/a", [1]),
    ]
    marked = [(image["video_id"], image["frame_id"]) for image in document["images"] if image["is_vid_train_frame"]]
    assert marked == [(1, 0), (1, 2), (2, 1)]


def test_shifted_training_frames_as_the_reference_has_them(tmp_path: Path) -> None:
    training_set(tmp_path)
    (listed,) = find_lists(tmp_path, shifted_training_frames=True)
    written = convert_ilsvrc(listed, tmp_path / "out")
    document = json.loads(written.path.read_text())
    assert [video["vid_train_frames"] for video in document["videos"]] == [[-1, 1], [0]]
    marked = [(image["video_id"], image["frame_id"]) for image in document["images"] if image["is_vid_train_frame"]]
    assert marked == [(1, 1), (2, 0)]
    assert written.training_images == 2


def test_stills_listed_ones_first(tmp_path: Path) -> None:
    for name in (
        "ILSVRC2014_train_0001/p",
        "ILSVRC2013_train/n1/q",
        "ILSVRC2013_train/n0/r",
        "ILSVRC2014_train_0000/s",
    ):
        put(tmp_path, "DET", f"train/{name}", xml(("n00007846", BOX, None), ("dog", BOX, None)))
    put(tmp_path, "DET", "train/ILSVRC2013_train_extra0/t", xml())
    put(tmp_path, "DET", "train/ILSVRC2014_train_0000/u", xml())
    lines = ("train/ILSVRC2014_train_0001/p 1", "train/ILSVRC2013_train/n0/r 1", "train/ILSVRC2014_train_0001/p 1")
    put_list(tmp_path, "DET_train_30classes.txt", *lines)
    document = convert(tmp_path)
    assert [(image["file_name"], image["is_vid_train_frame"]) for image in document["images"]] == [
        ("train/ILSVRC2014_train_0001/p.JPEG", True),
        ("train/ILSVRC2013_train/n0/r.JPEG", True),
        ("train/ILSVRC2014_train_0001/p.JPEG", True),
        ("train/ILSVRC2013_train/n1/q.JPEG", False),
        ("train/ILSVRC2014_train_0000/s.JPEG", False),
        ("train/ILSVRC2014_train_0000/u.JPEG", False),
    ]
    assert document["categories"][30] == {"id": 31, "name": "other_categeries", "encode_name": None}
    assert document["annotations"][:2] == [
        {"id": 1, "image_id": 1, "category_id": 31, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": False},
        {"id": 2, "image_id": 1, "category_id": 9, "bbox": [1, 2, 10, 20], "area": 200, "iscrowd": False},
    ]
    assert "videos" not in document
    assert convert_ilsvrc(only(tmp_path), tmp_path / "out").remarks == {
        "pictures that the list names again, kept as often as it does": 1
    }


def test_unlisted_stills_come_in_the_order_of_their_names(tmp_path: Path) -> None:
    names = [f"train/ILSVRC2013_train/n{number % 7}/p{number:02d}" for number in range(42)]
    for name in reversed(names):
        put(tmp_path, "DET", name, xml())
    put_list(tmp_path, "DET_train_30classes.txt", f"{names[5]} 1")
    listed = only(tmp_path)
    assert (listed.stills[0], listed.listed_stills) == (names[5], 1)
    assert listed.stills[1:] == tuple(sorted(set(names) - {names[5]}))


def test_a_damaged_still_is_named_and_shifts_nothing(tmp_path: Path) -> None:
    for name in "pqr":
        put(tmp_path, "DET", f"train/ILSVRC2014_train_0000/{name}", xml(DOG))
    put(tmp_path, "DET", "train/ILSVRC2014_train_0000/q", xml(DOG)[:-1])
    put_list(tmp_path, "DET_train_30classes.txt", "train/ILSVRC2014_train_0000/p 1")
    written = convert_ilsvrc(only(tmp_path), tmp_path / "out")
    assert [problem.kind for problem in written.problems] == ["damaged XML file"]
    assert [image["id"] for image in json.loads(written.path.read_text())["images"]] == [1, 3]


def test_what_is_converted_follows_from_the_lists(root: Path) -> None:
    training_set(root)
    assert [(one.name, one.frame_count) for one in find_lists(root)] == [(NAMES[0], 6), (NAMES[1], 6)]
    with pytest.raises(
        DataError, match=r"holds none of the lists VID_train_15frames\.txt, VID_val_videos\.txt, DET_tr"
    ):
        find_lists(root / "Annotations")
    put_list(root, "DET_train_30classes.txt", "train/p 1")
    with pytest.raises(DataError, match=r"no folder .*DET with the XML files"):
        find_lists(root)


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["a 1 0 3", "a 1 0"], "line 2: expected a name and 3 whole numbers, not 'a 1 0'"),
        (["a 1 -1 3"], "line 1: expected a name and 3 whole numbers"),
        (["a 1 3 3"], "line 1: frame 3 of a, whose 3 frames are numbered from 0"),
        (["a 1 0 3", "", "a 1 0 4"], "line 3: a has 4 frames here and 3 in a line before"),
        (["../a 1 0 3"], "line 1: '../a' leads out of the folder"),
        (["/a 1 0 3"], "line 1: '/a' leads out of the folder"),
        (["", " "], "is empty"),
    ],
)
def test_lines_that_are_no_training_frames(lines: Sequence[str], reason: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_train_list(put_list(tmp_path, "l.txt", *lines))
    assert reason in str(raised.value)
    assert "l.txt" in str(raised.value)


def test_other_lists_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="line 2: a is there a second time"):
        read_val_list(put_list(tmp_path, "l.txt", "a 1 0 3", "a 4 0 3"))
    with pytest.raises(DataError, match="line 1: expected a name and number, not 'a'"):
        read_det_list(put_list(tmp_path, "l.txt", "a"))
    with pytest.raises(DataError, match="cannot be read"):
        read_det_list(tmp_path / "none.txt")


def test_a_frame_as_it_is_read(root: Path) -> None:
    job = FramesJob(str(root / "Annotations/VID"), None, ["val/c/000000", "val/c/000001"])
    good, missing = read_frames(job)
    assert missing.size is None
    assert good.size == (64, 48)
    assert list(good.objects[0]) == ["n02084071", (1, 2, 10, 20), "0", False, True]


@pytest.mark.parametrize(
    "lines", [["val/a 1 0 999999999"], ["val/a 1 0 1", "val/x 2 0 999999999"]], ids=["one file is there", "none is"]
)
def test_a_small_list_does_not_ask_for_frames_that_are_not_there(lines: Sequence[str], root: Path) -> None:
    put_list(root, "VID_val_videos.txt", *lines)
    with pytest.raises(DataError, match=r"val/. has 999999999 frames, but .* holds [01] XML files"):
        find_lists(root)


@pytest.mark.parametrize("end", ["1e308", "9" * 400, "2147483648"])
def test_a_box_without_measure_is_left_out(end: str, root: Path) -> None:
    put(root, "VID", "val/b/000000", xml(CAT, ("dog", (0, 0, end, end), 0)))
    written = convert_ilsvrc(only(root), root / "out")
    (problem,) = written.problems
    assert f"object 2 has '{end[:20]}' as xmin" in problem.sentence or "as xmax" in problem.sentence
    assert list(find_problems(json.loads(written.path.read_text()))) == []


def test_a_list_from_windows(root: Path) -> None:
    path = root / "Lists" / "VID_val_videos.txt"
    path.write_bytes(b"\xef\xbb\xbfval/a 1 0 1\r\nval/c 6 0 1\r\n")
    assert [video.name for video in read_val_list(path)] == ["val/a", "val/c"]


@needs(TINY)
@pytest.mark.parametrize("name", NAMES)
def test_equal_to_the_reference_entry_by_entry(name: str, tmp_path: Path) -> None:
    listed = {one.name: one for one in find_lists(TINY / "ILSVRC", shifted_training_frames=True)}[name]
    written = convert_ilsvrc(listed, tmp_path)
    assert json.loads(written.path.read_text()) == json.loads((TINY / "expected" / f"{name}.json").read_text())
    assert written.problems == ()


@needs(TINY)
@pytest.mark.parametrize("name", NAMES)
def test_by_default_only_training_frames_differ_from_the_reference(name: str, tmp_path: Path) -> None:
    listed = {one.name: one for one in find_lists(TINY / "ILSVRC")}[name]
    own = json.loads(convert_ilsvrc(listed, tmp_path).path.read_text())
    expected = json.loads((TINY / "expected" / f"{name}.json").read_text())
    if name == "imagenet_vid_train":
        marks = {(image["video_id"], image["frame_id"]) for image in own["images"] if image.pop("is_vid_train_frame")}
        frames = {video["id"]: video.pop("vid_train_frames") for video in own["videos"]}
        assert marks == {(video, number) for video, numbers in frames.items() for number in numbers}
        shifted = {video["id"]: video.pop("vid_train_frames") for video in expected["videos"]}
        assert frames == {video: [number + 1 for number in numbers] for video, numbers in shifted.items()}
        for image in expected["images"]:
            del image["is_vid_train_frame"]
    assert own == expected


@needs(TINY)
def test_the_counts_are_those_that_the_reference_prints(tmp_path: Path) -> None:
    printed = (TINY / "expected" / "converter_output.txt").read_text()
    for listed in find_lists(TINY / "ILSVRC"):
        written = convert_ilsvrc(listed, tmp_path)
        for number, (name, count) in enumerate(written.objects_per_class.items(), start=1):
            assert f"Class {number} {name} has {count} objects." in printed
        assert f"{written.empty_images} images have no objects" in printed
        assert f"{written.training_images} train frames" in printed or f"total {written.training_images} im" in printed


@needs(REAL)
def test_real_clips_equal_the_reference(tmp_path: Path) -> None:
    written = convert_ilsvrc(only(REAL), tmp_path)
    expected = json.loads((REAL / "annotations" / "davis_vid_val.json").read_text())
    assert json.loads(written.path.read_text()) == expected


@needs(REAL)
def test_a_real_clip_with_few_labelled_frames(tmp_path: Path) -> None:
    put_list(tmp_path, "VID_val_videos.txt", *(REAL / "Lists" / "VID_demo_videos.txt").read_text().splitlines())
    for name in ("Annotations", "Data"):
        (tmp_path / name).symlink_to(REAL / name)
    written = convert_ilsvrc(only(tmp_path), tmp_path / "out")
    assert (written.images, written.objects, len(written.problems)) == (6, 42, 138)
    assert {problem.kind for problem in written.problems} == {"missing XML file"}
    frames = [image["frame_id"] for image in json.loads(written.path.read_text())["images"]]
    assert frames == [1, 5, 34, 62, 80, 115]


@needs(LISTS)
def test_the_official_lists(tmp_path: Path) -> None:
    for packed in LISTS.glob("*.xz"):
        (tmp_path / packed.stem).write_bytes(lzma.decompress(packed.read_bytes()))
    train = read_train_list(tmp_path / "VID_train_15frames.txt")
    assert (len(train), sum(video.frame_count for video in train)) == (3862, 1_122_397)
    assert sum(len(video.training_frames) for video in train) == 57_834
    shifted = read_train_list(tmp_path / "VID_train_15frames.txt", shifted=True)
    assert sum(video.training_frames.count(-1) for video in shifted) == 144
    val = read_val_list(tmp_path / "VID_val_videos.txt")
    assert (len(val), sum(video.frame_count for video in val)) == (555, 176_126)
    det = read_det_list(tmp_path / "DET_train_30classes.txt")
    assert (len(det), len(set(det))) == (53_639, 53_237)
