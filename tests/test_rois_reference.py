"""SELSA and Temporal RoI Align against what mmtracking computed: proposals, class logits, detections.

Here they are computed in float64, so that they are the same on every processor: what differs is the rounding of the
record, which is in float32.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.ops import box_iou

import flowdet.temporal.temporal_roi_align as troia
from flowdet.detectors import faster_rcnn
from flowdet.detectors.faster_rcnn import FasterRCNN, RoIHeadConfig
from flowdet.systems.stream import Outcome, spread_evenly
from flowdet.temporal.temporal_roi_align import TemporalRoIAttention
from flowdet.types import Detections, Frame, FrameFeatures
from tests.golden import ROIS_FILE
from tests.seeded import seeded_system, synthetic_clip

Array = NDArray[np.floating[Any]]

_TOLERANCE = 1e-4
# Two cells of a map whose cosines differ by less may change places: then an RoI gathers another cell.
_TIE = 4e-6
_PIXELS = 1.5e-2
# Two boxes overlap and have one score but for rounding: either may suppress the other, and what that covers is free.
_MOST_OTHERS = 2  # detections of a frame
_MOST_TIES = 8  # of one RoI
_MOST_IN_DOUBT = 8  # of the RoIs of a frame
# The logits of this system reach 15, of which a tolerance of 1e-4 is more.
_SCORES = {"troia_x101_a160x224": 3e-4}
_TENSORS = ("feat", "rpn_cls", "rpn_reg", "roi_cls", "roi_reg")

FULL = (
    "selsa_r50_a160x224",
    "selsa_r50_short6_160x224",
    "selsa_r101_a160x224",
    "selsa_x101_a160x224",
    "troia_r50_a160x224",
    "troia_r101_a160x224",
    "troia_x101_a160x224",
)


@dataclass(frozen=True)
class Some:
    """Some frames of a clip, whose preview is of all: a frame's result depends on no other frame."""

    clip: Sequence[Frame]
    numbers: Sequence[int]

    def __iter__(self) -> Iterator[Frame]:
        return (self.clip[number] for number in self.numbers)

    def preview(self, count: int) -> list[Frame]:
        return spread_evenly(self.clip, count)


class Ties:
    """Takes the third cell in place of the second where their cosines are equal but for rounding.

    Of the ties of each RoI, in order, those are broken this way whose bits are set in `pattern`.
    """

    def __init__(self, rois: int, pattern: int) -> None:
        self.met = torch.zeros(rois, dtype=torch.int64)
        self._pattern = pattern

    def best(self, similarities: Tensor, count: int) -> tuple[Tensor, Tensor]:
        values, places = similarities.topk(count + 1, dim=1)
        tied = (values[:, -2] - values[:, -1] < _TIE).view(len(self.met), -1)
        number = self.met[:, None] + tied.cumsum(dim=1) - 1
        self.met += tied.sum(dim=1)
        broken = tied & ((self._pattern >> number.clamp(min=0)) & 1 == 1)
        columns = torch.arange(count) + (torch.arange(count) == count - 1) * broken.view(-1, 1)
        return values.gather(1, columns), places.gather(1, columns)


def relative(own: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(own) - wanted).max() / np.abs(wanted).max())


