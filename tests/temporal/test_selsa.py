"""SELSA and Temporal RoI Align on videos that are short, live, side by side, or without proposals."""

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
    return system


@EVERY_FORM
@pytest.mark.parametrize("length", [1, 3, 9])
def test_a_video_shorter_than_the_references(form: SELSAConfig, length: int) -> None:
    found = list(system_of(form).detect(list(frames_of(video(length, size=(64, 96))))))
    assert len(found) == length
    assert all(len(each) and np.isfinite(each.scores).all() for each in found)


@EVERY_FORM
def test_streams_in_a_batch_equal_one_by_one(form: SELSAConfig) -> None:
    assert_batch_equals_one_by_one(system_of(form))


@EVERY_FORM
def test_frames_without_proposals_have_no_detections(form: SELSAConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    system = system_of(form)
    monkeypatch.setattr(system.detector, "_propose", lambda maps, geometries, count: [torch.zeros(0, 4)])
    assert [len(each) for each in system.detect(list(frames_of(video(3, size=(64, 96)))))] == [0, 0, 0]


@pytest.mark.parametrize("form", [form for form in FORMS if form.preview], ids=str)
def test_a_source_that_is_read_once_needs_the_causal_form(form: SELSAConfig) -> None:
    frames = list(frames_of(video(3, size=(64, 96))))
    with pytest.raises(ConfigError, match="can be read only once: name a file, or take the causal form"):
        list(system_of(form).detect(iter(frames)))
    assert len(list(system_of(form.causal()).detect(iter(frames)))) == 3
