import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from flowdet.data.augmentation import STRONGER_AUGMENTATION
from flowdet.data.sampling import ReferenceSampling
from flowdet.detectors.faster_rcnn import FasterRCNN, propose
from flowdet.errors import ConfigError, DataError, FlowdetError
from flowdet.inputs import InputConfig, prepare
from flowdet.ops.boxes import seeded_choosers
from flowdet.systems.build import build
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.training.dataset import Clip, ClipDataset
from flowdet.training.feed import ClipFeed, TrainingBatch, clips_of, to_inputs, to_training_batch
from flowdet.types import Targets
from tests.data.annotated import Drawing
from tests.data.pictures import waves
from tests.tiny import lite_config, lite_flow_config
from tests.training.runs import TinyClips, losses_of_system, system_of

CLASSES = ("cat", "dog")
SMALL = InputConfig(long_side=64, short_side=48)
NEAR = ReferenceSampling(count=2, reach=2, both_sides=True)
FORK = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")


def test_frames_become_inputs_without_resizing() -> None:
    frames = torch.from_numpy(np.stack([waves((40, 72), seed) for seed in range(2)]))
    config = InputConfig(long_side=512, short_side=320, multiple=32)
    found = to_inputs(frames, config)
    assert found.images.shape == (2, 3, 64, 96)
    assert {geometry.valid for geometry in found.geometries} == {(40, 72)}
    wanted = prepare([frames[1].numpy()], InputConfig(long_side=72, short_side=40, multiple=32))
    assert torch.equal(found.images[1:], wanted.images)


@pytest.fixture
def source(tmp_path: Path) -> ClipDataset:
    """Eleven clips: seven frames of videos of one size and four stills of four sizes."""
    drawing = Drawing(tmp_path / "drawn")
    drawing.video(range(5))
    drawing.video([0, 1])
    for side in (36, 44, 52, 60):
        drawing.still(size=(side, 40))
    return ClipDataset.of([drawing.read()], CLASSES, SMALL, NEAR, STRONGER_AUGMENTATION)


def names_of(batches: Iterable[TrainingBatch]) -> list[str]:
    return [name for batch in batches for name in batch.names]


def steps_of(feed: ClipFeed, count: int, first: int = 0) -> list[tuple[TrainingBatch, ...]]:
    return list(islice(feed(first), count))


def assert_same(one: TrainingBatch, other: TrainingBatch) -> None:
    assert (one.names, one.seeds, one.clips.still) == (other.names, other.seeds, other.clips.still)
    inputs = zip(
        (one.clips.current, *one.clips.references), (other.clips.current, *other.clips.references), strict=True
    )
    for found, wanted in inputs:
        assert torch.equal(found.images, wanted.images)
        assert found.geometries == wanted.geometries
    for mine, theirs in zip(one.clips.targets, other.clips.targets, strict=True):
        assert torch.equal(mine.boxes, theirs.boxes)
        assert torch.equal(mine.labels, theirs.labels)


def test_an_epoch_draws_everything_once_and_fills_its_last_batch_from_its_beginning(source: ClipDataset) -> None:
    feed = ClipFeed(source, batch=4)
    assert feed.steps_per_epoch == 3
    steps = [names_of(step) for step in steps_of(feed, 6)]
    for epoch in (steps[:3], steps[3:]):
        drawn = [name for step in epoch for name in step]
        assert len(set(drawn[:11])) == 11
        assert drawn[11:] == drawn[:1]
    assert steps[0] != steps[3]


def test_a_batch_may_be_larger_than_the_data(source: ClipDataset) -> None:
    (step,) = steps_of(ClipFeed(source, batch=30), 1)
    names = names_of(step)
    assert names[:8] == names[11:19] == names[22:]
    seeds = [seed for batch in step for seed in batch.seeds]
    assert seeds[:8] == seeds[11:19] == seeds[22:]
    assert ClipFeed(source, batch=30).steps_per_epoch == 1


def test_every_epoch_draws_a_sample_differently(source: ClipDataset) -> None:
    (first,), (second,) = steps_of(ClipFeed(source, batch=11, clips_per_device=11), 2)
    sizes = [
        {name: geometry.valid for name, geometry in zip(step.names, step.clips.current.geometries, strict=True)}
        for step in (first, second)
    ]
    assert sum(sizes[0][name] != sizes[1][name] for name in sizes[0]) > 4
    assert not set(first.seeds) & set(second.seeds)
    assert len(set(first.seeds)) == 11


