from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlow, CoarseToFineFlowConfig, normalised
from flowdet.systems.build import build
from flowdet.systems.load import load
from flowdet.systems.recipes import REDUCED_FLOW, SHIPPED_FLOW, recipe
from flowdet.types import Geometry, NetworkInput

CONFIG = CoarseToFineFlowConfig(encoder=(4, 6, 8), compared=(2, 3, 8), context=4, stage=6)


def flow_net(config: CoarseToFineFlowConfig = CONFIG) -> CoarseToFineFlow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = CoarseToFineFlow(config).eval()
        for stage in (net.stage16, net.stage8, net.stage4):
            torch.nn.init.normal_(stage[2].weight, std=0.1)  # type: ignore[arg-type]
        return net


def shipped(reduction: int = 2) -> CoarseToFineFlow:
    system = (
        load("dff-nano", backend="torch") if reduction == 4 else load("fgfa-nano", variant="aligned", backend="torch")
    )
    net = system.flow_net
    assert isinstance(net, CoarseToFineFlow)
    assert net.config.reduction == reduction
    return net


def inputs_of(images: Tensor, valid: tuple[int, int] | None = None) -> NetworkInput:
    size = images.shape[2], images.shape[3]
    return NetworkInput(images, (Geometry(valid or size, valid or size, size),) * len(images))


