"""Measures whether warping the maps of references along flow helps, by speed, stride, window and kind of flow.

    python scripts/measure_flow.py COCO_VID30 BACKGROUNDS REAL_VID
    python scripts/measure_flow.py COCO_VID30 BACKGROUNDS REAL_VID --flow-net mine=mine.safetensors

Needs OpenCV. Clips are built in memory: objects cut out of the labelled photographs of COCO_VID30 (images and
instances_vid30.json) cross the pictures in BACKGROUNDS, and a window moves over the photographs. REAL_VID has the six
labelled real clips. Detector, embeddings and weights are those of fgfa-nano. The metrics go to
docs/evidence/flow.json, the tables into docs/flow.md between their marks, and the plot beside the metrics.
"""

import json
import pickle
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, fields, replace
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import torch
from cyclopts import App
from evidence_pages import fill
from flow_page import CAMERA_SPEEDS, MIDDLE_SPEEDS, RADII, RADIUS, STRIDES, plot, tables_of
from measure_nano import degrade, pictures_of
from numpy.typing import NDArray
from restrict import restrict
from still_crops import StillCrop, background_steps, still_crop
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou

from flowdet.class_names import VID_CLASSES
from flowdet.data.cocovid import CocoVID, ImageRecord, Objects, VideoRecord, read_cocovid
from flowdet.data.image_files import read_picture
from flowdet.flow.base import FlowNet
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.inputs import InputConfig, prepare
from flowdet.metrics.detections import DetectionTable, concatenate, map_classes
from flowdet.metrics.intervals import bootstrap_difference
from flowdet.metrics.protocols import evaluate
from flowdet.ops.sampling import warp, warp_maps
from flowdet.systems.detector import VideoDetector
from flowdet.systems.load import load
from flowdet.systems.recipes import RECIPES, fgfa_nano
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.similarity import log_odds, with_modules
from flowdet.types import FrameFeatures, Maps, NetworkInput

app = App(help=__doc__)

Picture = NDArray[np.uint8]
Found = tuple[NDArray[Any], NDArray[Any], NDArray[Any]]  # boxes, scores, classes
Finding = tuple[tuple[Any, ...], str, int, Found]  # setting, method, image, what is found
Offer = list[tuple[Tensor, Tensor]]  # [1, c, h, w] and weight [1, h, w] of each map

