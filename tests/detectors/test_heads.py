"""RPN and RoI head, mostly where there is little or nothing to work on."""

import math
from collections.abc import Sequence
from types import ModuleType

import pytest
import torch
from flowdet.detectors.roi_head import RoIHead, RoIHeadConfig
from flowdet.detectors.rpn import RPN, RPNConfig
from torch import Tensor
from torchvision.ops import box_iou

from flowdet.detectors import roi_head as roi_head_module
from flowdet.detectors import rpn as rpn_module
from flowdet.ops.boxes import Chooser, Sample, sample
from flowdet.types import Geometry, Targets
from tests.tiny import tiny_detector

Losses = dict[str, Tensor]

WHOLE = Geometry((64, 96), (64, 96), (64, 96))
NARROW = Geometry((64, 40), (64, 40), (64, 96))
NO_TARGETS = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
NO_BOXES = torch.zeros(0, 4)


def features(batch: int = 1, seed: int = 0) -> Tensor:
    return torch.randn(batch, 8, 4, 6, generator=torch.Generator().manual_seed(seed))


def targets(*boxes: tuple[float, float, float, float]) -> Targets:
    return Targets(torch.tensor(boxes), torch.arange(len(boxes)) % 3)


def rpn_losses(rpn: RPN, features: Tensor, geometries: Sequence[Geometry], truths: Sequence[Targets]) -> Losses:
    objectness, deltas = rpn(features)
    return rpn.losses(objectness, deltas, geometries, truths, [first_ones] * len(truths))


def detect(head: RoIHead, features: Tensor, boxes: Sequence[Tensor]) -> list[tuple[Tensor, Tensor, Tensor]]:
    logits, deltas = head(features, boxes)
    return head.detect(logits, deltas, boxes, [WHOLE] * len(boxes))


def first_ones(indices: Tensor, count: int) -> Tensor:
    return indices[:count]


def test_anchors_are_centred_on_the_corners_of_cells_and_keep_their_area() -> None:
    rpn = RPN(RPNConfig(channels=4, scales=(2.0, 4.0), ratios=(0.5, 1.0)), 4)
    anchors = rpn.anchors(3, 5, torch.device("cpu"))
    assert anchors.shape == (3 * 5 * 4, 4)
    of_cells = anchors.reshape(3, 5, 4, 4)
    centres = (of_cells[..., :2] + of_cells[..., 2:]) / 2
    torch.testing.assert_close(centres[2, 4], torch.tensor([64.0, 32]).expand(4, 2))
    sizes = (of_cells[..., 2:] - of_cells[..., :2])[0, 0]
    torch.testing.assert_close(sizes.prod(dim=1).sqrt(), torch.tensor([32.0, 64, 32, 64]))
    torch.testing.assert_close(sizes[:, 1] / sizes[:, 0], torch.tensor([0.5, 0.5, 1, 1]))


def test_a_new_rpn_proposes_its_anchors() -> None:
    rpn = RPN(RPNConfig(channels=4, scales=(1.0,), ratios=(1.0,), post_nms_top_n=100), 8)
    objectness, deltas = rpn(features())
    (proposals,) = rpn.propose(objectness, torch.zeros_like(deltas), [WHOLE], 100)
    anchors = rpn.anchors(4, 6, torch.device("cpu"))
    inside = anchors.clamp(min=0)
    assert {tuple(box) for box in proposals.tolist()} == {tuple(box) for box in inside.tolist()}


def propose_slowly(rpn: RPN, objectness: Tensor, deltas: Tensor, geometry: Geometry, count: int) -> list[list[float]]:
    scored = []
    anchors = rpn.anchors(4, 6, torch.device("cpu")).reshape(4, 6, -1, 4)
    for (y, x, a), logit in (
        (tuple(i), objectness[0, i[2], i[0], i[1]].item())
        for i in torch.ones(4, 6, anchors.shape[2]).nonzero().tolist()
    ):
        x1, y1, x2, y2 = anchors[y, x, a].tolist()
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
        if all(box_iou(torch.tensor([box]), torch.tensor([other])).item() <= rpn.config.nms_iou for other in kept):
            kept.append(box)
    return kept[:count]


@pytest.mark.parametrize("geometry", [WHOLE, NARROW])
def test_proposals_step_by_step(geometry: Geometry) -> None:
    rpn = tiny_detector().rpn
    with torch.inference_mode():
        objectness, deltas = rpn(features())
        (proposals,) = rpn.propose(objectness, deltas / 4, [geometry], 25)
        wanted = propose_slowly(rpn, objectness, deltas / 4, geometry, 25)
    torch.testing.assert_close(proposals, torch.tensor(wanted), rtol=1e-4, atol=1e-3)


