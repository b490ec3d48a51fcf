"""Narrow systems of each method, and inputs for them."""

from collections.abc import Iterator
from dataclasses import replace

import torch

from flowdet.inputs import prepare
from flowdet.systems.build import build
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.types import NetworkInput
from tests.tiny import lite_config, lite_flow_config, video

__all__ = ["FGFA", "inputs_for", "narrow_system"]

FGFA = FGFAConfig(past=2, future=1, embedding_channels=4, references_at_once=2)


def narrow_system(method: MethodConfig) -> VideoDetector:
    """An untrained system with this method."""
    flow_net = lite_flow_config() if method.uses_flow else None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(replace(lite_config(), method=method, flow_net=flow_net))


def inputs_for(system: VideoDetector, length: int) -> Iterator[NetworkInput]:
    """The inputs of a video of n frames."""
    return (prepare([image], system.config.inputs) for image in video(length))
