"""SELSA and Temporal RoI Align against what mmtracking computed: proposals, class logits, detections."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import flowdet.temporal.temporal_roi_align as troia
from flowdet.detectors.faster_rcnn import FasterRCNN
from flowdet.systems.detector import VideoDetector
from flowdet.types import Detections, Frame
from tests.golden import ROIS_FILE
from tests.seeded import seeded_system, synthetic_clip

_TOLERANCE = 1e-4
# Two cells of a map whose cosines differ by less may change places: then an RoI gathers another cell.
_TIE = 2e-6
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


class Watch:
    """What the heads compute of the last frame, and the smallest difference in cosines that each RoI depends on."""

    def __init__(self, system: VideoDetector, monkeypatch: pytest.MonkeyPatch) -> None:
        detector = system.detector
        assert isinstance(detector, FasterRCNN)
        self.tensors: dict[str, Tensor] = {}
        self._gaps: list[Tensor] = []
        classify, best = detector._classify, troia._best
        handles = {"feat": detector.neck, "rpn": detector.rpn}
        for name, module in handles.items():
            module.register_forward_hook(lambda _, __, result, name=name: self.tensors.update({name: result}))

        def watch_classify(features: Any, boxes: Any) -> Any:
            self._gaps.clear()
            logits, deltas = classify(features, boxes)
            objectness, moves = self.tensors.pop("rpn")
            self.tensors |= {"feat": features.maps[0], "rpn_cls": objectness, "rpn_reg": moves}
            self.tensors |= {"proposals": boxes[0], "roi_cls": logits, "roi_reg": deltas.flatten(1)}
            return logits, deltas

        def watch_best(similarities: Tensor, count: int) -> Any:
            values = similarities.topk(count + 1, dim=1).values
            self._gaps.append((values[:, -2] - values[:, -1]).view(-1, 49).amin(dim=1))
            return best(similarities, count)

        monkeypatch.setattr(detector, "_classify", watch_classify)
        monkeypatch.setattr(troia, "_best", watch_best)

    def is_clear(self) -> Tensor:
        """Whether each RoI depends on no tie, [p]."""
        count = len(self.tensors["proposals"])
        if not self._gaps:
            return torch.ones(count, dtype=torch.bool)
        chunks = -(-count // troia._ROIS_AT_ONCE)
        references = len(self._gaps) // chunks
        rows = [torch.stack(self._gaps[i * references : (i + 1) * references]).amin(dim=0) for i in range(chunks)]
        return torch.cat(rows) > _TIE


def relative(own: Any, wanted: Any) -> float:
    return float(np.abs(np.asarray(own) - wanted).max() / np.abs(wanted).max())


def check_frame(watch: Watch, found: Detections, golden: Mapping[str, Any], frame: str) -> None:
    own = {name: tensor.numpy() for name, tensor in watch.tensors.items()}
    for name in _TENSORS:
        if f"{frame}/{name}.stats" in golden:
            length = golden[f"{frame}/{name}.stats"][2]
            assert np.linalg.norm(own[name].astype(np.float64)) == pytest.approx(length, rel=_TOLERANCE), name
    for name, kept in (("feat", own["feat"][:, ::2]), ("rpn_cls", own["rpn_cls"]), ("rpn_reg", own["rpn_reg"])):
        if f"{frame}/{name}" in golden:
            assert relative(kept, golden[f"{frame}/{name}"]) < _TOLERANCE, name
    clear = watch.is_clear().numpy()
    assert clear.mean() > 0.8
    if f"{frame}/proposals" in golden:
        wanted = golden[f"{frame}/proposals"][:, :4]
        assert len(wanted) == len(own["proposals"])
        distances = np.abs(wanted[:, None] - own["proposals"]).max(axis=-1)
        order = distances.argmin(axis=1)  # two of nearly one score may have changed places
        assert len(set(order)) == len(order)
        assert distances.min(axis=1).max() < 1e-2
        assert relative(own["roi_cls"][order][clear[order]], golden[f"{frame}/roi_cls"][clear[order]]) < _TOLERANCE
        if f"{frame}/roi_reg" in golden:
            places, kept = order[::2], clear[order[::2]]
            assert relative(own["roi_reg"][places][kept], golden[f"{frame}/roi_reg"][kept]) < _TOLERANCE
    wanted = golden[f"{frame}/dets"]
    assert len(found) == len(wanted)
    far = np.array([1e6, 1, 1, 1, 1])
    boxes = np.column_stack([found.labels, found.boxes]) * far
    distances = np.abs(wanted[:, None, :5] * far - boxes).max(axis=-1)
    near = distances.min(axis=1) < 1e-2
    assert near.all() if clear.all() else near.mean() >= 0.9
    scores = np.abs(found.scores[distances.argmin(axis=1)] - wanted[:, 5])
    assert (scores[near] < (1e-4 if clear.all() else 1e-2)).all()


def check(case: str, golden: Mapping[str, Any], frames: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    system = seeded_system("-".join(case.split("_")[:2]))
    system.config = replace(system.config, inputs=replace(system.config.inputs, long_side=224, short_side=160))
    watch, clip = Watch(system, monkeypatch), synthetic_clip(int(golden["num_frames"]), (160, 224), 0)
    video = [Frame(number, number / 25, image) for number, image in enumerate(clip)]
    last = max(int(frame[1:]) for frame in frames)
    for found in system.detect(video):
        if (frame := f"f{found.frame_index:03}") in frames:
            check_frame(watch, found, golden, frame)
        if found.frame_index == last:
            break


@pytest.mark.parametrize("case", ["selsa_r50_short6_160x224", "troia_r50_a160x224"])
def test_detections_of_mmtracking(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with np.load(ROIS_FILE) as content:
        golden = {key.removeprefix(f"{case}/"): content[key] for key in content.files if key.startswith(case)}
    check(case, golden, sorted({key[:4] for key in golden if key.endswith("dets")}), monkeypatch)


@pytest.mark.parametrize("case", FULL)
def test_all_of_mmtracking(case: str, reference: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = reference / "selsa_troia" / "golden" / f"{case}.npz"
    if not path.is_file():
        pytest.skip("the record of the RoI-level methods is not here")
    with np.load(path) as content:
        golden = dict(content)
    golden["num_frames"] = golden["meta/num_frames"]
    frames = [key[:4] for key in golden if key.endswith("/dets")]
    check(case, golden, frames[:2], monkeypatch)