def in_doubt(
    detector: FasterRCNN, features: FrameFeatures, rows: Tensor, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and deltas of these RoIs for every way to break their ties, the usual one among them."""
    head, rois = detector.roi_head, features.rois
    assert isinstance(head, faster_rcnn.RoIHead)
    assert isinstance(head.attention, TemporalRoIAttention)
    assert rois
    assert len(rows) <= min(_MOST_IN_DOUBT, troia._ROIS_AT_ONCE)
    usual, (pooled,), (boxes,) = type(head.attention).pool, rois.pooled, rois.boxes
    whole = usual(head.attention, pooled, [boxes], features.maps, features.support)
    pattern, most = 0, 1
    while pattern < most:
        ties = Ties(len(rows), pattern)
        with monkeypatch.context() as patch:
            patch.setattr(troia, "_best", ties.best)
            some = usual(head.attention, pooled[rows], [boxes[rows]], features.maps, features.support)
            patch.setattr(head.attention, "pool", lambda *_, some=some: whole.index_copy(0, rows, some))
            logits, deltas = head.attend(rois, features.maps, features.support)
        assert 1 <= ties.met.min() <= ties.met.max() <= _MOST_TIES
        pattern, most = pattern + 1, 2 ** int(ties.met.max())
        yield logits[rows], deltas[rows]


def mended(
    detector: FasterRCNN,
    features: FrameFeatures,
    found: tuple[Tensor, Tensor],
    wanted: Array,
    monkeypatch: pytest.MonkeyPatch,
) -> tuple[Tensor, Tensor]:
    """Logits and deltas, those of RoIs that differ from the wanted logits with their ties broken the other way."""
    logits, deltas = found
    goal, scale = torch.from_numpy(wanted).double(), float(np.abs(wanted).max())
    rows = ((logits - goal).abs().amax(dim=1) >= _TOLERANCE * scale).nonzero().flatten()
    if not len(rows):
        return logits, deltas
    least = torch.full((len(rows),), torch.inf, dtype=goal.dtype)
    for other, moves in in_doubt(detector, features, rows, monkeypatch):
        distance = (other - goal[rows]).abs().amax(dim=1)
        better = distance < least
        least = torch.where(better, distance, least)
        logits = logits.index_copy(0, rows[better], other[better])
        deltas = deltas.index_copy(0, rows[better], moves[better])
    return logits, deltas


def in_order(own: Array, wanted: Array) -> NDArray[np.intp]:
    """The row of `own` next to each wanted one; two of nearly one score may have changed places."""
    distances = np.abs(wanted[:, None] - own).max(axis=-1)
    order: NDArray[np.intp] = distances.argmin(axis=1)
    assert len(own) == len(set(order.tolist())) == len(wanted)
    assert distances.min(axis=1).max() < _PIXELS
    return order


def check_detections(found: tuple[Array, Array, NDArray[Any]], wanted: Array, tolerance: float) -> None:
    boxes, scores, labels = found
    far = np.array([1e6, 1, 1, 1, 1])
    own, theirs = np.column_stack([labels, boxes]) * far, wanted[:, :5] * far
    distances = np.abs(theirs[:, None] - own).max(axis=-1)
    order, close = distances.argmin(axis=1), distances.min(axis=1) < _PIXELS
    others = np.setdiff1d(np.arange(len(own)), order[close])
    assert len(own) == len(wanted)
    assert len(set(order[close].tolist())) == close.sum()
    np.testing.assert_allclose(scores[order[close]], wanted[close, 5], rtol=0, atol=tolerance)
    if len(others):
        assert len(others) <= _MOST_OTHERS
        corners = (torch.from_numpy(each[:, 1:] + each[:, :1]) for each in (own[others], theirs[~close]))
        rivals = box_iou(*corners).numpy() > RoIHeadConfig().nms_iou
        assert (np.abs(scores[others, None] - wanted[~close, 5])[rivals] < tolerance).any()


def check_frame(
    detector: FasterRCNN,
    outcome: Outcome,
    found: tuple[Tensor, Tensor],
    golden: Mapping[str, Array],
    *,
    scores: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = outcome.features
    assert features.rois
    (boxes,) = features.rois.boxes
    objectness, moves = detector.rpn(features.maps[0])
    logits, deltas = found
    detections: Detections | None = outcome.detections
    if "proposals" in golden:
        order = in_order(boxes.numpy(), golden["proposals"][:, :4])
        wanted = np.empty_like(golden["roi_cls"])
        wanted[order] = golden["roi_cls"]
        logits, deltas = mended(detector, features, found, wanted, monkeypatch)
        assert relative(logits, wanted) < _TOLERANCE
        if "roi_reg" in golden:
            assert relative(deltas.flatten(1)[order[::2]], golden["roi_reg"]) < _TOLERANCE
        if logits is not found[0]:
            detections = None
    own = {"feat": features.maps[0], "rpn_cls": objectness, "rpn_reg": moves, "roi_cls": logits, "roi_reg": deltas}
    for name in _TENSORS:
        if f"{name}.stats" in golden:
            length = golden[f"{name}.stats"][2]
            assert float(own[name].double().norm()) == pytest.approx(length, rel=_TOLERANCE), name
    for name, kept in (("feat", features.maps[0][:, ::2]), ("rpn_cls", objectness), ("rpn_reg", moves)):
        if name in golden:
            assert relative(kept, golden[name]) < _TOLERANCE, name
    if detections:
        check_detections((detections.boxes, detections.scores, detections.labels), golden["dets"], scores)
    else:
        (geometry,) = features.geometries
        again = faster_rcnn._detections(detector.config.roi_head, logits, deltas, boxes, geometry)
        first, second, third = (each.numpy() for each in again)
        check_detections((first, second, third), golden["dets"], scores)


def check(case: str, golden: Mapping[str, Any], length: int, monkeypatch: pytest.MonkeyPatch) -> None:
    system = seeded_system("-".join(case.split("_")[:2])).double().requires_grad_(requires_grad=False)
    system.config = replace(system.config, inputs=replace(system.config.inputs, long_side=224, short_side=160))
    detector = system.detector
    assert isinstance(detector, FasterRCNN)
    classify, heads = detector._classify, []

    def watch(*arguments: Any) -> tuple[Tensor, Tensor]:
        heads.append(classify(*arguments))
        return heads[-1]

    monkeypatch.setattr(detector, "_classify", watch)
    clip = [Frame(number, number / 25, image) for number, image in enumerate(synthetic_clip(length, (160, 224), 0))]
    numbers = sorted({int(key[1:4]) for key in golden if key.endswith("/dets")})
    for outcome in system.detect_many([Some(clip, numbers)]):
        frame = f"f{outcome.frame.index:03}/"
        recorded = {key.removeprefix(frame): value for key, value in golden.items() if key.startswith(frame)}
        with torch.inference_mode():
            check_frame(detector, outcome, heads[-1], recorded, scores=_SCORES.get(case, 1e-4), monkeypatch=monkeypatch)
    assert len(heads) == len(numbers) > 0


@pytest.mark.parametrize("case", ["selsa_r50_short6_160x224", "troia_r50_a160x224"])
def test_detections_of_mmtracking(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(ROIS_FILE) as content:
        golden = {key.removeprefix(f"{case}/"): content[key] for key in content.files if key.startswith(case)}
    check(case, golden, int(golden["num_frames"]), monkeypatch)


@pytest.mark.parametrize("case", FULL)
def test_all_of_mmtracking(case: str, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = reference / "selsa_troia" / "golden" / f"{case}.npz"
    if not path.is_file():
        pytest.skip("the record of the RoI-level methods is not here")
    with np.load(path) as content:
        golden = dict(content)
    check(case, golden, int(golden["meta/num_frames"]), monkeypatch)
