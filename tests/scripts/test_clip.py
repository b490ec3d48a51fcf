from pathlib import Path

import numpy as np
import torch

from flowdet.inputs import InputConfig
from flowdet.training.feed import to_inputs
from scripts.lite_clips.clip import to_clip_batch
from scripts.lite_clips.moving_stills import MovingStills, MovingStillsConfig
from tests.data.pictures import waves
from tests.scripts.outlined import rectangle, still


def test_a_batch_of_clips_goes_by_slots(tmp_path: Path) -> None:
    picture = still(tmp_path / "one.png", waves((90, 120), 0), [rectangle(20, 20, 60, 60, label=1)])
    stills = MovingStills([picture], [], MovingStillsConfig(size=(48, 72)))
    rng = np.random.default_rng(0)
    clips = [stills.draw(rng, 2) for _ in range(3)]
    assert [tuple(clip.frames.shape) for clip in clips] == [(3, 48, 72, 3)] * 3
    batch = to_clip_batch(clips, InputConfig())
    assert batch.still == (False, False, False)
    assert len(batch.references) == 2
    assert batch.targets == tuple(clip.targets for clip in clips)
    for slot, inputs in enumerate((batch.current, *batch.references)):
        for number, clip in enumerate(clips):
            single = to_inputs(clip.frames[slot : slot + 1], InputConfig())
            assert torch.equal(inputs.images[number], single.images[0])
            assert inputs.geometries[number] == single.geometries[0]