@pytest.mark.parametrize(("world", "clips_per_device"), [(1, 1), (1, 4), (2, 1), (2, 2), (4, 1)])
def test_what_a_step_trains_on_depends_on_neither_processes_nor_devices(
    source: ClipDataset, world: int, clips_per_device: int
) -> None:
    alone = ClipFeed(source, batch=4, seed=3)
    shared = [
        ClipFeed(source, batch=4, seed=3, clips_per_device=clips_per_device, rank=rank, world=world)
        for rank in range(world)
    ]
    assert {feed.steps_per_epoch for feed in shared} == {alone.steps_per_epoch}
    for number, wanted in enumerate(steps_of(alone, 4)):
        found = [batch for feed in shared for batch in steps_of(feed, 1, first=number)[0]]
        assert {len(batch.names) for batch in found} == {clips_per_device}
        assert names_of(found) == names_of(wanted)
        assert [seed for batch in found for seed in batch.seeds] == [seed for batch in wanted for seed in batch.seeds]
        clips = [targets for batch in found for targets in batch.clips.targets]
        for mine, theirs in zip(clips, [batch.clips.targets[0] for batch in wanted], strict=True):
            assert torch.equal(mine.boxes, theirs.boxes)


def test_two_processes_with_the_same_clips_a_device_see_the_same_batches_to_the_bit(source: ClipDataset) -> None:
    (wanted,) = steps_of(ClipFeed(source, batch=8, clips_per_device=2), 1)
    halves = [steps_of(ClipFeed(source, batch=8, clips_per_device=2, rank=rank, world=2), 1)[0] for rank in (0, 1)]
    for one, other in zip(wanted, [*halves[0], *halves[1]], strict=True):
        assert_same(one, other)


@FORK
@pytest.mark.parametrize("workers", [1, 2])
def test_a_feed_begins_anywhere_and_workers_change_nothing(source: ClipDataset, workers: int) -> None:
    here = steps_of(ClipFeed(source, batch=4, clips_per_device=2, seed=1), 5)
    there = steps_of(ClipFeed(source, batch=4, clips_per_device=2, seed=1, workers=workers), 3, first=2)
    for wanted, found in zip(here[2:], there, strict=True):
        for one, other in zip(wanted, found, strict=True):
            assert_same(one, other)
    of_another_seed = steps_of(ClipFeed(source, batch=4, clips_per_device=2, seed=2), 1)
    assert names_of(of_another_seed[0]) != names_of(here[0])


@FORK
@pytest.mark.parametrize("workers", [0, 1])
def test_the_feed_leaves_the_global_generators_alone(source: ClipDataset, workers: int) -> None:
    before, other = torch.get_rng_state(), str(np.random.get_state())
    steps_of(ClipFeed(source, batch=2, workers=workers), 2)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state()) == other


@FORK
@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_image_is_told_as_it_is(source: ClipDataset, workers: int) -> None:
    steps = ClipFeed(source, batch=1, workers=workers)(0)
    next(steps)
    for path in source.parts[0].folder.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError) as caught:
        list(islice(steps, 30))
    lines = str(caught.value).splitlines()
    assert len(lines) == 1
    assert "there is no file" in lines[0]
    assert "Traceback" not in lines[0]


class _Deadly(ClipDataset):
    def draw(self, index: int, rng: np.random.Generator) -> Clip:
        os.kill(os.getpid(), signal.SIGKILL)
        return super().draw(index, rng)


@FORK
def test_a_worker_that_dies_is_told(source: ClipDataset) -> None:
    deadly = _Deadly(source.parts, source.inputs, source.sampling, source.augmentation)
    with pytest.raises(FlowdetError, match=r"(?s)a process that reads ahead has died .* fewer than 1 workers"):
        next(ClipFeed(deadly, batch=1, workers=1)(0))


