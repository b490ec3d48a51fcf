from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from flowdet.data.moving_stills import MovingStills, MovingStillsConfig, StillClip
from flowdet.models.inputs import InputConfig, prepare
from flowdet.training.clips import clip_batches, to_clip_batch, to_inputs
from tests.data.pictures import rectangle, still, waves

Draw = Callable[..., Iterator[list[StillClip]]]


@pytest.fixture
def stills(tmp_path: Path) -> MovingStills:
    picture = still(tmp_path / "one.png", waves((90, 120), 0), [rectangle(20, 20, 60, 60, label=1)])
    return MovingStills([picture], [], MovingStillsConfig(size=(48, 72)))


def same(one: list[StillClip], other: list[StillClip]) -> bool:
    return all(torch.equal(a.frames, b.frames) for a, b in zip(one, other, strict=True))


def test_batches_have_so_many_clips_with_so_many_references(stills: MovingStills) -> None:
    (batch,) = islice(clip_batches(stills, 0, references=2, clips=3, seed=0, workers=0), 1)
    assert [tuple(clip.frames.shape) for clip in batch] == [(3, 48, 72, 3)] * 3
    assert not torch.equal(batch[0].frames, batch[1].frames)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_batch_depends_on_its_number_and_not_on_who_draws_it(stills: MovingStills, workers: int) -> None:
    here = list(islice(clip_batches(stills, 0, references=1, clips=2, seed=5, workers=0), 5))
    there = clip_batches(stills, 2, references=1, clips=2, seed=5, workers=workers)
    for wanted, found in zip(here[2:], there, strict=False):
        assert same(wanted, found)
    assert not same(here[0], here[1])
    (other,) = islice(clip_batches(stills, 0, references=1, clips=2, seed=6, workers=0), 1)
    assert not same(here[0], other)


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("workers", [0, 1])
def test_drawing_leaves_the_global_generator_alone(stills: MovingStills, workers: int) -> None:
    before = torch.get_rng_state()
    next(clip_batches(stills, 0, references=1, clips=1, seed=0, workers=workers))
    assert torch.equal(torch.get_rng_state(), before)


def test_frames_become_inputs_without_resizing() -> None:
    frames = torch.from_numpy(np.stack([waves((40, 72), seed) for seed in range(2)]))
    config = InputConfig(long_side=512, short_side=320, multiple=32)
    found = to_inputs(frames, config)
    assert found.images.shape == (2, 3, 64, 96)
    assert {geometry.valid for geometry in found.geometries} == {(40, 72)}
    wanted = prepare([frames[1].numpy()], InputConfig(long_side=72, short_side=40, multiple=32))
    assert torch.equal(found.images[1:], wanted.images)


def test_a_batch_of_clips_goes_by_slots(stills: MovingStills) -> None:
    (clips,) = islice(clip_batches(stills, 0, references=2, clips=3, seed=0, workers=0), 1)
    batch = to_clip_batch(clips, InputConfig())
    assert batch.still == (False, False, False)
    assert len(batch.references) == 2
    assert batch.targets == tuple(clip.targets for clip in clips)
    for slot, inputs in enumerate((batch.current, *batch.references)):
        for number, clip in enumerate(clips):
            single = to_inputs(clip.frames[slot : slot + 1], InputConfig())
            assert torch.equal(inputs.images[number], single.images[0])
            assert inputs.geometries[number] == single.geometries[0]
