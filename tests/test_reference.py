"""All six published systems against the full record of mmtracking's tensors, where that is at hand."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch

from flowdet.inputs import fit_size, resize_bilinear
from tests.comparison import CASES, TOLERANCES, Case, compare_case, read_full
from tests.seeded import seeded_system, synthetic_clip


def test_clip_is_the_recorded_one_and_so_are_its_resized_pixels(reference: Path) -> None:
    clip = synthetic_clip(20, (135, 240), 1)
    size = fit_size((135, 240), long_side=200, short_side=120)
    with np.load(reference / "goldens" / "inputs_b113x200.npz") as recorded:
        for frame, digest, resized in zip(clip, recorded["native_md5"], recorded["frames"], strict=True):
            assert hashlib.md5(frame[..., ::-1].tobytes(), usedforsecurity=False).hexdigest() == digest
            own = resize_bilinear(torch.from_numpy(frame), size)
            np.testing.assert_array_equal(own.numpy(), resized[..., ::-1])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_all_tensors_of_all_frames(case: Case, reference: Path) -> None:
    worst = compare_case(seeded_system(case.system), case, read_full(case, reference))
    assert set(worst) == set(TOLERANCES) - ({"warped", "agg_cos", "agg_weights"} if "dff" in case.system else set())
    assert {name: value for name, value in worst.items() if not value <= TOLERANCES[name]} == {}
