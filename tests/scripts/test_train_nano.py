"""The distillation of the nano systems: clips that follow from a seed, and what the teachers want."""

import sys
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from flowdet.detectors.nanodet import NanoDet
from flowdet.systems.load import load
from flowdet.training.feed import to_inputs

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from nano_clips import REFERENCES, Clip, Clips, Still  # noqa: E402
from train_nano import Teachers, _distilled, _mirrored, _spread, student  # noqa: E402

HORSE = 17


def still() -> Still:
    """Noise with one labelled rectangle, which can be cut out."""
    picture = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
    corners = np.array([[80, 60], [240, 60], [240, 180], [80, 180]], np.float32)
    box = np.array([[80.0, 60.0, 240.0, 180.0]])
    return Still(picture, box, np.array([HORSE]), ((HORSE, corners),))


def clips_from(first: int) -> list[Clip]:
    videos = [[np.full((120, 160, 3), grey, np.uint8) for grey in range(0, 200, 20)]]
    batches = Clips([still()], videos, batch=3, first=first)
    return [clip for batch in islice(batches, 4 - first) for clip in batch]


def test_the_clips_of_a_step_follow_from_its_number() -> None:
    whole, rest = clips_from(0), clips_from(2)
    for one, same in zip(whole[6:], rest, strict=True):
        assert np.array_equal(one.frames, same.frames)
        assert torch.equal(one.boxes, same.boxes)


def test_objects_lie_in_the_frame_and_the_teachers_see_it_larger() -> None:
    clips = clips_from(0)
    assert sum(len(clip.labels) for clip in clips) > 0
    for clip in clips:
        count, height, width, _ = clip.frames.shape
        assert count == 1 + REFERENCES
        assert clip.clean.shape == (height * 3 // 2, width * 3 // 2, 3)
        assert (clip.boxes >= 0).all()
        assert (clip.boxes <= torch.tensor([width, height, width, height])).all()
        assert clip.labels.tolist() == [HORSE] * len(clip.boxes)


def test_cells_of_a_mirrored_map_come_in_opposite_order() -> None:
    values = torch.arange(8.0)[None]
    assert _mirrored(values, [(2, 3), (1, 2)]).tolist() == [[2, 1, 0, 5, 4, 3, 7, 6]]


def test_an_object_gives_its_score_to_cells_with_its_box_in_proportion_to_their_own() -> None:
    scores = torch.zeros(3, 80)
    scores[:, 5] = torch.tensor([0.8, 0.4, 0.8])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
    wanted, nearest = _spread(scores, boxes, torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0.6]), torch.tensor([HORSE]))
    assert wanted[:, HORSE].tolist() == pytest.approx([0.6, 0.3, 0.0])
    assert wanted.sum() == pytest.approx(0.9)
    assert nearest[:2].tolist() == [[0, 0, 10, 10]] * 2
    assert nearest[2].isnan().all()


def test_at_the_start_the_detector_is_the_published_one() -> None:
    before, published = student().detector.state_dict(), load("single-nano").detector.state_dict()
    assert before.keys() == published.keys()
    assert all(torch.equal(before[name], published[name]) for name in published)


def test_who_finds_what_is_wanted_has_no_loss_and_others_have() -> None:
    model = load("single-nano")
    net = model.detector
    assert isinstance(net, NanoDet)
    clip = clips_from(0)[0]
    wanted = Teachers(model, model)([clip])
    images = to_inputs(torch.from_numpy(clip.frames[:1]), model.config.inputs).images
    with torch.no_grad():
        predictions, cells = net.predict(net.extract(images))
    logits = torch.cat((wanted.distances.log().flatten(2), wanted.scores.clamp(1e-6, 1 - 1e-6).logit()), dim=2)
    perfect, usual = _distilled(net, logits, cells, wanted), _distilled(net, predictions, cells, wanted)
    for name in ("classes", "distances"):
        assert perfect[name] == pytest.approx(0, abs=1e-4)
        assert usual[name] > 1e-3