def test_only_the_best_anchors_are_candidates() -> None:
    rpn = RPN(RPNConfig(channels=4, scales=(1.0,), ratios=(1.0,), pre_nms_top_n=3), 8)
    objectness = torch.arange(24.0).reshape(1, 1, 4, 6)
    (proposals,) = rpn.propose(objectness, torch.zeros(1, 4, 4, 6), [WHOLE], 100)
    assert proposals.tolist() == [[72, 40, 88, 56], [56, 40, 72, 56], [40, 40, 56, 56]]


@pytest.mark.parametrize("some", [NO_TARGETS, targets((10, 10, 50, 50))])
def test_losses_of_images_with_and_without_objects(some: Targets) -> None:
    detector = tiny_detector()
    losses = detector.losses(features().requires_grad_(), [WHOLE], [some], [first_ones])
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
    head = tiny_detector().roi_head
    losses = head.losses(features(), [NO_BOXES], [NO_TARGETS], [first_ones])
    assert {name: loss.item() for name, loss in losses.items()} == {"roi_classes": 0, "roi_boxes": 0}
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in head.parameters())


def test_losses_without_any_anchor_inside() -> None:
    rpn = RPN(RPNConfig(channels=4, scales=(8.0,)), 8)
    losses = rpn_losses(rpn, features(), [WHOLE], [targets((10, 10, 50, 50))])
    assert {name: loss.item() for name, loss in losses.items()} == {"rpn_objectness": 0, "rpn_boxes": 0}


def test_one_image_without_proposals_beside_one_with() -> None:
    detector = tiny_detector()
    boxes = torch.tensor([[4.0, 4, 40, 40], [20, 10, 90, 60]])
    with torch.inference_mode():
        nothing, something = detect(detector.roi_head, features(2), [NO_BOXES, boxes])
        alone = detect(detector.roi_head, features(2)[1:], [boxes])
    assert [part.shape for part in nothing] == [(0, 4), (0,), (0,)]
    assert len(something[0]) > 0
    for one, other in zip(something, alone[0], strict=True):
        torch.testing.assert_close(one, other)


def test_detection_without_any_proposal() -> None:
    head = tiny_detector().roi_head
    with torch.inference_mode():
        ((boxes, scores, labels),) = detect(head, features(), [NO_BOXES])
    assert (boxes.shape, scores.shape, labels.shape) == ((0, 4), (0,), (0,))
    assert (boxes.dtype, scores.dtype, labels.dtype) == (torch.float32, torch.float32, torch.int64)


def one_hot(*labels: int, classes: int = 3) -> Tensor:
    return 10 * torch.nn.functional.one_hot(torch.tensor(labels), classes + 1).float()


def test_detections_are_in_pixels_of_the_original_image() -> None:
    head = RoIHead(RoIHeadConfig(hidden=4), 8, 3)
    geometry = Geometry(original=(128, 48), valid=(64, 96), padded=(64, 96))
    boxes = torch.tensor([[16.0, 8, 48, 40], [80, 40, 200, 200]])
    ((found, scores, labels),) = head.detect(one_hot(2, 0), torch.zeros(2, 3, 4), [boxes], [geometry])
    best = {int(label): box for label, box in reversed(list(zip(labels, found.tolist(), strict=True)))}
    assert best[2] == [8, 16, 24, 80]
    assert best[0] == [40, 80, 48, 128]
    assert (scores[:-1] >= scores[1:]).all()


def test_boxes_of_one_class_suppress_each_other_and_background_is_no_detection() -> None:
    head = RoIHead(RoIHeadConfig(hidden=4, score_threshold=0.1), 8, 3)
    boxes = torch.tensor([[0.0, 0, 40, 40], [1, 0, 41, 40], [0, 0, 40, 41], [50, 0, 90, 40]])
    logits = one_hot(1, 1, 2, 3) * torch.tensor([1.0, 0.9, 1, 1])[:, None]
    ((found, _, labels),) = head.detect(logits, torch.zeros(4, 3, 4), [boxes], [WHOLE])
    assert sorted(zip(labels.tolist(), found.tolist(), strict=True)) == [(1, [0, 0, 40, 40]), (2, [0, 0, 40, 41])]


def test_each_class_has_its_own_deltas_or_all_share_them() -> None:
    boxes = torch.tensor([[20.0, 20, 40, 40]])
    deltas = torch.zeros(1, 3, 4)
    deltas[0, 2, 0] = 1
    for specific, moved in ((True, deltas), (False, deltas[:, 2:])):
        head = RoIHead(RoIHeadConfig(hidden=4, class_specific_boxes=specific, score_threshold=0.5), 8, 3)
        assert head.deltas.out_features == 4 * (3 if specific else 1)
        for label in range(3):
            ((found, _, _),) = head.detect(one_hot(label), moved, [boxes], [WHOLE])
            shift = 4 if label == 2 or not specific else 0
            assert found.tolist() == [[20 + shift, 20, 40 + shift, 40]]


