"""Faster R-CNN as a whole, and its two stages, mostly where there is little or nothing to work on."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torchvision.ops import box_iou

from flowdet.detectors import faster_rcnn
from flowdet.detectors.base import Found, RoIAttention
from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import (
    RPN,
    FasterRCNN,
    FasterRCNNConfig,
    RoIHead,
    RoIHeadConfig,
    RPNConfig,
    anchors,
    propose,
)
from flowdet.detectors.necks import MergeNeckConfig
from flowdet.inputs import prepare
from flowdet.ops.boxes import Chooser, Sample, sample
from flowdet.ops.sampling import roi_align
from flowdet.types import FrameFeatures, Geometry, Maps, Targets
from tests.tiny import INPUTS, tiny_detector, video

Losses = dict[str, Tensor]

WHOLE = Geometry((64, 96), (64, 96), (64, 96))
NARROW = Geometry((64, 40), (64, 40), (64, 96))
NO_TARGETS = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
NO_BOXES = torch.zeros(0, 4)


def features(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 8, 4, 6, generator=torch.Generator().manual_seed(seed))


def targets(*boxes: tuple[float, float, float, float]) -> Targets:
    return Targets(torch.tensor(boxes), torch.arange(len(boxes)) % 3)


CPU = torch.device("cpu")


def rpn_losses(
    config: RPNConfig, rpn: nn.Module, maps: Tensor, geometries: Sequence[Geometry], truths: Sequence[Targets]
) -> Losses:
    objectness, deltas = rpn(maps)
    choosers = [first_ones] * len(truths)
    return faster_rcnn._rpn_losses(config, objectness, deltas, geometries, targets=truths, choosers=choosers)


def roi_losses(detector: FasterRCNN, maps: Tensor, proposals: Sequence[Tensor], truths: Sequence[Targets]) -> Losses:
    config, choosers = detector.config.roi_head, [first_ones] * len(truths)
    batch = faster_rcnn._sample_rois(config, proposals, truths, choosers, background=detector.classes)
    logits, deltas = detector._classify(FrameFeatures(0, (maps,), (WHOLE,) * len(maps)), batch.rois)
    return faster_rcnn._roi_losses(config, logits, deltas, batch, background=detector.classes)


def detect(detector: FasterRCNN, maps: Tensor, boxes: Sequence[Tensor]) -> list[Found]:
    """Detections in given proposals."""
    logits, deltas = detector._classify(FrameFeatures(0, (maps,), (WHOLE,) * len(maps)), boxes)
    counts = [len(each) for each in boxes]
    rows = zip(logits.split(counts), deltas.split(counts), boxes, strict=True)
    return [faster_rcnn._detections(detector.config.roi_head, *row, WHOLE) for row in rows]


def first_ones(indices: Tensor, count: int) -> Tensor:
    return indices[:count]


def test_anchors_are_centred_on_the_corners_of_cells_and_keep_their_area() -> None:
    found = anchors(RPNConfig(scales=(2.0, 4.0), ratios=(0.5, 1.0)), 3, 5, CPU)
    assert found.shape == (3 * 5 * 4, 4)
    of_cells = found.reshape(3, 5, 4, 4)
    centres = (of_cells[..., :2] + of_cells[..., 2:]) / 2
    torch.testing.assert_close(centres[2, 4], torch.tensor([64.0, 32]).expand(4, 2))
    sizes = (of_cells[..., 2:] - of_cells[..., :2])[0, 0]
    torch.testing.assert_close(sizes.prod(dim=1).sqrt(), torch.tensor([32.0, 64, 32, 64]))
    torch.testing.assert_close(sizes[:, 1] / sizes[:, 0], torch.tensor([0.5, 0.5, 1, 1]))


def test_a_new_rpn_proposes_its_anchors() -> None:
    config = RPNConfig(channels=4, scales=(1.0,), ratios=(1.0,), post_nms_top_n=100)
    objectness, deltas = RPN(config, 8)(features())
    (proposals,) = propose(config, objectness, torch.zeros_like(deltas), [WHOLE], 100)
    inside = anchors(config, 4, 6, CPU).clamp(min=0)
    assert {tuple(box) for box in proposals.tolist()} == {tuple(box) for box in inside.tolist()}


def propose_slowly(
    config: RPNConfig, objectness: Tensor, deltas: Tensor, geometry: Geometry, count: int
) -> list[list[float]]:
    scored = []
    of_cells = anchors(config, 4, 6, CPU).reshape(4, 6, -1, 4)
    for (y, x, a), logit in (
        (tuple(i), objectness[0, i[2], i[0], i[1]].item())
        for i in torch.ones(4, 6, of_cells.shape[2]).nonzero().tolist()
    ):
        x1, y1, x2, y2 = of_cells[y, x, a].tolist()
        dx, dy, dw, dh = deltas[0, 4 * a : 4 * a + 4, y, x].tolist()
        width, height = (x2 - x1) * math.exp(dw), (y2 - y1) * math.exp(dh)
        cx, cy = (x1 + x2) / 2 + dx * (x2 - x1), (y1 + y2) / 2 + dy * (y2 - y1)
        limits = (geometry.valid[1], geometry.valid[0]) * 2
        corners = (cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2)
        box = [min(max(corner, 0), limit) for corner, limit in zip(corners, limits, strict=True)]
        if box[2] > box[0] and box[3] > box[1]:
            scored.append((logit, box))
    kept: list[list[float]] = []
    for _, box in sorted(scored, reverse=True):
        if all(box_iou(torch.tensor([box]), torch.tensor([other])).item() <= config.nms_iou for other in kept):
            kept.append(box)
    return kept[:count]


@pytest.mark.parametrize("geometry", [WHOLE, NARROW])
def test_proposals_step_by_step(geometry: Geometry) -> None:
    detector = tiny_detector()
    config = detector.config.rpn
    with torch.inference_mode():
        objectness, deltas = detector.rpn(features())
        (proposals,) = propose(config, objectness, deltas / 4, [geometry], 25)
        wanted = propose_slowly(config, objectness, deltas / 4, geometry, 25)
    torch.testing.assert_close(proposals, torch.tensor(wanted), rtol=1e-4, atol=1e-3)


def test_only_the_best_anchors_are_candidates() -> None:
    config = RPNConfig(scales=(1.0,), ratios=(1.0,), pre_nms_top_n=3)
    objectness = torch.arange(24.0).reshape(1, 1, 4, 6)
    (proposals,) = propose(config, objectness, torch.zeros(1, 4, 4, 6), [WHOLE], 100)
    assert proposals.tolist() == [[72, 40, 88, 56], [56, 40, 72, 56], [40, 40, 56, 56]]


@pytest.mark.parametrize("some", [NO_TARGETS, targets((10, 10, 50, 50))])
def test_losses_of_images_with_and_without_objects(some: Targets) -> None:
    detector = tiny_detector()
    losses = detector.losses(FrameFeatures(0, (features().requires_grad_(),), (WHOLE,)), [some], [first_ones])
    assert set(losses) == {"rpn_objectness", "rpn_boxes", "roi_classes", "roi_boxes"}
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert losses["rpn_objectness"] > 0
    assert losses["roi_classes"] > 0
    assert (losses["rpn_boxes"] > 0) == (losses["roi_boxes"] > 0) == (len(some.boxes) > 0)
    torch.stack(list(losses.values())).sum().backward()
    for name, parameter in detector.named_parameters():
        if not name.startswith("backbone"):
            assert parameter.grad is not None
            assert torch.isfinite(parameter.grad).all()


def test_losses_without_any_proposal_and_any_object() -> None:
    detector = tiny_detector()
    losses = roi_losses(detector, features(), [NO_BOXES], [NO_TARGETS])
    assert {name: loss.item() for name, loss in losses.items()} == {"roi_classes": 0, "roi_boxes": 0}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in detector.roi_head.parameters())


def test_losses_without_any_anchor_inside() -> None:
    config = RPNConfig(channels=4, scales=(8.0,))
    losses = rpn_losses(config, RPN(config, 8), features(), [WHOLE], [targets((10, 10, 50, 50))])
    assert {name: loss.item() for name, loss in losses.items()} == {"rpn_objectness": 0, "rpn_boxes": 0}


def test_one_image_without_proposals_beside_one_with() -> None:
    detector = tiny_detector()
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 90, 60]])
    with torch.inference_mode():
        nothing, something = detect(detector, features(2), [NO_BOXES, boxes])
        alone = detect(detector, features(2)[1:], [boxes])
    assert [part.shape for part in nothing] == [(0, 4), (0,), (0,)]
    assert len(something[0]) > 0
    for one, other in zip(something, alone[0], strict=True):
        torch.testing.assert_close(one, other)


def test_detection_without_any_proposal() -> None:
    with torch.inference_mode():
        ((boxes, scores, labels),) = detect(tiny_detector(), features(), [NO_BOXES])
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)


def one_hot(*labels: int, classes: int = 3) -> Tensor:
    return 10 * torch.nn.functional.one_hot(torch.tensor(labels), classes + 1).float()


def test_detections_are_in_pixels_of_the_original_image() -> None:
    geometry = Geometry(original=(128, 48), valid=(64, 96), padded=(64, 96))
    boxes = torch.tensor([[16.0, 8, 48, 40], [80, 40, 200, 200]])
    found, scores, labels = faster_rcnn._detections(
        RoIHeadConfig(), one_hot(2, 0), torch.zeros(2, 3, 4), boxes, geometry
    )
    best = {int(label): box for label, box in reversed(list(zip(labels, found.tolist(), strict=True)))}
    assert best[2] == [8, 16, 24, 80]
    assert best[0] == [40, 80, 48, 128]
    assert (scores[:-1] >= scores[1:]).all()


def test_boxes_of_one_class_suppress_each_other_and_background_is_no_detection() -> None:
    config = RoIHeadConfig(score_threshold=0.1)
    boxes = torch.tensor([[0.0, 0, 40, 40], [1, 0, 41, 40], [0, 0, 40, 41], [50, 0, 90, 40]])
    logits = one_hot(1, 1, 2, 3) * torch.tensor([1.0, 0.9, 1, 1])[:, None]
    found, _, labels = faster_rcnn._detections(config, logits, torch.zeros(4, 3, 4), boxes, WHOLE)
    assert sorted(zip(labels.tolist(), found.tolist(), strict=True)) == [(1, [0, 0, 40, 40]), (2, [0, 0, 40, 41])]


def test_each_class_has_its_own_deltas_or_all_share_them() -> None:
    boxes = torch.tensor([[20.0, 20, 40, 40]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = 1
    for specific, moved in ((True, deltas), (False, deltas[:, 2:])):
        config = RoIHeadConfig(hidden=4, class_specific_boxes=specific, score_threshold=0.5)
        assert RoIHead(config, 8, 3).deltas.out_features == 4 * (3 if specific else 1)
        for label in range(3):
            found, _, _ = faster_rcnn._detections(config, one_hot(label), moved, boxes, WHOLE)
            shift = 4 if label == 2 or not specific else 0
            assert found.tolist() == [[20 + shift, 20, 40 + shift, 40]]


def test_at_most_so_many_detections_and_none_below_the_least_score() -> None:
    config = RoIHeadConfig(max_detections=5, score_threshold=0.2)
    boxes = torch.stack([torch.tensor([x, y, x + 9.0, y + 9]) for x in range(0, 90, 10) for y in range(0, 50, 10)])
    logits = torch.randn(len(boxes), 4, generator=torch.Generator().manual_seed(0))
    _, scores, _ = faster_rcnn._detections(config, logits, torch.zeros(len(boxes), 3, 4), boxes, WHOLE)
    every = logits.softmax(1)[:, :3].flatten()
    torch.testing.assert_close(scores, every.sort(descending=True).values[:5])
    _, scores, _ = faster_rcnn._detections(config, logits[:3], torch.zeros(3, 3, 4), boxes[:3], WHOLE)
    assert len(scores) == (logits[:3].softmax(1)[:, :3] > 0.2).sum() < 9


def test_ground_truth_is_among_the_rois(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[Tensor] = []

    def note(maps: Tensor, boxes: Sequence[Tensor], window: int, stride: int) -> Tensor:
        chosen.extend(boxes)
        return roi_align(maps, boxes, window, stride)

    monkeypatch.setattr(faster_rcnn, "roi_align", note)
    truth = targets((10, 10, 50, 50), (60, 5, 90, 60))
    roi_losses(tiny_detector(), features(), [torch.tensor([[0.0, 0, 8, 8]])], [truth])
    assert chosen[0].tolist() == [*truth.boxes.tolist(), [0, 0, 8, 8]]


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Takes down how many positives and negatives each image gives."""
    counts: list[tuple[int, int]] = []

    def counting(matches: Tensor, count: int, share: float, choose: Chooser) -> Sample:
        result = sample(matches, count, share, choose)
        counts.append((len(result.positives), len(result.negatives)))
        return result

    monkeypatch.setattr(faster_rcnn, "sample", counting)
    return counts


