"""Compares recordings with the recorded reference, in full or in the compact form that lies in `tests/golden`."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from flowdet.detectors.faster_rcnn import FasterRCNN
from flowdet.inputs import prepare
from flowdet.systems.detector import VideoDetector
from flowdet.types import Geometry, NetworkInput
from flowdet.weights.zoo import PUBLISHED
from tests.recording import Recording, record, roi_outputs
from tests.seeded import synthetic_clip

__all__ = [
    "CASES",
    "TOLERANCES",
    "Case",
    "Differences",
    "ReferenceFrame",
    "compare",
    "compare_case",
    "read_compact",
    "read_full",
    "thin",
    "write_compact",
]

Array = NDArray[np.float64]
Differences = dict[str, float]
"""The largest difference of each tensor: in px for boxes, absolute for scores, else relative to the largest value."""

TOLERANCES: Differences = {
    "img": 1e-6,
    "neck": 1e-4,
    "flow_quarter": 1e-4,
    "flow": 1e-4,
    "warped": 1e-4,
    "agg_cos": 1e-4,
    "agg_weights": 1e-4,
    "feat": 1e-4,
    "rpn_cls": 1e-4,
    "rpn_reg": 1e-4,
    "proposals": 1e-2,
    "roi_feat": 1e-4,
    "roi_cls": 1e-4,
    "roi_reg": 1e-4,
    "detections": 1e-2,
    "scores": 1e-4,
}

_SLOTS = [0, 7, 14, 15, 16, 23, 30]
_THIN_VALUES = 256
_THIN_ROWS = 25


@dataclass(frozen=True)
class ReferenceFrame:
    """What is recorded of one frame.

    Attributes:
        stats: Mean, standard deviation and length of whole tensors.
        values: Parts of some tensors, see `_kept`; the dets [d, 6] are whole.
        thinned: The values are those that `thin` leaves.
    """

    stats: Mapping[str, Array]
    values: Mapping[str, Array]
    thinned: bool = False


@dataclass(frozen=True)
class Case:
    """One recorded run: a system on a synthetic clip of one size."""

    system: str
    size: str

    def __str__(self) -> str:
        return f"{self.system.replace('-', '_')}_{self.size}"

    @property
    def length(self) -> int:
        """Frames of the clip."""
        return 12 if self.system.startswith("dff") else 20

    @property
    def geometry(self) -> Geometry:
        """How its frames are resized and padded."""
        if self.size == "a160x224":
            return Geometry(original=(160, 224), valid=(160, 224), padded=(160, 224))
        return Geometry(original=(135, 240), valid=(113, 200), padded=(128, 208))

    def clip(self) -> NDArray[np.uint8]:
        """The frames before resizing, RGB."""
        return synthetic_clip(self.length, self.geometry.original, 0 if self.size == "a160x224" else 1)

    def configured(self, system: VideoDetector) -> VideoDetector:
        """The system, set to the size of this case."""
        short, long = (160, 224) if self.size == "a160x224" else (120, 200)
        system.config = replace(system.config, inputs=replace(system.config.inputs, long_side=long, short_side=short))
        return system

    def record(self, system: VideoDetector, frames: int | None = None) -> Iterator[Recording]:
        """Runs the system on the first `frames` frames, or on all."""
        config = self.configured(system).config.inputs
        weight = next(system.parameters())
        inputs: list[NetworkInput] = [prepare([frame], config, weight.device, weight.dtype) for frame in self.clip()]
        assert all(item.geometries == (self.geometry,) for item in inputs)
        return record(system, inputs, frames)


CASES = (
    *(Case(name, "a160x224") for name in PUBLISHED if name.startswith(("dff", "fgfa"))),
    *(Case(name, "b113x200pad128x208") for name in ("dff-r50", "fgfa-r50")),
)


def read_full(case: Case, folder: Path) -> list[ReferenceFrame]:
    """The whole record of a case, frame by frame; `folder` holds `goldens`."""
    stats: list[dict[str, Array]] = [{} for _ in range(case.length)]
    values: list[dict[str, Array]] = [{} for _ in range(case.length)]
    with np.load(folder / "goldens" / f"{case}.npz") as content:
        for key in content.files:
            place, _, name = key.partition("/")
            if place == "meta" or name.endswith(".shape"):
                continue
            number, array = int(place[1:]), content[key].astype(np.float64)
            if name.endswith(".stats"):
                stats[number][name.removesuffix(".stats")] = array
            else:
                values[number][name.removesuffix(".sub")] = array
    return [ReferenceFrame(*parts) for parts in zip(stats, values, strict=True)]


def thin(frame: ReferenceFrame) -> ReferenceFrame:
    """The same with fewer values: a few of each map, a few rows of what belongs to proposals, all detections."""
    values: dict[str, Array] = {}
    for name, array in frame.values.items():
        match name:
            case "dets":
                values[name] = array
            case "proposals" | "roi_cls" | "roi_reg":
                values[name] = array[::_THIN_ROWS]
            case "roi_feat":
                pass
            case _:
                values[name] = _few(array)
    return ReferenceFrame(frame.stats, values, thinned=True)


def _few(array: Array) -> Array:
    return array.reshape(-1)[:: max(1, array.size // _THIN_VALUES)]


def write_compact(frames: Mapping[Case, Sequence[ReferenceFrame]], path: Path) -> None:
    """Writes thinned frames as one file."""
    content: dict[str, NDArray[np.floating]] = {}
    for case, of_case in frames.items():
        for name in sorted({name for frame in of_case for name in frame.stats}):
            absent = np.full(3, np.nan)
            content[f"{case}/stats/{name}"] = np.stack([frame.stats.get(name, absent) for frame in of_case])
        for number, frame in enumerate(of_case):
            for name, array in frame.values.items():
                content[f"{case}/{number}/{name}"] = array.astype(np.float32)
    np.savez_compressed(path, **content)  # type: ignore[arg-type]


def read_compact(case: Case, path: Path) -> list[ReferenceFrame]:
    """What `write_compact` wrote of a case."""
    stats: list[dict[str, Array]] = [{} for _ in range(case.length)]
    values: list[dict[str, Array]] = [{} for _ in range(case.length)]
    with np.load(path) as content:
        for key in content.files:
            of_case, place, name = key.split("/")
            if of_case != str(case):
                continue
            array = content[key].astype(np.float64)
            if place != "stats":
                values[int(place)][name] = array
                continue
            for number, row in enumerate(array):
                if not np.isnan(row).any():
                    stats[number][name] = row
    return [ReferenceFrame(*parts, thinned=True) for parts in zip(stats, values, strict=True)]


def compare(system: VideoDetector, recording: Recording, frame: ReferenceFrame) -> Differences:
    """The largest difference of each tensor of one frame.

    The values of the RoI head are compared for the recorded proposals: its own ones differ by thousandths of a pixel,
    which the head magnifies.
    """
    own = {name: tensor.cpu().numpy().astype(np.float64) for name, tensor in recording.items()}
    differences: Differences = {}

    def note(name: str, difference: float) -> None:
        differences[name] = _worst(differences.get(name, 0.0), difference)

    for name, stats in frame.stats.items():
        if name != "proposals":  # with their scores, which `propose` keeps to itself
            note(name, _of_stats(own[name], stats))
    for name, values in frame.values.items():
        if name in _OF_DENSE:
            kept = _kept(name, own[name])
            note(name, _relative(_few(kept) if frame.thinned else kept, values))
    if "proposals" in frame.values:
        wanted = frame.values["proposals"][:, :4]
        note("proposals", _nearest(own["proposals"], wanted)[0])
        if not frame.thinned and len(wanted) != len(own["proposals"]):
            note("proposals", np.inf)
        assert isinstance(system.detector, FasterRCNN)
        proposals = torch.from_numpy(wanted).to(recording["feat"])
        rois = roi_outputs(system.detector, recording["feat"], proposals)
        for name in _OF_ROIS & set(frame.values):
            values = rois[name].double().cpu().numpy()
            note(name, _relative(values[::50, ::32] if name == "roi_feat" else values, frame.values[name]))
    if "dets" in frame.values:
        wanted = frame.values["dets"]
        if len(wanted) != len(own["dets"]):
            note("detections", np.inf)
        # A label is far from all others, so that boxes are matched within their class.
        far = np.array([1e6, 1, 1, 1, 1])
        distance, order = _nearest(own["dets"][:, :5] * far, wanted[:, :5] * far)
        note("detections", distance)
        note("scores", float(np.abs(own["dets"][order, 5] - wanted[:, 5]).max()))
    return differences


_OF_DENSE = {"img", "neck", "flow_quarter", "flow", "warped", "agg_cos", "agg_weights", "feat", "rpn_cls", "rpn_reg"}
_OF_ROIS = {"roi_feat", "roi_cls", "roi_reg"}


def _kept(name: str, tensor: Array) -> Array:
    """The part of a tensor whose values are recorded."""
    if name in ("flow_quarter", "flow", "warped") and len(tensor) > 1:
        tensor = tensor[_SLOTS]
    match name:
        case "img":
            return tensor[:, :, ::8, ::8]
        case "neck":
            return tensor[-1:, ::2]
        case "flow":
            return tensor[..., 4::8, 4::8]
        case "warped":
            return tensor[:, ::32]
        case "feat":
            return tensor[:, ::2]
    return tensor


def _relative(own: Array, reference: Array) -> float:
    assert own.shape == reference.shape
    return float(np.abs(own - reference).max() / np.abs(reference).max())


def _of_stats(own: Array, stats: Array) -> float:
    """Mean and deviation are compared in units of the root mean square, as a mean may be near zero."""
    mean, deviation, length = stats
    size = np.hypot(mean, deviation)
    return _worst((own.mean() - mean) / size, (own.std() - deviation) / size, np.linalg.norm(own) / length - 1)


def _worst(*differences: float | np.floating[Any]) -> float:
    """What is not a number is worst of all, unlike with Python's own max."""
    return float(np.abs(np.array(differences)).max())


def _nearest(own: Array, wanted: Array) -> tuple[float, NDArray[np.intp]]:
    """The row of `own` for each wanted one, and the largest distance; infinite if one would be taken twice."""
    distances = np.abs(wanted[:, None] - own).max(axis=-1)
    order = distances.argmin(axis=1)
    worst = float(distances.min(axis=1).max())
    return (worst if len(set(order)) == len(order) else np.inf), order


def compare_case(system: VideoDetector, case: Case, frames: Sequence[ReferenceFrame]) -> Differences:
    """The largest difference of each tensor over all frames given."""
    worst: Differences = {}
    for recording, frame in zip(case.record(system, len(frames)), frames, strict=True):
        for name, difference in compare(system, recording, frame).items():
            worst[name] = _worst(worst.get(name, 0.0), difference)
    return worst
