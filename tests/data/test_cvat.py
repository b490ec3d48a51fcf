import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowdet.data import shapes
from flowdet.data.cocovid import find_problems
from flowdet.data.cocovid_writer import Written
from flowdet.data.cvat import import_cvat
from flowdet.errors import ConfigError, DataError

SIZE = "<original_size><width>640</width><height>480</height></original_size>"
LABELS = "<labels><label><name>car</name></label><label><name>dog</name></label></labels>"


def box(frame: int | str, *sides: float, outside: int = 0, **values: object) -> str:
    corners = dict(zip(("xtl", "ytl", "xbr", "ybr"), sides or (10, 20, 30, 50), strict=True))
    attributes = {"frame": frame, "outside": outside, "occluded": 0, "keyframe": 1, **corners, **values}
    texts = [f'{name}="{value}"' for name, value in attributes.items()]
    return f"<box {' '.join(texts)}/>"


def track(number: int, label: str, *boxes: str) -> str:
    return f'<track id="{number}" label="{label}" source="manual">{"".join(boxes)}</track>'


def video(path: Path, *tracks: str, task: str = "<name>clip</name><size>3</size>", size: str = SIZE) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = f"<meta><task>{task}{LABELS}{size}</task></meta>"
    declaration = '<?xml version="1.0" encoding="utf-8"?>'
    path.write_text(f"{declaration}<annotations>{meta}{''.join(tracks)}</annotations>")
    return path


def run(*files: Path, **options: Any) -> tuple[dict[str, Any], Written]:
    written = import_cvat(files, files[0].parent / "out.json", **options)
    document: dict[str, Any] = json.loads(written.path.read_text())
    assert list(find_problems(document)) == []
    return document, written


def rows(document: dict[str, Any]) -> list[tuple[int, int, list[float]]]:
    """(frame, track, box) of every object."""
    frames = {image["id"]: image["frame_id"] for image in document["images"]}
    return [(frames[entry["image_id"]], entry["instance_id"], entry["bbox"]) for entry in document["annotations"]]


