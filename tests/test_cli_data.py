import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from flowdet.cli.data import data
from flowdet.errors import ConfigError, DataError

XML = (
    "<annotation><size><width>64</width><height>48</height></size><object><trackid>0</trackid><name>n02084071</name>"
    "<bndbox><xmin>1</xmin><ymin>2</ymin><xmax>11</xmax><ymax>22</ymax></bndbox></object></annotation>"
)


def run(*arguments: object) -> Any:
    return data([str(argument) for argument in arguments], result_action="return_value")


@pytest.fixture
def ilsvrc(tmp_path: Path) -> Path:
    """A video of two frames that is in the lists of training and of validation."""
    for frame in range(2):
        for folder, suffix in (("Annotations", "xml"), ("Data", "JPEG")):
            path = tmp_path / folder / "VID" / "v" / f"{frame:06d}.{suffix}"
            path.parent.mkdir(parents=True, exist_ok=True)
            if suffix == "xml":
                path.write_text(XML)
            else:
                Image.new("L", (64, 48)).save(path)
    (tmp_path / "Lists").mkdir()
    (tmp_path / "Lists" / "VID_val_videos.txt").write_text("v 1 0 2\n")
    (tmp_path / "Lists" / "VID_train_15frames.txt").write_text("v 1 1 2\n")
    return tmp_path


