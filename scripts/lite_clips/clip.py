"""A clip whose flow is known, and batches of such clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flowdet.inputs import InputConfig
from flowdet.training.feed import to_inputs
from flowdet.types import ClipBatch, Targets

__all__ = ["FlowClip", "to_clip_batch"]


@dataclass(frozen=True, eq=False, slots=True)
class FlowClip:
    """One clip.

    Attributes:
        frames: [1 + r, h, w, 3] uint8 RGB, the current frame first.
        flows: [r, 2, h, w] (dx, dy) px from the current frame to each reference.
        targets: The objects of the current frame.
    """

    frames: Tensor
    flows: Tensor
    targets: Targets


def to_clip_batch(clips: Sequence[FlowClip], config: InputConfig) -> ClipBatch:
    """Returns clips of one size and one number of references as a batch."""
    frames = torch.stack([clip.frames for clip in clips], dim=1)
    current, *references = (to_inputs(of_slot, config) for of_slot in frames)
    return ClipBatch(
        current=current,
        references=tuple(references),
        targets=tuple(clip.targets for clip in clips),
        still=(False,) * len(clips),
    )