def test_workers_may_be_started_afresh(source: ClipDataset) -> None:
    feed = ClipFeed(source, batch=2, seed=1)
    copy = pickle.loads(pickle.dumps(feed))
    for one, other in zip(steps_of(feed, 2), steps_of(copy, 2), strict=True):
        assert_same(one[0], other[0])
    batch = pickle.loads(pickle.dumps(steps_of(feed, 1)[0][0]))
    assert_same(batch, steps_of(feed, 1)[0][0])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"batch": 0}, "batch must be 1 or more"),
        ({"batch": 6, "world": 4}, r"6 clips a step cannot be divided over 4 processes .* a multiple of 4"),
        ({"batch": 6, "world": 2, "clips_per_device": 2}, "a multiple of 4"),
        ({"batch": 6, "world": 2, "rank": 2}, "numbered from 0 to 1, there is none 2"),
        ({"batch": 6, "seed": -1}, "0 or more, not -1"),
        ({"batch": 6, "workers": -1}, "0 or more"),
    ],
)
def test_what_cannot_be_shared_is_refused(source: ClipDataset, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ClipFeed(source, **wrong)


def clip_of(size: tuple[int, int], seed: int, *, still: bool = False) -> Clip:
    frames = tuple(torch.from_numpy(waves(size, seed + slot)) for slot in range(3))
    targets = Targets(torch.tensor([[4.0, 4, 30, 28]]), torch.tensor([seed % 3]))
    return Clip(f"clip {seed}", frames, targets, still)


def test_clips_of_different_sizes_are_padded_to_the_largest() -> None:
    config = InputConfig(multiple=32)
    clips = [clip_of((40, 72), 0), clip_of((65, 50), 10, still=True)]
    batch = to_training_batch(clips, [5, 6], config)
    assert (batch.names, batch.seeds, batch.clips.still) == (("clip 0", "clip 10"), (5, 6), (False, True))
    assert batch.clips.targets[1].labels.tolist() == [1]
    for slot, inputs in enumerate((batch.clips.current, *batch.clips.references)):
        assert inputs.images.shape == (2, 3, 96, 96)
        assert [geometry.valid for geometry in inputs.geometries] == [(40, 72), (65, 50)]
        assert {geometry.padded for geometry in inputs.geometries} == {(96, 96)}
        for number, clip in enumerate(clips):
            height, width = clip.frames[slot].shape[:2]
            alone = to_inputs(clip.frames[slot][None], config).images[0, :, :height, :width]
            assert torch.equal(inputs.images[number, :, :height, :width], alone)
            assert (inputs.images[number, :, height:] == 0).all()
            assert (inputs.images[number, :, :, width:] == 0).all()


def test_a_batch_of_one_is_not_padded_further() -> None:
    batch = to_training_batch([clip_of((40, 72), 0)], [5], InputConfig())
    wanted = to_inputs(clip_of((40, 72), 0).frames[1][None], InputConfig())
    assert torch.equal(batch.clips.references[0].images, wanted.images)
    assert batch.clips.references[0].geometries == wanted.geometries


@pytest.mark.parametrize("method", [FGFAConfig(2, 2, embedding_channels=8), DFFConfig()])
def test_a_system_trains_on_clips_of_different_sizes(method: FGFAConfig | DFFConfig) -> None:
    system = build(replace(lite_config(), method=method, flow_net=lite_flow_config())).train()
    clips = [clip_of((40, 72), 0), clip_of((64, 48), 10, still=True)]
    if isinstance(method, DFFConfig):
        clips = [replace(clip, frames=clip.frames[:2]) for clip in clips]
    batch = to_training_batch(clips, [5, 6], system.config.inputs)
    losses = system.losses(batch.clips, seeded_choosers(batch.seeds))
    assert all(torch.isfinite(loss) and loss > 0 for loss in losses.values())
    features, detector = system.method.training_features(batch.clips), system.detector
    assert isinstance(detector, FasterRCNN)
    objectness, deltas = detector.rpn(*features.maps)
    proposals = propose(detector.config.rpn, objectness, deltas, features.geometries, 60)
    for boxes, clip in zip(proposals, clips, strict=True):
        height, width = clip.frames[0].shape[:2]
        assert (boxes <= torch.tensor([width, height, width, height])).all()


@FORK
def test_readers_end_with_the_feed_although_an_error_remembers_it(source: ClipDataset) -> None:
    before = set(multiprocessing.active_children())
    feed = ClipFeed(source, batch=1, workers=2)(0)
    next(feed)
    readers = set(multiprocessing.active_children()) - before
    with pytest.raises(EOFError) as remembered:
        feed.throw(EOFError())
    assert remembered.traceback
    assert len(readers) == 2
    assert readers.isdisjoint(multiprocessing.active_children())


def test_the_losses_of_a_batch_are_the_means_over_its_clips() -> None:
    batch = TinyClips(references=2, clips_per_device=4).batch([1, 2, 3])
    parts = dict(clips_of(batch))
    assert list(parts) == ["clip 1", "clip 2", "clip 3"]
    assert [part.clips.still for part in parts.values()] == [(True,), (False,), (False,)]
    assert [part.seeds for part in parts.values()] == [(1,), (2,), (3,)]
    system = system_of("tiny-fgfa")
    with torch.no_grad():
        together = losses_of_system(system, batch)
        each = [losses_of_system(system, part) for part in parts.values()]
    for name, loss in together.items():
        torch.testing.assert_close(loss, torch.stack([losses[name] for losses in each]).mean())
