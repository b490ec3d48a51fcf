import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowdet.class_names import VID_CLASSES
from flowdet.data.synthetic.assets import load_assets
from flowdet.data.synthetic.clip import SyntheticClip
from flowdet.data.synthetic.config import SyntheticConfig
from flowdet.data.synthetic.layers import pixel_grid, render
from flowdet.data.synthetic.motion import Jolt, Shake
from flowdet.data.synthetic.scene import Burst, draw_scene

from .scenes import STILL, constant, ground, layer, moving, scene, square

SIZE = (96, 160)
CONFIG = SyntheticConfig(size=SIZE)


def drawn(seed: int) -> SyntheticClip:
    rng = np.random.default_rng(seed)
    name = VID_CLASSES[seed % 30]
    drawn = draw_scene(rng, load_assets("val"), first=name, class_names=VID_CLASSES, length=34, config=CONFIG)
    return SyntheticClip(drawn, CONFIG, (seed,))


def warped(image: Tensor, flow: Tensor) -> Tensor:
    height, width = image.shape[1:]
    points = pixel_grid(0, 0, width, height) + flow.permute(1, 2, 0)
    return F.grid_sample(image[None], (points * torch.tensor([2 / width, 2 / height]) - 1)[None], align_corners=False)[
        0
    ]


@pytest.mark.parametrize("seed", range(6))
def test_the_flow_leads_to_the_same_point_of_the_scene(seed: int) -> None:
    clip = drawn(seed)
    current, reference = (render(clip.scene.layers, time, SIZE).image for time in (10, 16))
    flow = clip.flow(10, 16)
    error = (warped(reference, flow.flow) - current).abs().mean(dim=0)
    assert flow.visible.float().mean() > 0.3
    # Sampling twice blurs edges a little; a pixel of wrong flow is much worse.
    assert error[flow.visible].mean() < 0.02
    wrong = (warped(reference, flow.flow + 2.0) - current).abs().mean(dim=0)
    assert error[flow.visible].mean() < 0.5 * wrong[flow.visible].mean()


def test_the_flow_there_and_back_ends_where_it_began() -> None:
    clip = drawn(3)
    there, back = clip.flow(5, 9), clip.flow(9, 5)
    both = there.visible.clone()
    home = there.flow + warped(back.flow, there.flow)
    # The flow changes from one layer to the next: its neighbours are mixed where the way back is sampled.
    assert home.norm(dim=0)[both].median() < 0.02
    assert torch.equal(clip.flow(7, 7).flow, torch.zeros((2, *SIZE))) or clip.flow(7, 7).flow.abs().max() < 1e-3


def test_known_motion_gives_known_flow_and_hidden_pixels() -> None:
    moved = layer(square(20), moving(50, 3), constant(48))
    wall = layer(square(30), constant(90), constant(48))
    clip = SyntheticClip(scene({ground(SIZE): None, moved: "dog", wall: None}), CONFIG, (0,))
    flow = clip.flow(0, 10)
    assert torch.allclose(flow.flow[:, 48, 50], torch.tensor([30.0, 0.0]), atol=1e-3)
    assert torch.allclose(flow.flow[:, 10, 10], torch.zeros(2), atol=1e-3)
    # At time 10 the square reaches from 70 to 90, the wall from 75 to 105.
    assert flow.visible[48, 42]
    assert not flow.visible[48, 50]
    # What it will cover cannot be seen then, what it leaves can.
    assert not flow.visible[48, 72]
    assert flow.visible[48, 30]
    assert not clip.flow(0, 60).visible[48, 50]


def test_boxes_are_of_what_can_be_seen() -> None:
    cut = layer(square(20), constant(4), constant(48))
    hidden = layer(square(20), constant(50), constant(48))
    wall = layer(square(40), constant(72), constant(48))
    gone = layer(square(20), constant(75), constant(48))
    clip = SyntheticClip(scene({ground(SIZE): None, cut: "dog", hidden: "bear", gone: "fox", wall: None}), CONFIG, (0,))
    frame = clip.frame(0)
    first, second = frame.objects
    assert (first.class_name, first.track, first.box, first.visible) == ("dog", 0, (0, 38, 14, 58), 0.7)
    assert (second.class_name, second.track, second.box) == ("bear", 1, (40, 38, 52, 58))
    assert (first.is_occluded, second.is_occluded) == (False, True)
    assert second.visible == pytest.approx(0.6)
    assert frame.left_out == 1
    assert frame.degradation is None


def test_frames_do_not_depend_on_their_order() -> None:
    once, again = drawn(8), drawn(8)
    later = once.frame(20).image
    assert np.array_equal(once.frame(3).image, again.frame(3).image)
    assert np.array_equal(again.frame(20).image, later)
    assert not np.array_equal(later, once.frame(21).image)


def test_noise_differs_from_frame_to_frame() -> None:
    quiet = scene({ground(SIZE): None})
    clip = SyntheticClip(replace(quiet, noise=0.05), CONFIG, (5,))
    first, second, plain = (clip.frame(0).image, clip.frame(1).image, SyntheticClip(quiet, CONFIG, (5,)).frame(0).image)
    assert not np.array_equal(first, second)
    assert np.std(first.astype(float) - plain) == pytest.approx(0.05 * 255, rel=0.1)


def sharpness(image: np.ndarray) -> float:
    return float(np.abs(np.diff(image.astype(float), axis=1)).mean())


def test_bursts_spoil_their_frames_and_no_others() -> None:
    bursts = (Burst("defocus", 3, 3, 3.0), Burst("exposure", 12, 3, 0.1))
    clip = SyntheticClip(scene({ground(SIZE): None}, bursts), CONFIG, (0,))
    frames = [clip.frame(number) for number in range(16)]
    kinds = [frame.degradation for frame in frames]
    assert kinds == [None] * 3 + ["defocus"] * 3 + [None] * 6 + ["exposure"] * 3 + [None]
    assert sharpness(frames[4].image) < 0.5 * sharpness(frames[2].image)
    assert frames[13].image.mean() < 0.2 * frames[2].image.mean()
    assert np.array_equal(frames[6].image, frames[2].image)


def test_a_shake_blurs_along_its_way() -> None:
    jolt = Jolt(4, 5, (9.0, 0.0), 2 * math.pi / 4, (0.0, 0.0))
    shaken = replace(ground(SIZE), shake=Shake(STILL.x, STILL.y, (jolt,)))
    clip = SyntheticClip(scene({shaken: None}, (Burst("shake", 4, 5, 9.0),)), CONFIG, (0,))
    assert clip.frame(6).degradation == "shake"
    assert sharpness(clip.frame(6).image) < 0.7 * sharpness(clip.frame(0).image)


def test_a_long_exposure_smears_what_moves() -> None:
    fast = layer(square(20), moving(50, 8), constant(48))
    plain = scene({ground(SIZE): None, fast: "dog"})
    sharp = SyntheticClip(plain, CONFIG, (0,)).frame(0)
    smeared = SyntheticClip(replace(plain, exposure=1.0), CONFIG, (0,)).frame(0)
    assert sharp.objects == smeared.objects
    # The left edge at 40 moves from 36 to 44 while the shutter is open.
    assert smeared.image[48, 38].astype(int).sum() != sharp.image[48, 38].astype(int).sum()
    assert np.allclose(smeared.image[48, 50].astype(int), sharp.image[48, 50], atol=1)
    assert np.allclose(smeared.image[:, 100:].astype(int), sharp.image[:, 100:], atol=1)
