"""The full configuration of a system, and its JSON form."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules
from typing import Any, TypeVar

import cattrs
from cattrs.strategies import configure_tagged_union
from cattrs.v import format_exception

import flowdet.detectors
import flowdet.temporal
from flowdet.detectors.base import DetectorConfig
from flowdet.detectors.faster_rcnn import BackboneConfig, NeckConfig
from flowdet.errors import ConfigError
from flowdet.flow.coarse_to_fine import CoarseToFineFlowConfig
from flowdet.flow.dis import DISFlowConfig
from flowdet.flow.flownet_s import FlowNetConfig
from flowdet.flow.matching import MatchingFlowConfig
from flowdet.inputs import InputConfig
from flowdet.temporal.base import MethodConfig
from flowdet.temporal.single import SingleFrameConfig
from flowdet.weights.limits import strict_numbers

__all__ = [
    "FlowConfig",
    "SystemConfig",
    "config_from_json",
    "config_to_json",
    "single_frame",
    "structure_json",
    "tagging_converter",
]

Structured = TypeVar("Structured")

FlowConfig = FlowNetConfig | MatchingFlowConfig | CoarseToFineFlowConfig | DISFlowConfig


@dataclass(frozen=True)
class SystemConfig:
    """Everything that a video detector is built from.

    Attributes:
        name: What the system is called, "fgfa-r50" for instance.
        class_names: In the order of the labels.
        inputs: Resizing, normalising, padding.
        detector: Images to maps, and maps to detections.
        method: How maps travel between frames.
        flow_net: What they travel along; None for a method without flow.
    """

    name: str
    class_names: tuple[str, ...]
    inputs: InputConfig
    detector: DetectorConfig
    method: MethodConfig
    flow_net: FlowConfig | None = None

    def __post_init__(self) -> None:
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise ConfigError(f"class names must be given and differ from each other: {list(self.class_names)}")
        if (self.flow_net is not None) != self.method.uses_flow:
            needs = "needs a flow net" if self.method.uses_flow else "uses no flow net"
            raise ConfigError(f"{self.name}: {type(self.method).__name__} {needs}; the configuration says otherwise")

    def with_classes(self, class_names: tuple[str, ...]) -> "SystemConfig":
        """Returns the same system for other classes."""
        return replace(self, class_names=class_names)


def single_frame(config: SystemConfig, name: str) -> SystemConfig:
    """Returns the detector of a system on every frame by itself, under another name."""
    return replace(config, name=name, method=SingleFrameConfig(), flow_net=None)


def tagging_converter(*unions: Any) -> cattrs.Converter:
    """Returns what turns dataclasses into JSON values and back; the choice within each union is named by its "kind".

    A field may also hold one of a union or None. Detectors and methods are open unions: their kind is any subclass of
    `DetectorConfig` or `MethodConfig` that has been imported.
    """
    converter = cattrs.Converter(forbid_extra_keys=True)
    for union in unions:
        configure_tagged_union(union, converter, tag_name="kind")
        _allow_none(union, converter)
    for base in (DetectorConfig, MethodConfig):
        _tag_subclasses(base, converter)
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


def _tag_subclasses(base: type, converter: cattrs.Converter) -> None:
    def is_base(kind: Any) -> bool:
        return kind is base

    def structure(value: Any, _: Any) -> Any:
        _import_own_kinds()
        kinds = {each.__name__: each for each in _subclasses(base) if not isabstract(each)}
        if (kind := value["kind"]) not in kinds:
            raise ConfigError(
                f"{kind} is not known here: import the file that defines it, or run that file in place of flowdet; "
                f"else it is of another version, for this one has {', '.join(kinds)}"
            )
        return converter.structure({key: each for key, each in value.items() if key != "kind"}, kinds[kind])

    def unstructure(value: Any) -> Any:
        return {"kind": type(value).__name__, **converter.unstructure(value, unstructure_as=type(value))}

    converter.register_structure_hook_func(is_base, structure)
    converter.register_unstructure_hook_func(is_base, unstructure)


@cache
def _import_own_kinds() -> None:
    """Makes the detectors and methods of the package known, whichever were imported before."""
    for package in (flowdet.detectors, flowdet.temporal):
        for module in iter_modules(package.__path__, f"{package.__name__}."):
            import_module(module.name)


def _subclasses(base: type) -> Iterator[type]:
    each: type
    for each in base.__subclasses__():
        yield each
        yield from _subclasses(each)


def structure_json(text: str, kind: type[Structured], converter: cattrs.Converter, what: str) -> Structured:
    """Returns the dataclass that a JSON text holds.

    Raises:
        ConfigError: It holds none; the message calls it `what`.
    """
    try:
        return _structured(json.loads(text), kind, converter, what)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is not {what}: {error}") from error


def _structured(document: Any, kind: type[Structured], converter: cattrs.Converter, what: str) -> Structured:
    try:
        return converter.structure(document, kind)
    except cattrs.BaseValidationError as error:
        reason = cattrs.transform_error(error, format_exception=_in_words)[0]
        raise ConfigError(f"this is not {what}: {reason}") from error
    except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
        raise ConfigError(f"this is not {what}: {error}") from error


_CONVERTER = tagging_converter(BackboneConfig, NeckConfig, FlowConfig)
strict_numbers(_CONVERTER, 65_536)
_WHAT = "the configuration of a flowdet system"


def config_to_json(config: SystemConfig) -> str:
    """Returns the configuration as JSON text; the choice of a part is named by its "kind"."""
    return json.dumps(_CONVERTER.unstructure(config))


def config_from_json(text: str) -> SystemConfig:
    """Returns the configuration that `config_to_json` wrote, of this version or of 0.1.

    Raises:
        ConfigError: The text is no such configuration.
    """
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"this is not {_WHAT}: {error}") from error
    if isinstance(document, dict) and "heads" in document:
        document = _from_version_0_1(document)
    return _structured(document, SystemConfig, _CONVERTER, _WHAT)


def _from_version_0_1(document: dict[str, Any]) -> dict[str, Any]:
    """Weight files of version 0.1 know Faster R-CNN only, its pieces beside each other."""
    heads = document["heads"] if isinstance(document["heads"], dict) else {}
    detector = {"kind": "FasterRCNNConfig", **{name: document.get(name) for name in ("backbone", "neck")}, **heads}
    others = {name: value for name, value in document.items() if name not in {"backbone", "neck", "heads"}}
    return {**others, "detector": detector}


def _in_words(error: BaseException, expected: type | None) -> str:
    match error:
        case ConfigError():
            return str(error)
        case KeyError():
            return f"{error} is missing, or no kind of this version"
        case _:
            return format_exception(error, expected)
