"""Every code block that is not marked is run, page by page, in a folder with small stand-ins for what it names."""

import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import flowdet
from flowdet.inputs import prepare
from flowdet.systems.recipes import RECIPES
from tests.command import exit_code
from tests.pages import PAGES, ROOT, Block, blocks_of, commands_of
from tests.video.clips import make_clip

RUNNING = {page: [b for b in blocks_of(page) if b.reason is None and b.language != "bibtex"] for page in PAGES}
FRAMES = 6
# Only training is shortened.
SHORTER = {"train": ["--epochs", "1", "--warm-up-steps", "0"]}
EXAMPLES = ROOT / "docs" / "examples"


def call(*words: str) -> None:
    assert exit_code(*words, *SHORTER.get(words[0], ())) == 0, words


@pytest.fixture(scope="module")
def stand_ins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all files that the pages name, made of six small frames of the demo clip, with two cars each."""
    folder = tmp_path_factory.mktemp("stand_ins")
    with flowdet.open_video(ROOT / "demo" / "street.mp4") as video:
        small = [
            Image.fromarray(frame.image).resize((320, 180)) for frame, _ in zip(video, range(FRAMES), strict=False)
        ]
    make_clip(folder / "clip.mp4", [np.asarray(image) for image in small])
    shutil.copy(folder / "clip.mp4", folder / "street.mp4")
    (folder / "clip").mkdir()
    for number, image in enumerate(small):
        image.save(folder / "clip" / f"{number:06}.jpg")
    _annotate(folder / "val.json", ["clip"])
    _annotate(folder / "annotations.json", ["clip", "street"])
    before = Path.cwd()
    os.chdir(folder)
    try:
        (folder / "Data").mkdir()
        for same, of in (("Data/VID", ".."), ("images", "."), ("frames", ".")):
            (folder / same).symlink_to(of, target_is_directory=True)
        for same in ("my.json", "my_val.json"):
            shutil.copy("val.json", same)
        call("data", "export", "val.json", "--to", "yolo", "--out", "clips", "--images", ".")
        call("data", "export", "val.json", "--to", "mot", "--out", "MOT17/train", "--images", ".")
        (mot,) = (folder / "MOT17" / "train").iterdir()
        mot.rename(mot.with_name("clip-FRCNN"))
        call("data", "export", "val.json", "--to", "label-studio", "--out", "label-studio", "--images", ".")
        shutil.copy("label-studio/tasks.json", "export.json")
        call("data", "export", "val.json", "--to", "cvat", "--out", "cvat", "--images", ".")
        shutil.copytree("cvat", ".", dirs_exist_ok=True)
        call("detect", "clip.mp4", "--system", "single-nano", "--no-video", "--out", "made")
        (folder / "evaluation").mkdir()
        (folder / "evaluation" / "results.json").write_text(
            json.dumps([{"image_id": 1, "category_id": 1, "bbox": [202, 100, 34, 22], "score": 0.9}])
        )
        for results in ("detections", "fgfa", "single"):
            shutil.copytree("made", results)
    finally:
        os.chdir(before)
    return folder


def _annotate(path: Path, names: list[str]) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for video, number in product(range(1, len(names) + 1), range(FRAMES)):
        place = {"id": len(images) + 1, "video_id": video, "frame_id": number, "file_name": f"clip/{number:06}.jpg"}
        images.append({**place, "width": 320, "height": 180})
        for track, box in enumerate([[202, 100, 34, 22], [258, 98, 50, 28]]):
            entry = {"id": len(annotations) + 1, "image_id": place["id"], "video_id": video, "instance_id": track}
            annotations.append({**entry, "category_id": 1, "bbox": box, "area": box[2] * box[3], "iscrowd": 0})
    categories = [{"id": 1, "name": "car"}, {"id": 2, "name": "person"}]
    videos = [{"id": video, "name": name} for video, name in enumerate(names, start=1)]
    document = {"categories": categories, "videos": videos, "images": images, "annotations": annotations}
    path.write_text(json.dumps(document))


@pytest.fixture
def workplace(stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of it to work in; what the examples register is forgotten afterwards."""
    shutil.copytree(stand_ins, tmp_path, symlinks=True, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    recipes = dict(RECIPES)
    yield tmp_path
    for name in RECIPES.keys() - recipes:
        del RECIPES[name]
    sys.modules.pop("fading_memory", None)


def _given() -> dict[str, Any]:
    """What a fragment of the README takes from around it."""
    model = flowdet.load("single-nano")
    return {"method": model.method, "inputs": prepare([np.zeros((48, 64, 3), np.uint8)], model.config.inputs)}


@pytest.mark.parametrize("page", [page for page, blocks in RUNNING.items() if blocks], ids=lambda page: page.name)
def test_blocks_run(page: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = page.name == "README.md"  # whose output is quoted
    (workplace / "demo").mkdir()
    clip = ROOT / "demo" / "street.mp4" if whole else workplace / "clip.mp4"
    shutil.copy(clip, workplace / "demo" / "street.mp4")
    printed = ""
    for block in RUNNING[page]:
        match block.language:
            case "console":
                _run_commands(block)
            case "python":
                capsys.readouterr()
                exec(compile(block.text, f"{page.name}:{block.line}", "exec"), _given() if whole else {})
                printed = capsys.readouterr().out
            case "json":
                assert all(json.loads(line) for line in block.text.splitlines())
            case "text":
                _compare(printed, block.text)


def _run_commands(block: Block) -> None:
    ran = 0
    for program, *arguments in commands_of(block):
        if program == "flowdet":
            call(*arguments)
            ran += 1
    assert ran, f"{block.page.name}:{block.line}: nothing in this block runs: say why above it"


def _compare(printed: str, quoted: str) -> None:
    """Numbers may differ by rounding; "..." stands for the rest."""
    number = re.compile(r"\d+\.\d+")
    lines = [line for line in quoted.splitlines() if line != "..."]
    assert len(lines) < len(printed.splitlines())
    for line, found in zip(lines, printed.splitlines(), strict=False):
        assert number.sub("#", found) == number.sub("#", line)
        assert list(map(float, number.findall(found))) == pytest.approx(
            list(map(float, number.findall(line))), abs=0.02
        )