def test_half_of_the_anchors_and_a_quarter_of_the_rois_are_positive_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = counted(monkeypatch)
    config = RPNConfig(channels=8, scales=(1.0,), ratios=(1.0,), sampled=10)
    eight = [(16.0 * x - 8, 16.0 * y - 8, 16.0 * x + 8, 16.0 * y + 8) for x in (1, 2, 3, 4) for y in (1, 2)]
    rpn_losses(config, RPN(config, 8), features(), [WHOLE], [targets(*eight)])
    assert counts == [(5, 5)]
    boxes = torch.cat(
        (torch.tensor([[10.0, 10, 50, 50]]).repeat(30, 1), torch.tensor([[60.0, 0, 90, 60]]).repeat(30, 1))
    )
    roi_losses(tiny_detector(), features(), [boxes], [targets((10, 10, 50, 50))])
    assert counts[1:] == [(6, 18)]


def test_losses_of_a_batch_are_means_over_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, counts = tiny_detector(), counted(monkeypatch)
    config = detector.config.rpn
    geometries = [WHOLE, Geometry((64, 24), (64, 24), (64, 96))]
    truths = [targets((10, 10, 50, 50)), targets((2, 20, 18, 50))]
    together = rpn_losses(config, detector.rpn, features(2), geometries, truths)
    alone = [
        rpn_losses(config, detector.rpn, features(2)[n : n + 1], geometries[n : n + 1], truths[n : n + 1])
        for n in range(2)
    ]
    first, second = (sum(of_image) for of_image in counts[2:])
    assert counts[:2] == counts[2:]
    assert first != second
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)

    proposals = [torch.tensor([[8.0, 8, 48, 52], [60, 4, 90, 40]]), torch.tensor([[0.0, 0, 20, 20]])]
    together = roi_losses(detector, features(2), proposals, truths)
    alone = [roi_losses(detector, features(2)[n : n + 1], proposals[n : n + 1], truths[n : n + 1]) for n in range(2)]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_proposals_are_constants_for_the_second_stage() -> None:
    detector = tiny_detector()
    objectness, deltas = detector.rpn(features())
    (proposals,) = propose(detector.config.rpn, objectness, deltas, [WHOLE], 10)
    assert deltas.requires_grad
    assert not proposals.requires_grad


