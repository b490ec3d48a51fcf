import json
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowdet.data.cocovid import find_problems
from flowdet.data.cocovid_writer import Written
from flowdet.data.image_files import read_picture
from flowdet.data.yolo import import_yolo, names_of_yaml
from flowdet.errors import DataError


def picture(path: Path, size: tuple[int, int] = (200, 100)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size).save(path)


def text(path: Path, *lines: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines))


def run(root: Path, **options: Any) -> tuple[dict[str, Any], Written]:
    written = import_yolo(root, root / "out" / "d.json", **options)
    document: dict[str, Any] = json.loads(written.path.read_text())
    assert list(find_problems(document)) == []
    return document, written


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two videos with labels beside the frames, the second one deeper and of another size."""
    for name in ("10", "2", "1"):
        picture(tmp_path / "one" / f"{name}.png")
    picture(tmp_path / "deep" / "two" / "x.jpg", (50, 40))
    text(tmp_path / "one" / "1.txt", "1 0.5 0.5 0.25 0.5 7", "", "0 0.1 0.1 0.2 0.2")
    text(tmp_path / "one" / "10.txt")
    text(tmp_path / "deep" / "two" / "x.txt", "0 0.5 0.5 1 1 0")
    text(tmp_path / "classes.txt", "cat", "dog", "")
    return tmp_path


@pytest.mark.parametrize(("orientation", "size"), [(1, (200, 100)), (3, (200, 100)), (5, (100, 200)), (8, (100, 200))])
def test_shares_are_those_of_the_upright_picture(orientation: int, size: tuple[int, int], tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("L", (200, 100)).save(tmp_path / "a.jpg", exif=exif)
    text(tmp_path / "a.txt", "0 0.5 0.5 0.5 0.1")
    document, _ = run(tmp_path, names=["cat"])
    (image,), (entry,) = document["images"], document["annotations"]
    assert (image["width"], image["height"]) == size
    assert entry["bbox"] == [size[0] / 4, size[1] * 0.45, size[0] / 2, size[1] / 10]
    assert read_picture(tmp_path / "a.jpg", size[::-1], "a").shape == (*size[::-1], 3)


def test_a_folder_a_video(root: Path) -> None:
    done: list[int] = []
    document, written = run(root, progress=done.append)
    assert done == [1, 2, 3, 4]
    assert document["categories"] == [{"id": 1, "name": "cat"}, {"id": 2, "name": "dog"}]
    assert document["videos"] == [{"id": 1, "name": "deep/two"}, {"id": 2, "name": "one"}]
    images = [tuple(image[key] for key in ("id", "video_id", "frame_id", "file_name")) for image in document["images"]]
    assert images == [
        (1, 1, 0, "deep/two/x.jpg"),
        (2, 2, 0, "one/1.png"),
        (3, 2, 1, "one/2.png"),
        (4, 2, 2, "one/10.png"),
    ]
    assert (document["images"][0]["width"], document["images"][0]["height"]) == (50, 40)
    assert document["annotations"] == [
        {
            "id": 1,
            "video_id": 1,
            "image_id": 1,
            "category_id": 1,
            "instance_id": 0,
            "bbox": [0, 0, 50, 40],
            "area": 2000,
            "iscrowd": False,
        },
        {
            "id": 2,
            "video_id": 2,
            "image_id": 2,
            "category_id": 2,
            "instance_id": 7,
            "bbox": [75, 25, 50, 50],
            "area": 2500,
            "iscrowd": False,
        },
        {
            "id": 3,
            "video_id": 2,
            "image_id": 2,
            "category_id": 1,
            "bbox": [0, 0, 40, 20],
            "area": 800,
            "iscrowd": False,
        },
    ]
    assert written.remarks == {"pictures without a label file, taken as without objects": 1}
    assert written.problems == ()


def test_stills(root: Path) -> None:
    document, written = run(root, stills=True)
    assert "videos" not in document
    assert all("video_id" not in image for image in document["images"])
    assert (written.videos, written.images, written.objects) == (0, 4, 3)


def test_names_that_are_given(root: Path) -> None:
    document, _ = run(root, names=["a", "b", "c"])
    assert [category["name"] for category in document["categories"]] == ["a", "b", "c"]


@pytest.mark.parametrize("inside", [True, False])
def test_labels_in_a_tree_that_mirrors_the_images(inside: bool, tmp_path: Path) -> None:
    picture(tmp_path / "images" / "train" / "v" / "0.png")
    text(tmp_path / "labels" / "train" / "v" / "0.txt", "0 0.5 0.5 1 1")
    text(tmp_path / "data.yaml", "names: [cat]")
    document, _ = run(tmp_path / "images" if inside else tmp_path)
    assert [video["name"] for video in document["videos"]] == ["train/v"]
    assert document["images"][0]["file_name"] == ("train/v/0.png" if inside else "images/train/v/0.png")
    assert len(document["annotations"]) == 1


def test_labels_somewhere_else(tmp_path: Path) -> None:
    picture(tmp_path / "frames" / "0.png")
    text(tmp_path / "other" / "0.txt", "0 0.5 0.5 1 1")
    document, _ = run(tmp_path / "frames", labels=tmp_path / "other", names=["cat"])
    assert [video["name"] for video in document["videos"]] == ["frames"]
    assert document["images"][0]["file_name"] == "0.png"
    assert len(document["annotations"]) == 1
    with pytest.raises(DataError, match="there is no folder"):
        run(tmp_path / "frames", labels=tmp_path / "none", names=["cat"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("0 0.5 0.5 0.25", "expected 5 columns, class cx cy width height, or 6 with a track number, not 4"),
        ("0 0.1 0.1 0.2 0.1 0.2 0.2", "expected 5 columns, class cx cy width height, or 6 with a track number, not 7"),
        ("2 0.5 0.5 0.25 0.5", "the class is a number from 0 to 1, not 2"),
        ("-1 0.5 0.5 0.25 0.5", "the class is a number from 0 to 1, not -1"),
        ("cat 0.5 0.5 0.25 0.5", "the class is a number from 0 to 1, not cat"),
        ("0 0.5 0.5 0.25 0.5 0.93", "the sixth column is a track number, a whole number from 0, not 0.93"),
        ("0 0.5 x 0.25 0.5", "position and size must be numbers"),
        ("0 0.5 nan 0.25 0.5", "position and size are shares of the picture, from 0 to 1"),
        ("0 50 50 25 50", "position and size are shares of the picture, from 0 to 1"),
        ("0 0.5 0.5 -0.001 0.5", "position and size are shares of the picture, from 0 to 1"),
    ],
)
def test_bad_lines_are_named_and_left_out(line: str, reason: str, root: Path) -> None:
    text(root / "one" / "10.txt", "0 0.5 0.5 0.25 0.5", line)
    _, written = run(root)
    (problem,) = written.problems
    assert problem.kind == "label that cannot be read"
    assert problem.sentence == f"{root / 'one' / '10.txt'}, line 2: {reason}, in {line!r}"
    assert (written.images, written.objects) == (4, 4)
    with pytest.raises(DataError, match=r"10\.txt, line 2"):
        run(root, strict=True)


def test_pictures_and_label_files_that_are_damaged_or_alone(root: Path) -> None:
    (root / "one" / "2.png").write_text("no picture")
    (root / "one" / "10.txt").write_bytes(b"\xff\xfe\xfd")
    text(root / "one" / "11.txt", "0 0.5 0.5 1 1")
    text(root / "one" / "classes.txt", "cat", "dog")
    document, written = run(root)
    assert sorted(problem.kind for problem in written.problems) == [
        "label file that cannot be read",
        "label file without a picture",
        "picture that cannot be read",
    ]
    # What is left out shifts nothing.
    assert [(image["id"], image["frame_id"]) for image in document["images"]] == [(1, 0), (2, 0)]


def test_folders_that_cannot_be_imported(root: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no folder"):
        run(root / "none")
    (root / "empty").mkdir()
    with pytest.raises(DataError, match="hold no picture"):
        run(root / "empty")
    picture(root / "bare" / "0.png")
    with pytest.raises(DataError, match=r"none of 1 pictures has a label file: for the first one, .*0\.txt is not"):
        run(root / "bare")
    (root / "classes.txt").unlink()
    with pytest.raises(DataError, match=r"there is no data\.yaml, .*name the classes with --names"):
        run(root)
    with pytest.raises(DataError, match="the class 'a' is there more than once"):
        run(root, names=["a", "b", "a"])
    with pytest.raises(DataError, match="came an empty one"):
        run(root, names=["a", ""])


YAML = {
    "a list in brackets": "nc: 2\nnames: ['cat', \"dog\"]  # classes\ntrain: x\n",
    "plain names": "names: [cat, dog]",
    "over lines": "names: [\n  cat,\n  dog,\n]\nnc: 2",
    "dashes": "train: a\nnames:\n  - cat # one\n  - dog\nval: b",
    "dashes not indented": "names:\n- cat\n- 'dog'\nval: b",
    "numbers": "names:\n  0: cat\n  1: dog\n\n# end\n",
    "numbers in braces": "names: {0: cat, '1': dog}",
    "blank and comment lines": "names:\n\n  # classes\n  0: cat\n  # more\n  1: dog\nnc: 2\n",
}


@pytest.mark.parametrize("content", YAML.values(), ids=YAML)
def test_names_of_a_data_yaml(content: str) -> None:
    assert names_of_yaml(content, Path("data.yaml")) == ("cat", "dog")


def test_names_with_quotes_commas_and_spaces() -> None:
    content = "names: ['traffic light', \"dog, wild\", 'it''s', \"caf\\u00e9\", a#b]"
    assert names_of_yaml(content, Path("d")) == ("traffic light", "dog, wild", "it's", "café", "a#b")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("train: x", "has no entry 'names'"),
        ("names:\ntrain: x", "expected class names, came none"),
        ("names: []", "expected class names, came none"),
        ("names: cat", "neither a list nor numbers with names"),
        ("names: [cat", "is not YAML: line 1: expected ',' or ']'"),
        ("names: *anchor", "is not YAML: line 1: found undefined alias"),
        ("names: [" * 5000, "is not YAML"),
        ("names: [!!python/object/apply:os.system [false]]", "neither a list nor numbers with names"),
        ("names: [a\x07]", "is not YAML"),
        ('names: ["a\\a"]', "holds a character that cannot be printed"),
        ("names: [[cat]]", "neither a list nor numbers with names"),
        ("names:\n  0: cat\n  2: dog", "are not numbered 0, 1, 2 and so on"),
        ("names:\n  - cat\n  - cat", "the class 'cat' is there more than once"),
    ],
)
def test_names_that_cannot_be_read(content: str, reason: str) -> None:
    with pytest.raises(DataError, match=r"data\.yaml") as raised:
        names_of_yaml(content, Path("data.yaml"))
    assert reason in str(raised.value)
    assert "--names" in str(raised.value)


def test_names_of_yaml_are_texts_whatever_they_look_like() -> None:
    content = "names: [no, on, 1, 2e3, ~, 2024-01-01, !!python/object cat]"
    assert names_of_yaml(content, Path("d")) == ("no", "on", "1", "2e3", "~", "2024-01-01", "cat")


@pytest.mark.parametrize(
    "content",
    [
        "names: [" + "# '" * 20_000 + "\ncat]",
        "names:  # " + "#" * 60_000 + "\n- cat\n" + "# x\n" * 15_000,
        "names:" + " " * 60_000 + "\n  - cat" + " #" * 30_000 + '"',
        "a0: &a0 {x: y}\n"
        + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 12))
        + "names: [cat]",
    ],
    ids=["in brackets", "comments", "spaces", "merges of merges"],
)
def test_a_small_data_yaml_is_read_at_once(content: str) -> None:
    begun = time.perf_counter()
    assert names_of_yaml(content, Path("d")) == ("cat",)
    assert time.perf_counter() - begun < 2


def test_a_line_that_is_there_twice_is_left_out(root: Path) -> None:
    text(
        root / "one" / "10.txt",
        "0 0.5 0.5 0.25 0.5",
        "0 0.5 0.5 0.25 0.5 3",
        "0 0.50 0.5 0.25 0.5",
        "1 0.5 0.5 0.25 0.5",
    )
    _, written = run(root)
    (problem,) = written.problems
    assert problem.sentence == f"{root / 'one' / '10.txt'}, line 3: the same as line 1"
    assert written.objects == 6


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_windows_files(encoding: str, root: Path) -> None:
    (root / "classes.txt").write_text("cat\r\nd\u00f6g\r\n", encoding=encoding, newline="")
    (root / "one" / "10.txt").write_text("1 0.5 0.5 0.25 0.5\r\n", encoding=encoding, newline="")
    document, written = run(root)
    assert [category["name"] for category in document["categories"]] == ["cat", "d\u00f6g"]
    assert (written.objects, written.problems) == (4, ())
    (root / "classes.txt").unlink()
    (root / "data.yaml").write_text("names:\r\n  0: cat\r\n  1: d\u00f6g\r\n", encoding=encoding, newline="")
    assert run(root)[0]["categories"] == document["categories"]


def test_utf_16_is_named(root: Path) -> None:
    (root / "classes.txt").write_text("cat\ndog", encoding="utf-16")
    with pytest.raises(DataError, match=r"classes\.txt is UTF-16 or no text; save it as UTF-8"):
        run(root)


def test_a_long_list_of_classes_with_one_twice_is_refused_at_once(root: Path) -> None:
    text(root / "classes.txt", *(f"c{number}" for number in range(100_000)), "c99999")
    begun = time.perf_counter()
    with pytest.raises(DataError, match="the class 'c99999' is there more than once"):
        run(root)
    assert time.perf_counter() - begun < 2
