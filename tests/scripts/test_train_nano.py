"""The distillation of the nano systems: clips that follow from a seed, and what the teachers want."""

from importlib import import_module
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from flowdet.detectors.nanodet import NanoDet
from flowdet.systems.load import load
from flowdet.training.feed import to_inputs

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.fixture
def train_nano(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module("train_nano")


@pytest.fixture
def nano_clips(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(SCRIPTS)
    return import_module("nano_clips")


HORSE = 17


def clips_from(first: int, nano_clips: ModuleType) -> list[Any]:
    """Three clips of each of the steps up to the fourth, on noise with one labelled rectangle that can be cut out."""
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    corners = np.array([[80, 60], [240, 60], [240, 180], [80, 180]], np.float32)
    box = np.array([[80.0, 60.0, 240.0, 180.0]])
    still = nano_clips.Still(picture, box, np.array([HORSE]), ((HORSE, corners),))
    videos = [[np.full((120, 160, 3), grey, np.uint8) for grey in range(0, 200, 20)]]
    batches = nano_clips.Clips([still], videos, batch=3, first=first)
    return [clip for batch in islice(batches, 4 - first) for clip in batch]


def test_the_clips_of_a_step_follow_from_its_number(nano_clips: ModuleType) -> None:
    whole, rest = clips_from(0, nano_clips), clips_from(2, nano_clips)
    for one, same in zip(whole[6:], rest, strict=True):
        assert np.array_equal(one.frames, same.frames)
        assert torch.equal(one.boxes, same.boxes)


def test_objects_lie_in_the_frame_and_the_teachers_see_it_larger(nano_clips: ModuleType) -> None:
    clips = clips_from(0, nano_clips)
    assert sum(len(clip.labels) for clip in clips) > 0
    for clip in clips:
        count, height, width, _ = clip.frames.shape
        assert count == 1 + nano_clips.REFERENCES
        assert clip.clean.shape == (height * 3 // 2, width * 3 // 2, 3)
        assert (clip.boxes >= 0).all()
        assert (clip.boxes <= torch.tensor([width, height, width, height])).all()
        assert clip.labels.tolist() == [HORSE] * len(clip.boxes)


def test_cells_of_a_mirrored_map_come_in_opposite_order(train_nano: ModuleType) -> None:
    values = torch.arange(8.0)[None]
    assert train_nano._mirrored(values, [(2, 3), (1, 2)]).tolist() == [[2, 1, 0, 5, 4, 3, 7, 6]]


def test_an_object_gives_its_score_to_cells_with_its_box_in_proportion_to_their_own(train_nano: ModuleType) -> None:
    scores = torch.zeros(3, 80)
    scores[:, 5] = torch.tensor([0.8, 0.4, 0.8])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    objects = torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0.6]), torch.tensor([HORSE])
    wanted, nearest = train_nano._spread(scores, boxes, *objects)
    assert wanted[:, HORSE].tolist() == pytest.approx([0.6, 0.3, 0.0])
    assert wanted.sum() == pytest.approx(0.9)
    assert nearest[:2].tolist() == [[0, 0, 10, 10]] * 2
    assert nearest[2].isnan().all()


def test_at_the_start_the_detector_is_the_published_one(train_nano: ModuleType) -> None:
    before, published = train_nano.student().detector.state_dict(), load("single-nano").detector.state_dict()
    assert before.keys() == published.keys()
    assert all(torch.equal(before[name], published[name]) for name in published)


def test_who_finds_what_is_wanted_has_no_loss_and_others_have(train_nano: ModuleType, nano_clips: ModuleType) -> None:
    model = load("single-nano")
    net = model.detector
    assert isinstance(net, NanoDet)
    clip = clips_from(0, nano_clips)[0]
    wanted = train_nano.Teachers(model, model)([clip])
    images = to_inputs(torch.from_numpy(clip.frames[:1]), model.config.inputs).images
    with torch.no_grad():
        predictions, cells = net.predict(net.extract(images))
    logits = torch.cat((wanted.distances.log().flatten(2), wanted.scores.clamp(1e-6, 1 - 1e-6).logit()), dim=2)
    perfect = train_nano._distilled(net, logits, cells, wanted)
    usual = train_nano._distilled(net, predictions, cells, wanted)
    for name in ("classes", "distances"):
        assert perfect[name] == pytest.approx(0, abs=1e-4)
        assert usual[name] > 1e-3
