"""Modes: a system's weights put to work with less arithmetic than its method takes as published."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Literal

from flowdet.errors import ConfigError
from flowdet.systems.config import SystemConfig
from flowdet.temporal.adaptive_dff import AdaptiveDFFConfig
from flowdet.temporal.dff import DFFConfig
from flowdet.temporal.fast_fgfa import FastFGFAConfig
from flowdet.temporal.fgfa import FGFAConfig
from flowdet.temporal.recursive import RecursiveConfig

__all__ = ["MODES", "Mode", "adaptive", "composed", "early", "exact", "fast", "in_mode", "recursive"]

Mode = Literal["exact", "early", "composed", "fast", "recursive", "adaptive"]


def exact(config: SystemConfig) -> SystemConfig:
    """The system as it is."""
    return config


def early(config: SystemConfig) -> SystemConfig:
    """FGFA with every frame embedded once, before the warp; all flows are evaluated."""
    method = _fgfa(config, "early")
    return replace(config, method=_fast(method, _whole(method), is_composed=False))


def composed(config: SystemConfig) -> SystemConfig:
    """FGFA with early embedding and flows composed from frame to frame, over the whole window."""
    method = _fgfa(config, "composed")
    return replace(config, method=_fast(method, _whole(method), is_composed=True))


def fast(config: SystemConfig) -> SystemConfig:
    """FGFA as composed, with few references at growing distances."""
    method = _fgfa(config, "fast")
    offsets = (*(-d for d in reversed(_growing(method.past))), *_growing(method.future))
    scaled = tuple(offset * method.stride for offset in offsets)
    return replace(config, method=_fast(method, scaled, is_composed=True))


def recursive(config: SystemConfig) -> SystemConfig:
    """The backbone on key frames only, each averaged with a memory of those before; no lookahead."""
    method = _fgfa(config, "recursive")
    return replace(
        config,
        method=RecursiveConfig(
            warp=method.warp, sharpness=method.sharpness, embedding_channels=method.embedding_channels
        ),
    )


def adaptive(config: SystemConfig) -> SystemConfig:
    """DFF with more key frames than every 10th, where the flow to the last one grows long: more accurate, slower."""
    if not isinstance(config.method, DFFConfig):
        raise _misfit(config, "adaptive", "DFF")
    return replace(config, method=AdaptiveDFFConfig(warp=config.method.warp))


MODES: Mapping[Mode, Callable[[SystemConfig], SystemConfig]] = {
    "exact": exact,
    "early": early,
    "composed": composed,
    "fast": fast,
    "recursive": recursive,
    "adaptive": adaptive,
}
"""Every mode by its name."""


def in_mode(config: SystemConfig, mode: Mode) -> SystemConfig:
    """The system in a mode; it takes the same weights.

    Raises:
        ConfigError: There is no such mode, or the system does not have it.
    """
    if mode not in MODES:
        raise ConfigError(f"there is no mode {mode!r}; the modes are {', '.join(MODES)}")
    return MODES[mode](config)


def _fgfa(config: SystemConfig, mode: str) -> FGFAConfig:
    if isinstance(config.method, FGFAConfig):
        return config.method
    raise _misfit(config, mode, "FGFA")


def _misfit(config: SystemConfig, mode: str, method: str) -> ConfigError:
    return ConfigError(
        f"the mode {mode} is one of {method}, which {config.name} is not as it stands: leave the mode out, or name "
        "another system"
    )


def _fast(method: FGFAConfig, offsets: tuple[int, ...], *, is_composed: bool) -> FastFGFAConfig:
    return FastFGFAConfig(
        offsets=offsets,
        composed=is_composed,
        warp=method.warp,
        sharpness=method.sharpness,
        embedding_channels=method.embedding_channels,
        references_at_once=method.references_at_once,
    )


def _whole(method: FGFAConfig) -> tuple[int, ...]:
    """The offsets of the whole window."""
    return tuple(number * method.stride for number in range(-method.past, method.future + 1) if number)


def _growing(reach: int) -> tuple[int, ...]:
    """1, 2, 4, 8 and so on, the last one as far as the window reaches."""
    doubled = [2**power for power in range(reach.bit_length()) if 2**power * 3 // 2 < reach]
    return (*doubled, *((reach,) if reach else ()))
