import copy
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from flowdet.errors import ConfigError
from flowdet.flow.base import FlowNet
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.inputs import InputConfig, prepare
from flowdet.systems.build import build
from flowdet.types import Geometry, NetworkInput
from tests.data.pictures import waves
from tests.training.runs import SYSTEMS, TinyClips

INPUTS = InputConfig(long_side=320, short_side=192, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0), enlarge=False)
EVERY_CONFIG = pytest.mark.parametrize(
    "config", [DISFlowConfig("ultrafast"), DISFlowConfig(), DISFlowConfig("fast", 2), DISFlowConfig("medium", 4)]
)


def texture(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    """A picture [h, w, 3] of soft blots."""
    blots = np.random.default_rng(seed).standard_normal((1, 3, size[0] // 8, size[1] // 8)).astype(np.float32)
    large = torch.nn.functional.interpolate(torch.from_numpy(blots), size, mode="bicubic")
    return (large[0].permute(1, 2, 0) * 50 + 128).clamp(0, 255).to(torch.uint8).numpy()


def flow_between(net: FlowNet, current: NDArray[np.uint8], reference: NDArray[np.uint8]) -> Tensor:
    return net(*(net.prepare(prepare([image], INPUTS)) for image in (current, reference)))


@EVERY_CONFIG
def test_a_translation_is_found(config: DISFlowConfig) -> None:
    world = texture((240, 400))
    current, reference = world[20:212, 30:350], world[16:208, 38:358]
    flow = flow_between(DISFlow(config, INPUTS), current, reference)
    assert flow.shape == (1, 2, 12, 20)
    wanted = torch.tensor([-8.0, 4.0])[:, None, None] / 16
    assert (flow[0] - wanted).norm(dim=0)[1:-1, 1:-1].mean() < 0.03


@EVERY_CONFIG
def test_a_frame_does_not_move_against_itself(config: DISFlowConfig) -> None:
    image = texture((192, 320))
    assert flow_between(DISFlow(config, INPUTS), image, image).abs().max() < 0.01


def test_preparing_gives_the_grey_of_the_original() -> None:
    image = texture((48, 80))
    grey = DISFlow(DISFlowConfig(), INPUTS).prepare(prepare([image], INPUTS))
    assert grey.dtype == torch.uint8
    wanted = image.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    np.testing.assert_allclose(grey[0, 0].numpy(), wanted, atol=0.51)
    small = DISFlow(DISFlowConfig(stride=4), INPUTS).prepare(prepare([image], INPUTS))
    np.testing.assert_allclose(small[0, 0].numpy(), wanted.reshape(12, 4, 20, 4).mean(axis=(1, 3)), atol=0.51)


def test_preparing_leaves_its_input_alone() -> None:
    inputs = prepare([texture((40, 72))], INPUTS)
    kept = inputs.images.clone()
    DISFlow(DISFlowConfig(), INPUTS).prepare(inputs)
    assert torch.equal(inputs.images, kept)


def test_padding_goes_on_like_the_edge() -> None:
    geometries = (Geometry((48, 80), (48, 80), (48, 80)), Geometry((40, 72), (40, 72), (48, 80)))
    image = prepare([texture((48, 80))], INPUTS).images
    grey = DISFlow(DISFlowConfig(), INPUTS).prepare(NetworkInput(image.repeat(2, 1, 1, 1), geometries))
    whole, padded = grey[:, 0]
    assert torch.equal(padded[:40, :72], whole[:40, :72])
    assert (padded[40:, :72] == whole[39, :72]).all()
    assert (padded[:, 72:] == padded[:, 71:72]).all()


@EVERY_CONFIG
def test_padding_hardly_disturbs(config: DISFlowConfig) -> None:
    world = texture((240, 400))
    current, reference = world[20:172, 30:318], world[18:170, 36:324]
    net = DISFlow(config, INPUTS)
    padded = flow_between(net, current, reference)
    assert padded.shape == (1, 2, 10, 18)
    wanted = torch.tensor([-6.0, 2.0])[:, None, None] / 16
    assert (padded[0] - wanted).norm(dim=0)[1:-1, 1:-1].mean() < 0.03


def test_a_batch_equals_one_by_one() -> None:
    net = DISFlow(DISFlowConfig(), INPUTS)
    current, reference = (net.prepare(prepare([waves((64, 96), 3 * k), texture((64, 96), k)], INPUTS)) for k in (1, 2))
    alone = torch.cat([net(current[n : n + 1], reference[n : n + 1]) for n in range(2)])
    assert torch.equal(net(current, reference), alone)
    assert not torch.equal(alone[0], alone[1])


@EVERY_CONFIG
@pytest.mark.parametrize("size", [(16, 16), (16, 208), (208, 16)])
def test_small_frames_have_a_flow_too(config: DISFlowConfig, size: tuple[int, int]) -> None:
    flow = flow_between(DISFlow(config, INPUTS), texture(size), texture(size, 1))
    assert flow.shape == (1, 2, size[0] // 16, size[1] // 16)
    assert flow.isfinite().all()


def test_it_has_nothing_to_learn_or_save_and_can_be_copied() -> None:
    net = DISFlow(DISFlowConfig("medium", 2), INPUTS)
    assert list(net.parameters()) == []
    assert net.state_dict() == {}
    images = texture((64, 96)), texture((64, 96), 1)
    wanted = flow_between(net, *images)
    for same in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(flow_between(same, *images), wanted)


def test_without_opencv_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(ConfigError, match=r"needs OpenCV.*pip install opencv-python-headless"):
        DISFlow(DISFlowConfig(), INPUTS)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"preset": "slow"}, "ultrafast, fast and medium, not 'slow'"), ({"stride": 3}, "1, 2 or 4, not 3")],
)
def test_impossible_settings(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        DISFlowConfig(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["tiny-fgfa", "tiny-dff"])
def test_the_rest_of_a_system_learns_with_it(name: str) -> None:
    system = build(replace(SYSTEMS[name], flow_net=DISFlowConfig("ultrafast"))).train()
    clips = TinyClips(references=1, clips_per_device=1).batch([2, 3]).clips
    sum(system.losses(clips).values(), torch.zeros(())).backward()
    neck = system.detector.get_submodule("neck")
    assert [key for key, each in neck.named_parameters() if each.grad is None or not each.grad.any()] == []
    assert set(system.method_modules) == ({"embedding"} if name == "tiny-fgfa" else set())
    assert all(each.grad is not None for module in system.method_modules.values() for each in module.parameters())
