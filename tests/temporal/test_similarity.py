import math

import torch
from torch import Tensor

from flowdet.temporal.similarity import add_weighted, aggregate, cosine_similarity


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_cosine_is_that_of_the_vectors_in_each_cell() -> None:
    query, keys = random(2, 5, 3, 4), random(2, 6, 5, 3, 4, seed=1)
    found = cosine_similarity(query, keys)
    for b, n, y, x in ((0, 0, 0, 0), (1, 5, 2, 3), (0, 3, 1, 2)):
        one, other = query[b, :, y, x].tolist(), keys[b, n, :, y, x].tolist()
        dot = sum(p * q for p, q in zip(one, other, strict=True))
        assert math.isclose(found[b, n, y, x].item(), dot / math.hypot(*one) / math.hypot(*other), abs_tol=1e-6)


def test_cosine_of_a_map_with_itself_is_one_and_does_not_see_its_length() -> None:
    query = random(1, 5, 3, 4)
    found = cosine_similarity(query, torch.stack((query, 7 * query, -query), dim=1))
    torch.testing.assert_close(found, torch.tensor([1.0, 1.0, -1.0])[None, :, None, None].expand(1, 3, 3, 4))


def test_weights_sum_to_one_and_average_the_maps() -> None:
    maps, similarity = random(2, 4, 3, 5, 6), random(2, 4, 5, 6, seed=1)
    average, weights = aggregate(maps, similarity, torch.ones(4))
    torch.testing.assert_close(weights.sum(dim=1), torch.ones(2, 5, 6))
    odds = similarity.exp()
    torch.testing.assert_close(weights, odds / odds.sum(dim=1, keepdim=True))
    torch.testing.assert_close(average, (maps * weights[:, :, None]).sum(dim=1))


def test_multiplicity_equals_repetition() -> None:
    maps, similarity, repeats = random(2, 3, 4, 5, 6), random(2, 3, 5, 6, seed=1), torch.tensor([1, 4, 2])
    average, weights = aggregate(maps, similarity, repeats.float())
    repeated, single = aggregate(
        maps.repeat_interleave(repeats, dim=1), similarity.repeat_interleave(repeats, dim=1), torch.ones(7)
    )
    torch.testing.assert_close(average, repeated)
    torch.testing.assert_close(
        weights, torch.stack([part.sum(dim=1) for part in single.split([1, 4, 2], dim=1)], dim=1)
    )


def test_one_map_alone_is_its_own_average() -> None:
    maps = random(2, 1, 3, 5, 6)
    average, weights = aggregate(maps, random(2, 1, 5, 6), torch.ones(1))
    torch.testing.assert_close(average, maps[:, 0])
    assert torch.equal(weights, torch.ones_like(weights))


def test_maps_added_one_by_one_give_the_average_too() -> None:
    maps, similarity = random(2, 5, 3, 5, 6), random(2, 5, 5, 6, seed=1)
    average, weights = aggregate(maps, similarity, torch.ones(5))
    total, odds = torch.zeros(2, 3, 5, 6), (similarity - 2).exp()
    add_weighted(total, maps[:, :2], odds[:, :2])
    add_weighted(total, maps[:, 2:], odds[:, 2:])
    torch.testing.assert_close(total / odds.sum(dim=1, keepdim=True), average)
    torch.testing.assert_close(odds / odds.sum(dim=1, keepdim=True), weights)