def put_pictures(folder: Path, *names: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("L", (64, 48)).save(folder / name)


def test_tracks_of_a_video(tmp_path: Path) -> None:
    path = video(
        tmp_path / "annotations.xml",
        track(0, "dog", box(0), box(1, 11, 20, 31, 50.5, occluded=1, keyframe=0), box(2, outside=1)),
        track(4, "car", box(1, 0, 0, 640, 480)),
    )
    put_pictures(tmp_path / "images", *(f"frame_{number:06d}.png" for number in range(3)))
    done: list[int] = []
    document, written = run(path, progress=done.append)
    assert done == [1]
    assert document["categories"] == [{"id": 1, "name": "car"}, {"id": 2, "name": "dog"}]
    assert document["videos"] == [{"id": 1, "name": "clip"}]
    assert [image["file_name"] for image in document["images"]] == [f"images/frame_00000{n}.png" for n in range(3)]
    assert {(image["width"], image["height"]) for image in document["images"]} == {(640, 480)}
    assert document["annotations"][1] == {
        "id": 2,
        "video_id": 1,
        "image_id": 2,
        "category_id": 2,
        "instance_id": 0,
        "bbox": [11, 20, 20, 30.5],
        "area": 610,
        "iscrowd": False,
        "occluded": True,
    }
    assert rows(document) == [(0, 0, [10, 20, 20, 30]), (1, 0, [11, 20, 20, 30.5]), (1, 4, [0, 0, 640, 480])]
    assert (written.remarks, written.problems, written.empty_images) == ({}, (), 1)


def test_boxes_between_key_frames_are_interpolated(tmp_path: Path) -> None:
    boxes = (box(0, 0, 0, 1, 1), box(5, 4, 0, 5, 1), box(3, 3, 0, 4, 1, outside=1), box(4, 9, 0, 9, 1, outside=1))
    path = video(tmp_path / "a.xml", track(1, "car", *boxes), task="<size>7</size>")
    document, written = run(path)
    assert rows(document) == [(0, 1, [0, 0, 1, 1]), (1, 1, [1, 0, 1, 1]), (2, 1, [2, 0, 1, 1]), (5, 1, [4, 0, 1, 1])]
    assert written.remarks["boxes interpolated between those of the file"] == 2
    assert document["videos"][0]["name"] == "a"


def test_a_task_that_begins_later_and_leaves_frames_out(tmp_path: Path) -> None:
    task = "<size>3</size><start_frame>10</start_frame><stop_frame>24</stop_frame><frame_filter>step=5</frame_filter>"
    path = video(tmp_path / "a.xml", track(1, "car", box(10), box(20), box(40, outside=1), box(12)), task=task)
    document, written = run(path)
    assert [image["file_name"][-10:] for image in document["images"]] == ["000010.png", "000015.png", "000020.png"]
    assert [frame for frame, _, _ in rows(document)] == [0, 1, 2]
    (problem,) = written.problems
    assert problem.sentence == f"{path}: track 1, frame 12: the video has no such frame"
    assert written.remarks["boxes interpolated between those of the file"] == 1


@pytest.mark.parametrize("suffix", ["PNG", "jpg"])
def test_pictures_are_found_by_their_names(suffix: str, tmp_path: Path) -> None:
    path = video(tmp_path / "a.xml", track(1, "car", box(0)), size="")
    put_pictures(tmp_path / "images", f"frame_000000.{suffix}")
    document, written = run(path)
    assert document["images"][2]["file_name"] == f"images/frame_000002.{suffix}"
    assert (document["images"][0]["width"], document["images"][0]["height"]) == (64, 48)
    ((remark, count),) = written.remarks.items()
    assert count == 2
    assert "whose pictures are not there" in remark


def test_names_of_frames_that_are_given(tmp_path: Path) -> None:
    path = video(tmp_path / "xml" / "a.xml", track(1, "car", box(0)))
    put_pictures(tmp_path / "p" / "clip", "0.png", "1.png", "2.png")
    document, written = run(path, images=tmp_path / "p", frames="{name}/%d.png")
    assert [image["file_name"] for image in document["images"]] == ["clip/0.png", "clip/1.png", "clip/2.png"]
    assert written.remarks == {}
    for pattern in ("frame.png", "%d/%06d.png", "%s.png"):
        with pytest.raises(ConfigError, match="the pattern of the frames holds %06d or %d once"):
            run(path, frames=pattern)


def test_several_videos_with_one_name(tmp_path: Path) -> None:
    first = video(tmp_path / "one" / "annotations.xml", track(0, "car", box(0)))
    second = video(tmp_path / "two" / "annotations.xml", track(0, "dog", box(1)))
    put_pictures(tmp_path / "two" / "images", "frame_000000.jpg")
    document, _ = run(first, second)
    assert document["videos"] == [{"id": 1, "name": "clip"}, {"id": 2, "name": "clip-2"}]
    names = [image["file_name"] for image in document["images"]]
    assert (names[0], names[3]) == ("one/images/frame_000000.png", "two/images/frame_000000.jpg")
    assert [image["id"] for image in document["images"]] == [1, 2, 3, 4, 5, 6]
    assert [(entry["image_id"], entry["category_id"]) for entry in document["annotations"]] == [(1, 1), (5, 2)]
    with pytest.raises(ConfigError, match="each of them once"):
        run(first, first)


def test_how_many_frames_is_not_said(tmp_path: Path) -> None:
    path = video(tmp_path / "a.xml", track(0, "car", box(0), box(1), box(4, outside=1)), task="")
    document, written = run(path)
    assert len(document["images"]) == 5
    assert any("does not say how many" in remark for remark in written.remarks)
    with pytest.raises(DataError, match="has no frames"):
        run(video(tmp_path / "a.xml", task=""))


def test_shapes_that_are_left_out(tmp_path: Path) -> None:
    polygon = '<polygon frame="0" outside="0" points="1,2;3,4"/>'
    path = video(
        tmp_path / "a.xml",
        track(0, "car", box(0, rotation="0.0"), box(1, rotation="30.5")),
        track(1, "dog", polygon),
        track(2, "emu", box(0)),
    )
    document, written = run(path)
    assert rows(document) == [(0, 0, [10, 20, 20, 30])]
    assert written.remarks["shapes that are not upright boxes, left out"] == 2
    assert [problem.sentence for problem in written.problems] == [f"{path}, frame 0: the task has no label 'emu'"]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (box(1, 30, 20, 10, 50), "a box from (30, 20) to (10, 50) ends before it begins"),
        (box(1, 10, 50, 30, 20), "a box from (10, 50) to (30, 20) ends before it begins"),
        (box(1, xtl="nan"), "a box has four numbers xtl, ytl, xbr, ybr, not 'nan, 20, 30, 50'"),
        (box(1, -1e308, 0, 1e308, 5), "a box has four numbers"),
        (box(1, ytl="x"), "a box has four numbers xtl, ytl, xbr, ybr, not '10, x, 30, 50'"),
        (box(7), "the video has no such frame"),
        (box("x"), "'x' is no frame number"),
    ],
)
def test_bad_boxes_are_named_and_left_out(bad: str, reason: str, tmp_path: Path) -> None:
    path = video(tmp_path / "a.xml", track(3, "car", box(0), bad))
    document, written = run(path)
    (problem,) = written.problems
    assert problem.sentence.startswith(f"{path}: track 3, frame ")
    assert reason in problem.sentence
    assert len(document["annotations"]) == 1
    with pytest.raises(DataError, match="track 3"):
        run(path, strict=True)