def random_images(batch: int = 2, size: tuple[int, int] = (48, 80), seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def texture(size: tuple[int, int] = (256, 416), seed: int = 0) -> Tensor:
    """Smooth noise with structure of 4 to 64 px, as a network input."""
    coarser = [random_images(1, (size[0] // side, size[1] // side), seed + side) for side in (4, 8, 16, 32, 64)]
    return torch.stack([F.interpolate(each, size, mode="bicubic") for each in coarser]).sum(dim=0)


def between(net: CoarseToFineFlow, current: NetworkInput, reference: NetworkInput) -> Tensor:
    flow: Tensor = net(net.as_current(net.prepare(current)), net.as_reference(net.prepare(reference)))
    return flow


@torch.inference_mode()
@pytest.mark.parametrize("size", [(16, 16), (48, 80), (64, 32)])
def test_flow_has_cells_of_8_px_and_the_first_stage_of_16(size: tuple[int, int]) -> None:
    net = flow_net()
    current, reference = (net.prepare(inputs_of(random_images(2, size, seed))) for seed in (0, 1))
    roles = net.as_current(current), net.as_reference(reference)
    found = net.predict(*roles)
    coarse, fine = (2, 2, size[0] // 16, size[1] // 16), (2, 2, size[0] // 8, size[1] // 8)
    assert [tuple(flow.shape) for flow in found] == [coarse, coarse, fine, fine]
    assert torch.equal(net(*roles), found[-1])
    assert net.stride == 8
    assert net.similarity(*roles).shape == (2, coarse[2] * coarse[3], coarse[2] * coarse[3])


@torch.inference_mode()
def test_flow_of_smaller_frames_has_cells_of_16_px() -> None:
    net, half = flow_net(replace(CONFIG, reduction=4)), flow_net()
    images = random_images(2, (96, 160)), random_images(2, (96, 160), 1)
    found = between(net, *map(inputs_of, images))
    assert net.stride == 16
    assert found.shape == (2, 2, 6, 10)
    # What it sees is what the other sees of frames that were halved before.
    halved = [inputs_of(F.avg_pool2d(each, 2)) for each in images]
    torch.testing.assert_close(found, between(half, *halved), rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_a_batch_equals_one_by_one() -> None:
    net = flow_net()
    current, reference = net.prepare(inputs_of(random_images(3))), net.prepare(inputs_of(random_images(3, seed=1)))
    current, reference = net.as_current(current), net.as_reference(reference)
    alone = torch.cat([net(current[n : n + 1], reference[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(net(current, reference), alone, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_brightness_and_contrast_of_a_frame_do_not_matter() -> None:
    net, images = flow_net(), random_images()
    changed = images * torch.tensor([0.5, 1.7])[:, None, None, None] + torch.tensor([0.8, -0.3])[:, None, None, None]
    current, reference = inputs_of(images), inputs_of(random_images(seed=1))
    found = between(net, inputs_of(changed), reference)
    torch.testing.assert_close(found, between(net, current, reference), rtol=0.05, atol=0.02)


@torch.inference_mode()
def test_frames_are_halved_and_normalised_without_their_padding() -> None:
    net, seen = flow_net(), []
    net.stem.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    images = random_images(1, (48, 80))
    net.prepare(inputs_of(images, valid=(37, 70)))
    wanted = normalised(F.avg_pool2d(images[:, :, :36, :70], 2))
    torch.testing.assert_close(seen[0][:, :, :18, :35], wanted)
    torch.testing.assert_close(seen[0][:, :, 18:, :35], wanted[:, :, -1:].expand(-1, -1, 6, -1))
    torch.testing.assert_close(seen[0][..., 35:], seen[0][..., 34:35].expand(-1, -1, -1, 5))
    assert wanted.mean().abs() < 1e-5
    assert wanted.std(dim=(2, 3), correction=0).sub(1).abs().max() < 0.01


@torch.inference_mode()
def test_a_frame_of_one_colour_gives_numbers() -> None:
    even = inputs_of(torch.full((1, 3, 48, 80), 0.7))
    assert between(flow_net(), even, even).isfinite().all()


def test_every_parameter_learns() -> None:
    net = flow_net()
    flows = between(net, inputs_of(random_images()), inputs_of(random_images(seed=1)))
    flows.square().sum().backward()
    assert [name for name, each in net.named_parameters() if each.grad is None or not each.grad.abs().sum() > 0] == []


@torch.inference_mode()
@pytest.mark.parametrize("reduction", [2, 4])
def test_the_shipped_net_finds_a_shift_to_a_tenth_of_a_cell(reduction: int) -> None:
    net, whole = shipped(reduction), texture((320, 512))
    current = inputs_of(whole[..., 32:288, 48:464])
    for dx, dy in ((0, 0), (3, -2), (-11, 6), (13, 16)):
        # What is at (x, y) in the current frame is at (x + dx, y + dy) in the reference.
        reference = inputs_of(whole[..., 32 - dy : 288 - dy, 48 - dx : 464 - dx])
        border = 64 // net.stride
        inner = between(net, current, reference)[..., border:-border, border:-border]
        wanted = torch.tensor([dx, dy])[:, None, None] / net.stride
        assert (inner - wanted).norm(dim=1).mean() < 0.1


@torch.inference_mode()
def test_the_shipped_net_finds_an_object_that_moves_by_itself() -> None:
    net, ground, thing = shipped(), texture((256, 416)), texture((256, 416), 100)
    frames = []
    for x in (128, 148):
        frame = ground.clone()
        frame[..., 64:192, x : x + 128] = thing[..., 64:192, :128]
        frames.append(inputs_of(frame))
    flow = between(net, *frames)[0] * 8
    assert (flow[0, 10:22, 18:30] - 20).abs().mean() < 1
    assert flow[:, :, :12].abs().mean() < 0.5


@torch.inference_mode()
@pytest.mark.parametrize("valid", [(234, 416), (256, 313)])
def test_padding_hardly_disturbs_the_shipped_net(valid: tuple[int, int]) -> None:
    net, whole = shipped(), texture((320, 512))
    frames = []
    for dx, dy in ((0, 0), (6, 4)):
        frame = torch.full((1, 3, 256, 416), -5.0)
        frame[..., : valid[0], : valid[1]] = whole[..., 32 - dy : 32 - dy + valid[0], 48 - dx : 48 - dx + valid[1]]
        frames.append(inputs_of(frame, valid))
    inner = between(net, *frames)[..., 4 : valid[0] // 8 - 4, 4 : valid[1] // 8 - 4]
    assert (inner * 8 - torch.tensor([6.0, 4.0])[:, None, None]).norm(dim=1).mean() < 0.5


def test_an_input_that_does_not_fit_is_refused() -> None:
    config = recipe("dff-r50")
    build(replace(config, flow_net=SHIPPED_FLOW))
    with pytest.raises(ConfigError, match="multiples of 32 px; the input has multiples of 16"):
        build(replace(config, flow_net=REDUCED_FLOW))


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoder": (4, 0, 8)},
        {"compared": (0, 3, 8)},
        {"compared": (5, 3, 8)},
        {"context": 0},
        {"stage": 0},
        {"reduction": 3},
    ],
)
def test_what_is_out_of_range_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        replace(CONFIG, **wrong)  # type: ignore[arg-type]
