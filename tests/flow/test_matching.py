from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowdet.errors import ConfigError
from flowdet.flow.matching import MatchingFlow, MatchingFlowConfig
from flowdet.types import Geometry, NetworkInput

CONFIG = MatchingFlowConfig(encoder=(4, 6, 8), refinement=6)


def flow_net(config: MatchingFlowConfig = CONFIG) -> MatchingFlow:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MatchingFlow(config).eval()


def inputs_of(images: Tensor) -> NetworkInput:
    size = images.shape[2], images.shape[3]
    return NetworkInput(images, (Geometry(size, size, size),) * len(images))


def random_images(batch: int = 2, size: tuple[int, int] = (48, 80), seed: int = 0) -> Tensor:
    return torch.randn(batch, 3, *size, generator=torch.Generator().manual_seed(seed))


def prepared(net: MatchingFlow, seed: int, size: tuple[int, int] = (48, 80), batch: int = 2) -> Tensor:
    return net.prepare(inputs_of(random_images(batch, size, seed)))


@torch.inference_mode()
@pytest.mark.parametrize("size", [(16, 16), (48, 80), (64, 32)])
@pytest.mark.parametrize("rounds", [1, 3])
def test_one_flow_for_each_cell_and_two_for_each_round(size: tuple[int, int], rounds: int) -> None:
    net = flow_net(replace(CONFIG, rounds=rounds))
    current, reference = (prepared(net, seed, size) for seed in (0, 1))
    assert current.shape == (2, 8, size[0] // 8, size[1] // 8)
    found = net.predict(current, reference)
    assert [tuple(flow.shape) for flow in found] == [(2, 2, size[0] // 16, size[1] // 16)] * (2 * rounds)
    assert torch.equal(net(current, reference), found[-1])


@torch.inference_mode()
def test_a_shrunk_frame_has_a_place_for_each_cell() -> None:
    net = flow_net(replace(CONFIG, shrink=2))
    current, reference = (prepared(net, seed) for seed in (0, 1))
    assert current.shape == (2, 8, 3, 5)
    assert net.similarity(current, reference).shape == (2, 15, 15)
    assert net(current, reference).shape == (2, 2, 3, 5)
    # What lies within 2x2 pixels does not matter.
    coarse = F.interpolate(F.avg_pool2d(random_images(), 2), scale_factor=2.0)
    torch.testing.assert_close(net.prepare(inputs_of(coarse)), current)


@torch.inference_mode()
def test_a_batch_equals_one_by_one() -> None:
    net = flow_net()
    current, reference = prepared(net, 0, batch=3), prepared(net, 1, batch=3)
    alone = torch.cat([net(current[n : n + 1], reference[n : n + 1]) for n in range(3)])
    torch.testing.assert_close(net(current, reference), alone, rtol=1e-4, atol=1e-5)


@torch.inference_mode()
def test_the_order_of_the_pair_matters() -> None:
    net = flow_net()
    current, reference = prepared(net, 0), prepared(net, 1)
    assert not torch.allclose(net(current, reference), net(reference, current), atol=0.01)


@torch.inference_mode()
def test_brightness_and_contrast_of_a_frame_do_not_matter() -> None:
    net, images = flow_net(), random_images()
    changed = images * torch.tensor([0.5, 1.7])[:, None, None, None] + torch.tensor([0.8, -0.3])[:, None, None, None]
    found = net.prepare(inputs_of(changed))
    plain = net.prepare(inputs_of(images))
    torch.testing.assert_close(found, plain, rtol=0.01, atol=0.01)
    assert plain.std() > 0.1
    # Each image for itself, so what else is in the batch does not matter either.
    torch.testing.assert_close(net.prepare(inputs_of(images[:1])), plain[:1])


@torch.inference_mode()
def test_a_frame_of_one_colour_gives_numbers() -> None:
    net = flow_net()
    even = net.prepare(inputs_of(torch.full((1, 3, 48, 80), 0.7)))
    assert net(even, even).isfinite().all()


def test_every_parameter_learns() -> None:
    net = flow_net()
    flow = net(prepared(net, 0), prepared(net, 1))
    flow.square().sum().backward()
    assert [name for name, each in net.named_parameters() if each.grad is None or not each.grad.abs().sum() > 0] == []


class _Colours(nn.Module):
    """An encoder that gives the mean of each cell."""

    def forward(self, images: Tensor) -> Tensor:
        return F.avg_pool2d(images, 8)


def net_of_colours(trust: float = 1.0) -> MatchingFlow:
    """Cells that differ at random match exactly; refinements give each match this trust and correct nothing."""
    net = flow_net(MatchingFlowConfig(encoder=(1, 1, 24), refinement=1))
    net.encoder = nn.Sequential(_Colours())
    net.sharpness.data.fill_(200.0)
    for refinement in net.refinements:
        for parameter in refinement.parameters():
            nn.init.zeros_(parameter)
        *_, last = refinement.parameters()
        last.data[0] = torch.tensor(trust).logit(eps=1e-7)
    return net


@torch.inference_mode()
@pytest.mark.parametrize("shift", [(0, 0), (2, 1), (-1, 0), (0, -3), (3, -2)])
def test_the_first_match_finds_where_a_cell_went(shift: tuple[int, int]) -> None:
    """Shift is (x, y) cells of 16 px from the current to the reference frame."""
    net = net_of_colours()
    generator = torch.Generator().manual_seed(1)
    cells = torch.randn(1, 24, 8, 10, generator=generator).repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    moved = torch.roll(cells, (2 * shift[1], 2 * shift[0]), dims=(2, 3))
    found = net.predict(cells, moved)
    inside = slice(max(-shift[1], 0), 8 - max(shift[1], 0)), slice(max(-shift[0], 0), 10 - max(shift[0], 0))
    wanted = torch.tensor(shift, dtype=torch.float32)[None, :, None, None].expand(1, 2, 8, 10)
    for flow in found:
        torch.testing.assert_close(flow[..., *inside], wanted[..., *inside], rtol=0, atol=0.05)


@torch.inference_mode()
@pytest.mark.parametrize(("trust", "shares"), [(0.0, (0, 0, 0)), (0.5, (0.5, 0.75, 0.875)), (1.0, (1, 1, 1))])
def test_the_flow_goes_to_a_match_as_far_as_it_is_trusted(trust: float, shares: tuple[float, float, float]) -> None:
    net = net_of_colours(trust)
    net.pulls.data.fill_(torch.tensor(1e-4).log())
    cells = torch.randn(1, 24, 8, 8, generator=torch.Generator().manual_seed(1))
    cells = cells.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    found = net.predict(cells, torch.roll(cells, 2, dims=3))
    for number, (match, flow) in enumerate(zip(found[::2], found[1::2], strict=True)):
        torch.testing.assert_close(match[0, 0, :, :7], torch.ones(8, 7), rtol=0, atol=0.01)
        torch.testing.assert_close(flow[0, 0, :, :7], torch.full((8, 7), float(shares[number])), rtol=0, atol=0.01)


@torch.inference_mode()
def test_similarity_is_that_of_a_cell_and_a_place() -> None:
    net = net_of_colours()
    net.sharpness.data.fill_(3.0)
    current, reference = (torch.randn(1, 24, 4, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    found = net.similarity(current, reference)
    assert found.shape == (1, 6, 24)
    cell, place = current[0, :, 2:4, 2:4].mean(dim=(1, 2)), reference[0, :, 3, 5]
    torch.testing.assert_close(found[0, 4, 23], 3 * F.cosine_similarity(cell, place, dim=0))


@torch.inference_mode()
def test_later_matches_lie_near_the_flow_before() -> None:
    """One texture everywhere: the first match is a mean of all places, the others are near that."""
    net = net_of_colours()
    net.pulls.data.fill_(torch.tensor(20.0).log())
    even = torch.ones(1, 24, 8, 12)
    first, *_, last = net.predict(even, even)
    assert first.abs().max() < 0.3
    torch.testing.assert_close(first, last, rtol=0, atol=0.3)
    net.pulls.data.fill_(torch.tensor(1e-6).log())
    far = net.predict(even, even)[0]
    torch.testing.assert_close(far[0, 0, 0], 3 - (torch.arange(6) + 0.5), rtol=0, atol=0.01)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"encoder": (4, 0, 8)}, "1 channel or more at each stride"),
        ({"refinement": 0}, "refinement must be 1 or more"),
        ({"rounds": 0}, "rounds must be 1 or more"),
        ({"rounds": 4}, "3 rounds at most"),
    ],
)
def test_impossible_nets(wrong: dict[str, int | Sequence[int]], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        MatchingFlowConfig(**wrong)  # type: ignore[arg-type]
