import numpy as np
import pytest
import torch
from torch.nn import functional as F

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.assets import load_assets
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.layers import pixel_grid
from flowdet.errors import ConfigError
from scripts.lite_clips.drawings import SyntheticClips

CLEAR = SyntheticConfig(size=(96, 160), noise=(1e-4, 2e-4), exposure=(0, 0), quality=(95, 96), degraded=0.01)


def test_a_clip_has_frames_flows_and_targets() -> None:
    clips = SyntheticClips(VID_CLASSES, SyntheticConfig(size=(128, 200)))
    rng = np.random.default_rng(0)
    for references in (0, 1, 3):
        clip = clips.draw(rng, references)
        assert clip.frames.shape == (1 + references, 128, 200, 3)
        assert clip.frames.dtype == torch.uint8
        assert clip.flows.shape == (references, 2, 128, 200)
        assert clip.targets.boxes.shape == (len(clip.targets.labels), 4)
        assert clip.targets.labels.dtype == torch.int64
        assert (clip.targets.boxes >= 0).all()
        assert (clip.targets.boxes <= torch.tensor([200, 128, 200, 128])).all()


def test_the_flow_leads_from_the_current_frame_to_each_reference() -> None:
    clips, rng = SyntheticClips(VID_CLASSES, CLEAR, reach=4), np.random.default_rng(3)
    better = []
    for _ in range(6):
        clip, visible = clips.draw_with_visibility(rng, 2)
        assert visible.shape == (2, 96, 160)
        frames = clip.frames.permute(0, 3, 1, 2).float()
        for reference, flow, seen in zip(frames[1:], clip.flows, visible, strict=True):
            points = (pixel_grid(0, 0, 160, 96) + flow.permute(1, 2, 0)) * torch.tensor([2 / 160, 2 / 96]) - 1
            warped = F.grid_sample(reference[None], points[None], align_corners=False)[0]
            error = (warped - frames[0]).abs().mean(dim=0)[seen].mean()
            better.append(error / (reference - frames[0]).abs().mean(dim=0)[seen].mean())
    assert np.mean(better) < 0.7


def test_the_same_chance_draws_the_same_clip() -> None:
    clips = SyntheticClips(("dog", "train"), CLEAR)
    first, again, other = (clips.draw(np.random.default_rng(seed), 1) for seed in (1, 1, 2))
    assert torch.equal(first.frames, again.frames)
    assert torch.equal(first.flows, again.flows)
    assert not torch.equal(first.frames, other.frames)


def test_labels_follow_the_names() -> None:
    rng = np.random.default_rng(0)
    labels = {int(label) for _ in range(8) for label in SyntheticClips(("zebra",), CLEAR).draw(rng, 0).targets.labels}
    assert labels == {0}


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ConfigError, match="no drawing of unicorn"):
        SyntheticClips(("dog", "unicorn"))
    with pytest.raises(ConfigError, match="1 frame or more, not 0"):
        SyntheticClips(("dog",), reach=0)


def test_further_drawings_take_part() -> None:
    (drawing, *_) = load_assets("train").drawings["zebra"]
    with pytest.raises(ConfigError, match="no drawing of dragon"):
        SyntheticClips(("dragon",))
    clip = SyntheticClips(("dragon",), more={"dragon": [drawing]}).draw(np.random.default_rng(0), 0)
    assert clip.targets.labels.tolist() == [0] * len(clip.targets.boxes)
    assert len(clip.targets.boxes) > 0
