from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from flowdet.class_names import COCO_CLASSES
from flowdet.detectors.base import RoIAttention
from flowdet.detectors.nanodet import NanoDet, NanoDetConfig
from flowdet.detectors.one_stage import Cells
from flowdet.errors import ConfigError
from flowdet.inputs import InputConfig, prepare
from flowdet.systems.load import load
from flowdet.systems.recipes import single_nano
from flowdet.types import FrameFeatures, Geometry, Targets
from tests.golden.one_stage import NUMBERS
from tests.seeded import synthetic_clip


@pytest.fixture(scope="module")
def shipped() -> NanoDet:
    detector = load("single-nano").detector
    assert isinstance(detector, NanoDet)
    return detector


def cells(detector: NanoDet, images: Tensor) -> tuple[Tensor, Tensor]:
    """Scores [n, 80] and distance logits [n, 44] of all levels."""
    predictions, _ = detector.predict(detector.extract(images))
    return predictions[0, :, 44:].sigmoid(), predictions[0, :, :44]


@torch.inference_mode()
def test_outputs_are_those_of_the_published_graph(shipped: NanoDet) -> None:
    inputs = prepare(list(synthetic_clip(1, (416, 416), 6)), single_nano().inputs)
    scores, logits = cells(shipped, inputs.images)
    with np.load(NUMBERS) as recorded:
        torch.testing.assert_close(scores[::25], torch.from_numpy(recorded["nanodet.scores"]), rtol=0, atol=1e-4)
        torch.testing.assert_close(logits[::25], torch.from_numpy(recorded["nanodet.logits"]), rtol=0, atol=1e-3)


@torch.inference_mode()
def test_outputs_on_real_frames_are_those_of_the_published_graph(shipped: NanoDet, reference: Path) -> None:
    exact = replace(single_nano().inputs, multiple=416)
    with np.load(reference / "nanodet" / "nanodet_g_real.npz") as recorded:
        for frame in range(3):
            scores, logits = cells(shipped, prepare([recorded[f"{frame}.pixels"]], exact).images)
            levels = ((scores, "cls"), (logits, "reg"))
            for values, name in levels:
                # Every third cell of each level was kept.
                own = [level[::3] for level in values.split((52 * 52, 26 * 26, 13 * 13))]
                for level, stride in zip(own, (8, 16, 32), strict=True):
                    wanted = torch.from_numpy(recorded[f"{frame}.{name}{stride}"])
                    torch.testing.assert_close(level, wanted, rtol=0, atol=1e-3)


def test_the_shipped_weights_know_the_classes_of_coco() -> None:
    system = load("single-nano")
    assert system.config.class_names == COCO_CLASSES
    assert len(COCO_CLASSES) == len(set(COCO_CLASSES)) == 80
    assert sum(parameter.numel() for parameter in system.parameters()) == 3_786_068


@torch.inference_mode()
def test_boxes_are_decoded_from_the_expected_distances() -> None:
    detector = NanoDetConfig(score_threshold=0.5).build_one_stage(2).eval()
    predictions = torch.zeros(4, 46)
    # A cell at (12, 20) of stride 8: 2.5 strides to the left, 1.5 up, 3.5 to the right, 4.5 down.
    for side, place in enumerate((2, 1, 3, 4)):
        predictions[1, side * 11 + place : side * 11 + place + 2] = 200
    predictions[:, 44:] = -10
    predictions[1, 45] = 2
    boxes = detector.boxes(predictions, Cells(torch.tensor([[12.0, 20.0]] * 4), torch.full((4, 1), 8.0)))
    torch.testing.assert_close(boxes[1], torch.tensor([12 - 20.0, 20 - 12.0, 12 + 28.0, 20 + 36.0]))
    assert (detector.scores(predictions) > 0.5).nonzero().tolist() == [[1, 1]]


def uniform(detector: NanoDet, scores: dict[tuple[int, int], float]) -> FrameFeatures:
    """Features whose head predicts these logits by (cell, class) at stride 8 of a 32 x 32 image, boxes of one size."""
    levels = [torch.full((1, 44 + 2, side, side), -10.0) for side in (4, 2, 1)]
    levels[0][:, :44] = 0
    for (cell, label), logit in scores.items():
        levels[0][0, 44 + label].view(-1)[cell] = logit
    detector.head.forward = lambda *maps: tuple(levels)
    return FrameFeatures(0, (torch.zeros(1),) * 3, (Geometry((64, 64), (32, 32), (32, 32)),))


