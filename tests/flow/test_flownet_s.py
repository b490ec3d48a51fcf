import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from flowdet.flow.flownet_s import FlowNetConfig, FlowNetS
from flowdet.inputs import InputConfig, prepare
from flowdet.types import Geometry, NetworkInput
from tests.tiny import video

CONFIG = FlowNetConfig(encoder=(4, 6, 8, 8, 8, 8), decoder=(8, 8, 6, 4))


def flow_net(inputs: InputConfig | None = None) -> FlowNetS:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return FlowNetS(CONFIG, inputs or InputConfig()).eval()


def frames(height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """Two prepared frames."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    current, reference = torch.randn(2, batch, 3, height // 2, width // 2, generator=generator)
    return current, reference


def pair(net: FlowNetS, height: int, width: int, batch: int = 2) -> tuple[Tensor, Tensor]:
    """What the net needs of a current and a reference frame."""
    current, reference = frames(height, width, batch)
    return net.as_current(current), net.as_reference(reference)


@torch.inference_mode()
@pytest.mark.parametrize("size", [(160, 224), (48, 80), (16, 16)])
def test_the_first_layer_is_the_sum_of_what_it_makes_of_each_frame(size: tuple[int, int]) -> None:
    net = flow_net()
    torch.nn.init.normal_(net.get_parameter("conv1.0.0.bias"))
    current, reference = frames(*size)
    whole = net.conv1(torch.cat((current, reference), dim=1))
    halves = F.leaky_relu(net.as_current(current) + net.as_reference(reference), 0.1)
    torch.testing.assert_close(halves, whole, rtol=1e-5, atol=1e-5 * whole.abs().max().item())
    assert not torch.allclose(net.as_current(current), net.as_reference(current), atol=0.01)


def test_both_halves_of_the_first_layer_train() -> None:
    net = flow_net()
    net(*pair(net, 32, 48)).square().sum().backward()
    gradient = net.get_parameter("conv1.0.0.weight").grad
    assert gradient is not None
    assert gradient[:, :3].abs().sum() > 0
    assert gradient[:, 3:].abs().sum() > 0


@torch.inference_mode()
@pytest.mark.parametrize("size", [(64, 128), (160, 224), (112, 208), (48, 80), (16, 16), (16, 144)])
def test_averaging_predictions_equals_going_through_the_image(size: tuple[int, int]) -> None:
    """The published way: up to the image bilinearly, down to the features, scaled to cells."""
    net = flow_net()
    current, reference = pair(net, *size)
    predictions = net.predict(current, reference)
    assert [tuple(flow.shape[-2:]) for flow in predictions] == [
        tuple(-(-side // stride) for side in size) for stride in (8, 16, 32, 64, 128)
    ]
    image = FlowNetS.to_image(predictions[0])
    assert image.shape == (2, 2, *size)
    cells = F.interpolate(image, (size[0] // 16, size[1] // 16), mode="bilinear", align_corners=False) / 16
    flow = net(current, reference)
    assert flow.abs().max() > 0.1
    torch.testing.assert_close(flow, cells, rtol=1e-4, atol=1e-5 * flow.abs().max().item())


@torch.inference_mode()
def test_the_order_of_the_pair_matters() -> None:
    net = flow_net()
    one, other = frames(64, 64)
    forth, back = (net(net.as_current(a), net.as_reference(b)) for a, b in ((one, other), (other, one)))
    assert not torch.allclose(forth, back, atol=0.01)


@torch.inference_mode()
def test_a_batch_equals_one_by_one() -> None:
    net = flow_net()
    current, reference = pair(net, 64, 96, batch=3)
    together = net(current, reference)
    alone = torch.cat([net(current[n : n + 1], reference[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5 * alone.abs().max().item())


def test_preparing_undoes_the_normalisation_and_blanks_the_padding() -> None:
    config = InputConfig(long_side=96, short_side=64, mean=(1.0, 2.0, 3.0), std=(4.0, 5.0, 6.0), multiple=32)
    (image,) = video(1, size=(40, 72))
    inputs = prepare([image], config)
    assert inputs.geometries == (Geometry((40, 72), (53, 96), (64, 96)),)
    kept = inputs.images.clone()
    found = flow_net(config).prepare(inputs)
    assert torch.equal(inputs.images, kept)
    assert found.shape == (1, 3, 32, 48)
    mean, std = (torch.tensor(values)[:, None, None] for values in (config.mean, config.std))
    pixels = inputs.images[0] * std + mean
    assert pixels[:, :53].min() > -1e-3
    wanted = pixels / 255 - torch.tensor([0.411, 0.432, 0.450])[:, None, None]
    wanted[:, 53:] = 0
    torch.testing.assert_close(found[0], F.avg_pool2d(wanted, 2))


def test_each_image_has_its_own_padding() -> None:
    geometries = (Geometry((64, 64), (64, 64), (64, 64)), Geometry((64, 32), (64, 32), (64, 64)))
    found = flow_net().prepare(NetworkInput(torch.ones(2, 3, 64, 64), geometries))
    assert torch.equal(found[0, :, :, :16], found[1, :, :, :16])
    assert (found[0] != 0).all()
    assert (found[1, :, :, 16:] == 0).all()


def test_predictions_and_upsamplings_have_no_bias() -> None:
    biased = {name for name, _ in flow_net().named_parameters() if name.endswith("bias")}
    assert biased == {name for name, _ in flow_net().named_parameters() if name.startswith("conv") and "bias" in name}
    assert len(biased) == 10
