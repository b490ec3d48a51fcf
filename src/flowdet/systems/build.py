"""From a configuration to a video detector with untrained weights."""

from torch import nn

from flowdet.detectors.efficientnet_lite import EfficientNetLite0, EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import Detector
from flowdet.detectors.necks import ConvNeck, ConvNeckConfig, MergeNeck, MergeNeckConfig
from flowdet.detectors.resnet import ResNet, ResNetConfig
from flowdet.detectors.roi_head import RoIHead
from flowdet.detectors.rpn import RPN
from flowdet.flow.dis import DISFlow, DISFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig, FlowNetS
from flowdet.flow.matching import MatchingFlow, MatchingFlowConfig
from flowdet.flow.modules import FlowModule
from flowdet.inputs import InputConfig
from flowdet.systems.config import BackboneConfig, FlowConfig, NeckConfig, SystemConfig
from flowdet.systems.detector import VideoDetector
from flowdet.temporal.fast_fgfa import FastFGFAConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig

__all__ = ["build"]


def build(config: SystemConfig) -> VideoDetector:
    """Builds the system in evaluation mode, on the CPU, its weights at random."""
    backbone = _backbone(config.backbone)
    neck = _neck(config.neck, backbone.channels)
    channels = config.neck.channels
    rpn = RPN(config.heads.rpn, channels)
    roi_head = RoIHead(config.heads.roi_head, channels, len(config.class_names))
    detector = Detector(backbone, neck, rpn, roi_head)
    flow_net = _flow_net(config.flow_net, config.inputs) if config.flow_net else None
    embedding = None
    if isinstance(config.method, FGFAConfig | FastFGFAConfig | RecursiveConfig):
        embedding = nn.Conv2d(channels, config.method.embedding_channels, 3, padding=1)
    return VideoDetector(config, detector, flow_net, embedding).eval()


def _backbone(config: BackboneConfig) -> ResNet | EfficientNetLite0:
    match config:
        case ResNetConfig():
            return ResNet(config)
        case EfficientNetLite0Config():
            return EfficientNetLite0(config)


def _neck(config: NeckConfig, channels: tuple[int, ...]) -> ConvNeck | MergeNeck:
    match config:
        case ConvNeckConfig():
            return ConvNeck(config, channels)
        case MergeNeckConfig():
            return MergeNeck(config, channels)


def _flow_net(config: FlowConfig, inputs: InputConfig) -> FlowModule:
    match config:
        case FlowNetConfig():
            return FlowNetS(config, inputs)
        case MatchingFlowConfig():
            return MatchingFlow(config)
        case DISFlowConfig():
            return DISFlow(config, inputs)
