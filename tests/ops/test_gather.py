import torch
from flowdet.ops.gather import taps, weighted_cells


def test_positions_lie_between_two_cells_and_do_not_leave_the_map() -> None:
    cells, shares = taps(torch.tensor([0.0, 0.25, 2.0, 2.75, 3.0, 7.5, -4.0]), 4)
    assert cells.tolist() == [[0, 1], [0, 1], [2, 3], [2, 3], [3, 3], [3, 3], [0, 1]]
    assert shares.tolist() == [[1, 0], [0.75, 0.25], [1, 0], [0.25, 0.75], [1, 0], [1, 0], [1, 0]]


def test_sums_of_cells_of_all_maps_in_either_layout() -> None:
    maps = torch.randn(2, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    cells, shares = torch.tensor([[0, 13], [23, 5]]), torch.tensor([[0.5, 2.0], [1.0, -1.0]])
    wanted = torch.stack((maps[0, :, 0, 0] * 0.5 + 2 * maps[1, :, 0, 1], maps[1, :, 2, 3] - maps[0, :, 1, 1]))
    for layout in (torch.contiguous_format, torch.channels_last):
        torch.testing.assert_close(weighted_cells(maps.to(memory_format=layout), cells, shares), wanted)