def stills(path: Path, *images: str) -> Path:
    meta = f"<meta><task><mode>annotation</mode>{LABELS}</task></meta>"
    path.write_text(f"<annotations>{meta}{''.join(images)}</annotations>")
    return path


def image(name: str, *shapes: str, size: str = 'width="64" height="48"') -> str:
    return f'<image id="0" name="{name}" {size}>{"".join(shapes)}</image>'


STILL_BOX = '<box label="dog" occluded="1" xtl="1" ytl="2" xbr="3.5" ybr="5"><attribute name="a">b</attribute></box>'


def test_stills(tmp_path: Path) -> None:
    path = stills(tmp_path / "a.xml", image("x/a.png", STILL_BOX, '<tag label="car"/>'), image("b.png"))
    put_pictures(tmp_path / "x", "a.png")
    put_pictures(tmp_path, "b.png")
    document, written = run(path)
    assert "videos" not in document
    assert document["images"][0] == {"file_name": "x/a.png", "height": 48, "width": 64, "id": 1}
    (entry,) = document["annotations"]
    assert (entry["category_id"], entry["bbox"], entry["occluded"]) == (2, [1, 2, 2.5, 3], True)
    assert "instance_id" not in entry
    assert (written.remarks, written.problems) == ({}, ())
    put_pictures(tmp_path / "images" / "x", "a.png")
    (tmp_path / "b.png").unlink()
    document, written = run(path)
    assert [one["file_name"] for one in document["images"]] == ["images/x/a.png", "images/b.png"]
    missing = f"images whose pictures are not there, the first one {tmp_path / 'images' / 'b.png'}"
    assert written.remarks == {missing: 1}
    with pytest.raises(ConfigError, match="a pattern is for the frames of a video"):
        run(path, frames="%d.png")


def test_bad_stills(tmp_path: Path) -> None:
    bad = STILL_BOX.replace('xbr="3.5"', 'xbr="0"')
    other = image("c.png", size='width="0" height="48"')
    path = stills(tmp_path / "a.xml", image("a.png", bad, '<polygon label="car"/>'), other, image("", STILL_BOX))
    put_pictures(tmp_path, "a.png")
    document, written = run(path)
    assert [one["file_name"] for one in document["images"]] == ["a.png"]
    assert written.remarks == {"shapes that are not upright boxes, left out": 1}
    assert [problem.sentence.partition(", ")[2][:19] for problem in written.problems] == [
        "image 'a.png': a bo",
        "image 'c.png': name",
        "image '': name, wid",
    ]


