from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from scripts.lite_clips import moving_stills
from scripts.lite_clips.clip import FlowClip
from scripts.lite_clips.moving_stills import MovingStills, MovingStillsConfig
from tests.data.pictures import waves
from tests.scripts.outlined import rectangle, still

SIZE = (96, 128)


def develop(frames: Tensor, _: np.random.Generator) -> Tensor:
    return (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


@pytest.fixture
def without_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(moving_stills, "_photograph", develop)


def stills(folder: Path, **config: object) -> MovingStills:
    """Three textured pictures with two objects each, and a background."""
    objects = (rectangle(20, 30, 70, 90, label=1), rectangle(100, 40, 170, 80, label=4))
    pictures = [still(folder / f"{seed}.png", waves((140, 200), seed), objects) for seed in range(3)]
    background = folder / "background.png"
    still(background, waves((300, 280), 9), ())
    return MovingStills(pictures, [background], MovingStillsConfig(size=SIZE, **config))  # type: ignore[arg-type]


def draw(source: MovingStills, seed: int, references: int = 2) -> FlowClip:
    return source.draw(np.random.default_rng(seed), references)


def follow(reference: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
    """The reference [h, w, 3] where the flow [2, h, w] leads, and which pixels it leads to a place inside."""
    height, width = flow.shape[1:]
    x = flow[0] + torch.arange(width)
    y = flow[1] + torch.arange(height)[:, None]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.floor().long().clamp(max=width - 2), y.floor().long().clamp(max=height - 2)
    right, lower = (x - left)[..., None], (y - top)[..., None]
    image = reference.float()
    upper = image[top, left] * (1 - right) + image[top, left + 1] * right
    below = image[top + 1, left] * (1 - right) + image[top + 1, left + 1] * right
    return upper * (1 - lower) + below * lower, inside


def explained(clip: FlowClip, flows: Tensor) -> Tensor:
    """For each reference the share of pixels with the colour of the place that their flow leads to."""
    shares = []
    for reference, flow in zip(clip.frames[1:], flows, strict=True):
        warped, inside = follow(reference, flow)
        error = (warped - clip.frames[0].float()).abs().amax(dim=-1)[inside]
        assert inside.float().mean() > 0.4
        shares.append((error < 6).float().mean())
    return torch.stack(shares)


@pytest.mark.usefixtures("without_noise")
@pytest.mark.parametrize("seed", range(6))
def test_flow_leads_from_the_current_frame_to_the_same_place_in_each_reference(tmp_path: Path, seed: int) -> None:
    clip = draw(stills(tmp_path, pasted=0, zoom=(1.0, 2.0), speed=8.0), seed)
    assert clip.frames.shape == (3, *SIZE, 3)
    assert clip.flows.shape == (2, 2, *SIZE)
    assert (explained(clip, clip.flows) > 0.97).all()
    for wrong in (-clip.flows, clip.flows + 3, clip.flows.flip(1)):
        assert (explained(clip, wrong) < 0.9).all()


@pytest.mark.usefixtures("without_noise")
def test_flow_of_pasted_objects_is_their_own(tmp_path: Path) -> None:
    """What is covered in one of the frames only cannot be explained, all else can."""
    source = stills(tmp_path, pasted=4, zoom=(1.0, 2.0), speed=4.0, reach=3)
    clips = [draw(source, seed) for seed in range(12)]
    shares = torch.cat([explained(clip, clip.flows) for clip in clips])
    assert shares.mean() > 0.93
    of_ground = [clip.flows.flatten(2).median(dim=2).values[:, :, None, None].expand_as(clip.flows) for clip in clips]
    assert torch.cat([explained(c, f) for c, f in zip(clips, of_ground, strict=True)]).mean() < shares.mean() - 0.1


@pytest.mark.usefixtures("without_noise")
@pytest.mark.parametrize("seed", range(8))
def test_target_is_the_box_around_the_object_as_far_as_it_is_in_view(tmp_path: Path, seed: int) -> None:
    image = np.full((140, 200, 3), 90, np.uint8)
    image[30:100, 50:120] = (255, 0, 0)
    picture = still(tmp_path / "red.png", image, [rectangle(50, 30, 120, 100, label=2)])
    clip = draw(MovingStills([picture], [], MovingStillsConfig(size=SIZE, pasted=0)), seed)
    assert clip.targets.labels.tolist() == [2]
    frame = clip.frames[0].int()
    y, x = (frame[..., 0] - frame[..., 1] > 80).nonzero(as_tuple=True)
    seen = torch.stack((x.min(), y.min(), x.max() + 1, y.max() + 1)).float()
    assert (clip.targets.boxes[0] - seen).abs().max() < 2


def covering(path: Path, label: int) -> MovingStills:
    """A picture that is one object, on which more such objects are pasted."""
    picture = still(path, waves((140, 200), 1), [rectangle(0, 0, 200, 140, label=label)])
    return MovingStills([picture], [], MovingStillsConfig(size=SIZE, pasted=4))


def test_targets_lie_inside_the_frame_and_are_large_enough(tmp_path: Path) -> None:
    for source in (stills(tmp_path), covering(tmp_path / "object.png", 3)):
        counts = []
        for seed in range(30):
            targets = draw(source, seed, references=0).targets
            counts.append(len(targets.boxes))
            assert targets.boxes.dtype == torch.float32
            assert targets.labels.dtype == torch.int64
            assert targets.boxes.shape == (len(targets.labels), 4)
            assert set(targets.labels.tolist()) <= {1, 3, 4}
            if counts[-1]:
                assert targets.boxes.min() >= 0
                assert (targets.boxes[:, 2:] <= torch.tensor(SIZE[::-1])).all()
                assert (targets.boxes[:, 2:] - targets.boxes[:, :2]).min() >= 6
        assert len(set(counts)) > 2


def test_no_objects_on_an_empty_background(tmp_path: Path) -> None:
    clip = draw(stills(tmp_path, pasted=0, background_share=1.0), 0)
    assert clip.targets.boxes.shape == (0, 4)
    assert clip.targets.labels.shape == (0,)


def test_a_seed_gives_the_same_clip_again(tmp_path: Path) -> None:
    source = stills(tmp_path)
    for seed in range(3):
        one, other = draw(source, seed), draw(source, seed)
        assert torch.equal(one.frames, other.frames)
        assert torch.equal(one.flows, other.flows)
        assert torch.equal(one.targets.boxes, other.targets.boxes)
    assert not torch.equal(draw(source, 0).frames, draw(source, 1).frames)


def test_frames_of_a_clip_differ_by_noise_and_clips_by_light(tmp_path: Path) -> None:
    still_ones = stills(tmp_path, pasted=0, speed=0.0)
    means = [draw(still_ones, seed).frames.float().mean() for seed in range(8)]
    assert max(means) - min(means) > 15
    clips = [draw(still_ones, seed).frames.float() for seed in range(8)]
    assert max((clip[0] - clip[1]).abs().mean() for clip in clips) > 3


def test_a_clip_without_references(tmp_path: Path) -> None:
    clip = draw(stills(tmp_path), 0, references=0)
    assert clip.frames.shape == (1, *SIZE, 3)
    assert clip.flows.shape == (0, 2, *SIZE)


def test_rare_classes_are_pasted_more_often_than_their_share(tmp_path: Path) -> None:
    common = [rectangle(10 + 12 * n, 10, 20 + 12 * n, 20, label=0) for n in range(9)]
    picture = still(tmp_path / "many.png", waves((140, 200), 0), [*common, rectangle(50, 50, 90, 90, label=1)])
    background = tmp_path / "ground.png"
    still(background, waves((200, 200), 1), ())
    source = MovingStills([picture], [background], MovingStillsConfig(size=SIZE, background_share=1.0))
    labels: Sequence[int] = [n for seed in range(60) for n in draw(source, seed, 0).targets.labels.tolist()]
    assert 0.15 < np.mean(labels) < 0.6
