import torch

from flowdet.ops.flow import follow, hop


def constant(dx: float, dy: float) -> torch.Tensor:
    return torch.tensor([float(dx), float(dy)])[None, :, None, None].expand(1, 2, 6, 8)


def test_a_hop_that_leads_back_disagrees_nowhere() -> None:
    found = hop(constant(2, -1), constant(-2, 1))
    assert torch.equal(found[:, :2], constant(2, -1))
    assert torch.equal(found[:, 2:], torch.zeros(1, 1, 6, 8))


def test_disagreement_is_the_distance_from_where_one_started() -> None:
    found = hop(constant(2, -1), constant(1, 5))
    torch.testing.assert_close(found[:, 2:], torch.full((1, 1, 6, 8), 5.0))


def test_a_path_samples_the_next_hop_where_it_has_led() -> None:
    following = torch.zeros(1, 3, 6, 8)
    following[0, 0, 2, 5], following[0, 2, 2, 5] = 3.0, 0.5
    path = torch.cat((constant(2, 1), torch.full((1, 1, 6, 8), 0.25)), dim=1)
    found = follow(path, following)
    torch.testing.assert_close(found[0, :, 1, 3], torch.tensor([5.0, 1.0, 0.75]))
    torch.testing.assert_close(found[0, :, 2, 5], torch.tensor([2.0, 1.0, 0.25]))


def test_the_order_of_hops_does_not_matter_where_flow_is_constant() -> None:
    one, two = hop(constant(1, 0.5), constant(0, 0)), hop(constant(-3, 2), constant(3, -2))
    torch.testing.assert_close(follow(one, two), follow(two, one))