def test_files_that_cannot_be_imported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least one XML file"):
        import_cvat([], tmp_path / "out.json")
    with pytest.raises(DataError, match=r"there is no file .*none\.xml"):
        run(tmp_path / "none.xml")
    path = tmp_path / "a.xml"
    path.write_text('<!DOCTYPE a [<!ENTITY x "y">]><annotations/>')
    with pytest.raises(DataError, match=r"a\.xml declares the document type"):
        run(path)
    path.write_text("<annotation/>")
    with pytest.raises(DataError, match=r"a\.xml is not from CVAT: it holds <annotation>"):
        run(path)
    path.write_text(f"<annotations><meta><project>{LABELS}</project></meta>{track(0, 'car', box(0))}</annotations>")
    with pytest.raises(DataError, match=r"a\.xml is the export of a project"):
        run(path)
    with pytest.raises(DataError, match="does not say how large its pictures are"):
        run(video(path, track(0, "car", box(0)), size=""))


def images_of_a_video(path: Path, *images: str) -> Path:
    meta = f"<meta><task><name>clip</name><mode>interpolation</mode>{LABELS}</task></meta>"
    path.write_text(f"<annotations>{meta}{''.join(images)}</annotations>")
    return path


@pytest.mark.parametrize("suffix", ["png", "PNG", "jpg"])
def test_images_of_a_video_task_are_its_frames(suffix: str, tmp_path: Path) -> None:
    path = images_of_a_video(tmp_path / "a.xml", *(image(f"frame_{n:06d}", STILL_BOX) for n in (4, 7, 9)))
    put_pictures(tmp_path / "images", f"frame_000004.{suffix}", f"frame_000007.{suffix}")
    document, written = run(path)
    assert document["videos"] == [{"id": 1, "name": "clip"}]
    assert [(one["file_name"], one["frame_id"], one["video_id"]) for one in document["images"]] == [
        (f"images/frame_000004.{suffix}", 4, 1),
        (f"images/frame_000007.{suffix}", 7, 1),
        ("images/frame_000009", 9, 1),
    ]
    missing = f"images whose pictures are not there, the first one {tmp_path / 'images' / 'frame_000009'}"
    assert written.remarks == {missing: 1}


def test_the_pattern_names_the_images_of_a_video_task(tmp_path: Path) -> None:
    path = images_of_a_video(tmp_path / "a.xml", image("frame_000004", STILL_BOX))
    put_pictures(tmp_path / "clip", "4.png")
    document, written = run(path, frames="{name}/%d.png")
    assert [one["file_name"] for one in document["images"]] == ["clip/4.png"]
    assert written.remarks == {}


def test_a_frame_number_counts_once(tmp_path: Path) -> None:
    path = images_of_a_video(tmp_path / "a.xml", image("frame_000004", STILL_BOX), image("4", STILL_BOX))
    _, written = run(path)
    assert [problem.kind for problem in written.problems] == ["frame without a number"]
    assert written.images == 1


BOMBS = {
    "frames": ("<size>999999999</size>", (box(0),), "has 999999999 frames, but .* holds only 0 files"),
    "a frame number": ("", (box(999_999_998),), "has 999999999 frames, but"),
    "the step": ("<size>999999999</size><frame_filter>step=9</frame_filter>", (box(0),), "has 999999999 frames, but"),
}


@pytest.mark.parametrize(("task", "boxes", "reason"), BOMBS.values(), ids=BOMBS)
def test_a_small_file_does_not_ask_for_frames_that_are_not_there(
    task: str, boxes: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    path = video(tmp_path / "a.xml", track(1, "car", *boxes), task=task)
    with pytest.raises(DataError, match=reason):
        run(path)
    assert [one.name for one in tmp_path.iterdir()] == ["a.xml"]


def test_a_small_file_does_not_ask_for_millions_of_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes, "_MOST_INTERPOLATED", 120_000)
    tracks = (track(number, "car", box(0), box(99_999)) for number in range(12))
    with pytest.raises(DataError, match="needs more than 120000 boxes between those that it holds"):
        run(video(tmp_path / "a.xml", *tracks, task="<size>100000</size>"))
