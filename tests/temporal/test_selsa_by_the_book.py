"""SELSA and Temporal RoI Align written out slot by slot from the papers, on inputs with padding, too."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import roi_align

from flowdet.detectors.faster_rcnn import FasterRCNN, RoIHead
from flowdet.inputs import prepare
from flowdet.temporal.selsa import SELSAAttention, SELSAConfig, _Aggregator
from flowdet.temporal.temporal_roi_align import TemporalRoIAlignConfig, TemporalRoIAttention
from flowdet.types import NetworkInput
from tests.temporal.test_selsa import system_of
from tests.tiny import Extract, video

HEADS = 4


def attend(aggregator: _Aggregator, queries: Tensor, seen: Tensor) -> Tensor:
    """Attention of RoIs [n, d] to RoIs [m, d]."""
    q, k, v = aggregator.query(queries), aggregator.key(seen), aggregator.value(seen)
    width = q.shape[1] // HEADS
    found = []
    for head in range(HEADS):
        some = slice(head * width, (head + 1) * width)
        weights = (q[:, some] @ k[:, some].T / math.sqrt(width)).softmax(dim=1)
        found.append(weights @ v[:, some])
    output: Tensor = aggregator.output(torch.cat(found, dim=1))
    return output


def most_similar(own: Tensor, reference: Tensor) -> Tensor:
    """For each cell of RoIs [n, c, k, k] the two most similar cells of a map [c, h, w], weighted."""
    cells = reference.flatten(1)
    cosines = torch.einsum("ncij,cm->nijm", own / own.norm(dim=1, keepdim=True), cells / cells.norm(dim=0))
    values, places = cosines.topk(2, dim=-1)
    return torch.einsum("nijk,cnijk->ncij", values.softmax(dim=-1), cells[:, places])


def align(attention: TemporalRoIAttention, own: Tensor, maps: Sequence[Tensor], blocks: int) -> Tensor:
    """Slots [s, n, c, k, k], the RoIs' own first, averaged by the similarity of their embeddings."""
    slots = torch.stack([own, *(most_similar(own, each) for each in maps)])
    embedded = torch.stack([attention.embedding(slot) for slot in slots]).unflatten(2, (blocks, -1))
    logits = (embedded * embedded[:1]).sum(dim=3, keepdim=True) / math.sqrt(embedded.shape[3])
    averaged: Tensor = (logits.softmax(dim=0) * slots.unflatten(2, (blocks, -1))).sum(dim=0).flatten(1, 2)
    return averaged


def logits_of(detector: FasterRCNN, current: NetworkInput, references: Sequence[NetworkInput]) -> tuple[Tensor, Tensor]:
    """Class logits and box deltas of the current frame's proposals."""
    head = detector.roi_head
    assert isinstance(head, RoIHead)
    assert isinstance(head.attention, SELSAAttention)
    frames = [*references, current]
    maps = [detector.extract(frame.images)[0] for frame in frames]
    found = zip(maps, frames, strict=True)
    boxes = [detector._propose((own,), frame.geometries, 40)[0] for own, frame in found]
    pooled = [roi_align(own, [some], 7, 1 / 16, 2, aligned=True) for own, some in zip(maps, boxes, strict=True)]
    x, seen = pooled[-1], torch.cat(pooled)
    if isinstance(head.attention, TemporalRoIAttention):
        x = align(head.attention, x, [own[0] for own in maps], blocks=4)
    for number, layer in enumerate(map(head.get_submodule, ("fc1", "fc2"))):
        aggregator = head.attention.aggregators[number]
        assert isinstance(aggregator, _Aggregator)
        x, seen = layer(x.flatten(1)), layer(seen.flatten(1))
        x, seen = F.relu(x + attend(aggregator, x, seen)), F.relu(seen)
    return head.classes(x), head.deltas(x)


@pytest.mark.parametrize("size", [(64, 96), (56, 88), (40, 96)])
@pytest.mark.parametrize("kind", [SELSAConfig, TemporalRoIAlignConfig])
def test_logits_are_those_of_the_papers(
    kind: type[SELSAConfig], size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    system = system_of(kind(heads=HEADS, memory=3))
    detector = system.detector
    assert isinstance(detector, FasterRCNN)
    monkeypatch.setattr(detector, "extract", Extract().extract)  # with random weights, cells of the neck are all alike
    inputs = [prepare([image], system.config.inputs) for image in video(4, size=size)]
    (geometry,) = inputs[0].geometries
    assert (geometry.valid == geometry.padded) == (size == (64, 96))
    with torch.inference_mode():
        method = system.method
        (features,), _ = method.step(inputs[3], method.initial_state(inputs[:3]))
        assert features.rois
        found = detector._classify(features, features.rois.proposals, features.rois)
        logits, deltas = logits_of(detector, inputs[3], inputs[:3])
    torch.testing.assert_close(found[0], logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found[1].flatten(1), deltas, rtol=1e-4, atol=1e-5)
    assert len(logits) > 10
