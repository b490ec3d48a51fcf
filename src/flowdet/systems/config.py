"""The full configuration of a system, and its JSON form."""

import json
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_tagged_union
from cattrs.v import format_exception

from flowdet.detectors.efficientnet_lite import EfficientNetLite0Config
from flowdet.detectors.faster_rcnn import HeadsConfig
from flowdet.detectors.necks import ConvNeckConfig, MergeNeckConfig
from flowdet.detectors.resnet import ResNetConfig
from flowdet.errors import ConfigError
from flowdet.flow.dis import DISFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig
from flowdet.flow.matching import MatchingFlowConfig
from flowdet.inputs import InputConfig
from flowdet.temporal.adaptive_dff import AdaptiveDFFConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fast_fgfa import FastFGFAConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig
from flowdet.temporal.single import SingleFrameConfig

__all__ = [
    "BackboneConfig",
    "FlowConfig",
    "MethodConfig",
    "NeckConfig",
    "SystemConfig",
    "config_from_json",
    "config_to_json",
    "single_frame",
    "structure_json",
    "tagging_converter",
]

Structured = TypeVar("Structured")

BackboneConfig = ResNetConfig | EfficientNetLite0Config
NeckConfig = ConvNeckConfig | MergeNeckConfig
FlowConfig = FlowNetConfig | MatchingFlowConfig | DISFlowConfig
MethodConfig = SingleFrameConfig | DFFConfig | FGFAConfig | AdaptiveDFFConfig | FastFGFAConfig | RecursiveConfig


@dataclass(frozen=True)
class SystemConfig:
    """Everything that a video detector is built from.

    Attributes:
        name: What the system is called, "fgfa-r50" for instance.
        class_names: In the order of the labels.
        inputs: Resizing, normalising, padding.
        backbone: Images to maps.
        neck: Maps to the features.
        heads: Features to detections.
        method: How features travel between frames.
        flow_net: What they travel along; None for a method without flow.
    """

    name: str
    class_names: tuple[str, ...]
    inputs: InputConfig
    backbone: BackboneConfig
    neck: NeckConfig
    heads: HeadsConfig
    method: MethodConfig
    flow_net: FlowConfig | None = None

    def __post_init__(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ConfigError(f"class names must be given and differ from each other: {list(self.class_names)}")

        if (self.flow_net is None) != isinstance(self.method, SingleFrameConfig):
            raise ConfigError("DFF and FGFA need a flow net, a single-frame system has none")

    def with_classes(self, class_names: tuple[str, ...]) -> "SystemConfig":
        """The same system for other classes."""
        return replace(self, class_names=class_names)


def single_frame(config: SystemConfig, name: str) -> SystemConfig:
    """The detector of a system, under its own name, on every frame for itself."""
    return replace(config, name=name, method=SingleFrameConfig(), flow_net=None)


def tagging_converter(*unions: Any) -> cattrs.Converter:
    """Turns dataclasses into JSON values and back; the choice within each of these unions is named by its "kind".

    A field may also hold one of a union or None.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    for union in unions:
        configure_tagged_union(union, converter, tag_name="kind")
        _allow_none(union, converter)
    return converter


def _allow_none(union: Any, converter: cattrs.Converter) -> None:
    def is_optional(kind: Any) -> bool:
        return bool(kind == union | None)

    def structure(value: Any, _: Any) -> Any:
        return None if value is None else converter.structure(value, union)

    def unstructure(value: Any) -> Any:
        return None if value is None else converter.unstructure(value, union)

    converter.register_structure_hook_func(is_optional, structure)
    converter.register_unstructure_hook_func(is_optional, unstructure)


def structure_json(text: str, kind: type[Structured], converter: cattrs.Converter, what: str) -> Structured:
    """The dataclass that a JSON text holds.

    Raises:
        ConfigError: It holds none; the message calls it `what`.
    """
    try:
        return converter.structure(json.loads(text), kind)
    except cattrs.BaseValidationError as error:
        reason = cattrs.transform_error(error, format_exception=_in_words)[0]
        raise ConfigError(f"this is not {what}: {reason}") from error
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigError(f"this is not {what}: {error}") from error


_CONVERTER = tagging_converter(BackboneConfig, NeckConfig, MethodConfig, FlowConfig)


def config_to_json(config: SystemConfig) -> str:
    """The configuration as JSON text; the choice of a part is named by its "kind"."""
    return json.dumps(_CONVERTER.unstructure(config))


def config_from_json(text: str) -> SystemConfig:
    """The configuration that `config_to_json` wrote.

    Raises:
        ConfigError: The text is no such configuration.
    """
    return structure_json(text, SystemConfig, _CONVERTER, "the configuration of a flowdet system")


def _in_words(error: BaseException, expected: type | None) -> str:
    match error:
        case ConfigError():
            return str(error)
        case KeyError():
            return f"{error} is missing, or no kind of this version"
        case _:
            return format_exception(error, expected)
