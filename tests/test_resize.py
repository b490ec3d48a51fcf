import cv2
import numpy as np
import pytest
import torch

from flowdet.inputs import fit_size, resize_bilinear, resize_on_gpu

SIZES = [
    ((135, 240), (113, 200)),
    ((720, 1280), (562, 1000)),
    ((480, 640), (600, 800)),
    ((64, 64), (64, 64)),
    ((37, 53), (37, 91)),
    ((37, 53), (12, 53)),
    ((20, 30), (40, 60)),
    ((20, 30), (10, 15)),
    ((40, 60), (10, 15)),
    ((7, 5), (211, 173)),
    ((101, 77), (3, 2)),
    ((1, 1), (5, 7)),
    ((1, 9), (4, 3)),
    ((9, 1), (3, 4)),
    ((6, 8), (1, 1)),
    ((2, 2), (3, 3)),
]


@pytest.mark.parametrize(("size", "target"), SIZES, ids=str)
@pytest.mark.parametrize("contrast", ["noise", "smooth"])
def test_pixels_equal_those_of_opencv(size: tuple[int, int], target: tuple[int, int], contrast: str) -> None:
    rng = np.random.default_rng([*size, *target])
    image = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    if contrast == "smooth":
        y, x = np.mgrid[: size[0], : size[1]]
        image = (image // 16 + np.stack((x, y, x + y), axis=-1) % 240).astype(np.uint8)
    wanted = cv2.resize(image, target[::-1], interpolation=cv2.INTER_LINEAR)
    found = resize_bilinear(torch.from_numpy(image), target)
    assert found.dtype == torch.uint8
    np.testing.assert_array_equal(found.numpy(), wanted)
    np.testing.assert_array_equal(resize_on_gpu(torch.from_numpy(image), target).numpy(), wanted)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((720, 1280), (563, 1000)),
        ((1280, 720), (1000, 563)),
        ((480, 640), (600, 800)),
        ((600, 1000), (600, 1000)),
        ((100, 100), (600, 600)),
        ((10, 1000), (10, 1000)),
        ((2, 4000), (1, 1000)),
        ((1, 4000), (1, 1000)),
    ],
)
def test_fit_size(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert fit_size(size, long_side=1000, short_side=600) == expected
