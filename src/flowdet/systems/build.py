"""From a configuration to a video detector with untrained weights."""

from typing import assert_never

import torch

from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlow, CoarseToFineFlowConfig
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig, FlowNetS
from flowdet.flow.matching import MatchingFlow, MatchingFlowConfig
from flowdet.inputs import InputConfig
from flowdet.systems.config import FlowConfig, SystemConfig
from flowdet.systems.detector import FlowModule, VideoDetector

__all__ = ["build"]


def build(config: SystemConfig) -> VideoDetector:
    """Returns the system in evaluation mode, on the CPU, with random weights.

    Raises:
        ConfigError: Detector and method, or input and flow net, do not go together.
    """
    detector = config.detector.build(len(config.class_names), config.method.attention)
    modules = config.method.modules(detector.channels)
    flow_net = _flow_net(config.flow_net, config.inputs) if config.flow_net else None
    # Whatever torch's default type is.
    return VideoDetector(config, detector, flow_net, modules).to(torch.float32).eval()


def _flow_net(config: FlowConfig, inputs: InputConfig) -> FlowModule:
    """Returns the flow net of a system with random weights."""
    match config:
        case FlowNetConfig():
            return FlowNetS(config, inputs)
        case MatchingFlowConfig():
            return MatchingFlow(config)
        case CoarseToFineFlowConfig():
            if inputs.multiple % (8 * config.reduction):
                raise ConfigError(
                    f"a flow net on frames reduced {config.reduction} times needs sides that are multiples of "
                    f"{8 * config.reduction} px; the input has multiples of {inputs.multiple}"
                )
            return CoarseToFineFlow(config)
        case DISFlowConfig():
            return DISFlow(config, inputs)
        case _:
            assert_never(config)
