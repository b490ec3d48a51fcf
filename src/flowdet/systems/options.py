"""The options that every command shares: which system, with which weights, in which form, computed by what."""

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Literal, Self

from cyclopts import Parameter

from flowdet.errors import ConfigError
from flowdet.flow.dis import DISFlowConfig
from flowdet.systems.config import SystemConfig
from flowdet.systems.recipes import SHIPPED_FLOW
from flowdet.temporal.base import MethodConfig

__all__ = ["DEFAULT_SYSTEM", "Precision", "SystemOptions", "apply_options"]

DEFAULT_SYSTEM = "fgfa-nano"
_LONGEST_INTERVAL = 1_000_000  # frames; more is a slip
Precision = Literal["float32", "bf16", "fp16"]


@dataclass(frozen=True, kw_only=True)
class SystemOptions:
    """Which system, and how it detects; the command line spreads this over its options.

    Attributes:
        system: One of `flowdet models`, which each command takes in its own place; None: the default system, or the one
            that the weight file was saved from.
        weights: A weight file of your own, native (.safetensors) or a checkpoint of mmtracking or YOLOX (.pth); or the
            name of a system whose weights to take.
        device: Where the system runs, "cuda" for instance.
        causal: For live video, no waiting for later frames: FGFA with half its window, DFF from the last
            key frame alone. Not the published protocol.
        variant: Another form of the method. FGFA has early, composed, fast and recursive, which are cheaper. Without
            flow, as in fgfa-nano, it has fast, and aligned, which warps along flow, for still cameras.
        key_frame_interval: Frames from one key frame to the next, for methods with key frames.
        flow: Take this flow in place of the system's own: dis is OpenCV's, which needs no training.
        agnostic_nms: Let detections of different classes suppress each other: one box for one object.
        backend: What computes: torch, optimised, openvino, a folder of `flowdet quantise`, or auto, which chooses
            one for the system and this machine.
        precision: bf16 or fp16 compute in half precision, with torch or optimised; fp16 on a GPU only.
    """

    system: Annotated[str | None, Parameter(parse=False)] = None
    weights: Path | None = None
    device: str = "cpu"
    causal: Annotated[bool, Parameter(negative=())] = False
    variant: str | None = None
    key_frame_interval: int | None = None
    flow: Literal["dis"] | None = None
    agnostic_nms: Annotated[bool, Parameter(negative=())] = False
    backend: str = "auto"
    precision: Precision = "float32"

    def absolute(self) -> Self:
        """Returns the same options for other machines that see the same files: paths are whole."""
        weights = self.weights.absolute() if self.weights and self.weights.exists() else self.weights
        backend = str(Path(self.backend).absolute()) if Path(self.backend).is_dir() else self.backend
        return replace(self, weights=weights, backend=backend)


def apply_options(config: SystemConfig, options: SystemOptions) -> SystemConfig:
    """Returns the configuration with causal form, variant, key frame interval and flow as the options say.

    Raises:
        ConfigError: An option has no effect on this system.
    """
    method = config.method
    if options.variant is not None:
        method = _variant(config, options.variant)
    if options.causal:
        method = method.causal()
    if options.key_frame_interval is not None:
        method = _with_interval(config.name, method, options.key_frame_interval)
    flow_net = config.flow_net or (SHIPPED_FLOW if method.uses_flow else None)
    if options.flow is not None:
        if options.flow != "dis":
            raise ConfigError(f'the flow that can replace a system\'s own is "dis", not {options.flow!r}')
        if flow_net is None:
            raise ConfigError(f"{config.name} uses no flow, so there is none to replace: leave that option out")
        flow_net = DISFlowConfig()
    detector = config.detector.with_agnostic_nms() if options.agnostic_nms else config.detector
    return replace(config, detector=detector, method=method, flow_net=flow_net)


def _variant(config: SystemConfig, name: str) -> MethodConfig:
    variants = config.method.variants
    if name not in variants:
        names = f"it has {', '.join(variants)}" if variants else "it has none"
        raise ConfigError(f"{config.name} has no variant {name!r}; {names}")
    if variants[name] == config.method:
        raise ConfigError(f"{config.name} is saved as its variant {name!r}: leave that option out")
    return variants[name]


def _with_interval(name: str, method: MethodConfig, interval: int) -> MethodConfig:
    if "key_frame_interval" not in {each.name for each in fields(method)}:  # type: ignore[arg-type]
        raise ConfigError(f"{name} has no key frames, so a key frame interval has no effect: leave it out")
    if not 1 <= interval <= _LONGEST_INTERVAL:
        bound = "1 or more" if interval < 1 else f"{_LONGEST_INTERVAL} or less"
        raise ConfigError(f"the key frame interval must be {bound}, not {interval}")
    return replace(method, key_frame_interval=interval)  # type: ignore[type-var]
