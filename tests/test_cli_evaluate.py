import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowdet.systems.build import build
from flowdet.weights.native import save_native
from tests.command import exit_code
from tests.tiny import lite_config, video

Run = Callable[..., int]
ALL = ("--protocol", "coco", "--protocol", "ilsvrc", "--protocol", "ilsvrc-motion")
BOX = [10.0, 10.0, 30.0, 20.0]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of a narrow, untrained system that knows cat, dog and fox."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "untrained.safetensors"
    save_native(build(lite_config()), path)
    return path


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs `flowdet evaluate` on the data set of `document` in its folder; gives the exit code."""
    monkeypatch.chdir(tmp_path)
    write_data()

    def call(*arguments: str, data: str = "data.json", resamples: str | None = "20") -> int:
        bootstrap = ["--bootstrap", resamples] if resamples is not None else []
        return exit_code("evaluate", *arguments, "--data", data, *bootstrap)

    return call


def write_data(categories: tuple[str, ...] = ("cat", "cow", "fox")) -> None:
    """Two videos of three frames and a still; in each image a cat that stands still in the first video only."""
    images: list[dict[str, Any]] = [
        {"video_id": number, "frame_id": frame, "file_name": f"{number}/{frame}.png"}
        for number in (1, 2)
        for frame in range(3)
    ]
    images.append({"file_name": "still.png"})
    annotations = []
    for number, (image, picture) in enumerate(zip(images, video(len(images)), strict=True), start=1):
        image |= {"id": number, "height": 48, "width": 80}
        path = Path("images") / image["file_name"]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)
        if "video_id" in image:
            x = 10.0 + 12 * image["frame_id"] * (image["video_id"] - 1)
            entry = {"id": number, "image_id": number, "category_id": 1, "instance_id": 0}
            annotations.append({**entry, "bbox": [x, *BOX[1:]]})
    document = {
        "videos": [{"id": number, "name": f"video {number}"} for number in (1, 2)],
        "categories": [{"id": number, "name": name} for number, name in enumerate(categories, start=1)],
        "images": images,
        "annotations": annotations,
    }
    Path("data.json").write_text(json.dumps(document))


def write_results(name: str, scores: dict[int, float]) -> None:
    """Right detections in these images."""
    truth = {entry["image_id"]: entry["bbox"] for entry in read("data.json")["annotations"]}
    entries = [
        {"image_id": image, "category_id": 1, "bbox": truth.get(image, BOX), "score": score}
        for image, score in scores.items()
    ]
    Path(name).write_text(json.dumps(entries))


def read(path: str) -> Any:
    return json.loads(Path(path).read_text())


def printed_rows(capsys: pytest.CaptureFixture[str]) -> dict[tuple[str, str], list[str]]:
    """What is printed for each protocol and figure."""
    words = [line.split() for line in capsys.readouterr().out.splitlines()]
    return {(line[0], line[1]): line[2:] for line in words if line and line[0] in {"coco", "ilsvrc", "ilsvrc-motion"}}


def test_a_system_becomes_figures_plots_and_pictures(
    run: Run, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--weights", str(weights), "--images", "images", *ALL) == 0
    printed = printed_rows(capsys)
    assert {"AP", "AP50", "AP75"} == {figure for protocol, figure in printed if protocol == "coco"}
    assert {"slow", "medium", "fast", "all"} == {figure for protocol, figure in printed if protocol == "ilsvrc-motion"}
    made = {path.name for path in Path("evaluation").iterdir()}
    plots = {"precision_recall.png", "precision_recall_summary.png"}
    assert made == {"detections", "evaluation.json", "report.md", "results.json", "worst", *plots}
    for path in (*(Path("evaluation") / name for name in plots), *Path("evaluation/worst").iterdir()):
        with Image.open(path) as opened:
            assert opened.width > 300
    assert 1 <= len(list(Path("evaluation/worst").iterdir())) <= 12
    found = read("evaluation/evaluation.json")
    assert found["data"] == {
        "videos": 2,
        "frames": 7,
        "boxes": 6,
        "detections": len(read("evaluation/results.json")),
    }
    assert found["settings"]["system"] == "tiny"
    assert found["settings"]["config"]["class_names"] == ["cat", "dog", "fox"]
    assert len(found["settings"]["weights_digest"]) == 64
    assert found["seconds_per_frame"] > 0
    assert f"{100 * found['coco']['bbox_mAP_50']:.1f}" == printed["coco", "AP50"][0]
    report = Path("evaluation/report.md").read_text()
    assert "| EfficientNet-Lite0 | - | - | - |" in report
    assert "untrained.safetensors" in report


def test_the_results_of_a_system_give_the_same_figures(run: Run, weights: Path) -> None:
    assert run("--weights", str(weights), "--images", "images", *ALL, "--pictures", "0") == 0
    assert not Path("evaluation/worst").exists()
    assert run("--results", "evaluation/results.json", *ALL, "--json", "again.json") == 0
    first, again = read("evaluation/evaluation.json"), read("again.json")
    for key in ("coco", "ilsvrc", "ilsvrc-motion", "intervals", "data"):
        assert again[key] == first[key]


def test_calling_again_detects_nothing_anew(run: Run, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--weights", str(weights), "--images", "images", "--out", "o")
    assert run(*arguments) == 0
    first = capsys.readouterr().out
    made = {path: path.stat().st_mtime_ns for path in Path("o/detections").iterdir()}
    assert len(made) == 3
    assert run(*arguments) == 0
    assert capsys.readouterr().out == first
    assert {path: path.stat().st_mtime_ns for path in Path("o/detections").iterdir()} == made
    assert run(*arguments, "--causal") == 1
    assert "causal" in capsys.readouterr().err  # an option without effect on a single-frame system


def test_other_weights_do_not_continue_in_the_folder(
    run: Run, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--weights", str(weights), "--images", "images", "--out", "o") == 0
    torch.manual_seed(1)
    save_native(build(lite_config()), tmp_path / "other.safetensors")
    before = Path("o/evaluation.json").read_bytes()
    assert run("--weights", "other.safetensors", "--images", "images", "--out", "o") == 1
    assert "earlier run with other weights" in capsys.readouterr().err
    assert Path("o/evaluation.json").read_bytes() == before


def test_classes_that_only_one_side_knows_are_told(run: Run, weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_data(("yak", "cow", "fox"))
    assert run("--weights", str(weights), "--images", "images") == 0
    told = capsys.readouterr().err
    assert "detections of classes that the data set does not have were left out: cat " in told
    assert "The system does not know yak: these classes count with an AP of 0." in told
    assert len(read("evaluation/evaluation.json")["notes"]) == 2


def test_well_known_classes_are_mapped_and_others_as_given(
    run: Run, weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_data(("domestic_cat", "canine"))  # the system knows cat, dog and fox
    assert run("--weights", str(weights), "--images", "images", "--map-classes", "dog=canine") == 0
    told = capsys.readouterr().err
    assert "Classes of other names were mapped: cat = domestic_cat, dog = canine." in told
    assert "detections of classes that the data set does not have were left out: fox " in told
    assert "does not know" not in told
    found = read("evaluation/evaluation.json")
    assert found["settings"]["map_classes"] == {"cat": "domestic_cat", "dog": "canine"}
    assert {entry["category_id"] for entry in read("evaluation/results.json")} == {1, 2}


def test_what_detect_wrote_is_evaluated(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    truth = {entry["image_id"]: entry["bbox"] for entry in read("data.json")["annotations"]}
    Path("found").mkdir()
    for number in (1, 2):
        images = [
            {"id": 50 - frame, "video_id": 1, "frame_id": frame, "width": 80, "height": 48, "file_name": "none"}
            for frame in range(3)
        ]
        annotations = [
            {"image_id": 50 - frame, "category_id": 9, "bbox": truth[3 * number - 2 + frame], "score": 0.9}
            for frame in range(3)
        ]
        document = {
            "info": {"complete": True},
            "videos": [{"id": 1, "name": f"video {number}"}],
            "categories": [{"id": 9, "name": "cat"}],
            "images": images,
            "annotations": annotations,
        }
        Path(f"found/{number}.json").write_text(json.dumps(document))
    assert run("--results", "found") == 0
    printed = capsys.readouterr()
    assert "1 of 7 frames of data.json have no results: their objects are missed." in printed.err
    assert "6 detections" in printed.out
    for results in (["found"], ["found/1.json", "found/2.json"]):
        assert run(*(part for path in results for part in ("--results", path)), "--versus", "found") == 0
        assert printed_rows(capsys)["coco", "AP50"][:5] == ["100.0", "100.0", "to", "100.0", "+0.0"]
    assert run("--results", "found/1.json") == 0
    assert printed_rows(capsys)["coco", "AP50"][0] == f"{100 * 51 / 101:.1f}"


def test_a_results_file_alone(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_results("r.json", {1: 0.9, 2: 0.8, 3: 0.7, 7: 0.75})
    assert run("--results", "r.json", *ALL, "--json", "new/out.json") == 0
    printed = printed_rows(capsys)
    # The first three of six cats: 50 of the 101 recall points, with one false detection before the third.
    assert printed["coco", "AP50"][0] == f"{100 * (34 + 17 * 0.75) / 101:.1f}"
    # The three of the slow video; the false one is on a still, where it weighs 3 boxes of 7.
    assert printed["ilsvrc-motion", "slow"][0] == f"{100 * (2 + 3 / (3 + 3 / 7)) / 3:.1f}"
    assert not Path("evaluation").exists()
    found = read("new/out.json")
    assert found["coco"]["bbox_mAP_50"] == pytest.approx((34 + 17 * 0.75) / 101, abs=1e-12)
    assert {"coco", "ilsvrc", "ilsvrc-motion", "intervals", "seq_nms", "versus", "data", "settings"} <= found.keys()
    assert found["settings"]["results"] == "r.json"


def test_protocols_are_computed_once_each_in_the_order_given(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_results("r.json", {1: 0.9})
    assert run("--results", "r.json", "--protocol", "ilsvrc", "--protocol", "coco", "--protocol", "ilsvrc") == 0
    lines = [line.split()[0] for line in capsys.readouterr().out.splitlines()[2:]]
    assert lines == ["ilsvrc", "coco", "coco", "coco"]


def test_given_motion_ious_are_used(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_results("r.json", {1: 0.9, 2: 0.8, 3: 0.7})
    assert run("--results", "r.json", "--protocol", "ilsvrc-motion") == 0
    assert printed_rows(capsys)["ilsvrc-motion", "slow"][0] == "100.0"
    Path("motion.json").write_text(json.dumps({str(number): 0.5 for number in range(1, 7)}))
    assert run("--results", "r.json", "--protocol", "ilsvrc-motion", "--motion-iou", "motion.json") == 0
    printed = printed_rows(capsys)
    assert printed["ilsvrc-motion", "slow"][0] == "-"
    assert printed["ilsvrc-motion", "fast"][0] == "50.0"


def test_intervals_seq_nms_and_another_result(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_results("r.json", dict.fromkeys(range(1, 7), 0.9))
    write_results("other.json", {1: 0.9, 2: 0.9, 4: 0.9, 5: 0.9})
    assert run("--results", "r.json", "--seq-nms", "--versus", "other.json", "--json", "o.json") == 0
    row = " ".join(printed_rows(capsys)["coco", "AP50"])
    assert row.startswith("100.0 100.0 to 100.0 100.0 +0.0 +")
    found = read("o.json")
    difference = found["versus"]["coco"]["AP50"]
    assert difference["value"] == pytest.approx(1 - 67 / 101)
    assert difference["low"] > 0
    assert found["seq_nms"]["coco"]["bbox_mAP_50"] == pytest.approx(1)
    assert found["settings"]["bootstrap"] == 20


def test_many_detections_get_no_intervals_unless_asked_for(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("flowdet.cli.evaluate._LARGE", 2)
    write_results("r.json", {1: 0.9, 2: 0.8, 3: 0.7})
    assert run("--results", "r.json", resamples=None) == 0
    printed = capsys.readouterr()
    assert "95 % interval" not in printed.out
    assert "No confidence intervals: 3 detections are many" in printed.err
    assert run("--results", "r.json", resamples="5") == 0
    assert "95 % interval" in capsys.readouterr().out


def test_pictures_need_the_images(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    write_results("r.json", {1: 0.9})
    assert run("--results", "r.json", "--out", "o") == 0
    assert "no pictures of the worst frames" in capsys.readouterr().err
    assert Path("o/report.md").exists()
    assert run("--results", "r.json", "--out", "o", "--images", "images", "--pictures", "1") == 0
    assert len(list(Path("o/worst").iterdir())) == 1
    assert "no pictures" not in capsys.readouterr().err


def test_without_matplotlib_there_are_figures_without_plots(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    write_results("r.json", {1: 0.9})
    assert run("--results", "r.json", "--out", "o", "--images", "images") == 0
    told = capsys.readouterr().err
    assert "pip install matplotlib" in told
    assert told.count("\n") == 1
    assert not list(Path("o").glob("*.png"))
    assert Path("o/evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], "name a system"),
        (["fgfa-lite", "--results", "r.json"], "leave out the system"),
        (["--weights", "w.safetensors", "--results", "r.json"], "leave out the system"),
        (["--flow", "dis", "--results", "r.json"], "leave out the system and its options"),
        (["fgfa-lite", "--flow", "raft"], "raft"),
        (["fgfa-liet"], "there is no system 'fgfa-liet'"),
        (["fgfa-lite", "--device", "abacus"], "the device abacus cannot be used here"),
        (["fgfa-lite", "--processes", "0"], "--processes is a whole number from 1 on, not 0"),
        (["fgfa-lite", "--images", "nowhere"], "are not below nowhere"),
        (["fgfa-lite", "--out", "data.json/o"], "the folder data.json/o cannot be made"),
        (["--results", "r.json", "--json", "images"], "images is a folder"),
        (["--results", "missing.json"], "missing.json cannot be read"),
        (["--results", "r.json", "--protocol", "voc"], "voc"),
        (["--results", "r.json", "--motion-iou", "m.json"], "add --protocol ilsvrc-motion"),
        (["--results", "r.json", "--bootstrap", "-1"], "--bootstrap is a number"),
        (["--results", "r.json", "--versus", "r.json", "--bootstrap", "0"], "--versus needs resamples"),
        (["--results", "r.json", "--device", "cuda", "--out", "o"], "leave out the system and its options"),
        (
            ["--results", "r.json", "--processes", "2", "--threads", "1"],
            "which --processes and --threads cannot change",
        ),
        (["--results", "r.json", "--engine", "ray"], "which --engine cannot change"),
        (
            ["--results", "r.json", "--images", "images"],
            "which --images cannot change: leave out what has no effect, or",
        ),
        (["--results", "r.json", "--pictures", "3"], "which --pictures cannot change"),
        (["--results", "r.json", "--map-classes", "cat=cow"], "--map-classes has no effect on COCO results"),
        (["fgfa-lite", "--map-classes", "cat"], "--map-classes is system=data, for instance cow=cattle, not 'cat'"),
        (["fgfa-lite", "--map-classes", "fox=cow,fox=cat"], "--map-classes maps 'fox' twice"),
        (["fgfa-lite", "--map-classes", "yak=cat"], "there is no class 'yak'"),
        (["--results", "r.json", "--pictures", "-1", "--out", "o"], "--pictures is a number"),
    ],
)
def test_mistakes_are_one_message(
    arguments: list[str], expected: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    write_results("r.json", {1: 0.9})
    assert run(*arguments, resamples=None) in {1, 2}
    told = capsys.readouterr()
    assert expected in told.err
    assert "Traceback" not in told.err
    assert not told.out


def test_a_wrong_place_for_the_outcome_is_told_before_anything_is_read(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("file").touch()
    assert run("fgfa-lite", "--out", "file", data="missing.json") == 1
    assert "the folder file cannot be made" in capsys.readouterr().err


def test_the_recorded_figures_of_the_official_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(__file__).resolve().parents[2] / "shared" / "evaluation" / "small"
    if not folder.is_dir():
        pytest.skip(f"the recorded figures are not here: {folder}")
    monkeypatch.chdir(tmp_path)
    arguments = ["--data", str(folder / "cocovid.json"), "--results", str(folder / "detections.json"), *ALL]
    assert exit_code("evaluate", *arguments, "--bootstrap", "0", "--json", "out.json") == 0
    found, expected = read("out.json"), read(str(folder / "expected.json"))
    assert found["coco"]["bbox_mAP_50"] == pytest.approx(expected["coco"]["bbox_mAP_50"], abs=1e-6)
    assert found["ilsvrc"]["mAP"] == pytest.approx(expected["ilsvrc"]["mAP"], abs=1e-6)
    for name, of_class in expected["ilsvrc"]["per_class_AP"].items():
        assert found["ilsvrc"]["per_class_AP"][name] == pytest.approx(of_class, abs=1e-6)
    for speed, figures in expected["ilsvrc_motion"].items():
        assert found["ilsvrc-motion"][speed]["mAP"] == pytest.approx(figures["mAP"], abs=1e-6)
    rounded = f"{100 * expected['coco']['bbox_mAP_50']:.1f}"
    assert printed_rows(capsys)["coco", "AP50"] == [rounded]
    assert np.isfinite(found["coco"]["bbox_mAP"])


def test_only_the_most_frequent_of_many_left_out_classes_are_named(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["cat", *(f"class {number}" for number in range(7))]
    annotations = [
        {"image_id": 1, "category_id": number, "bbox": BOX, "score": 0.5}
        for number in range(len(names))
        for _ in range(number + 1)
    ]
    document = {
        "videos": [{"id": 1, "name": "video 1"}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(names)],
        "images": [{"id": 1, "video_id": 1, "frame_id": 0, "width": 80, "height": 48, "file_name": "none"}],
        "annotations": annotations,
    }
    Path("r.json").write_text(json.dumps(document))
    assert run("--results", "r.json") == 0
    expected = (
        "35 detections of classes that the data set does not have were left out: class 6 8, class 5 7, class 4 6, "
    )
    assert f"{expected}class 3 5, class 2 4 and 2 more classes." in capsys.readouterr().err
