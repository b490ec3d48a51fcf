import numpy as np
import torch

from flowdet.data.synthetic.layers import Wobble, pixel_grid, render

from .scenes import constant, ground, layer, moving, square

SIZE = (48, 64)


def test_the_way_to_the_picture_and_back_ends_where_it_began() -> None:
    bent = layer(
        square(30),
        moving(30, 2.5),
        constant(20),
        scale=1.7,
        angle=0.6,
        wobble=Wobble(amplitude=4, wave_number=0.3, rate=0.7),
    )
    points = torch.rand((200, 2), generator=torch.Generator().manual_seed(0)) * 60
    for time in (0.0, 3.4, -7.0):
        assert torch.allclose(bent.to_frame(bent.to_picture(points, time), time), points, atol=1e-4)


def test_a_picture_in_the_middle_is_copied() -> None:
    picture = torch.rand((4, 10, 12), generator=torch.Generator().manual_seed(1))
    picture[3] = 1
    view = render([ground(SIZE), layer(picture, constant(32), constant(24))], 0, SIZE)
    assert torch.allclose(view.image[:, 19:29, 26:38], picture[:3], atol=1e-5)
    assert view.in_frame == (48 * 64, 120)
    assert (view.owner == 1).sum() == 120


def test_the_upper_layer_hides_the_lower_one() -> None:
    below, above = (
        layer(square(20, 0.2), constant(30), constant(24)),
        layer(square(10, 0.8), constant(36), constant(24)),
    )
    view = render([ground(SIZE), below, above], 0, SIZE)
    assert torch.allclose(view.image[:, 24, 36], torch.tensor(0.8))
    assert torch.allclose(view.image[:, 24, 24], torch.tensor(0.2))
    assert (view.owner == 1).sum() == 20 * 20 - 9 * 10
    assert view.in_frame[1:] == (400, 100)


def test_the_extent_holds_all_that_can_be_seen() -> None:
    everything = pixel_grid(0, 0, SIZE[1], SIZE[0])
    for angle in (0.0, 0.5, 2.0):
        bent = layer(
            square(20),
            moving(30, 1.3),
            constant(20),
            scale=1.4,
            angle=angle,
            wobble=Wobble(amplitude=5, wave_number=0.4),
        )
        alpha = bent.colours(bent.to_picture(everything, 2.0))[3]
        left, top, right, bottom = bent.extent(2.0, SIZE)
        assert torch.count_nonzero(alpha[top:bottom, left:right]) == torch.count_nonzero(alpha) > 0


def test_a_layer_out_of_view_is_left_out() -> None:
    view = render([ground(SIZE), layer(square(10), constant(-40), constant(500))], 0, SIZE)
    assert view.in_frame[1] == 0
    assert not view.owner.any()


def test_the_background_goes_on_beyond_its_edges() -> None:
    view = render([ground(SIZE, moving(32, 100))], 3, SIZE)
    assert view.in_frame == (48 * 64,)
    assert np.ptp(view.image.numpy()) > 0.5
