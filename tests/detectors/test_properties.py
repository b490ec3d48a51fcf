"""What every detector keeps to; whatever has a recipe is tested without being named here."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from flowdet.backends.parts import system_parts, with_runs
from flowdet.detectors.base import Detector, DetectorConfig, Run
from flowdet.detectors.nanodet import NanoDetConfig
from flowdet.detectors.one_stage import OneStageConfig
from flowdet.errors import ConfigError
from flowdet.inputs import InputConfig
from flowdet.ops.boxes import choose_randomly
from flowdet.systems.build import build
from flowdet.systems.config import SystemConfig, config_from_json, config_to_json
from flowdet.systems.recipes import RECIPES
from flowdet.types import FrameFeatures, Geometry, Targets
from tests.tiny import frames_of, video

CLASSES = 5


def smallest_of_each_kind() -> dict[str, SystemConfig]:
    """Of the recipes whose detectors have the same class, the one whose configuration builds the smallest."""
    found: dict[type, tuple[int, SystemConfig]] = {}
    for make in RECIPES.values():
        config = make()
        with torch.device("meta"):
            size = sum(each.numel() for each in config.detector.build(CLASSES).parameters())
        if size < found.get(type(config.detector), (size + 1, config))[0]:
            found[type(config.detector)] = size, config
    return {kind.__name__: config for kind, (_, config) in found.items()}


def with_predictions(config: SystemConfig) -> SystemConfig:
    """The same, whose maps are the predictions."""
    assert isinstance(config.detector, OneStageConfig)
    return replace(config, detector=replace(config.detector, maps="predictions"))


KINDS = smallest_of_each_kind()
ONE_STAGE = [kind for kind, config in KINDS.items() if isinstance(config.detector, OneStageConfig)]
KINDS |= {f"{kind}, predictions": with_predictions(KINDS[kind]) for kind in ONE_STAGE}
EVERY_DETECTOR = pytest.mark.parametrize("kind", KINDS)


def detector_of(kind: str) -> Detector:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return KINDS[kind].detector.build(CLASSES).eval()


def image_features(detector: Detector, count: int = 2) -> FrameFeatures:
    """Features of noise, 50x90 px of an image of 100x180 in an input of 64x96."""
    images = torch.randn(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    geometry = Geometry(original=(100, 180), valid=(50, 90), padded=(64, 96))
    return FrameFeatures(0, detector.extract(images), (geometry,) * count)


def targets_of(count: int) -> Targets:
    boxes = torch.tensor([[4.0, 6.0, 40.0, 44.0], [30.0, 10.0, 88.0, 48.0]])
    return Targets(boxes[:count], torch.tensor([1, 4])[:count])


@EVERY_DETECTOR
def test_maps_are_as_they_are_announced(kind: str) -> None:
    detector = detector_of(kind)
    maps = detector.extract(torch.zeros(2, 3, 64, 96))
    assert list(detector.strides) == sorted(detector.strides)
    assert [each.shape for each in maps] == [
        (2, channels, 64 // stride, 96 // stride)
        for channels, stride in zip(detector.channels, detector.strides, strict=True)
    ]


@EVERY_DETECTOR
@torch.inference_mode()
def test_detections_lie_in_the_original_image_best_first(kind: str) -> None:
    detector = detector_of(kind)
    found = detector.detect(image_features(detector))
    assert len(found) == 2
    for boxes, scores, labels in found:
        count = len(boxes)
        assert boxes.shape == (count, 4)
        assert scores.shape == labels.shape == (count,)
        assert (scores.diff() <= 0).all()
        assert labels.dtype == torch.int64
        assert ((labels >= 0) & (labels < CLASSES)).all()
        assert (boxes[:, :2] <= boxes[:, 2:]).all()
        assert (boxes >= 0).all()
        assert (boxes <= torch.tensor([180.0, 100.0, 180.0, 100.0]) + 1e-3).all()


@EVERY_DETECTOR
@torch.inference_mode()
def test_a_batch_equals_one_by_one(kind: str) -> None:
    detector = detector_of(kind)
    together = image_features(detector)
    for row, found in enumerate(detector.detect(together)):
        maps = tuple(each[row : row + 1] for each in together.maps)
        (alone,) = detector.detect(FrameFeatures(0, maps, together.geometries[:1]))
        torch.testing.assert_close(found[1], alone[1], rtol=1e-4, atol=1e-5)


@EVERY_DETECTOR
@torch.inference_mode()
def test_what_is_not_wanted_may_be_left_out_and_changes_nothing_else(kind: str) -> None:
    config = KINDS[kind].detector
    if isinstance(config, OneStageConfig):
        config = replace(config, score_threshold=0.0)  # random weights are sure of nothing
    torch.manual_seed(0)
    detector = config.build(CLASSES).eval()
    for parameter in detector.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.05)
    features = image_features(detector)
    whole = detector.detect(features)
    score = torch.cat([scores for _, scores, _ in whole]).median().item()
    for (boxes, scores, labels), strong in zip(whole, detector.detect(features, score), strict=True):
        assert 0 < len(strong[1]) < len(scores)
        for every, kept in zip((boxes, scores, labels), strong, strict=True):
            assert torch.equal(every[scores >= score], kept)


@EVERY_DETECTOR
@torch.inference_mode()
def test_classes_suppress_each_other_if_asked(kind: str) -> None:
    config = KINDS[kind].detector
    with torch.random.fork_rng():
        torch.manual_seed(0)
        detector = config.with_agnostic_nms().build(CLASSES).eval()
    features = image_features(detector)
    for (boxes, scores, _), (others, weaker, _) in zip(
        detector.detect(features), detector_of(kind).detect(features), strict=True
    ):
        assert torch.equal(boxes[:1], others[:1])
        assert len(scores) == len(weaker) == 0 or scores.sum() < weaker.sum()


@EVERY_DETECTOR
def test_losses_have_gradients_and_no_object_is_no_trouble(kind: str) -> None:
    detector = detector_of(kind).train()
    for targets in ((targets_of(2), targets_of(1)), (targets_of(0), targets_of(2)), (targets_of(0), targets_of(0))):
        detector.zero_grad()
        losses = detector.losses(image_features(detector), targets, (choose_randomly,) * 2)
        total = torch.stack(list(losses.values())).sum()
        assert torch.isfinite(total)
        total.backward()
        gradients = [parameter.grad for parameter in detector.parameters() if parameter.grad is not None]
        assert gradients
        assert all(torch.isfinite(each).all() for each in gradients)


@EVERY_DETECTOR
def test_the_rows_of_classes_are_named(kind: str) -> None:
    config: DetectorConfig = KINDS[kind].detector
    few, many = (config.build(count).state_dict() for count in (CLASSES, CLASSES + 2))
    grown = {key: (few[key].shape[0], many[key].shape[0]) for key in few if few[key].shape != many[key].shape}
    assert {key.rpartition(".")[0] for key in grown} == set(config.classifier)
    for key, (before, after) in grown.items():
        assert after - before == 2 * config.classifier[key.rpartition(".")[0]]


@EVERY_DETECTOR
def test_its_configuration_is_saved_and_read(kind: str) -> None:
    assert config_from_json(config_to_json(KINDS[kind])) == KINDS[kind]
    assert KINDS[kind].detector.label


@EVERY_DETECTOR
@torch.inference_mode()
def test_every_part_is_called_and_may_be_computed_by_something_else(kind: str) -> None:
    torch.manual_seed(0)
    system = build(KINDS[kind])
    called: set[str] = set()

    def watched(name: str, module: nn.Module) -> Run:
        def run(*inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
            called.add(name)
            found: Tensor | tuple[Tensor, ...] = module(*inputs)
            return found if isinstance(found, tuple) else (found,)

        return run

    parts: Mapping[str, nn.Module] = system_parts(system)
    assert "features" in parts
    computed = system.with_parts(with_runs(system, {name: watched(name, part) for name, part in parts.items()}), "x")
    frames = list(frames_of(video(2, size=(64, 96))))
    for one, other in zip(computed.detect(frames), system.detect(frames), strict=True):
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert called >= {name for name in parts if name in system.detector.parts()}


def test_the_smallest_inputs_are_padded_to_what_every_stride_divides() -> None:
    for name, make in RECIPES.items():
        config = make()
        with torch.device("meta"):
            coarsest = max(config.detector.build(CLASSES).strides)
        inputs: InputConfig = config.inputs
        assert inputs.multiple % coarsest == 0, name


@pytest.mark.parametrize("kind", ONE_STAGE)
@torch.inference_mode()
def test_maps_of_predictions_lead_to_the_same_detections(kind: str) -> None:
    usual, early = detector_of(kind), detector_of(f"{kind}, predictions")
    for found, other in zip(usual.detect(image_features(usual)), early.detect(image_features(early)), strict=True):
        for one, same in zip(found, other, strict=True):
            assert torch.equal(one, same)


def test_maps_are_features_or_predictions() -> None:
    with pytest.raises(ConfigError, match='"features" or "predictions", not \'boxes\''):
        NanoDetConfig(maps="boxes")  # type: ignore[arg-type]