_ROOT = Path(__file__).parents[1]
_METRICS = _ROOT / "docs" / "evidence" / "flow.json"
_PLOT = _METRICS.with_name("flow.svg")
_PAGE = _ROOT / "docs" / "flow.md"
_FLOW_NETS = {"DIS": "DIS", "shipped": "fgfa-nano"}
"""Flow nets by name: "DIS", or the system or weight file whose flow net it is; of fgfa-nano its variant's."""
_SIZE = (256, 416)  # of a picture that is built, px of the network input
_DIRECTIONS = (-30, 0, 30, 150, 180, 210)  # degrees
_CROSSING_PLAN: Mapping[tuple[int, tuple[int, ...]], Sequence[int]] = {
    (0, (RADIUS,)): (0, 2, 32),
    (0, RADII[0]): MIDDLE_SPEEDS,
    (1, (RADIUS,)): MIDDLE_SPEEDS,
    (2, (RADIUS,)): MIDDLE_SPEEDS,
    (3, (RADIUS,)): (0,),
    (3, (1, 2, RADIUS)): (2, 32),
    (3, RADII[3]): MIDDLE_SPEEDS,
}
"""Speeds of crossing clips by the number of degraded frames and the radii of windows."""
_CAMERA_PLAN = {(spoilt, (RADIUS,)): CAMERA_SPEEDS for spoilt in (0, 3)}
_SPOILT = {0: (), 1: (0,), 2: (0, 1), 3: (-1, 0, 1)}
"""Which frames are degraded, counted from the middle frame, by their number."""
_SIDES = (80, 144, 240)  # of an object, px
_CHECKS = 4  # pictures in which the detector must find an object of this size in half of them
_EVERY = 3  # frames from one judged crop to the next
_CROPS = ((360, 640), (315, 560), (270, 480))  # of real clips, the preferred one first
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
    crossings: int = 96,
    photographs: int = 40,
    flow_net: Sequence[str] = (),
    scratch: Path | None = None,
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
        flow_net: Further flow nets, NAME=SYSTEM or NAME=FILE each, a system or a weight file that has one.
        scratch: A folder that keeps what is found in each clip, for later runs with the same settings.
        processes: Processes that share the work, of one thread each.
        only_page: Writes the page from the metrics that are there.
    """
    if not only_page:
        further = dict(each.split("=", 1) for each in flow_net)
        _start(further)
        with ProcessPoolExecutor(processes, get_context("spawn"), _start, (further,)) as pool:
            counts = {"crossings": crossings, "photographs": photographs}
            collected = collect(coco, backgrounds, real, pool, scratch, **counts)
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
    cropped: Sequence["CroppedClip"]


def collect(
    coco: Path,
    backgrounds: Path,
    real: Path,
    pool: ProcessPoolExecutor,
    scratch: Path | None,
    *,
    crossings: int,
    photographs: int,
) -> Collected:
    """Returns what is found in all clips."""
    scenes = {
        "camera": panned_scenes(coco, photographs),
        "crossing": crossing_scenes(coco, backgrounds, crossings),
    }
    clips = read_cocovid(real / "annotations" / "davis_vid_val.json")
    pictures = pictures_of(clips, real / "Data" / "VID")
    cropped = cropped_clips(clips, pictures)
    videos = {"real": clips, "crops": cropped_data(clips, cropped)}
    jobs: dict[str, Sequence[Job]] = {"crops": cropped, "real": streams_of(clips, pictures), **scenes}
    named = [(name, job) for name, some in jobs.items() for job in some]
    places = [
        scratch / f"{name} {number}.pickle" if scratch else None
        for name, some in jobs.items()
        for number in range(len(some))
    ]
    found: dict[str, list[Finding]] = {name: [] for name in jobs}
    strides = []
    start = time.monotonic()
    results = zip(named, pool.map(_run, (job for _, job in named), places), strict=True)
    for number, ((name, _), (stride, findings)) in enumerate(results, 1):
        found[name] += findings
        strides += [stride] if name == "crossing" else []
        app.console.print(f"{number} of {len(named)} clips, {name}, {time.monotonic() - start:.0f} s")
    return Collected(scenes, videos, found, np.array(strides), cropped)


def judge(collected: Collected) -> dict[str, Any]:
    """Returns all metrics."""
    metrics: dict[str, Any] = {}
    for name, scenes in collected.scenes.items():
        strides = collected.strides if name == "crossing" else None
        metrics[name] = judged_scenes(scenes, collected.found[name], strides)
    for name, data in collected.videos.items():
        metrics[name] = judged_streams(data, collected.found[name])
    data, found = collected.videos["crops"], collected.found["crops"]
    metrics["cropped clips"] = {clip.name: judged_clip(clip, data, found) for clip in collected.cropped}
    return metrics


class Job(Protocol):
    """A clip to measure."""

    def run(self) -> tuple[int, list[Finding]]:
        """Returns the stride of the map that finds its object, 0 if that is not asked, and what is found."""


def _run(job: Job, place: Path | None) -> tuple[int, list[Finding]]:
    if place and place.exists():
        kept: tuple[int, list[Finding]] = pickle.loads(place.read_bytes())
        return kept
    with torch.inference_mode():
        found = job.run()
    if place:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(pickle.dumps(found))
    return found


def _start(flow_nets: Mapping[str, str]) -> None:
    """Prepares a process."""
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    _FLOW_NETS.update(flow_nets)


# The detector, flow and averages.


@cache
def nets() -> tuple[VideoDetector, dict[str, FlowNet]]:
    """Returns the detector, and the flow nets by name."""
    system = load(system="fgfa-nano")
    # Thousands of boxes below this score would take most of the time, and hardly change AP50.
    system.detector.config = replace(system.detector.config, score_threshold=_LEAST_SCORE)
    return system, {name: flow_net_of(source, system.config.inputs) for name, source in _FLOW_NETS.items()}


def flow_net_of(source: str, inputs: InputConfig) -> FlowNet:
    """Returns the flow net of a system or of a weight file, or OpenCV's."""
    if source == "DIS":
        return DISFlow(DISFlowConfig(), inputs)
    variant = "aligned" if source == "fgfa-nano" else None
    flow_net = (load(system=source, variant=variant) if source in RECIPES else load(weights=source)).flow_net
    if flow_net is None:
        raise SystemExit(f"{source} has no flow net")
    return flow_net


