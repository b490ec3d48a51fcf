"""Measures the shipped systems on the six labelled real clips, clean and with three of every ten frames degraded.

    python scripts/measure_nano.py accuracy REAL_VID yolox-nano.safetensors
    python scripts/measure_nano.py speed CLIP --yolox-nano yolox-nano.safetensors

Needs OpenCV. The figures go to docs/evidence/nano.json, the tables into docs/nano.md between their marks. REAL_VID is a
folder in the layout of ImageNet VID, with annotations/davis_vid_val.json; CLIP is a video of 1280x720.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import torch
from cyclopts import App
from evidence_pages import fill, interval, table
from numpy.typing import NDArray
from restrict import restrict
from torch import Tensor
from torchvision.ops import box_iou, nms

from flowdet.data.cocovid import CocoVID, read_cocovid
from flowdet.data.image_files import read_picture
from flowdet.inputs import prepare
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes
from flowdet.metrics.intervals import bootstrap_difference
from flowdet.metrics.protocols import evaluate
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.temporal.base import MethodParts
from flowdet.tracking.seq_nms import seq_nms
from flowdet.types import FrameFeatures, Geometry, Maps, NetworkInput, RoIs

app = App(help=__doc__)

_ROOT = Path(__file__).parents[1]
_METRICS = _ROOT / "docs" / "evidence" / "nano.json"
_PAGE = _ROOT / "docs" / "nano.md"
_FAMILIES = ("nano", "yolox-nano", "lite")
_FORMS: Mapping[str, tuple[str, bool]] = {
    "single-{}": ("single-{}", False),
    "fgfa-{}": ("fgfa-{}", False),
    "fgfa-{}, causal": ("fgfa-{}", True),
    "dff-{}": ("dff-{}", False),
}
"""Names of a family's systems, and which system that is, in its causal form or not."""
_DEGRADED = (4, 5, 6)  # of every ten frames
_BLUR = range(15, 33, 2)  # px
_NOISE = 12.0  # grey levels
_RECALL_SCORE, _RECALL_IOU = 0.3, 0.5
_APART_IOU = 0.1
_CLASSES = ("car", "dog", "horse", "motorcycle")


@app.command
def accuracy(real: Path, yolox_nano: Path, *, samples: int = 1000, threads: int = 1) -> None:
    """Measures what the systems find, and writes the page.

    Args:
        real: The folder of the labelled real clips.
        yolox_nano: Weights of YOLOX-nano.
        samples: Resamples of the confidence intervals.
        threads: Of torch and OpenCV.
    """
    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    data = read_cocovid(real / "annotations" / "davis_vid_val.json")
    spoilt = np.array([(image.frame or 0) % 10 in _DEGRADED for image in data.images])
    clean = pictures_of(data, real / "Data" / "VID")
    degraded = [
        degrade(picture, seed) if bad else picture
        for seed, (picture, bad) in enumerate(zip(clean, spoilt, strict=True))
    ]
    metrics: dict[str, Any] = {"clean": {}, "degraded": {}, "rates": {}, "parameters": {}}
    for family in _FAMILIES:
        single, *others = forms_of(family)
        weights = {"weights": yolox_nano} if family == "yolox-nano" else {}
        systems = {name: load(system, causal=causal, **weights) for name, system, causal in (single, *others)}
        metrics["parameters"] |= {name: sum(p.numel() for p in each.parameters()) for name, each in systems.items()}
        for condition, pictures in (("clean", clean), ("degraded", degraded)):
            found = detect(systems, data, pictures)
            if family == "nano":
                two = list(found.items())[:2]
                found |= {f"{name}, NMS across classes": across_classes(each) for name, each in two}
                found |= {f"{name}, Seq-NMS": seq_nms(data, each) for name, each in two}
            for name, each in found.items():
                metrics[condition][name] = judged(data, each, found[single[0]], spoilt, samples)
    write(metrics)


@app.command
def speed(clip: Path, yolox_nano: Path, *, turns: int = 5) -> None:
    """Measures `flowdet detect`, from decoding to the annotated video, all systems in turn, and writes the page.

    Args:
        clip: A video.
        yolox_nano: Weights of YOLOX-nano.
        turns: How often each system is measured.
    """
    rates: dict[str, list[float]] = {}
    with TemporaryDirectory() as folder:
        for _ in range(turns):
            for family in _FAMILIES:
                weights = ["--weights", str(yolox_nano)] if family == "yolox-nano" else []
                for name, system, causal in forms_of(family):
                    command = [sys.executable, "-m", "flowdet", "detect", str(clip), "--out", folder, "--overwrite"]
                    command += ["--system", system, *weights, *(["--causal"] if causal else [])]
                    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
                    found = re.search(r"([\d.]+) frames/s", told)
                    assert found, told
                    rates.setdefault(name, []).append(float(found[1]))
    write({"rates": rates})


def forms_of(family: str) -> list[tuple[str, str, bool]]:
    """Returns the systems of a family, frame by frame first: a name, the system's, and whether in its causal form."""
    return [(name.format(family), system.format(family), causal) for name, (system, causal) in _FORMS.items()]


