"""Walks from clips to corrected labels to a better system, as docs/exports.md describes it, and measures each step.

    python scripts/walk_through.py REAL_VID WORK

Of each of the six labelled real clips the first half becomes a video; what fgfa-nano finds in it is exported to CVAT's
XML, and the XML is corrected as a person would: to the labels of the clip, leaving boxes that are good enough. Trained
on that, it is evaluated on the second halves, before and after.

REAL_VID is a folder in the layout of ImageNet VID, with annotations/davis_vid_val.json; WORK is a new folder. The
tables go into docs/exports.md between their marks.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import torch
from cyclopts import App
from evidence_pages import fill, table
from torchvision.ops import box_iou

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.image_files import read_picture
from flowdet.video.writer import VideoWriter

app = App(help=__doc__)

_PAGE = Path(__file__).parents[1] / "docs" / "exports.md"
_GOOD = 0.8  # IoU from which a person would leave a box as it is
_FPS = 24.0
_NAMES = {"motorcycle": "motorcycle", "car": "car", "dog": "dog", "horse": "horse"}  # in the set, and of COCO
_SIDES = ("xtl", "ytl", "xbr", "ybr")

Boxes = dict[int, tuple[float, float, float, float]]  # xyxy px by frame


@app.default
def walk(real: Path, work: Path, *, epochs: int = 6) -> None:
    """Does all steps and writes the page.

    Args:
        real: The folder of the labelled real clips.
        work: A new folder for everything that is made.
        epochs: Of the training.
    """
    data = read_cocovid(real / "annotations" / "davis_vid_val.json")
    truths = {}
    for number, video in enumerate(data.videos):
        name = video.name.rpartition("_")[2]
        half = video.frames[: len(video.frames) // 2]
        write_clip(data, half, real / "Data" / "VID", work / "clips" / f"{name}.mp4")
        truths[name] = truth_of(data, half, number)
    write_validation(data, real / "Data" / "VID", work)

    steps = Steps(work)
    clips = [f"clips/{name}.mp4" for name in truths]
    classes = ",".join(_NAMES.values())
    steps("detect", "detect", *clips, "--track", "--classes", classes, "--no-video")
    for name in truths:
        out = f"cvat/{name}"
        found = f"detections/{name}.json"
        steps("export", "data", "export", found, "--to", "cvat", "--out", out, "--images", f"clips/{name}.mp4")
    counts: Counter[str] = Counter()
    for name, (label, boxes) in truths.items():
        counts += correct(work / "cvat" / name / "annotations.xml", label, boxes)
    files = [f"cvat/{name}/annotations.xml" for name in truths]
    steps("import", "data", "import-cvat", *files, "--out", "cvat/corrected.json", "--strict")
    steps("check", "data", "check", "cvat/corrected.json")
    train = ("--data", "cvat/corrected.json", "--out", "run", "--epochs", epochs)
    steps("train", "train", "fgfa-nano", *train)
    rows = {}
    for when, system in (("before", ("fgfa-nano",)), ("after", ("--weights", "run/weights.safetensors"))):
        out = ("--out", f"evaluation-{when}", "--json", f"{when}.json", "--bootstrap", 0, "--pictures", 0)
        steps("evaluate", "evaluate", *system, "--data", "val.json", *out)
        rows[when] = json.loads((work / f"{when}.json").read_text())
    (work / "walk-through.json").write_text(json.dumps({"seconds": steps.seconds, "counts": counts}, indent=1))
    fill(_PAGE, {"walk-through": tables_of(steps.seconds, counts, rows)})


class Steps:
    """Runs commands of flowdet in a folder and adds up their seconds of processor time by step."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seconds: dict[str, float] = {}

    def __call__(self, step: str, *arguments: object) -> None:
        """Runs `flowdet` with these arguments."""
        began = processor_time()
        command = [sys.executable, "-m", "flowdet", *map(str, arguments)]
        subprocess.run(command, cwd=self.folder, env=dict(os.environ), check=True)
        self.seconds[step] = self.seconds.get(step, 0.0) + processor_time() - began


