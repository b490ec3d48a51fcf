"""The strips of reference RoIs: which ones, cut out of which frame."""

from dataclasses import replace

import numpy as np
import torch
from torch import nn

from flowdet.inputs import prepare
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.selsa import SELSAConfig
from flowdet.types import Attention, Detections, Frame, FrameFeatures
from flowdet.video.overlay import Overlay, draw_overlay
from flowdet.work.attended import References
from tests.temporal.test_selsa import system_of
from tests.tiny import frames_of, lite_config, video

SIZE = (64, 96)


class Clip(list[Frame]):
    def preview(self, count: int) -> list[Frame]:
        return self[:count]


class Looking(VideoDetector):
    """Attends to the RoIs of the references with given weights."""

    weights = torch.tensor([[0.1, 0.4, 0.2, 0.05, 0.25]])

    def attended(self, features: FrameFeatures, boxes: object) -> torch.Tensor:
        del features, boxes
        return self.weights


def looking(method: SELSAConfig) -> Looking:
    system = build(replace(lite_config(), method=method))
    return Looking(system.config, system.detector, None, {})


def features_of(index: int, frames: list[int]) -> FrameFeatures:
    """Those of a frame that attends to RoIs of these frames."""
    (geometry,) = prepare([video(1, size=SIZE)[0]], lite_config().inputs).geometries
    boxes = torch.tensor([[0.0, 0, 32, 16], [8, 8, 40, 24], [16, 16, 48, 32], [90, 60, 96, 64]])[: len(frames)]
    return FrameFeatures(index, (), (geometry,), Attention(torch.tensor([frames], dtype=torch.int64), boxes[None]))


def one_box(index: int) -> Detections:
    box = np.array([[10, 10, 20, 30]], np.float32)
    return Detections(index, 0.0, box, np.ones(1, np.float32), np.zeros(1, np.int64), ("cat",), SIZE)


def test_each_frame_has_its_best_roi_and_the_best_come_first() -> None:
    clip = Clip(frames_of(video(6, size=SIZE)))
    system = looking(SELSAConfig(heads=4, memory=4))
    (strip,) = References(system, clip).strips(clip[5], one_box(5), features_of(5, [0, 2, 2, 3]))
    assert [crop.label for crop in strip] == ["this frame: 25.0%", "2: 40.0%", "0: 10.0%", "3: 5.0%"]
    own, best, second, last = (crop.picture for crop in strip)
    assert np.array_equal(own, clip[5].image[10:30, 10:20])
    assert np.array_equal(best, clip[2].image[8:24, 8:40])
    assert np.array_equal(second, clip[0].image[0:16, 0:32])
    assert np.array_equal(last, clip[3].image[60:64, 90:96])


def test_frames_that_went_by_are_kept_while_they_are_references() -> None:
    clip = Clip(frames_of(video(6, size=SIZE)))
    system = looking(SELSAConfig(heads=4, source="past"))
    references = References(system, clip)
    kept = []
    for frame, numbers in zip(clip, ([], [0], [0, 1], [0, 2], [2, 3], [2, 4]), strict=True):
        references.strips(frame, one_box(frame.index), features_of(frame.index, list(numbers)))
        kept.append(sorted(references._seen))
    assert kept == [[0], [0, 1], [0, 1, 2], [0, 2, 3], [2, 3, 4], [2, 4, 5]]


def test_the_strips_of_a_system_stand_below_the_frame() -> None:
    system, clip = system_of(SELSAConfig(heads=4, memory=3)), Clip(frames_of(video(3, size=SIZE)))
    nn.init.normal_(system.detector.get_parameter("roi_head.attention.aggregators.0.query.weight"))
    overlay, references = Overlay(frozenset({"references"}), 6, 0), References(system, clip)
    for outcome in system.detect_many([clip]):
        strips = references.strips(outcome.frame, outcome.detections, outcome.features)
        assert [2 <= len(strip) <= 4 for strip in strips] == [True] * 3
        arguments = (outcome.frame.image, outcome.detections, outcome.features, overlay)
        bare, drawn = draw_overlay(*arguments), draw_overlay(*arguments, strips=strips)
        assert drawn.shape == bare.shape == (*overlay.picture_size(SIZE), 3)
        foot = round(SIZE[0] * drawn.shape[1] / SIZE[1])
        assert np.array_equal(bare[:foot], drawn[:foot])
        assert (bare[foot:] != drawn[foot:]).any()
