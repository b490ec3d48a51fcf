import numpy as np
import pytest
import torch

from flowdet.errors import ConfigError
from flowdet.inputs import InputConfig, prepare
from flowdet.types import Geometry
from tests.tiny import video


def test_normalising_and_padding() -> None:
    config = InputConfig(long_side=80, short_side=80, mean=(10.0, 20.0, 30.0), std=(2.0, 4.0, 5.0))
    (image,) = video(1, size=(40, 80))
    found = prepare([image], config)
    assert found.geometries == (Geometry((40, 80), (40, 80), (48, 80)),)
    assert found.images.is_contiguous()
    wanted = (image.astype(np.float32) - (10, 20, 30)) / (2, 4, 5)
    torch.testing.assert_close(found.images[0, :, :40].permute(1, 2, 0), torch.from_numpy(wanted).float())
    assert (found.images[0, :, 40:] == 0).all()


def test_resizing_goes_to_the_limit_that_is_met_first_and_the_scale_is_that_of_each_side() -> None:
    (image,) = video(1, size=(136, 240))
    (geometry,) = prepare([image], InputConfig(long_side=200, short_side=120)).geometries
    assert geometry == Geometry((136, 240), (113, 200), (128, 208))
    assert geometry.scale == (200 / 240, 113 / 136)


@pytest.mark.parametrize(
    ("size", "fitted"),
    [((90, 160), (90, 160)), ((120, 160), (120, 160)), ((120, 200), (120, 200)), ((136, 240), (113, 200))],
)
def test_small_frames_stay_as_they_are_where_nothing_is_enlarged(
    size: tuple[int, int], fitted: tuple[int, int]
) -> None:
    config = InputConfig(long_side=200, short_side=120, enlarge=False)
    assert config.fit(size) == fitted
    (image,) = video(1, size=(size[0] // 8 * 8, size[1]))
    (geometry,) = prepare([image], config).geometries
    assert geometry.valid == config.fit(image.shape[:2])


def test_small_frames_are_enlarged_as_published() -> None:
    assert InputConfig(long_side=200, short_side=120).fit((60, 80)) == (120, 160)
    assert InputConfig(long_side=200, short_side=120, enlarge=False).fit((60, 80)) == (60, 80)
    # Narrow: below the short side but above the long one.
    assert InputConfig(long_side=200, short_side=120, enlarge=False).fit((50, 400)) == (25, 200)


def test_images_of_a_batch_have_one_size() -> None:
    one, other = (video(1, size=size)[0] for size in ((40, 80), (80, 40)))
    with pytest.raises(ValueError, match="one size"):
        prepare([one, other], InputConfig())


def test_a_view_of_an_image_is_read_as_it_is_seen() -> None:
    (image,) = video(1, size=(48, 80))
    flipped = image[:, ::-1]
    config = InputConfig(long_side=80, short_side=80)
    assert torch.equal(prepare([flipped], config).images, prepare([image], config).images.flip(3))


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"multiple": 8}, "not of 8"),
        ({"multiple": 24}, "not of 24"),
        ({"short_side": 2000}, "2000 px"),
        ({"short_side": 0}, "0 px"),
    ],
)
def test_impossible_inputs(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        InputConfig(**wrong)  # type: ignore[arg-type]