def methods(radius: int, *, has_exact: bool) -> list[str]:
    """Returns the methods that are measured with windows of a radius."""
    flows = [*(["exact"] if has_exact else []), *_FLOW_NETS]
    if radius != RADIUS:
        return ["none", *flows]
    masked = ["exact, masked"] if has_exact else []
    return ["none", *flows[:1], *masked, *flows[1:], *(f"{flow} or none" for flow in flows)]


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
    """The frames of a clip; maps, flows and warped maps are computed once and shared by all methods."""

    def __init__(self, picture_of: Callable[[Hashable], Picture]) -> None:
        self._picture_of = picture_of
        self._frames: dict[Hashable, tuple[NetworkInput, Maps, Maps]] = {}
        self._prepared: dict[tuple[str, Hashable], Tensor] = {}
        self._current: Hashable = None
        self._offers: dict[tuple[str, Hashable], Offer] = {}

    def frame(self, key: Hashable) -> tuple[NetworkInput, Maps, Maps]:
        """Returns the network input, the maps and the embeddings of a frame."""
        if key not in self._frames:
            system = nets()[0]
            inputs = prepare([self._picture_of(key)], system.config.inputs)
            maps = system.detector.extract(inputs.images)
            self._frames[key] = inputs, maps, with_modules(system.method_modules)(maps)
        return self._frames[key]

    def flow(self, name: str, current: Hashable, reference: Hashable) -> Tensor:
        """Returns the flow of a flow net."""
        net, frames = nets()[1][name], (current, reference)
        for key in frames:
            if (name, key) not in self._prepared:
                self._prepared[name, key] = net.prepare(self.frame(key)[0])
        now, then = (self._prepared[name, key] for key in frames)
        return net(net.as_current(now), net.as_reference(then))

    def offer(
        self, method: str, current: Hashable, reference: Hashable, exact_of: Callable[[Hashable], Exact] | None
    ) -> Offer:
        """Returns the maps of a reference as a method takes them."""
        if current != self._current:  # those of all frames would take gigabytes
            self._current = current
            self._offers.clear()
        key = (method, reference)
        if key not in self._offers:
            self._offers[key] = self._make_offer(method, current, reference, exact_of)
        return self._offers[key]

    def _make_offer(
        self, method: str, current: Hashable, reference: Hashable, exact_of: Callable[[Hashable], Exact] | None
    ) -> Offer:
        _, maps, embedded = self.frame(reference)
        if method.endswith(" or none"):
            both = (
                self.offer(name, current, reference, exact_of) for name in (method.removesuffix(" or none"), "none")
            )
            return [surest(*offers) for offers in zip(*both, strict=True)]
        if method.startswith("exact"):
            assert exact_of is not None
            exact = exact_of(reference)
            if method == "exact, masked":
                offers = zip(self.offer("exact", current, reference, exact_of), exact.visible, strict=True)
                return [(values, weight * visible) for (values, weight), visible in offers]
            maps, embedded = (
                tuple(warp(each, flow, "identity") for each, flow in zip(levels, exact.flows, strict=True))
                for levels in (maps, embedded)
            )
        elif method != "none":
            flow = self.flow(method, current, reference)
            maps, embedded = (warp_maps(levels, flow, "identity") for levels in (maps, embedded))
        power = weights().norm_power
        return [
            (each, log_odds(query, key[:, None], weights().sharpness, power)[:, 0].exp())
            for each, query, key in zip(maps, self.frame(current)[2], embedded, strict=True)
        ]

    def averages(
        self,
        current: Hashable,
        pairs: Iterable[Sequence[Hashable]],
        exact_of: Callable[[Hashable], Exact] | None = None,
        radii: Sequence[int] = (RADIUS,),
    ) -> Iterator[tuple[str, int, Maps]]:
        """Yields method, window radius and averaged maps; the references at distance 1 come first."""
        own = self.frame(current)[1]
        totals: dict[str, list[Tensor]] = defaultdict(lambda: [each.clone() for each in own])
        sums: dict[str, list[Tensor]] = defaultdict(lambda: [torch.ones_like(each[:, 0]) for each in own])
        for radius, references in enumerate(pairs, 1):
            for name in methods(RADIUS if radius <= RADIUS else radius, has_exact=exact_of is not None):
                for reference in references:
                    for level, (values, weight) in enumerate(self.offer(name, current, reference, exact_of)):
                        totals[name][level].addcmul_(values, weight[:, None])
                        sums[name][level] += weight
            if radius in radii:
                for name in methods(radius, has_exact=exact_of is not None):
                    levels = zip(totals[name], sums[name], strict=True)
                    yield name, radius, tuple(total / whole[:, None] for total, whole in levels)

    def find(self, current: Hashable, maps: Sequence[Maps]) -> list[Found]:
        """Returns boxes, scores and classes in each of these maps of the current frame."""
        geometries = self.frame(current)[0].geometries * len(maps)
        together = tuple(torch.cat(level) for level in zip(*maps, strict=True))
        found = nets()[0].detector.detect(FrameFeatures(0, together, geometries))
        # Tensors would go from one process to another through a file each.
        return [(boxes.numpy(), scores.numpy(), labels.numpy()) for boxes, scores, labels in found]


