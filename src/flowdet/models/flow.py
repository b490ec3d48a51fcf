"""The flow nets that a system can have."""

from flowdet.models.dis_flow import DISFlow
from flowdet.models.flownet import FlowNetS
from flowdet.models.matching_flow import MatchingFlow

__all__ = ["FlowModule"]

FlowModule = FlowNetS | MatchingFlow | DISFlow
"""All of them are a `flowdet.temporal.base.FlowNet`."""