def test_classes_suppress_each_other_only_on_request() -> None:
    scores = {(5, 0): 2.0, (5, 1): 1.0, (6, 0): 0.0}
    for agnostic, wanted in ((False, [0, 1]), (True, [0])):
        detector = NanoDetConfig(class_agnostic_nms=agnostic, score_threshold=0.1).build_one_stage(2)
        ((boxes, found, labels),) = detector.detect(uniform(detector, scores))
        assert labels.tolist() == wanted
        # Boxes are clamped to the network input, then brought back to the original image of twice the size.
        torch.testing.assert_close(boxes[0], torch.tensor([0.0, 0.0, 64.0, 64.0]))
        torch.testing.assert_close(found, torch.tensor([2.0, 1.0])[: len(wanted)].sigmoid())


def test_the_number_of_detections_is_bounded() -> None:
    detector = NanoDetConfig(max_detections=1, score_threshold=0.1).build_one_stage(2)
    ((_, _, labels),) = detector.detect(uniform(detector, {(5, 0): 1.0, (5, 1): 2.0}))
    assert labels.tolist() == [1]


def predicted(detector: NanoDet, images: Tensor) -> FrameFeatures:
    size = (images.shape[2], images.shape[3])
    return FrameFeatures(0, detector.extract(images), (Geometry(size, size, size),) * len(images))


def test_one_image_is_learnt(shipped: NanoDet) -> None:
    detector = NanoDetConfig().build_one_stage(2).train()
    weights = {name: tensor for name, tensor in shipped.state_dict().items() if ".classes." not in name}
    detector.load_state_dict(weights, strict=False)
    torch.manual_seed(0)
    images = torch.randn(1, 3, 64, 96) * 0.3
    images[:, :, 8:56, 8:40] += 1
    images[:, 1:, 10:30, 50:90] -= 1
    targets = [Targets(torch.tensor([[8.0, 8.0, 40.0, 56.0], [50.0, 10.0, 90.0, 30.0]]), torch.tensor([1, 0]))]
    optimizer = torch.optim.AdamW(detector.parameters(), lr=1e-3)
    history = []
    for _ in range(30):
        losses = detector.losses(predicted(detector, images), targets, [])
        optimizer.zero_grad()
        sum(losses.values(), torch.zeros(())).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in detector.parameters())
        optimizer.step()
        history.append({name: loss.item() for name, loss in losses.items()})
    assert all(history[-1][name] < 0.7 * first for name, first in history[0].items())
    ((boxes, scores, labels),) = detector.eval().detect(predicted(detector, images))
    assert labels[:2].sort().values.tolist() == [0, 1]
    assert scores[1] > 0.3
    torch.testing.assert_close(boxes[labels == 1][0], targets[0].boxes[0], rtol=0, atol=4.0)


def test_an_image_without_objects_leaves_no_parameter_out() -> None:
    detector = NanoDetConfig().build_one_stage(2)
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    losses = detector.losses(predicted(detector, torch.randn(2, 3, 64, 64)), [nothing] * 2, [])
    assert losses["boxes"] == losses["distances"] == 0
    assert losses["classes"] > 0
    sum(losses.values(), torch.zeros(())).backward()
    gradients = [parameter.grad for parameter in detector.parameters()]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)


def test_a_roi_level_method_is_refused() -> None:
    with pytest.raises(ConfigError, match="two-stage"):
        NanoDetConfig().build(2, lambda widths: RoIAttention())


def test_padding_has_the_value_of_the_configuration() -> None:
    config = InputConfig(64, 64, mean=(0.0,) * 3, std=(1.0,) * 3, multiple=32, padding=114.0)
    (image,) = synthetic_clip(1, (40, 64), 0)
    images = prepare([image], config).images
    assert images.shape == (1, 3, 64, 64)
    assert (images[:, :, 40:] == 114).all()
    torch.testing.assert_close(images[0, :, :40].permute(1, 2, 0), torch.from_numpy(image).float())
