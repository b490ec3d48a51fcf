"""The flow nets that a system can have."""

from flowdet.flow.dis import DISFlow
from flowdet.flow.flownet_s import FlowNetS
from flowdet.flow.matching import MatchingFlow

__all__ = ["FlowModule"]

FlowModule = FlowNetS | MatchingFlow | DISFlow
"""All of them are a `flowdet.temporal.base.FlowNet`."""
