import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from scripts.still_crops import StillCrop, background_steps, still_crop

PICTURE = (120, 200)


def pictures_of(shifts: list[tuple[int, int]]) -> list[NDArray[np.uint8]]:
    """A textured background seen by a camera that moves, and a textured object that stays in the middle."""
    random = np.random.default_rng(0)
    world, thing = (
        cv2.GaussianBlur(random.integers(0, 256, (*size, 3), dtype=np.uint8), (7, 7), 0).astype(np.uint8)
        for size in ((300, 500), (40, 60))
    )
    frames = []
    for x, y in shifts:
        frame = world[90 + y : 90 + y + PICTURE[0], 150 + x : 150 + x + PICTURE[1]].copy()
        frame[40:80, 70:130] = thing
        frames.append(frame)
    return frames


def test_background_moves_against_the_camera() -> None:
    boxes = np.tile((70.0, 40.0, 130.0, 80.0), (3, 1))
    steps = background_steps(pictures_of([(0, 0), (9, 0), (12, -4)]), boxes)
    np.testing.assert_allclose(steps, [(-9, 0), (-3, 4)], atol=0.2)


def test_motion_of_an_empty_picture_is_not_known() -> None:
    grey = np.full((*PICTURE, 3), 128, np.uint8)
    assert np.isnan(background_steps([grey, grey], np.tile((70.0, 40.0, 130.0, 80.0), (2, 1)))).all()


BOXES = np.array([(90.0 + 2 * n, 50, 110 + 2 * n, 70) for n in range(5)])
STEPS = np.tile((-10.0, 3.0), (4, 1))


def crop_of(steps: NDArray[np.float64], place: int, sizes: list[tuple[int, int]]) -> StillCrop | None:
    return still_crop(steps, BOXES, place, picture=PICTURE, sizes=sizes, radius=2)


def test_crop_follows_the_background_and_holds_the_object() -> None:
    crop = crop_of(STEPS, 2, [(60, 100)])
    assert crop is not None
    assert (crop.place, crop.size) == (2, (60, 100))
    # The object's middle is at (104, 60): the crop is around it, and moves as the background does.
    assert crop.corners.tolist() == [[74, 24], [64, 27], [54, 30], [44, 33], [34, 36]]
    assert crop.speed == pytest.approx(np.hypot(12, 3))


def test_crop_gives_way_to_the_border() -> None:
    # It moves by 40 px in all, so a width of 159 leaves less than a pixel on either side.
    crop = crop_of(STEPS, 2, [(60, 159), (60, 150)])
    assert crop is not None
    assert crop.size == (60, 150)
    assert (crop.corners >= 0).all()
    assert (crop.corners <= (PICTURE[1] - 150, PICTURE[0] - 60)).all()


def test_no_crop() -> None:
    unknown = STEPS.copy()
    unknown[3] = np.nan
    assert crop_of(STEPS, 2, [(60, 170)]) is None  # too wide
    assert crop_of(STEPS, 2, [(15, 100)]) is None  # lower than the object
    assert crop_of(STEPS, 1, [(60, 100)]) is None  # too near to the start
    assert crop_of(STEPS, 3, [(60, 100)]) is None  # too near to the end
    assert crop_of(unknown, 2, [(60, 100)]) is None