@torch.inference_mode()
def test_a_batch_equals_one_by_one() -> None:
    detector = tiny_detector()
    images = video(3)
    batch = prepare(images, INPUTS)
    together = detector.detect(FrameFeatures(0, detector.extract(batch.images), batch.geometries))
    assert len(together) == 3
    for number, image in enumerate(images):
        single = prepare([image], INPUTS)
        (alone,) = detector.detect(FrameFeatures(0, detector.extract(single.images), single.geometries))
        assert len(alone[0]) > 10
        for one, other in zip(together[number], alone, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-3)


@torch.inference_mode()
def test_boxes_stay_in_the_original_image() -> None:
    detector = tiny_detector()
    batch = prepare(video(1, size=(40, 88)), INPUTS)
    ((boxes, scores, labels),) = detector.detect(FrameFeatures(0, detector.extract(batch.images), batch.geometries))
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 88
    assert boxes[:, 3].max() <= 40
    assert (boxes[:, 2:] >= boxes[:, :2]).all()
    assert scores.max() <= 1
    assert set(labels.tolist()) <= {0, 1, 2}


def test_rois_are_the_proposals_filled_up_with_their_features_in_the_shared_layers() -> None:
    detector = tiny_detector()
    batch = prepare(video(2), INPUTS)
    head = detector.roi_head
    assert isinstance(head, RoIHead)
    with torch.inference_mode():
        maps = detector.extract(batch.images)
        proposals = detector._propose(maps, batch.geometries, detector.config.rpn.post_nms_top_n)
        found = detector.rois(maps, batch.geometries)
        first, second = head.layers(detector._pool(maps, proposals))
    counts = [len(boxes) for boxes in proposals]
    assert found.mask.sum(dim=1).tolist() == counts
    assert found.boxes.shape == (2, max(counts), 4)
    for row, boxes in enumerate(proposals):
        assert torch.equal(found.boxes[row][found.mask[row]], boxes)
    for layer, wanted in zip(found.layers, (first, second), strict=True):
        torch.testing.assert_close(layer[found.mask], wanted)


