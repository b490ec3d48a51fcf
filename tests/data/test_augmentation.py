import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from flowdet.data.augmentation import (
    PUBLISHED_AUGMENTATION,
    STRONGER_AUGMENTATION,
    Augmentation,
    ClipTransform,
    draw_transform,
)
from flowdet.errors import ConfigError
from flowdet.inputs import InputConfig, prepare, resize_bilinear
from tests.data.pictures import waves

INPUTS = InputConfig(long_side=100, short_side=60)


def view_of(
    size: tuple[int, int],
    boxes: NDArray[np.float32],
    augmentation: Augmentation = PUBLISHED_AUGMENTATION,
    seed: int = 0,
) -> ClipTransform:
    return draw_transform(size, boxes, INPUTS.fit(size), augmentation, np.random.default_rng(seed))


BOX = np.array([[10, 20, 40, 50]], np.float32)


def test_the_published_training_resizes_and_flips_and_no_more() -> None:
    image = waves((90, 120), 0)
    views = [view_of((90, 120), BOX, seed=seed) for seed in range(400)]
    assert {view.window for view in views} == {(0, 0, 120, 90)}
    assert {view.size for view in views} == {(60, 80)}
    assert {view.colour for view in views} == {(1.0, 1.0, 1.0)}
    assert 160 < sum(view.flip for view in views) < 240
    resized = resize_bilinear(torch.from_numpy(image), (60, 80))
    plain, flipped = ClipTransform((0, 0, 120, 90), (60, 80)), ClipTransform((0, 0, 120, 90), (60, 80), flip=True)
    assert torch.equal(plain.apply_to_image(image), resized)
    assert torch.equal(flipped.apply_to_image(image), resized.flip(1))


def test_boxes_are_scaled_as_the_network_input_is() -> None:
    size = (97, 131)
    geometry = prepare([np.zeros((*size, 3), np.uint8)], INPUTS).geometries[0]
    view = view_of(size, BOX, Augmentation(flip=0))
    assert view.size == geometry.valid
    boxes, kept = view.apply_to_boxes(BOX)
    np.testing.assert_allclose(boxes, BOX * np.tile(geometry.scale, 2), rtol=1e-6)
    assert kept.tolist() == [True]
    mirrored, _ = view_of(size, BOX, Augmentation(flip=1)).apply_to_boxes(BOX)
    width = geometry.valid[1]
    np.testing.assert_allclose(mirrored[0], [width - boxes[0, 2], boxes[0, 1], width - boxes[0, 0], boxes[0, 3]])


@given(st.integers(0, 10_000), st.sampled_from([(90, 120), (120, 90), (60, 200), (48, 48)]))
def test_boxes_follow_the_pixels(seed: int, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(seed)
    x1, y1 = rng.integers(0, size[1] - 12), rng.integers(0, size[0] - 12)
    x2, y2 = rng.integers(x1 + 8, size[1] + 1), rng.integers(y1 + 8, size[0] + 1)
    image = np.zeros((*size, 3), np.uint8)
    image[y1:y2, x1:x2] = 255
    view = view_of(size, np.array([[x1, y1, x2, y2]], np.float32), Augmentation(zoom=(0.5, 3.0)), seed)
    boxes, kept = view.apply_to_boxes(np.array([[x1, y1, x2, y2]], np.float32))
    assert kept.tolist() == [True]
    seen = view.apply_to_image(image)[..., 0] > 127
    assert seen.shape == view.size
    columns, rows = seen.any(dim=0).nonzero().flatten(), seen.any(dim=1).nonzero().flatten()
    outline = [columns[0].item(), rows[0].item(), columns[-1].item() + 1, rows[-1].item() + 1]
    np.testing.assert_allclose(boxes[0], outline, atol=1.0)


@given(st.integers(0, 10_000))
def test_a_part_that_is_cut_out_holds_an_object(seed: int) -> None:
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, [120, 90, 120, 90], (4, 4))
    boxes = np.concatenate([np.minimum(corners[:, :2], corners[:, 2:]), np.maximum(corners[:, :2], corners[:, 2:])], 1)
    boxes = (boxes + np.array([0, 0, 1, 1])).clip(0, [120, 90, 120, 90]).astype(np.float32)
    view = view_of((90, 120), boxes, Augmentation(zoom=(1.0, 4.0)), seed)
    moved, kept = view.apply_to_boxes(boxes)
    assert kept.any()
    assert len(moved) == kept.sum()
    assert (moved >= 0).all()
    assert (moved <= np.tile(view.size[::-1], 2)).all()
    assert (moved[:, 2:] > moved[:, :2]).all()


