"""Measures whether warping the maps of references along flow helps, by speed, stride, window and kind of flow.

    python scripts/measure_flow.py COCO_VID30 BACKGROUNDS REAL_VID

Needs OpenCV. Clips are built in memory: objects cut out of the labelled photographs of COCO_VID30 (images and
instances_vid30.json) cross the pictures in BACKGROUNDS, and a window moves over the photographs. REAL_VID has the six
labelled real clips. The detector is NanoDet-g, the weights are those of fgfa-nano. The metrics go to
docs/evidence/flow.json, the tables into docs/flow.md between their marks, and the plot beside the metrics.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from itertools import zip_longest
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from cyclopts import App
from evidence_pages import fill, interval, table
from matplotlib.figure import Figure
from measure_nano import degrade, pictures_of
from numpy.typing import NDArray
from restrict import restrict
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from flowdet.class_names import VID_CLASSES
from flowdet.data.cocovid import CocoVID, ImageRecord, Objects, read_cocovid
from flowdet.data.image_files import read_picture
from flowdet.flow.base import FlowNet
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.inputs import prepare
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes
from flowdet.metrics.intervals import bootstrap_difference
from flowdet.metrics.protocols import evaluate
from flowdet.ops.sampling import warp, warp_maps
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.systems.recipes import fgfa_nano
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.similarity import log_odds
from flowdet.types import FrameFeatures, Maps, NetworkInput

app = App(help=__doc__)

Picture = NDArray[np.uint8]
Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # boxes, scores, classes
Finding = tuple[tuple[Any, ...], str, int, Found]  # setting, method, image, what is found

_ROOT = Path(__file__).parents[1]
_METRICS = _ROOT / "docs" / "evidence" / "flow.json"
_PLOT = _METRICS.with_name("flow.svg")
_PAGE = _ROOT / "docs" / "flow.md"
_METHODS: Mapping[str, tuple[str, ...]] = {
    "none": ("none",),
    "exact": ("exact",),
    "exact, masked": ("exact",),
    "DIS": ("DIS",),
    "shipped": ("shipped",),
    "exact or none": ("exact", "none"),
    "DIS or none": ("DIS", "none"),
}
_FLOWS = [name for name in _METHODS if name != "none"]
_SIZE = (256, 416)  # of a picture that is built, px of the network input
_STRIDES = (8, 16, 32)
_SPEEDS = (0, 4, 8, 16, 32)  # px a frame
_CAMERA_SPEEDS = (0, 4, 8, 16)
_RADII = (1, 2, 5)
_RADIUS = 5
_SIDES = (48, 96, 176)  # of an object, px
_BLUR = range(7, 17, 2)  # px; as in measure_nano.py, whose frames are about twice as wide
_PANNED = 736  # width of a photograph over which a window moves
_COVERED = 0.25  # the share of a cell from which on it belongs to the object
_FOUND_SCORE = 0.3
_LEAST_SCORE = 0.05
_APART = 1e4  # px between boxes of different classes
_SAMPLES = 500


@app.default
def measure(
    coco: Path,
    backgrounds: Path,
    real: Path,
    *,
    crossings: int = 21,
    photographs: int = 8,
    processes: int = 1,
    only_page: bool = False,
) -> None:
    """Measures everything and writes the page.

    Args:
        coco: The folder of the labelled photographs.
        backgrounds: The folder of the backgrounds, searched for .jpg.
        real: The folder of the labelled real clips.
        crossings: Clips in which an object crosses a background.
        photographs: Photographs over which a window moves.
        processes: Processes that share the work, of one thread each.
        only_page: Writes the page from the metrics that are there.
    """
    if not only_page:
        with ProcessPoolExecutor(processes, get_context("spawn"), _one_thread) as pool:
            collected = collect(coco, backgrounds, real, pool, crossings=crossings, photographs=photographs)
        metrics = judge(collected)
        _METRICS.write_text(json.dumps(metrics, indent=1, default=asdict) + "\n")
    found = json.loads(_METRICS.read_bytes())
    fill(_PAGE, tables_of(found))
    plot(found, _PLOT)


@dataclass(frozen=True)
class Collected:
    """The clips and what is found in them, by the name of the part; strides [n] are those of the crossing clips."""

    scenes: Mapping[str, Sequence["Scene"]]
    videos: Mapping[str, CocoVID]
    found: Mapping[str, Sequence[Finding]]
    strides: NDArray[np.int64]


def collect(
    coco: Path, backgrounds: Path, real: Path, pool: ProcessPoolExecutor, *, crossings: int, photographs: int
) -> Collected:
    """Returns what is found in all clips."""
    scenes = {
        "crossing": crossing_scenes(coco, backgrounds, crossings),
        "camera": panned_scenes(coco, photographs),
    }
    clips = read_cocovid(real / "annotations" / "davis_vid_val.json")
    pictures = pictures_of(clips, real / "Data" / "VID")
    videos, jobs = {"real": clips}, dict[str, Sequence[Job]](scenes)
    jobs["real"] = streams_of(clips, pictures)
    named = [(name, job) for name, some in jobs.items() for job in some]
    found: dict[str, list[Finding]] = {name: [] for name in jobs}
    strides = []
    for (name, _), (stride, findings) in zip(named, pool.map(_run, (job for _, job in named)), strict=True):
        found[name] += findings
        strides += [stride] if name == "crossing" else []
    return Collected(scenes, videos, found, np.array(strides))


def judge(collected: Collected) -> dict[str, Any]:
    """Returns all metrics."""
    metrics: dict[str, Any] = {}
    for name, scenes in collected.scenes.items():
        strides = collected.strides if name == "crossing" else None
        metrics[name] = judged_scenes(scenes, collected.found[name], strides)
    for name, data in collected.videos.items():
        metrics[name] = judged_streams(data, collected.found[name])
    return metrics


class Job(Protocol):
    """A clip to measure."""

    def run(self) -> tuple[int, list[Finding]]:
        """Returns the stride of the map that finds its object, 0 if that is not asked, and what is found."""


def _run(job: Job) -> tuple[int, list[Finding]]:
    with torch.inference_mode():
        return job.run()


def _one_thread() -> None:
    torch.set_num_threads(1)
    cv2.setNumThreads(1)


# The detector, flow and averages.


@cache
def nets() -> tuple[VideoDetector, dict[str, FlowNet]]:
    """Returns the detector, and the flow nets by name."""
    system, flow_net = load(system="single-nano"), load(system="dff-lite").flow_net
    assert flow_net is not None
    # Thousands of boxes below this score would take most of the time, and hardly change AP50.
    system.detector.config = replace(system.detector.config, score_threshold=_LEAST_SCORE)
    return system, {"DIS": DISFlow(DISFlowConfig(), system.config.inputs), "shipped": flow_net}


@cache
def weights() -> FGFAConfig:
    """Returns how fgfa-nano weighs."""
    method = fgfa_nano().method
    assert isinstance(method, FGFAConfig)
    return method


@dataclass(frozen=True)
class Exact:
    """The known flow to a reference, for each map.

    Attributes:
        flows: [1, 2, h, w] in cells.
        visible: [1, h, w] 0 where the reference does not show the cell, else 1.
    """

    flows: Maps
    visible: Maps


class Frames:
    """The frames of a clip; maps and flows are computed once and shared by all methods."""

    def __init__(self, picture_of: Callable[[Hashable], Picture]) -> None:
        self._picture_of = picture_of
        self._frames: dict[Hashable, tuple[NetworkInput, Maps, dict[str, Tensor]]] = {}
        self._flows: dict[Hashable, Tensor] = {}

    def frame(self, key: Hashable) -> tuple[NetworkInput, Maps, dict[str, Tensor]]:
        """Returns the network input, the maps, and what each flow net needs of a frame."""
        if key not in self._frames:
            system, flow_nets = nets()
            inputs = prepare([self._picture_of(key)], system.config.inputs)
            prepared = {name: net.prepare(inputs) for name, net in flow_nets.items()}
            self._frames[key] = inputs, system.detector.extract(inputs.images), prepared
        return self._frames[key]

    def offers(self, current: Hashable, reference: Hashable, exact: Exact | None) -> dict[str, Maps]:
        """Returns the maps of a reference by the flow along which they are warped."""
        maps = self.frame(reference)[1]
        offers = {"none": maps}
        if exact is not None:
            pairs = zip(maps, exact.flows, strict=True)
            offers["exact"] = tuple(warp(each, flow, "identity") for each, flow in pairs)
        for name, net in nets()[1].items():
            key = (name, current, reference)
            if key not in self._flows:
                now, then = (self.frame(each)[2][name] for each in (current, reference))
                self._flows[key] = net(net.as_current(now), net.as_reference(then))
            offers[name] = warp_maps(maps, self._flows[key], "identity")
        return offers

    def averages(
        self,
        current: Hashable,
        pairs: Iterable[Sequence[Hashable]],
        exact_of: Callable[[Hashable], Exact] | None = None,
        radii: Sequence[int] = (_RADIUS,),
    ) -> Iterator[tuple[str, int, Maps]]:
        """Yields method, window radius and averaged maps; the references at distance 1 come first."""
        own = self.frame(current)[1]
        methods = [name for name, kinds in _METHODS.items() if exact_of or "exact" not in kinds]
        totals = {name: [each.clone() for each in own] for name in methods}
        sums = {name: [torch.ones_like(each[:, 0]) for each in own] for name in methods}
        for radius, references in enumerate(pairs, 1):
            for reference in references:
                exact = exact_of(reference) if exact_of else None
                offers = self.offers(current, reference, exact)
                for level, query in enumerate(own):
                    keys = torch.stack([maps[level] for maps in offers.values()], dim=1)
                    odds = log_odds(query, keys, weights().sharpness, weights().norm_power).exp()
                    by_kind = {kind: (keys[:, n], odds[:, n]) for n, kind in enumerate(offers)}
                    for name in methods:
                        values, weight = by_kind[_METHODS[name][0]]
                        for other in _METHODS[name][1:]:
                            better = by_kind[other][1] > weight
                            values = torch.where(better[:, None], by_kind[other][0], values)
                            weight = torch.where(better, by_kind[other][1], weight)
                        if exact is not None and name.endswith("masked"):
                            weight = weight * exact.visible[level]
                        totals[name][level].addcmul_(values, weight[:, None])
                        sums[name][level] += weight
            if radius in radii:
                for name in methods:
                    levels = zip(totals[name], sums[name], strict=True)
                    yield name, radius, tuple(total / whole[:, None] for total, whole in levels)

    def find(self, current: Hashable, maps: Sequence[Maps]) -> list[Found]:
        """Returns boxes, scores and classes in each of these maps of the current frame."""
        geometries = self.frame(current)[0].geometries * len(maps)
        together = tuple(torch.cat(level) for level in zip(*maps, strict=True))
        found = nets()[0].detector.detect(FrameFeatures(0, together, geometries))
        # Tensors would go from one process to another through a file each.
        return [(boxes.numpy(), scores.numpy(), labels.numpy()) for boxes, scores, labels in found]


# Clips that are built.


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip whose frames differ by an offset in px: of an object before a still picture, or of a window.

    Attributes:
        number: Which clip.
        picture: The background, or the photograph over which the window moves.
        cutout: [h, w, 4] RGB and opacity of the object; None if a window moves.
        corner: Where the object's upper left corner is in the middle frame (x, y), or the window's in the photograph.
        boxes: [n, 4] of the objects in the middle frame.
        labels: [n] their classes.
        forward: 1 if offsets grow with time, else -1.
    """

    number: int
    picture: Picture
    cutout: Picture | None
    corner: tuple[int, int]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    forward: int

    def run(self) -> tuple[int, list[Finding]]:
        """Returns the stride of the map that finds the first object, and what is found in the middle frame."""
        frames = Frames(self._frame)
        findings: list[Finding] = []
        crosses = self.cutout is not None
        for speed in _SPEEDS if crosses else _CAMERA_SPEEDS:
            for spoilt in (0, 3):
                radii = _RADII if crosses and spoilt == 3 else (_RADIUS,)
                middle = (0, spoilt > 0)
                pairs = [
                    [(sign * far * speed * self.forward, far == 1 and spoilt == 3) for sign in (-1, 1)]
                    for far in range(1, max(radii) + 1)
                ]
                averages = list(frames.averages(middle, pairs, self._exact, radii))
                found = frames.find(middle, [frames.frame(middle)[1], *(maps for *_, maps in averages)])
                named = [("single", radius) for radius in radii], [(name, radius) for name, radius, _ in averages]
                results = [*[found[0]] * len(radii), *found[1:]]
                for (name, radius), result in zip([*named[0], *named[1]], results, strict=True):
                    findings.append(((speed, spoilt, radius), name, self.number, result))
        return self._stride(frames), findings

    def _frame(self, key: Hashable) -> Picture:
        offset, is_spoilt = key
        if self.cutout is None:
            left, top = self._window(offset), self.corner[1]
            picture = np.ascontiguousarray(self.picture[top : top + _SIZE[0], left : left + _SIZE[1]])
        else:
            layer = self._layer(offset)
            share = layer[..., 3:] / np.float32(255)
            picture = np.rint(layer[..., :3] * share + self.picture * (1 - share)).astype(np.uint8)
        return degrade(picture, 4096 * self.number + 2048 + offset, _BLUR) if is_spoilt else picture

    def _window(self, offset: int) -> int:
        """The left side of the window; it stops at the border of the photograph."""
        return min(max(self.corner[0] + offset, 0), self.picture.shape[1] - _SIZE[1])

    def _layer(self, offset: int) -> Picture:
        """The object [h, w, 4] in the place that it has in a frame, as far as the frame shows it."""
        assert self.cutout is not None
        layer = np.zeros((*_SIZE, 4), np.uint8)
        height, width = self.cutout.shape[:2]
        left, top = self.corner[0] + offset, self.corner[1]
        first, last = max(left, 0), min(left + width, _SIZE[1])
        if first < last:
            layer[top : top + height, first:last] = self.cutout[:, first - left : last - left]
        return layer

    def _exact(self, key: Hashable) -> Exact:
        offset, _ = key
        flows, visible = [], []
        for stride in _STRIDES:
            rows, columns = (side // stride for side in _SIZE)
            if self.cutout is None:
                moved = torch.full((1, rows, columns), (self.corner[0] - self._window(offset)) / stride)
                seen = torch.ones(1, rows, columns)
            else:
                here, there = (self._cells(place, stride) for place in (0, offset))
                moved = here * (offset / stride)
                seen = 1 - (1 - here) * there
            at = torch.arange(columns) + moved
            visible.append(seen * ((at > -1) & (at < columns)))
            flows.append(torch.stack((moved, torch.zeros_like(moved)), dim=1))
        return Exact(tuple(flows), tuple(visible))

    def _cells(self, offset: int, stride: int) -> Tensor:
        """1 in the cells [1, h, w] of the object, 0 in the others."""
        share = torch.from_numpy(self._layer(offset)[None, ..., 3] / np.float32(255))
        return (F.avg_pool2d(share, stride) >= _COVERED).float()

    def _stride(self, frames: Frames) -> int:
        """The stride of the cell inside the first box that is surest of its class, in the clean frame by itself."""
        system = nets()[0]
        predictions, cells = system.detector.predict(frames.frame((0, False))[1])
        known = torch.from_numpy(map_classes(system.config.class_names, empty_data()).labels) == int(self.labels[0])
        scores = system.detector.scores(predictions[0])[:, known].amax(dim=1)
        low, high = torch.from_numpy(self.boxes[0]).split(2)
        inside = ((cells.centres >= low) & (cells.centres <= high)).all(dim=1)
        return int(cells.strides[(scores * inside).argmax(), 0])


def photographs_of(coco: Path) -> Iterator[tuple[Picture, list[Mapping[str, Any]]]]:
    """Yields the labelled photographs that have no crowd, and their objects."""
    document = json.loads((coco / "instances_vid30.json").read_bytes())
    objects = defaultdict(list)
    for each in document["annotations"]:
        objects[each["image_id"]].append(each)
    for image in document["images"]:
        mine = objects[image["id"]]
        if mine and not any(each["iscrowd"] for each in mine):
            yield read_picture(coco / "images" / image["file_name"], (image["height"], image["width"]), "photo"), mine


def crossing_scenes(coco: Path, backgrounds: Path, count: int) -> list[Scene]:
    """Returns clips in which objects cross; the classes take turns, and an object comes in each size that it has."""
    random = np.random.default_rng(0)
    by_class = defaultdict(list)
    for photograph, objects in photographs_of(coco):
        found = None
        for each in objects:
            cutout = cut_out(photograph, each)
            if cutout is None:
                continue
            found = detections(photograph) if found is None else found
            if finds(found, each):
                by_class[each["category_id"] - 1].append(cutout)
    for cutouts in by_class.values():
        random.shuffle(cutouts)
    turns = [
        (label, cutout)
        for row in zip_longest(*by_class.values())
        for label, cutout in zip(by_class, row, strict=True)
        if cutout is not None
    ]
    empty = empty_pictures(backgrounds, count, random)
    scenes: list[Scene] = []
    for number in range(count):
        side = _SIDES[number % len(_SIDES)]
        big = [(label, cutout) for label, cutout in turns if max(cutout.shape) >= side]
        label, cutout = big[number // len(_SIDES) % len(big)]
        height, width = (round(n * side / max(cutout.shape[:2])) for n in cutout.shape[:2])
        cutout = cv2.resize(cutout, (max(width, 1), max(height, 1)), interpolation=cv2.INTER_AREA)
        rows, columns = (np.flatnonzero(cutout[..., 3].max(axis=axis) > 127) for axis in (1, 0))
        x = (_SIZE[1] - width) // 2 + int(random.integers(-30, 31))
        y = int(random.integers(0, _SIZE[0] - height + 1))
        box = (x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1)
        forward = int(random.choice((-1, 1)))
        picture = empty[len(scenes) % len(empty)]
        scenes.append(Scene(len(scenes), picture, cutout, (x, y), np.array([box], float), np.array([label]), forward))
    return scenes


def cut_out(photograph: Picture, each: Mapping[str, Any]) -> Picture | None:
    """Returns the object with its opacity [h, w, 4], or None if it is small, in parts or cut by the border."""
    left, top, width, height = each["bbox"]
    size = np.array(photograph.shape[1::-1])
    corners = np.array(((left, top), (left + width, top + height)))
    if (
        len(each["segmentation"]) > 1
        or max(width, height) < _SIDES[1]
        or corners.min() < 2
        or (corners > size - 2).any()
    ):
        return None
    outline = np.array(each["segmentation"][0]).reshape(-1, 2)
    opacity = np.zeros(photograph.shape[:2], np.uint8)
    cv2.fillPoly(opacity, [np.rint(outline).astype(np.int32)], 255)
    opacity = cv2.GaussianBlur(opacity, (3, 3), 0)
    (x1, y1), (x2, y2) = np.floor(corners[0]).astype(int) - 1, np.ceil(corners[1]).astype(int) + 1
    return np.dstack((photograph, opacity))[y1:y2, x1:x2]


def detections(picture: Picture) -> Found:
    """Returns boxes, scores and classes of the data (-1: another) in a picture by itself."""
    frames = Frames(lambda _: picture)
    with torch.inference_mode():
        ((boxes, scores, labels),) = frames.find(0, [frames.frame(0)[1]])
    return boxes, scores, map_classes(nets()[0].config.class_names, empty_data()).labels[labels]


def finds(found: Found, each: Mapping[str, Any]) -> bool:
    """Returns whether the object of a photograph is among the detections."""
    boxes, scores, labels = found
    left, top, width, height = each["bbox"]
    right = (labels == each["category_id"] - 1) & (scores >= _FOUND_SCORE)
    overlaps = box_iou(torch.tensor([[left, top, left + width, top + height]]), torch.from_numpy(boxes[right]))
    return bool((overlaps >= 0.5).any())


def empty_pictures(folder: Path, count: int, random: np.random.Generator) -> list[Picture]:
    """Returns pictures of the size of a frame in which the detector finds none of the classes."""
    paths = sorted(folder.rglob("*.jpg"))
    empty: list[Picture] = []
    for place in random.permutation(len(paths)):
        picture = cv2.imread(str(paths[place]))
        if len(empty) == count or picture is None:
            continue
        factor = max(_SIZE[0] / picture.shape[0], _SIZE[1] / picture.shape[1])
        if factor > 1.5:
            continue
        larger = cv2.resize(picture, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        cropped = np.ascontiguousarray(larger[: _SIZE[0], : _SIZE[1], ::-1])
        _, scores, labels = detections(cropped)
        if cropped.shape[:2] == _SIZE and not ((labels >= 0) & (scores >= _FOUND_SCORE)).any():
            empty.append(cropped)
    return empty


def panned_scenes(coco: Path, count: int) -> list[Scene]:
    """Returns clips of a window that moves over photographs, with all objects of which it shows half or more."""
    random, scenes = np.random.default_rng(1), list[Scene]()
    for photograph, objects in photographs_of(coco):
        factor = _PANNED / photograph.shape[1]
        picture = cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        if len(scenes) == count or picture.shape[0] < _SIZE[0]:
            continue
        left, top = ((picture.shape[axis] - _SIZE[axis]) // 2 for axis in (1, 0))
        whole = np.array([each["bbox"] for each in objects], float) * factor - (left, top, 0, 0)
        whole[:, 2:] += whole[:, :2]
        boxes = whole.clip(0, (*_SIZE[::-1], *_SIZE[::-1]))
        areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, whole)]
        shown = areas[0] >= areas[1] / 2
        labels = np.array([each["category_id"] - 1 for each in objects])
        if shown.any():
            forward = int(random.choice((-1, 1)))
            scenes.append(Scene(len(scenes), picture, None, (left, top), boxes[shown], labels[shown], forward))
    return scenes


@cache
def empty_data(*names: str) -> CocoVID:
    """Returns a data set of these classes, those of ImageNet VID if none are given, without images."""
    names = names or VID_CLASSES
    none = np.zeros(0, np.int64)
    objects = Objects(none, none, none, np.zeros((0, 4)), np.zeros(0), none, none.astype(bool))
    return CocoVID(Path("flow"), names, tuple(range(1, len(names) + 1)), (), (), objects)


# Real clips.


@dataclass(frozen=True, eq=False)
class Stream:
    """A real clip.

    Attributes:
        pictures: [n] its frames.
        places: [n] positions of its frames in the data set.
    """

    pictures: list[Picture]
    places: tuple[int, ...]

    def run(self) -> tuple[int, list[Finding]]:
        """Returns 0 and what is found in frames 4, 5 and 6 of every ten, clean and degraded, one to three in a row."""
        frames = Frames(self._frame)
        findings: list[Finding] = []
        rows: Mapping[int, tuple[int, ...]] = {0: (), 1: (5,), 2: (5, 6), 3: (4, 5, 6)}
        for spoilt, bad in rows.items():
            for place, image in enumerate(self.places):
                if place % 10 in (bad or rows[3]):
                    findings += self._find(frames, place, image, spoilt, bad)
        return 0, findings

    def _find(self, frames: Frames, place: int, image: int, spoilt: int, bad: Sequence[int]) -> Iterator[Finding]:
        def key(index: int) -> tuple[int, bool]:
            inside = min(max(index, 0), len(self.places) - 1)
            return inside, inside % 10 in bad

        middle = key(place)
        pairs = [[key(place + sign * far) for sign in (-1, 1)] for far in range(1, _RADIUS + 1)]
        averages = list(frames.averages(middle, pairs))
        names = ["single", *(name for name, *_ in averages)]
        found = frames.find(middle, [frames.frame(middle)[1], *(maps for *_, maps in averages)])
        for name, result in zip(names, found, strict=True):
            yield (spoilt,), name, image, result

    def _frame(self, key: Hashable) -> Picture:
        place, is_spoilt = key
        picture = self.pictures[place]
        return degrade(picture, self.places[place]) if is_spoilt else picture


def streams_of(data: CocoVID, pictures: list[Picture]) -> list[Stream]:
    """Returns the videos."""
    return [Stream([pictures[place] for place in video.frames], video.frames) for video in data.videos]


# Metrics.


def tabulate(findings: Iterable[Finding]) -> dict[tuple[tuple[Any, ...], str], DetectionTable]:
    """Returns the detections of the classes of the data by setting and method."""
    labels = map_classes(nets()[0].config.class_names, empty_data()).labels
    parts: dict[tuple[tuple[Any, ...], str], list[DetectionTable]] = defaultdict(list)
    for setting, method, image, (boxes, scores, classes) in findings:
        known = labels[classes] >= 0
        columns = np.full(int(known.sum()), image), labels[classes[known]], boxes[known].astype(float)
        parts[setting, method].append(DetectionTable(*columns, scores[known].astype(float)))
    return {key: concatenate(part) for key, part in parts.items()}


def judged_scenes(
    scenes: Sequence[Scene], findings: Sequence[Finding], strides: NDArray[np.int64] | None = None
) -> dict[str, Any]:
    """Returns the metrics by stride ("all" and each), degraded frames, window radius, speed and method.

    There is one precision-recall curve for all classes, since a class has few clips; a detection counts only for
    objects of its class.
    """
    images = tuple(ImageRecord(n, "", *_SIZE, None, None, True) for n in range(len(scenes)))
    where = np.repeat(np.arange(len(scenes)), [len(scene.labels) for scene in scenes])
    labels = np.concatenate([scene.labels for scene in scenes])
    boxes = np.concatenate([scene.boxes for scene in scenes])
    zeros = np.zeros(len(where), np.int64)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    apart = boxes + _APART * labels[:, None] * (1, 0, 1, 0)
    objects = Objects(np.arange(1, len(where) + 1), where, zeros, apart, areas, zeros - 1, zeros.astype(bool))
    data = replace(empty_data("object"), images=images, objects=objects)
    found = {
        key: replace(
            each,
            labels=np.zeros_like(each.labels),
            boxes=each.boxes + _APART * each.labels[:, None] * (1, 0, 1, 0),
        )
        for key, each in tabulate(findings).items()
    }
    groups = {"all": np.ones(len(scenes), bool)}
    if strides is not None:
        groups |= {str(stride): strides == stride for stride in _STRIDES}
    metrics: dict[str, Any] = {"clips": {name: int(mask.sum()) for name, mask in groups.items()}}
    for group, mask in groups.items():
        metrics[group] = {}
        if not mask.any():
            continue
        parts = {key: restrict(data, each, images=mask) for key, each in found.items()}
        for setting in dict.fromkeys(setting for setting, _ in parts):
            tables = {method: part for (other, method), (_, part) in parts.items() if other == setting}
            some = next(iter(parts.values()))[0]
            speed, spoilt, radius = setting
            metrics[group][f"{spoilt} {radius} {speed}"] = compared(some, tables)
    return metrics


def judged_streams(data: CocoVID, findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns the metrics by degraded frames in a row and method."""
    found, metrics = tabulate(findings), dict[str, Any]()
    for setting in dict.fromkeys(setting for setting, _ in found):
        judged = np.zeros(len(data.images), bool)
        judged[[image for other, _, image, _ in findings if other == setting]] = True
        parts = {
            method: restrict(data, each, images=judged) for (other, method), each in found.items() if other == setting
        }
        some = next(iter(parts.values()))[0]
        metrics[str(setting[0])] = compared(some, {method: part for method, (_, part) in parts.items()})
    return metrics


def compared(data: CocoVID, tables: Mapping[str, DetectionTable]) -> dict[str, Any]:
    """Returns the AP50 of each method and the differences with their intervals."""

    def gain(first: str, second: str) -> Any:
        return bootstrap_difference(data, tables[first], tables[second], "coco", samples=_SAMPLES)["AP50"]

    flows = [name for name in tables if name not in {"single", "none"}]
    return {
        "AP50": {name: evaluate(data, each, "coco").headline["AP50"] for name, each in tables.items()},
        "none over single": gain("single", "none"),
        "over none": {name: gain("none", name) for name in flows},
        "both over flow": {name: gain(name.removesuffix(" or none"), name) for name in flows if "or" in name.split()},
    }


# The page.


def tables_of(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Returns the tables in Markdown, by the name of their marks."""

    def row(cells: Mapping[str, Any], flows: Sequence[str]) -> list[str]:
        ap = cells["AP50"]
        return [
            f"{100 * ap['single']:.1f}",
            f"{100 * ap['none']:.1f}",
            *(interval(cells["over none"][name]) for name in flows),
        ]

    crossing, camera = metrics["crossing"], metrics["camera"]
    real_flows = ["DIS", "shipped", "DIS or none"]
    tables = {}
    for mark, spoilt in (("clean", 0), ("three", 3)):
        tables[f"crossing {mark}"] = table(
            ["px a frame", "single", "no flow", *_FLOWS],
            [[str(speed), *row(crossing["all"][f"{spoilt} {_RADIUS} {speed}"], _FLOWS)] for speed in _SPEEDS],
        )
    shown = ["exact", "DIS", "shipped", "DIS or none"]
    tables["strides"] = table(
        ["stride", "px a frame", "cells a frame", "single", "no flow", *shown],
        [
            [f"{stride} ({crossing['clips'][str(stride)]} clips)", str(speed), f"{speed / stride:g}",
             *row(crossing[str(stride)][f"3 {_RADIUS} {speed}"], shown)]
            for stride in _STRIDES
            for speed in _SPEEDS
        ],
    )  # fmt: skip
    tables["windows"] = table(
        ["window", "px a frame", "single", "no flow", *shown],
        [
            [f"{radius} + {radius}", str(speed), *row(crossing["all"][f"3 {radius} {speed}"], shown)]
            for radius in _RADII
            for speed in _SPEEDS
        ],
    )
    tables["camera"] = table(
        ["degraded", "px a frame", "single", "no flow", *_FLOWS],
        [
            [str(spoilt), str(speed), *row(camera["all"][f"{spoilt} {_RADIUS} {speed}"], _FLOWS)]
            for spoilt in (0, 3)
            for speed in _CAMERA_SPEEDS
        ],
    )
    tables["real"] = table(
        ["degraded in a row", "single", "no flow", *real_flows],
        [[spoilt, *row(metrics["real"][spoilt], real_flows)] for spoilt in "0123"],
    )
    return tables


def plot(metrics: Mapping[str, Any], path: Path) -> None:
    """Draws the gain of each flow over none against the speed in cells, by stride, clean and degraded."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    panels = figure.subplots(2, len(_STRIDES), sharex=True, sharey=True)
    colours = {"exact": "#0072b2", "DIS": "#d55e00", "shipped": "#009e73"}
    for row, (spoilt, label) in zip(panels, ((0, "clean"), (3, "three degraded")), strict=True):
        for axes, stride in zip(row, _STRIDES, strict=True):
            for name, colour in colours.items():
                cells = metrics["crossing"][str(stride)]
                gains = [cells[f"{spoilt} {_RADIUS} {speed}"]["over none"][name] for speed in _SPEEDS[1:]]
                value, low, high = ([100 * gain[part] for gain in gains] for part in ("value", "low", "high"))
                at = [speed / stride for speed in _SPEEDS[1:]]
                axes.fill_between(at, low, high, color=colour, alpha=0.12, linewidth=0)
                axes.plot(at, value, "o-", color=colour, label=name, markersize=4)
            axes.axhline(0, color="#777777", linewidth=1)
            axes.set_xscale("log", base=2)
            axes.set_title(f"stride {stride}, {label}", fontsize=10)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
        row[0].set_ylabel("AP50 over no flow")
    for axes in panels[-1]:
        axes.set_xticks([2.0**n for n in range(-3, 3)], ["1/8", "1/4", "1/2", "1", "2", "4"])
        axes.set_xlabel("speed, cells a frame")
    panels[0][0].legend(frameon=False)
    figure.savefig(path)


if __name__ == "__main__":
    app()
