"""SELSA and Temporal RoI Align on videos that are short, live, side by side, or without proposals."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from flowdet.detectors.faster_rcnn import FasterRCNN
from flowdet.errors import ConfigError
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.selsa import SELSAConfig
from flowdet.temporal.temporal_roi_align import TemporalRoIAlignConfig
from flowdet.types import Attention, Geometry, Maps
from tests.tiny import assert_batch_equals_one_by_one, frames_of, lite_config, video

FORMS = [
    form
    for method in (SELSAConfig(heads=4), TemporalRoIAlignConfig(heads=4))
    for form in (method, method.causal(), replace(method, source="past", stride=2, memory=3))
]
EVERY_FORM = pytest.mark.parametrize("form", FORMS, ids=str)


def system_of(form: SELSAConfig) -> VideoDetector:
    torch.manual_seed(0)
    system = build(replace(lite_config(), method=form))
    assert isinstance(system.detector, FasterRCNN)
    for parameter in system.detector.rpn.parameters():
        nn.init.normal_(parameter, std=0.3)
    # So that no difference between features is rounded away on the way to the scores.
    nn.init.normal_(system.detector.get_parameter("roi_head.classes.weight"), std=0.1)
    return system


@EVERY_FORM
@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_video_shorter_than_the_references(form: SELSAConfig, length: int) -> None:
    found = list(system_of(form).detect(list(frames_of(video(length, size=(64, 96))))))
    assert len(found) == length
    assert all(len(each) and np.isfinite(each.scores).all() for each in found)


@EVERY_FORM
def test_streams_in_a_batch_equal_one_by_one(form: SELSAConfig) -> None:
    # In float32 which of two RoIs with nearly one score is dropped depends on the processor.
    assert_batch_equals_one_by_one(system_of(form).double())


@EVERY_FORM
def test_frames_without_proposals_have_no_detections(form: SELSAConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_of(form)
    monkeypatch.setattr(system.detector, "_propose", lambda maps, geometries, count: [torch.zeros(0, 4)])
    assert [len(each) for each in system.detect(list(frames_of(video(3, size=(64, 96)))))] == [0, 0, 0]


@EVERY_FORM
def test_a_reference_without_proposals_is_as_if_it_were_not_there(
    form: SELSAConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only its map is still compared with, if the method keeps maps."""
    system = system_of(form)
    detector, frames = system.detector, list(frames_of(video(6, size=(64, 96))))
    assert isinstance(detector, FasterRCNN)
    propose, calls = detector._propose, [0]

    def second_has_none(maps: Maps, geometries: Sequence[Geometry], count: int) -> list[torch.Tensor]:
        calls[0] += 1
        return [torch.zeros(0, 4)] if calls[0] == 2 else propose(maps, geometries, count)

    usual = list(system.detect(frames))
    monkeypatch.setattr(detector, "_propose", second_has_none)
    found = list(system.detect(frames))
    assert [len(each) > 0 for each in found] == [bool(form.preview) or place != 1 for place in range(6)]
    assert all(np.isfinite(each.scores).all() for each in found)
    if not form.stride:  # else the second frame is no reference
        assert not np.array_equal(found[5].scores, usual[5].scores)


@EVERY_FORM
def test_the_rois_of_a_frame_are_computed_once(form: SELSAConfig) -> None:
    system, calls = system_of(form), []
    assert isinstance(system.detector, FasterRCNN)
    system.detector.rpn.register_forward_hook(lambda *_: calls.append(1))
    assert len(list(system.detect(list(frames_of(video(20, size=(64, 96))))))) == 20
    assert len(calls) == 20 + form.preview


@pytest.mark.parametrize("form", [form for form in FORMS if form.preview], ids=str)
def test_a_video_that_changes_its_size_takes_references_of_each_size(form: SELSAConfig) -> None:
    small, large = (list(frames_of(video(length, size=size))) for length, size in ((5, (64, 96)), (4, (96, 64))))
    system = system_of(form)
    changing = [*small, *large]
    together = list(system.detect_many([changing, [*small, large[0]], large]))
    assert [outcome.source for outcome in together].count(0) == 9
    alone = [list(system.detect(source)) for source in (changing, [*small, large[0]], large)]
    for source, wanted in enumerate(alone):
        found = [outcome.detections for outcome in together if outcome.source == source]
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.scores, other.scores, atol=1e-4)


@EVERY_FORM
def test_what_boxes_attend_to_sums_to_one(form: SELSAConfig) -> None:
    system = system_of(form)
    for outcome in system.detect_many([list(frames_of(video(5, size=(64, 96))))]):
        features = outcome.features
        assert isinstance(features.origin, Attention)
        assert features.rois
        weights = system.attended(features, outcome.detections.boxes[:3])
        frames, own = features.origin.frames, int(features.rois.mask.sum())
        assert weights.shape == (3, frames.shape[1] + own)
        assert features.origin.boxes.shape == (*frames.shape, 4)
        torch.testing.assert_close(weights.sum(dim=1), torch.ones(3))
        if not form.preview:
            assert set(frames.unique().tolist()) < {*range(features.index)} | {-1}


@pytest.mark.parametrize("form", [form for form in FORMS if form.preview], ids=str)
def test_a_source_that_is_read_once_needs_the_causal_form(form: SELSAConfig) -> None:
    frames = list(frames_of(video(3, size=(64, 96))))
    with pytest.raises(ConfigError, match=r"can be read only once: name a file, or take the causal form \(--causal"):
        list(system_of(form).detect(iter(frames)))
    assert len(list(system_of(form.causal()).detect(iter(frames)))) == 3