def surest(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns one map [1, c, h, w] and its weight [1, h, w]: in each cell that with the larger weight."""
    better = second[1] > first[1]
    return torch.where(better[:, None], second[0], first[0]), torch.where(better, second[1], first[1])


# Clips that are built.


@dataclass(frozen=True, eq=False)
class Scene:
    """A clip whose frames differ by an offset in px: of an object before a still picture, or of a window.

    Attributes:
        number: Which clip.
        source: Which photograph its objects are from.
        picture: The background, or the photograph over which the window moves.
        cutout: [h, w, 4] RGB and opacity of the object; None if a window moves.
        corner: Where the object's upper left corner is in the middle frame (x, y), or the window's in the photograph.
        boxes: [n, 4] of the objects in the middle frame.
        labels: [n] their classes.
        degrees: The direction of the offsets, 0 to the right and 90 down.
    """

    number: int
    source: int
    picture: Picture
    cutout: Picture | None
    corner: tuple[int, int]
    boxes: NDArray[np.float64]
    labels: NDArray[np.int64]
    degrees: float

    def run(self) -> tuple[int, list[Finding]]:
        """Returns the stride of the map that finds the first object, and what is found in the middle frame."""
        frames = Frames(self._frame)
        findings: list[Finding] = []
        for (spoilt, radii), speeds in (_CAMERA_PLAN if self.cutout is None else _CROSSING_PLAN).items():
            for speed in speeds:
                middle, pairs = keys_around(spoilt, max(radii), lambda step, speed=speed: step * speed)
                averages = list(frames.averages(middle, pairs, self._exact, radii))
                found = frames.find(middle, [frames.frame(middle)[1], *(maps for *_, maps in averages)])
                findings += [((spoilt, radius, speed), "single", self.number, found[0]) for radius in radii]
                for (name, radius, _), result in zip(averages, found[1:], strict=True):
                    findings.append(((spoilt, radius, speed), name, self.number, result))
        return self._stride(frames), findings

    def _frame(self, key: Hashable) -> Picture:
        offset, spoilt = key
        if self.cutout is None:
            left, top = self._window(offset)
            picture = np.ascontiguousarray(self.picture[top : top + _SIZE[0], left : left + _SIZE[1]])
        else:
            picture = paste(self.picture, self._layer(offset))
        if spoilt is None:
            return picture
        return degrade(picture, 3 * (4096 * self.number + 2048 + offset) + spoilt + 1, _BLUR)

    def _moved(self, offset: int) -> tuple[int, int]:
        """The corner (x, y) in a frame."""
        angle = np.deg2rad(self.degrees)
        return self.corner[0] + round(offset * np.cos(angle)), self.corner[1] + round(offset * np.sin(angle))

    def _window(self, offset: int) -> tuple[int, int]:
        """The upper left corner (x, y) of the window; it stops at the border of the photograph."""
        (x, y), (height, width) = self._moved(offset), self.picture.shape[:2]
        return min(max(x, 0), width - _SIZE[1]), min(max(y, 0), height - _SIZE[0])

    def _layer(self, offset: int) -> Picture:
        assert self.cutout is not None
        return layer_of(self.cutout, self._moved(offset))

    def _exact(self, key: Hashable) -> Exact:
        offset, _ = key
        flows, visible = [], []
        for stride in STRIDES:
            rows, columns = (side // stride for side in _SIZE)
            there = self._window(offset) if self.cutout is None else self._moved(offset)
            moved = [after - before for before, after in zip(self.corner, there, strict=True)]
            shift = torch.tensor(moved, dtype=torch.float32)[:, None, None] / stride
            if self.cutout is None:
                flow, seen = -shift.expand(1, 2, rows, columns), torch.ones(1, rows, columns)
            else:
                covered_now, covered_then = (self._cells(place, stride) for place in (0, offset))
                flow, seen = covered_now[:, None] * shift, 1 - (1 - covered_now) * covered_then
            x, y = torch.arange(columns) + flow[:, 0], torch.arange(rows)[:, None] + flow[:, 1]
            flows.append(flow)
            visible.append(seen * ((x > -1) & (x < columns) & (y > -1) & (y < rows)))
        return Exact(tuple(flows), tuple(visible))

    def _cells(self, offset: int, stride: int) -> Tensor:
        """1 in the cells [1, h, w] of the object, 0 in the others."""
        share = torch.from_numpy(self._layer(offset)[None, ..., 3] / np.float32(255))
        return (F.avg_pool2d(share, stride) >= _COVERED).float()

    def _stride(self, frames: Frames) -> int:
        """The stride of the surest cell that finds the first object in the clean frame by itself; 0 if none does."""
        system = nets()[0]
        predictions, cells = system.detector.predict(frames.frame((0, None))[1])
        known = torch.from_numpy(map_classes(system.config.class_names, empty_data()).labels) == int(self.labels[0])
        scores = system.detector.scores(predictions[0])[:, known].amax(dim=1)
        boxes = system.detector.boxes(predictions[0], cells).double()
        scores = scores * (box_iou(torch.from_numpy(self.boxes[:1]), boxes)[0] >= 0.5)
        best = int(scores.argmax())
        return int(cells.strides[best, 0]) if scores[best] >= _LEAST_SCORE else 0


def keys_around(
    spoilt: int, radius: int, at: Callable[[int], Hashable]
) -> tuple[tuple[Hashable, int | None], list[list[tuple[Hashable, int | None]]]]:
    """Returns the keys of the middle frame and of its references, pair by pair: where it is, and if it is degraded.

    Args:
        spoilt: How many frames are degraded.
        radius: Pairs of references.
        at: Returns where a frame is, which is so many frames after the middle one.
    """

    def key(step: int) -> tuple[Hashable, int | None]:
        # Two frames that are alike are degraded in two ways.
        return at(step), step if step in _SPOILT[spoilt] else None

    return key(0), [[key(-far), key(far)] for far in range(1, radius + 1)]


def layer_of(cutout: Picture, corner: tuple[int, int]) -> Picture:
    """Returns the object [h, w, 4] in a place of a frame, as far as the frame shows it."""
    layer = np.zeros((*_SIZE, 4), np.uint8)
    (x, y), (height, width) = corner, cutout.shape[:2]
    left, right = max(x, 0), min(x + width, _SIZE[1])
    top, bottom = max(y, 0), min(y + height, _SIZE[0])
    if left < right and top < bottom:
        layer[top:bottom, left:right] = cutout[top - y : bottom - y, left - x : right - x]
    return layer


def paste(picture: Picture, layer: Picture) -> Picture:
    """Returns the picture with a layer [h, w, 4] before it."""
    share = layer[..., 3:] / np.float32(255)
    return np.rint(layer[..., :3] * share + picture * (1 - share)).astype(np.uint8)


def box_of(cutout: Picture, corner: tuple[int, int]) -> NDArray[np.float64]:
    """Returns the box [4] of the object with its upper left corner here."""
    rows, columns = (np.flatnonzero(cutout[..., 3].max(axis=axis) > 127) for axis in (1, 0))
    x, y = corner
    return np.array((x + columns[0], y + rows[0], x + columns[-1] + 1, y + rows[-1] + 1), float)


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
    """Returns clips in which objects cross, as many of each size.

    The detector finds an object of this size in half or more of a few pictures that are not a background of any clip.
    Where there are fewer objects than clips, an object comes again before another background.
    """
    random = np.random.default_rng(0)
    cutouts = [
        (source, each["category_id"] - 1, cutout)
        for source, (photograph, objects) in enumerate(photographs_of(coco))
        for each in objects
        if (cutout := cut_out(photograph, each)) is not None
    ]
    pictures = empty_pictures(backgrounds, _CHECKS + count, random)
    checks, empty = pictures[:_CHECKS], pictures[_CHECKS:]
    found: dict[int, list[tuple[int, int, Picture]]] = {}
    for side in _SIDES:
        small = ((source, label, shrink(each, side)) for source, label, each in cutouts if max(each.shape) >= side)
        found[side] = [
            (source, label, cutout)
            for source, label, cutout in small
            if 2 * sum(finds_pasted(picture, cutout, label) for picture in checks) >= len(checks)
        ]
        random.shuffle(found[side])
    scenes: list[Scene] = []
    for number in range(count):
        same_size = found[_SIDES[number % len(_SIDES)]]
        source, label, cutout = same_size[number // len(_SIDES) % len(same_size)]
        if random.integers(2):
            cutout = np.ascontiguousarray(cutout[:, ::-1])
        height, width = cutout.shape[:2]
        x = (_SIZE[1] - width) // 2 + int(random.integers(-30, 31))
        corner = x, int(random.integers(0, _SIZE[0] - height + 1))
        degrees = float(random.choice(_DIRECTIONS))
        box, picture = box_of(cutout, corner), empty[number % len(empty)]
        scenes.append(Scene(number, source, picture, cutout, corner, box[None], np.array([label]), degrees))
    return scenes


def shrink(cutout: Picture, side: int) -> Picture:
    """Returns the object with a longest side of so many px."""
    height, width = (max(round(n * side / max(cutout.shape[:2])), 1) for n in cutout.shape[:2])
    return cv2.resize(cutout, (width, height), interpolation=cv2.INTER_AREA)


def finds_pasted(picture: Picture, cutout: Picture, label: int) -> bool:
    """Returns whether the detector finds an object in the middle of a picture."""
    corner = (_SIZE[1] - cutout.shape[1]) // 2, (_SIZE[0] - cutout.shape[0]) // 2
    return finds(detections(paste(picture, layer_of(cutout, corner))), box_of(cutout, corner), label)


def cut_out(photograph: Picture, each: Mapping[str, Any]) -> Picture | None:
    """Returns the object with its opacity [h, w, 4], or None if it is small, in parts or cut by the border."""
    left, top, width, height = each["bbox"]
    size = np.array(photograph.shape[1::-1])
    corners = np.array(((left, top), (left + width, top + height)))
    if (
        len(each["segmentation"]) > 1
        or max(width, height) < _SIDES[0]
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


def finds(found: Found, box: NDArray[np.float64], label: int) -> bool:
    """Returns whether an object with this box [4] is among the detections."""
    boxes, scores, labels = found
    right = (labels == label) & (scores >= _FOUND_SCORE)
    return bool((box_iou(torch.from_numpy(box[None]), torch.from_numpy(boxes[right]).double()) >= 0.5).any())


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
    """Returns clips of a window that moves over photographs, with all objects of which it shows half or more.

    The detector finds one of the objects in the photograph, or more.
    """
    random, scenes = np.random.default_rng(1), list[Scene]()
    for source, (photograph, objects) in enumerate(photographs_of(coco)):
        factor = _PANNED / photograph.shape[1]
        picture = cv2.resize(photograph, None, fx=factor, fy=factor, interpolation=cv2.INTER_LINEAR)
        if len(scenes) == count or picture.shape[0] < _SIZE[0]:
            continue
        left, top = ((picture.shape[axis] - _SIZE[axis]) // 2 for axis in (1, 0))
        whole = np.array([each["bbox"] for each in objects], float) * factor
        whole[:, 2:] += whole[:, :2]
        labels = np.array([each["category_id"] - 1 for each in objects])
        found = detections(picture)
        in_window = whole - (left, top, left, top)
        boxes = in_window.clip(0, (*_SIZE[::-1], *_SIZE[::-1]))
        areas = [np.prod(each[:, 2:] - each[:, :2], axis=1) for each in (boxes, in_window)]
        shown = areas[0] >= areas[1] / 2
        if any(finds(found, box, label) for box, label in zip(whole[shown], labels[shown], strict=True)):
            degrees = float(random.choice(_DIRECTIONS))
            corner = left, top
            scenes.append(Scene(len(scenes), source, picture, None, corner, boxes[shown], labels[shown], degrees))
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
        pairs = [[key(place + sign * far) for sign in (-1, 1)] for far in range(1, RADIUS + 1)]
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


@dataclass(frozen=True, eq=False)
class CroppedClip:
    """Crops of a real clip; each is judged in its middle frame.

    Attributes:
        name: Of the clip.
        pictures: [n] its frames.
        boxes: [n, 4] of its object.
        places: [n] positions of its frames in the data set of the clips.
        first: Position of the first crop in the data set of the crops.
        crops: One for each frame that has one.
    """

    name: str
    pictures: list[Picture]
    boxes: NDArray[np.float64]
    places: tuple[int, ...]
    first: int
    crops: tuple[StillCrop, ...]

    def run(self) -> tuple[int, list[Finding]]:
        """Returns 0 and what is found by whether the crop stands still or follows the camera, clean and degraded."""
        findings: list[Finding] = []
        for image, crop in enumerate(self.crops, self.first):
            frames = Frames(partial(self._frame, crop.size))
            for spoilt in (0, 3):
                for name in ("still", "following"):
                    # One that follows the camera stays where it is in the picture.
                    corners = crop.corners if name == "still" else crop.corners[[RADIUS] * len(crop.corners)]
                    at = [(crop.place + step, *corners[step + RADIUS]) for step in range(-RADIUS, RADIUS + 1)]
                    middle, pairs = keys_around(spoilt, RADIUS, lambda step, at=at: at[step + RADIUS])
                    averages = list(frames.averages(middle, pairs))
                    found = frames.find(middle, [frames.frame(middle)[1], *(maps for *_, maps in averages)])
                    for method, result in zip(["single", *(name for name, *_ in averages)], found, strict=True):
                        findings.append(((name, spoilt), method, image, result))
        return 0, findings

    def _frame(self, size: tuple[int, int], key: Hashable) -> Picture:
        (place, left, top), spoilt = key
        picture = self.pictures[place]
        if spoilt is not None:
            picture = degrade(picture, self.places[place])
        return np.ascontiguousarray(picture[top : top + size[0], left : left + size[1]])


def cropped_clips(data: CocoVID, pictures: Sequence[Picture]) -> list[CroppedClip]:
    """Returns the crops of all videos, which have one object each; of every third frame, if it has one."""
    clips, first = list[CroppedClip](), 0
    for video in data.videos:
        mine = [pictures[place] for place in video.frames]
        boxes = data.objects.boxes[[int(np.flatnonzero(data.objects.images == place)[0]) for place in video.frames]]
        steps = background_steps(mine, boxes)
        size = mine[0].shape[:2]
        found = (
            still_crop(steps, boxes, place, picture=size, sizes=_CROPS, radius=RADIUS)
            for place in range(RADIUS, len(mine) - RADIUS, _EVERY)
        )
        crops = tuple(crop for crop in found if crop is not None)
        clips.append(CroppedClip(video.name.rpartition("_")[2], mine, boxes, video.frames, first, crops))
        first += len(crops)
    return clips


def cropped_data(data: CocoVID, clips: Sequence[CroppedClip]) -> CocoVID:
    """Returns the data set whose images are the middle frames of all crops."""
    kept = [clip for clip in clips if clip.crops]
    middles = [(number, clip, crop) for number, clip in enumerate(kept) for crop in clip.crops]
    places = [clip.places[crop.place] for _, clip, crop in middles]
    rows = [int(np.flatnonzero(data.objects.images == place)[0]) for place in places]
    columns = {field.name: getattr(data.objects, field.name)[rows] for field in fields(data.objects)}
    shifts = [(*crop.corners[RADIUS], *crop.corners[RADIUS]) for _, _, crop in middles]
    columns |= {"images": np.arange(len(middles)), "boxes": columns["boxes"] - np.array(shifts)}
    return replace(
        data,
        videos=tuple(
            VideoRecord(number, clip.name, tuple(range(clip.first, clip.first + len(clip.crops))))
            for number, clip in enumerate(kept)
        ),
        images=tuple(
            replace(data.images[place], height=crop.size[0], width=crop.size[1], video=number)
            for place, (number, _, crop) in zip(places, middles, strict=True)
        ),
        objects=Objects(**columns),
    )


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
    # Clips of one photograph are drawn together in a resample: they are not independent.
    units = np.unique([scene.source for scene in scenes], return_inverse=True)[1].tolist()
    images = tuple(ImageRecord(n, "", *_SIZE, unit, n, True) for n, unit in enumerate(units))
    videos = tuple(
        VideoRecord(unit, "", tuple(n for n, other in enumerate(units) if other == unit)) for unit in sorted(set(units))
    )
    where = np.repeat(np.arange(len(scenes)), [len(scene.labels) for scene in scenes])
    labels = np.concatenate([scene.labels for scene in scenes])
    boxes = np.concatenate([scene.boxes for scene in scenes])
    zeros = np.zeros(len(where), np.int64)
    areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
    apart = boxes + _APART * labels[:, None] * (1, 0, 1, 0)
    objects = Objects(np.arange(1, len(where) + 1), where, zeros, apart, areas, zeros - 1, zeros.astype(bool))
    data = replace(empty_data("object"), videos=videos, images=images, objects=objects)
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
        groups |= {str(stride): strides == stride for stride in STRIDES}
    metrics: dict[str, Any] = {
        "clips": {name: int(mask.sum()) for name, mask in groups.items()},
        "photographs": {name: len(set(np.array(units)[mask])) for name, mask in groups.items()},
    }
    for group, mask in groups.items():
        metrics[group] = {}
        if not mask.any():
            continue
        parts = {key: restrict(data, each, images=mask) for key, each in found.items()}
        for setting in dict.fromkeys(setting for setting, _ in parts):
            tables = {method: part for (other, method), (_, part) in parts.items() if other == setting}
            some = next(iter(parts.values()))[0]
            metrics[group][" ".join(map(str, setting))] = compared(some, tables)
    return metrics


def judged_streams(data: CocoVID, findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns the metrics by setting and method."""
    found, metrics = tabulate(findings), dict[str, Any]()
    for setting in dict.fromkeys(setting for setting, _ in found):
        judged = np.zeros(len(data.images), bool)
        judged[[image for other, _, image, _ in findings if other == setting]] = True
        parts = {
            method: restrict(data, each, images=judged) for (other, method), each in found.items() if other == setting
        }
        some = next(iter(parts.values()))[0]
        metrics[" ".join(map(str, setting))] = compared(some, {method: part for method, (_, part) in parts.items()})
    return metrics


def judged_clip(clip: CroppedClip, data: CocoVID, findings: Sequence[Finding]) -> dict[str, Any]:
    """Returns how fast the object is, px of the network input a frame, and AP50 by setting and method."""
    images = np.zeros(len(data.images), bool)
    images[clip.first : clip.first + len(clip.crops)] = True
    long_side = nets()[0].config.inputs.long_side
    metrics: dict[str, Any] = {
        "frames": len(clip.pictures),
        "widths": [crop.size[1] for crop in clip.crops],
        "speeds": [crop.speed * long_side / crop.size[1] for crop in clip.crops],
    }
    for (setting, method), found in tabulate(findings).items() if clip.crops else ():
        ap = evaluate(*restrict(data, found, images=images), "coco").headline["AP50"]
        metrics.setdefault(" ".join(map(str, setting)), {})[method] = ap
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


if __name__ == "__main__":
    app()