def test_a_box_whose_centre_is_outside_is_gone() -> None:
    view = ClipTransform((20, 10, 60, 40), (60, 80))
    boxes = np.array([[0, 0, 38, 30], [0, 0, 42, 30], [30, 20, 40, 30], [50, 30, 80, 60]], np.float32)
    moved, kept = view.apply_to_boxes(boxes)
    assert kept.tolist() == [False, True, True, False]
    np.testing.assert_allclose(moved, [[0, 0, 44, 40], [20, 20, 40, 40]])


def test_things_get_larger_and_smaller_evenly() -> None:
    views = [view_of((60, 100), BOX, Augmentation(zoom=(0.5, 2.0)), seed) for seed in range(600)]
    shrunk = [view for view in views if view.size != (60, 100)]
    cut = [view for view in views if view.window != (0, 0, 100, 60)]
    assert 240 < len(shrunk) < 360
    assert not set(map(id, shrunk)) & set(map(id, cut))
    assert min(view.size[1] for view in shrunk) in {50, 51}
    assert min(view.window[2] - view.window[0] for view in cut) in {50, 51}


def test_colours_change_alike_in_all_frames_and_by_no_more_than_is_said() -> None:
    factors = np.array([view_of((60, 100), BOX, Augmentation(colour=0.2), seed).colour for seed in range(300)])
    assert (np.abs(factors - 1) <= 0.2).all()
    assert (np.abs(factors - 1).max(axis=0) > 0.19).all()
    image = np.array([[[100, 150, 200]]], np.uint8)
    whole = (0, 0, 1, 1)
    assert ClipTransform(whole, (1, 1), colour=(1.1, 1.0, 1.0)).apply_to_image(image).tolist() == [[[110, 165, 220]]]
    assert ClipTransform(whole, (1, 1), colour=(1.0, 0.5, 1.0)).apply_to_image(image).tolist() == [[[114, 139, 164]]]
    grey = 0.299 * 100 + 0.587 * 150 + 0.114 * 200
    faded = [round(grey + (value - grey) * 0.5) for value in (100, 150, 200)]
    assert ClipTransform(whole, (1, 1), colour=(1.0, 1.0, 0.5)).apply_to_image(image).tolist() == [[faded]]
    assert ClipTransform(whole, (1, 1), colour=(1.4, 1.0, 1.0)).apply_to_image(image).tolist() == [[[140, 210, 255]]]


def test_the_same_chance_gives_the_same_view() -> None:
    assert view_of((90, 120), BOX, STRONGER_AUGMENTATION, 5) == view_of((90, 120), BOX, STRONGER_AUGMENTATION, 5)
    assert view_of((90, 120), BOX, STRONGER_AUGMENTATION, 5) != view_of((90, 120), BOX, STRONGER_AUGMENTATION, 6)


def test_the_picture_itself_is_left_alone() -> None:
    image = waves((60, 100), 0)
    before = image.copy()
    view = ClipTransform((0, 0, 100, 60), (60, 100), flip=True, colour=(1.2, 1.0, 1.0))
    view.apply_to_image(image)
    assert np.array_equal(image, before)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"probability of a flip is from 0 to 1, not 1\.5"):
        Augmentation(flip=1.5)
    with pytest.raises(ConfigError, match=r"its smaller end first, not \(2\.0, 1\.0\)"):
        Augmentation(zoom=(2.0, 1.0))
    with pytest.raises(ConfigError, match="from 0 to below 1, not 1"):
        Augmentation(colour=1)


def test_a_part_may_lie_anywhere_around_the_centre_of_an_object() -> None:
    windows = [view_of((60, 100), BOX, Augmentation(zoom=(2.0, 2.0)), seed).window for seed in range(400)]
    assert {window[2] - window[0] for window in windows} == {50}
    assert {window[0] for window in windows} == set(range(26))
    assert {window[1] for window in windows} == set(range(5, 31))