class _Doubled(RoIAttention):
    """Adds one to RoI features, and doubles them after each layer."""

    def pool(self, pooled: Tensor, rois: Sequence[Tensor], maps: Maps, support: object) -> Tensor:
        return pooled + 1

    def attend(self, layer: int, features: Tensor, plain: Tensor, counts: Sequence[int], support: object) -> Tensor:
        return 2 * features


@torch.no_grad()
def test_attention_follows_pooling_and_each_shared_layer_where_there_is_support() -> None:
    widths: list[Sequence[int]] = []

    def attention(layers: Sequence[int]) -> RoIAttention:
        widths.append(layers)
        return _Doubled()

    config = FasterRCNNConfig(
        EfficientNetLite0Config(), MergeNeckConfig(8), RPNConfig(channels=8), RoIHeadConfig(hidden=16)
    )
    detector = config.build(3, attention).eval()
    assert widths == [(8, 16, 16)]
    assert "roi_head" not in detector.parts()
    head = detector.roi_head
    assert isinstance(head, RoIHead)
    boxes = [torch.tensor([[4.0, 4, 40, 40], [20, 10, 90, 60]])]
    plain = detector._classify(FrameFeatures(0, (features(),), (WHOLE,)), boxes)
    attending = detector._classify(FrameFeatures(0, (features(),), (WHOLE,), support=()), boxes)
    pooled = roi_align(features(), boxes, 7, 16)
    fc1, fc2 = (head.get_submodule(name) for name in ("fc1", "fc2"))
    hidden = (2 * fc2((2 * fc1((pooled + 1).flatten(1))).relu())).relu()
    for found, wanted in zip(plain, head(pooled), strict=True):
        torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(attending[0], head.classes(hidden))
    torch.testing.assert_close(attending[1], head.deltas(hidden).unflatten(1, (-1, 4)))
