"""Half precision reaches no coordinate, no odds of a match and no sum of squares; autocast is that of a CPU here."""

import numpy as np
import pytest
import torch
from torch import Tensor

from flowdet.ops.boxes import seeded_choosers
from flowdet.ops.sampling import WarpConvention, roi_align, warp
from flowdet.systems.load import load
from flowdet.temporal.similarity import cosine_similarity
from flowdet.training.dataset import Clip
from flowdet.training.feed import TrainingBatch, to_training_batch
from flowdet.types import Targets
from tests.tiny import video

HALVES = (torch.bfloat16, torch.float16)


def clip(seed: int) -> TrainingBatch:
    """Three frames [320, 512, 3] of blocks that move, and one object."""
    still = video(1, seed=seed, size=(112, 192))[0].repeat(4, axis=0).repeat(4, axis=1)
    images = [np.ascontiguousarray(still[k : k + 320, 3 * k : 3 * k + 512]) for k in (2, 0, 5)]
    targets = Targets(torch.tensor([[109.0 + 30 * seed, 80, 300, 250]]), torch.tensor([seed % 3]))
    frames = tuple(map(torch.from_numpy, images))
    return to_training_batch([Clip("clip", frames, targets, still=False)], [seed], load("fgfa-lite").config.inputs)


def test_the_first_loss_in_bfloat16_is_that_in_float32() -> None:
    system, batch = load("fgfa-lite").train(), clip(1)
    losses = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            found: dict[str, Tensor] = system.losses(batch.clips, seeded_choosers(batch.seeds))
        losses.append(sum(loss.item() for loss in found.values()))
    assert losses[1] == pytest.approx(losses[0], rel=0.005)


def test_losses_in_bfloat16_need_no_gradients() -> None:
    system, batch = load("dff-lite").train(), clip(0)
    one = to_training_batch(
        [Clip("clip", tuple(map(torch.from_numpy, video(2, size=(64, 96)))), batch.clips.targets[0], still=False)],
        batch.seeds,
        system.config.inputs,
    )
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert all(torch.isfinite(loss) for loss in system.losses(one.clips, seeded_choosers(one.seeds)).values())


def test_matching_in_bfloat16_finds_the_flow_of_float32() -> None:
    flow_net, clips = load("fgfa-lite").flow_net, clip(0).clips
    assert flow_net is not None

    def flow() -> Tensor:
        current, reference = (flow_net.prepare(each) for each in (clips.current, clips.references[0]))
        found: Tensor = flow_net(flow_net.as_current(current), flow_net.as_reference(reference))
        return found

    with torch.inference_mode():
        wanted = flow()
        with torch.autocast("cpu", torch.bfloat16):
            found = flow()
    assert found.dtype == torch.float32
    assert (found - wanted).norm(dim=1).max() < 0.02  # cells


@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("convention", ["identity", "published"])
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_positions_on_a_wide_map_are_those_of_float32(
    dtype: torch.dtype, convention: WarpConvention, *, grad: bool
) -> None:
    ramp = torch.arange(100.0).expand(1, 1, 2, 100) / 100  # tells where a cell was read
    flow = torch.full((1, 2, 2, 100), 0.25)
    with torch.set_grad_enabled(grad):
        wanted, found = warp(ramp, flow, convention), warp(ramp.to(dtype), flow.to(dtype), convention)
    assert found.dtype == dtype
    assert (found.float() - wanted).abs().max() < 0.005  # half a cell; bfloat16 has 0.5 as its unit there


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_roi_align_takes_maps_in_half_precision(dtype: torch.dtype) -> None:
    maps, boxes = torch.rand(1, 3, 8, 8), [torch.tensor([[10.0, 20, 90, 70]])]
    with torch.no_grad():
        found, wanted = (roi_align(each, boxes, 7, 16) for each in (maps.to(dtype), maps))
    torch.testing.assert_close(found.float(), wanted, atol=0.01, rtol=0)
    assert found.dtype == dtype


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_cosine_of_long_vectors_is_that_of_short_ones(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    query, keys = torch.randn(1, 16, 2, 3, generator=generator), torch.randn(1, 4, 16, 2, 3, generator=generator)
    wanted = cosine_similarity(query, keys)
    with torch.autocast("cpu", dtype):
        found = cosine_similarity((1000 * query).to(dtype), (1000 * keys).to(dtype))
    torch.testing.assert_close(found.float(), wanted, atol=0.01, rtol=0)