def test_at_most_so_many_detections_and_none_below_the_least_score() -> None:
    head = RoIHead(RoIHeadConfig(hidden=4, max_detections=5, score_threshold=0.2), 8, 3)
    boxes = torch.stack([torch.tensor([x, y, x + 9.0, y + 9]) for x in range(0, 90, 10) for y in range(0, 50, 10)])
    logits = torch.randn(len(boxes), 4, generator=torch.Generator().manual_seed(0))
    ((_, scores, _),) = head.detect(logits, torch.zeros(len(boxes), 3, 4), [boxes], [WHOLE])
    every = logits.softmax(1)[:, :3].flatten()
    torch.testing.assert_close(scores, every.sort(descending=True).values[:5])
    ((_, scores, _),) = head.detect(logits[:3], torch.zeros(3, 3, 4), [boxes[:3]], [WHOLE])
    assert len(scores) == (logits[:3].softmax(1)[:, :3] > 0.2).sum() < 9


def test_ground_truth_is_among_the_rois() -> None:
    head = tiny_detector().roi_head
    chosen: list[Tensor] = []

    def note(module: object, arguments: tuple[Tensor, Sequence[Tensor]]) -> None:
        chosen.extend(arguments[1])

    head.register_forward_pre_hook(note)
    truth = targets((10, 10, 50, 50), (60, 5, 90, 60))
    head.losses(features(), [torch.tensor([[0.0, 0, 8, 8]])], [truth], [first_ones])
    assert chosen[0].tolist() == [*truth.boxes.tolist(), [0, 0, 8, 8]]


def counted(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> list[tuple[int, int]]:
    """Takes down how many positives and negatives each image gives."""
    counts: list[tuple[int, int]] = []

    def counting(matches: Tensor, count: int, share: float, choose: Chooser) -> Sample:
        result = sample(matches, count, share, choose)
        counts.append((len(result.positives), len(result.negatives)))
        return result

    monkeypatch.setattr(module, "sample", counting)
    return counts


def test_half_of_the_anchors_and_a_quarter_of_the_rois_are_positive_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    of_anchors, of_rois = counted(monkeypatch, rpn_module), counted(monkeypatch, roi_head_module)
    rpn = RPN(RPNConfig(channels=8, scales=(1.0,), ratios=(1.0,), sampled=10), 8)
    eight = [(16.0 * x - 8, 16.0 * y - 8, 16.0 * x + 8, 16.0 * y + 8) for x in (1, 2, 3, 4) for y in (1, 2)]
    rpn_losses(rpn, features(), [WHOLE], [targets(*eight)])
    assert of_anchors == [(5, 5)]
    boxes = torch.cat(
        (torch.tensor([[10.0, 10, 50, 50]]).repeat(30, 1), torch.tensor([[60.0, 0, 90, 60]]).repeat(30, 1))
    )
    tiny_detector().roi_head.losses(features(), [boxes], [targets((10, 10, 50, 50))], [first_ones])
    assert of_rois == [(6, 18)]


def test_losses_of_a_batch_are_means_over_its_images(monkeypatch: pytest.MonkeyPatch) -> None:
    detector, counts = tiny_detector(), counted(monkeypatch, rpn_module)
    geometries = [WHOLE, Geometry((64, 24), (64, 24), (64, 96))]
    truths = [targets((10, 10, 50, 50)), targets((2, 20, 18, 50))]
    together = rpn_losses(detector.rpn, features(2), geometries, truths)
    alone = [
        rpn_losses(detector.rpn, features(2)[n : n + 1], geometries[n : n + 1], truths[n : n + 1]) for n in range(2)
    ]
    first, second = (sum(of_image) for of_image in counts[2:])
    assert counts[:2] == counts[2:]
    assert first != second
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)

    proposals = [torch.tensor([[8.0, 8, 48, 52], [60, 4, 90, 40]]), torch.tensor([[0.0, 0, 20, 20]])]
    together = detector.roi_head.losses(features(2), proposals, truths, [first_ones] * 2)
    alone = [
        detector.roi_head.losses(features(2)[n : n + 1], proposals[n : n + 1], truths[n : n + 1], [first_ones])
        for n in range(2)
    ]
    for name, loss in together.items():
        torch.testing.assert_close(loss, (alone[0][name] + alone[1][name]) / 2)


def test_proposals_are_constants_for_the_second_stage() -> None:
    detector = tiny_detector()
    objectness, deltas = detector.rpn(features())
    (proposals,) = detector.rpn.propose(objectness, deltas, [WHOLE], 10)
    assert deltas.requires_grad
    assert not proposals.requires_grad