def processor_time() -> float:
    """Returns the seconds that finished child processes have used, however busy the machine was."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def write_clip(data: CocoVID, places: tuple[int, ...], images: Path, out: Path) -> None:
    """Writes frames of the data set as a video."""
    out.parent.mkdir(parents=True, exist_ok=True)
    first = data.images[places[0]]
    with VideoWriter(out, (first.height, first.width), _FPS) as writer:
        for number, place in enumerate(places):
            image = data.images[place]
            picture = read_picture(images / image.file_name, (image.height, image.width), image.file_name)
            writer.write(picture, number / _FPS)


def truth_of(data: CocoVID, places: tuple[int, ...], number: int) -> tuple[str, Boxes]:
    """Returns the class and the boxes of the one object of a clip."""
    objects, boxes = data.objects, {}
    label = ""
    for frame, place in enumerate(places):
        for row in (objects.images == place).nonzero()[0]:
            label = data.class_names[objects.labels[row]]
            x1, y1, x2, y2 = objects.boxes[row].tolist()
            boxes[frame] = (x1, y1, x2, y2)
    assert label, number
    return _NAMES[label], boxes


def write_validation(data: CocoVID, images: Path, work: Path) -> None:
    """Writes the annotations of the second halves, with links to their pictures."""
    kept = [place for video in data.videos for place in video.frames[len(video.frames) // 2 :]]
    categories = [{"id": number, "name": name} for number, name in enumerate(_NAMES.values(), start=1)]
    ids = {category["name"]: category["id"] for category in categories}
    entries, annotations = [], []
    for place in kept:
        image = data.images[place]
        target = work / "val" / image.file_name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(images / image.file_name, target)
        size = {"width": image.width, "height": image.height}
        place_in = {"video_id": (image.video or 0) + 1, "frame_id": image.frame}
        entries.append({"id": place + 1, "file_name": f"val/{image.file_name}", **size, **place_in})
        for row in (data.objects.images == place).nonzero()[0]:
            x1, y1, x2, y2 = data.objects.boxes[row].tolist()
            category = ids[_NAMES[data.class_names[data.objects.labels[row]]]]
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "instance_id": 0, "iscrowd": 0}
            annotations.append({"id": len(annotations) + 1, "image_id": place + 1, "category_id": category, **box})
    videos = [{"id": number + 1, "name": video.name} for number, video in enumerate(data.videos)]
    document = {"videos": videos, "categories": categories, "images": entries, "annotations": annotations}
    (work / "val.json").write_text(json.dumps(document))


def correct(path: Path, label: str, truth: Boxes) -> Counter[str]:
    """Corrects a CVAT file as a person would, and returns how often they would have done what."""
    tree = ElementTree.parse(path)
    root = tree.getroot()
    listed = root.find("meta/task/labels")
    assert listed is not None
    for entry in listed.findall("label"):  # the project has the labels that are wanted
        if entry.findtext("name") not in _NAMES.values():
            listed.remove(entry)
    tracks = root.findall("track")
    hits = [
        sum(iou(box, truth[frame]) >= 0.5 for frame, box in visible(each).items() if frame in truth) for each in tracks
    ]
    best = tracks[hits.index(max(hits))] if any(hits) else SubElement(root, "track", {"id": "0", "source": "manual"})
    counts: Counter[str] = Counter()
    for each in tracks:
        if each is not best:
            root.remove(each)
            counts["tracks removed"] += 1
    counts["tracks drawn anew"] += best not in tracks
    counts["tracks given another class"] += best in tracks and best.get("label") != label
    best.set("label", label)
    found = visible(best)
    for box in best.findall("box"):
        best.remove(box)
    for frame, sides in truth.items():
        is_good = frame in found and iou(found[frame], sides) >= _GOOD
        kind = "left as found" if is_good else "moved" if frame in found else "added"
        counts[f"boxes {kind}"] += 1
        own = found[frame] if is_good else sides
        texts = {name: f"{side:.2f}" for name, side in zip(_SIDES, own, strict=True)}
        SubElement(best, "box", {"frame": str(frame), "outside": "0", "occluded": "0", "keyframe": "1", **texts})
    tree.write(path, encoding="utf-8")
    return counts


def visible(track: Element) -> Boxes:
    """Returns the boxes of a track by frame."""
    boxes: Boxes = {}
    for box in track.findall("box"):
        if box.get("outside") != "1":
            x1, y1, x2, y2 = (float(box.get(name, "nan")) for name in _SIDES)
            boxes[int(box.get("frame", "-1"))] = (x1, y1, x2, y2)
    return boxes


def iou(one: tuple[float, ...], other: tuple[float, ...]) -> float:
    """Returns the IoU of two boxes."""
    return float(box_iou(torch.tensor([one]), torch.tensor([other])))


def tables_of(seconds: Mapping[str, float], counts: Mapping[str, int], rows: Mapping[str, Any]) -> str:
    """Returns the tables in Markdown."""
    did = table(["in CVAT's XML", "count"], [[name, str(count)] for name, count in sorted(counts.items()) if count])
    took = table(["step", "seconds of one core"], [[step, f"{value:.0f}"] for step, value in seconds.items()])
    metrics = {when: found["coco"] for when, found in rows.items()}
    scores = table(
        ["second halves", "AP50", "AP"],
        [
            [when, *(f"{100 * each[name]:.1f}" for name in ("bbox_mAP_50", "bbox_mAP"))]
            for when, each in metrics.items()
        ],
    )
    return "\n\n".join((took, did, scores))


if __name__ == "__main__":
    app()