def write(figures: Mapping[str, Any]) -> None:
    """Puts figures beside those measured before, and all tables into the page."""
    together = json.loads(_METRICS.read_bytes()) | figures
    _METRICS.write_text(json.dumps(together, indent=1, default=asdict) + "\n")
    fill(_PAGE, tables_of(json.loads(_METRICS.read_bytes())))


def pictures_of(data: CocoVID, folder: Path) -> list[NDArray[np.uint8]]:
    """Returns the pictures of the data set in its order."""
    return [read_picture(folder / each.file_name, (each.height, each.width), f"{data.path}") for each in data.images]


def degrade(picture: NDArray[np.uint8], seed: int, blur: Sequence[int] = _BLUR) -> NDArray[np.uint8]:
    """Returns the picture with motion blur of one of these lengths along a straight line, and with noise."""
    random = np.random.default_rng(seed)
    length, angle = int(random.choice(blur)), random.uniform(0, np.pi)
    reach = length // 2 * np.array([np.cos(angle), np.sin(angle)])
    ends = [np.round(length // 2 + sign * reach).astype(int).tolist() for sign in (-1, 1)]
    kernel = cv2.line(np.zeros((length, length), np.float32), *ends, 1.0)
    blurred = cv2.filter2D(picture, -1, kernel / kernel.sum())
    return (blurred + random.normal(0, _NOISE, picture.shape)).clip(0, 255).astype(np.uint8)


class Once:
    """Network inputs and maps of pictures, each computed once for all systems with the same detector."""

    def __init__(self, system: VideoDetector) -> None:
        self.system = system
        self.inputs: dict[int, NetworkInput] = {}
        self.maps: dict[int, Maps] = {}

    def serves(self, system: VideoDetector) -> bool:
        """Whether a system has the same detector, with the same weights."""
        own, other = (each.detector.state_dict().values() for each in (self.system, system))
        is_alike = self.system.config.detector == system.config.detector
        return is_alike and all(torch.equal(*pair) for pair in zip(own, other, strict=True))

    def input_of(self, picture: NDArray[np.uint8]) -> NetworkInput:
        """Returns the network input of a picture, which must live as long as this."""
        if id(picture) not in self.inputs:
            self.inputs[id(picture)] = prepare([picture], self.system.config.inputs)
        return self.inputs[id(picture)]

    def extract(self, images: Tensor) -> Maps:
        """Returns the maps of the images of one of these network inputs."""
        if images.data_ptr() not in self.maps:
            self.maps[images.data_ptr()] = self.system.detector.extract(images)
        return self.maps[images.data_ptr()]

    def rois(self, maps: Maps, geometries: Sequence[Geometry]) -> RoIs:
        """Returns the proposals of the detector."""
        return self.system.detector.rois(maps, geometries)


@torch.inference_mode()
def detect(
    systems: Mapping[str, VideoDetector], data: CocoVID, pictures: Sequence[NDArray[np.uint8]]
) -> dict[str, DetectionTable]:
    """Returns what each system finds in all videos, each of them one stream."""
    source, found = None, {}
    for name, system in systems.items():
        if source is None or not source.serves(system):
            source = Once(system)
        labels = torch.from_numpy(map_classes(system.config.class_names, data).labels)
        method = system.config.method.build(MethodParts(source, system.flow_net, system.method_modules))
        parts = []
        for video in data.videos:
            state, features = method.initial_state(), []
            for place in video.frames:
                ready, state = method.step(source.input_of(pictures[place]), state)
                features += ready
            for place, each in zip(video.frames, [*features, *method.flush(state)], strict=True):
                parts.append(detections_in(each, system, labels, place))
        found[name] = concatenate(parts)
    return found


def detections_in(features: FrameFeatures, system: VideoDetector, labels: Tensor, image: int) -> DetectionTable:
    """Returns what a system finds in the features of an image, without classes that the data set does not have.

    Args:
        features: Of one image.
        system: Its detector is asked.
        labels: The data set's label of each of the system's classes, -1 for those that it does not have.
        image: The number of the image.
    """
    ((boxes, scores, classes),) = system.detector.detect(features)
    known = labels[classes] >= 0
    columns = (labels[classes[known]], boxes[known].double(), scores[known].double())
    return DetectionTable(np.full(int(known.sum()), image), *(column.numpy() for column in columns))


def across_classes(found: DetectionTable, iou: float = 0.6) -> DetectionTable:
    """Returns the detections that non-maximum suppression across classes keeps."""
    kept = []
    for image in np.unique(found.images):
        rows = np.flatnonzero(found.images == image)
        boxes, scores = torch.from_numpy(found.boxes[rows]), torch.from_numpy(found.scores[rows])
        kept.append(rows[nms(boxes, scores, iou).numpy()])
    return found.select(np.sort(np.concatenate(kept)))


def judged(
    data: CocoVID, found: DetectionTable, single: DetectionTable, spoilt: NDArray[np.bool_], samples: int
) -> dict[str, Any]:
    """Returns AP50 and AP on all frames, AP50 on the spoilt ones and the others, recall, and the gain over `single`."""
    whole = evaluate(data, found, "coco").headline
    parts = {name: restrict(data, found, images=images) for name, images in (("bad", spoilt), ("good", ~spoilt))}
    recalls = list(recalls_of(data, found))
    labelled, labelled_single = (without_unlabelled(data, each) for each in (found, single))
    alone = evaluate(data, labelled, "coco")
    return {
        "AP50": whole["AP50"],
        "AP": whole["AP"],
        "AP50 alone": alone.headline["AP50"],
        "AP alone": alone.headline["AP"],
        "classes": {name: value for name, value in alone.per_class["AP50"].items() if value is not None},
        "gain alone": bootstrap_difference(data, labelled_single, labelled, "coco", samples=samples)["AP50"],
        **{f"AP50 {name}": evaluate(*part, "coco").headline["AP50"] for name, part in parts.items()},
        "recall": float(np.mean(recalls)),
        "recalls": dict(zip((video.name for video in data.videos), recalls, strict=True)),
        "gain": bootstrap_difference(data, single, found, "coco", samples=samples)["AP50"],
        "gain bad": bootstrap_difference(
            parts["bad"][0], restrict(data, single, images=spoilt)[1], parts["bad"][1], "coco", samples=samples
        )["AP50"],
    }


def without_unlabelled(data: CocoVID, found: DetectionTable) -> DetectionTable:
    """Returns the detections that overlap a labelled object; the others may be right, since not all are labelled."""
    objects = data.objects
    kept = np.zeros(len(found.images), bool)
    for image in np.unique(found.images):
        mine = np.flatnonzero(found.images == image)
        boxes = torch.from_numpy(objects.boxes[objects.images == image])
        overlaps = box_iou(torch.from_numpy(found.boxes[mine]), boxes)
        kept[mine] = (overlaps >= _APART_IOU).any(dim=1).numpy()
    return found.select(np.flatnonzero(kept))


def recalls_of(data: CocoVID, found: DetectionTable) -> Iterator[float]:
    """Yields for each video the share of its objects with a detection of their class that is sure and near enough."""
    objects = data.objects
    for video in data.videos:
        mine = np.flatnonzero(np.isin(objects.images, video.frames))
        hits = 0
        for number in mine:
            near = (found.images == objects.images[number]) & (found.labels == objects.labels[number])
            boxes = torch.from_numpy(found.boxes[near & (found.scores >= _RECALL_SCORE)])
            overlaps = box_iou(torch.from_numpy(objects.boxes[number][None]), boxes)
            hits += bool((overlaps >= _RECALL_IOU).any())
        yield hits / len(mine)


def tables_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables in Markdown, by the name of their marks."""

    def percent(row: Mapping[str, Any], *names: str) -> list[str]:
        return [f"{100 * row[name]:.1f}" for name in names]

    every = [name for family in _FAMILIES for name, _, _ in forms_of(family)]
    clean, degraded = (
        {name: row for name, row in metrics[condition].items() if "nano" in name and "yolox" not in name}
        for condition in ("clean", "degraded")
    )

    def rate(name: str) -> str:
        if name not in metrics["rates"]:
            return "not measured"
        low, middle, high = quantiles(metrics["rates"][name], n=4)
        return f"{middle:.1f} ({low:.1f} to {high:.1f})"

    return {
        "choice": table(
            ["", "AP50", "AP", "AP50 over frame by frame", "degraded", "recall", "frames/s", "M parameters"],
            [
                [
                    name,
                    *percent(metrics["clean"][name], "AP50", "AP"),
                    interval(metrics["clean"][name]["gain"]),
                    *percent(metrics["degraded"][name], "AP50"),
                    f"{metrics['clean'][name]['recall']:.2f}",
                    rate(name),
                    f"{metrics['parameters'][name] / 1e6:.1f}",
                ]
                for name in every
            ],
        ),
        "clean": table(
            ["", "AP50", "AP", "recall", "AP50 over single-nano"],
            [
                [name, *percent(row, "AP50", "AP"), f"{row['recall']:.2f}", interval(row["gain"])]
                for name, row in clean.items()
            ],
        ),
        "alone": table(
            ["", "AP50", "AP", "AP50 over single-nano", *_CLASSES],
            [
                [
                    name,
                    *percent(row, "AP50 alone", "AP alone"),
                    interval(row["gain alone"]),
                    *percent(row["classes"], *_CLASSES),
                ]
                for name, row in clean.items()
            ],
        ),
        "degraded": table(
            ["", "AP50", "AP", "degraded frames", "the others", "degraded frames over single-nano"],
            [
                [name, *percent(row, "AP50", "AP", "AP50 bad", "AP50 good"), interval(row["gain bad"])]
                for name, row in degraded.items()
            ],
        ),
    }


if __name__ == "__main__":
    app()
