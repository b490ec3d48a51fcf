"""How much the aggregation of FGFA prefers maps that are alike; nothing moves, so the features are seen as they are."""

import pytest
import torch
from torch import Tensor

from flowdet.errors import ConfigError
from flowdet.temporal.fgfa import FGFA, FGFAConfig
from flowdet.temporal.similarity import cosine_similarity, log_odds
from flowdet.types import ClipBatch, NetworkInput, Targets
from tests.tiny import Extract, NoFlow, embed, embed_maps, inputs_of, run, video

INPUTS = inputs_of(video(3), video(3, seed=1))


def method(sharpness: float, norm_power: float = 0.0) -> FGFA:
    config = FGFAConfig(past=1, future=1, sharpness=sharpness, norm_power=norm_power)
    return FGFA(Extract(), NoFlow(), embed_maps, config)


def features_of(inputs: NetworkInput) -> Tensor:
    return Extract()(inputs.images)


def by_hand(sharpness: float, slots: list[int], current: int, norm_power: float = 0.0) -> Tensor:
    maps = torch.stack([features_of(INPUTS[slot]) for slot in slots], dim=1)
    keys = torch.stack([embed(features_of(INPUTS[slot])) for slot in slots], dim=1)
    odds = (sharpness * cosine_similarity(embed(features_of(INPUTS[current])), keys)).exp()
    odds = odds * keys.norm(dim=2) ** norm_power
    average: Tensor = (maps * (odds / odds.sum(dim=1, keepdim=True))[:, :, None]).sum(dim=1)
    return average


@torch.inference_mode()
@pytest.mark.parametrize("sharpness", [0.0, 0.5, 1.0, 4.0])
def test_similarities_are_multiplied_by_it(sharpness: float) -> None:
    outputs = run(method(sharpness), INPUTS)
    for current, slots in enumerate([[0, 0, 1], [0, 1, 2], [1, 2, 2]]):
        torch.testing.assert_close(outputs[current].maps[0], by_hand(sharpness, slots, current))


@torch.inference_mode()
@pytest.mark.parametrize("norm_power", [0.5, 2.0])
def test_weights_are_multiplied_by_a_power_of_the_length(norm_power: float) -> None:
    outputs = run(method(3.0, norm_power), INPUTS)
    for current, slots in enumerate([[0, 0, 1], [0, 1, 2], [1, 2, 2]]):
        torch.testing.assert_close(outputs[current].maps[0], by_hand(3.0, slots, current, norm_power))


@torch.inference_mode()
def test_the_power_of_a_length_of_nothing_is_finite() -> None:
    query, keys = torch.zeros(1, 4, 1, 1), torch.ones(1, 2, 4, 1, 1)
    keys[:, 0] = 0
    assert log_odds(query, keys, 3.0, 4.0).exp().isfinite().all()


@torch.inference_mode()
def test_without_it_every_slot_of_the_window_counts_the_same() -> None:
    first, *_ = run(method(0.0), INPUTS)
    torch.testing.assert_close(first.maps[0], (2 * features_of(INPUTS[0]) + features_of(INPUTS[1])) / 3)


@torch.inference_mode()
def test_the_most_similar_map_wins_in_the_end() -> None:
    maps = [features_of(item) for item in INPUTS]
    distances = []
    for sharpness in (0.0, 1.0, 10.0, 1e4):
        outputs = run(method(sharpness), INPUTS)
        distances.append(float((outputs[1].maps[0] - maps[1]).abs().mean()))
    assert distances == sorted(distances, reverse=True)
    assert distances[0] > 0.1
    assert distances[-1] < 0.01 * distances[0]


@torch.inference_mode()
@pytest.mark.parametrize(("sharpness", "norm_power"), [(0.0, 0.0), (4.0, 0.0), (3.0, 2.0)])
def test_training_sees_it_too(sharpness: float, norm_power: float) -> None:
    nothing = Targets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
    clips = ClipBatch(INPUTS[1], (INPUTS[0], INPUTS[2]), (nothing,) * 2, (False,) * 2)
    (found,) = method(sharpness, norm_power).training_features(clips).maps
    torch.testing.assert_close(found, by_hand(sharpness, [0, 2], 1, norm_power))


def test_the_published_one_is_the_default() -> None:
    assert FGFAConfig().sharpness == 1
    assert FGFAConfig().norm_power == 0
    with pytest.raises(ConfigError, match=r"0 or more, not -0\.1"):
        FGFAConfig(sharpness=-0.1)