def test_convert(ilsvrc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("convert-ilsvrc", ilsvrc) == 0
    out = capsys.readouterr().out
    assert f"{ilsvrc}/Lists/VID_val_videos.txt: 2 frames, to be imagenet_vid_val.json" in out
    assert "DET_train_30classes.txt: not found, so there will be no imagenet_det_30plus1cls.json" in out
    assert "imagenet_vid_train.json: 1 video, 2 frames, 1 of them for training, 0 of them without objects, 2 obj" in out
    assert f"its pictures lie below {ilsvrc}/Data/VID" in out
    assert [line.split()[-1] for line in out.splitlines() if line.startswith(" dog ")] == ["2", "2"]
    document = json.loads((ilsvrc / "annotations" / "imagenet_vid_train.json").read_text())
    assert [image["is_vid_train_frame"] for image in document["images"]] == [False, True]


def test_convert_as_the_reference_does_and_elsewhere(ilsvrc: Path) -> None:
    assert run("convert-ilsvrc", ilsvrc, "--out", ilsvrc / "o", "--shifted-training-frames", "--processes", 1) == 0
    document = json.loads((ilsvrc / "o" / "imagenet_vid_train.json").read_text())
    assert [image["is_vid_train_frame"] for image in document["images"]] == [True, False]
    with pytest.raises(ConfigError, match="number of processes"):
        run("convert-ilsvrc", ilsvrc, "--processes", 0)


def test_problems_are_shown_and_strict_does_the_rest_all_the_same(
    ilsvrc: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (ilsvrc / "Lists" / "VID_train_15frames.txt").write_text("v 1 1 9\n")
    assert run("convert-ilsvrc", ilsvrc) == 0
    out = capsys.readouterr().out
    assert "left out: 7 x missing picture" in out
    assert f"  {ilsvrc}/Data/VID/v/000002.JPEG is not there" in out
    assert "  and 2 more" in out
    assert f"all of them are listed in {ilsvrc}/annotations/imagenet_vid_train.problems.txt" in out
    assert run("convert-ilsvrc", ilsvrc, "--strict", "--out", ilsvrc / "o") == 1
    captured = capsys.readouterr()
    assert "imagenet_vid_train.json was not written: there are problems" in captured.err
    assert [path.name for path in (ilsvrc / "o").glob("*.json")] == ["imagenet_vid_val.json"]


def test_check_a_converted_file(ilsvrc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("convert-ilsvrc", ilsvrc)
    path = ilsvrc / "annotations" / "imagenet_vid_val.json"
    capsys.readouterr()
    assert run("check", path, "--images", ilsvrc / "Data" / "VID", "--json", ilsvrc / "r.json") == 0
    out = capsys.readouterr().out
    assert "1 video, 2 frames, 0 stills, 2 objects, 1 track\n" in out
    assert "slow 100.0%, medium 0.0%, fast 0.0%, median motion IoU 1.00 (2 objects with track numbers)" in out
    assert "objects an image         0: 0.0%, 1: 100.0%; at most 1" in out
    assert [line.split() for line in out.splitlines() if line.startswith(" ")][:3] == [
        ["class", "objects", "share", "images"],
        ["dog", "2", "100.0%", "2"],
        ["29", "other", "classes:", "none"],
    ]
    assert "warning: 29 classes have no object" in out
    assert "  airplane\n" in out
    assert "  and 24 more\n" in out
    assert f"{path}: 0 errors, 1 warning\n" in out
    report = json.loads((ilsvrc / "r.json").read_text())
    assert report["summary"]["videos"] == 1
    assert len(report["warnings"][0]["where"]) == 29
    assert run("check", path, "--all") == 0
    out = capsys.readouterr().out
    assert "  zebra\n" in out
    assert "pictures were not looked for: name their folder with --images" in out


def test_check_a_file_with_faults(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [{"id": 1, "file_name": "a", "height": 4, "width": 4}]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [0, 0, 1, 1]} for n in range(1, 9)]
    categories = [{"id": 1, "name": "[bold]a"}]
    path = tmp_path / "d.json"
    path.write_text(json.dumps({"images": images, "annotations": boxes, "categories": categories}))
    assert run("check", path, "--json", tmp_path / "r.json") == 1
    out = capsys.readouterr().out
    assert "error: 7 x annotation of an unknown image" in out
    assert "annotation 6: there is no image 6" in out
    assert "annotation 7" not in out
    assert "and 2 more" in out
    assert f"{path}: 7 errors, not looked at any further" in out
    assert len(json.loads((tmp_path / "r.json").read_text())["errors"]["sentences"]) == 7
    assert run("check", path, "--all") == 1
    assert "annotation 8: there is no image 8" in capsys.readouterr().out


def test_import_yolo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v").mkdir()
    Image.new("L", (64, 48)).save(tmp_path / "v" / "0.png")
    (tmp_path / "v" / "0.txt").write_text("1 0.5 0.5 0.5 0.5\n0 1\n")
    assert run("import-yolo", tmp_path, "--out", tmp_path / "d.json", "--names", "cat, dog", "--names", "emu") is None
    out = capsys.readouterr().out
    assert "1 video, 1 frame, 0 of them without objects, 1 object" in out
    assert [line.split() for line in out.splitlines() if line.startswith(" ")][1:3] == [
        ["dog", "1"],
        ["2", "other", "classes:", "none"],
    ]
    assert "left out: 1 x label that cannot be read" in out
    assert [entry["name"] for entry in json.loads((tmp_path / "d.json").read_text())["categories"]] == [
        "cat",
        "dog",
        "emu",
    ]
    with pytest.raises(DataError, match="line 2"):
        run("import-yolo", tmp_path, "--out", tmp_path / "d.json", "--names", "cat,dog", "--strict")
    run("import-yolo", tmp_path, "--out", tmp_path / "d.json", "--names", "cat,dog", "--stills")
    assert "d.json: 1 image, 0 of" in capsys.readouterr().out


def test_import_mot(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("img1", "gt"):
        (tmp_path / "m-A" / folder).mkdir(parents=True)
    Image.new("L", (64, 48)).save(tmp_path / "m-A" / "img1" / "000001.jpg")
    (tmp_path / "m-A" / "gt" / "gt.txt").write_text("1,1,1,1,5,5,1,2,1\n1,2,1,1,5,5,0,1,1\n")
    run("import-mot", tmp_path, "--out", tmp_path / "d.json", "--classes", "a,b", "--only", "*-A")
    out = capsys.readouterr().out
    assert "1 video, 1 frame, 0 of them without objects, 1 object" in out
    assert "rows marked as ignored, left out: 1" in out
    assert json.loads((tmp_path / "d.json").read_text())["annotations"][0]["category_id"] == 2


def test_import_cvat(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    size = "<original_size><width>64</width><height>48</height></original_size>"
    tracks = '<track id="0" label="car"><box frame="0" outside="0" xtl="1" ytl="1" xbr="3" ybr="4"/></track>'
    path = tmp_path / "clip.xml"
    path.write_text(f"<annotations><meta><task><size>2</size>{size}</task></meta>{tracks}</annotations>")
    run("import-cvat", path, "--out", tmp_path / "d.json", "--frames", "f/%d.png", "--images", tmp_path)
    out = capsys.readouterr().out
    assert "1 video, 2 frames, 1 of them without objects, 1 object" in out
    assert f"frames whose pictures are not there, the first one {tmp_path}/f/0.png: 2" in out


def test_a_data_set_without_objects_has_no_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    images = [{"id": 1, "file_name": "a", "height": 4, "width": 4}]
    document = {"images": images, "annotations": [], "categories": [{"id": 1, "name": "cat"}]}
    (tmp_path / "d.json").write_text(json.dumps(document))
    run("check", tmp_path / "d.json")
    out = capsys.readouterr().out
    assert " 1 class: none\n" in out
    assert "share" not in out


def test_help_tells_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    run("--help")
    out = capsys.readouterr().out
    for name in ("check", "convert-ilsvrc", "import-cvat", "import-label-studio", "import-mot", "import-yolo"):
        assert name in out
