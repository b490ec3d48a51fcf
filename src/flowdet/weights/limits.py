"""Bounds what a file may ask for before anything is allocated for it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cattrs
import torch
from torch import Tensor, nn

from flowdet.errors import CheckpointError, ConfigError

__all__ = ["check_size", "strict_numbers"]


_SLACK = 50_000_000  # values, 200 MB


def strict_numbers(converter: cattrs.Converter, most: int) -> None:
    """Lets a converter refuse numbers that are not plausible: of another type, not finite, or beyond a limit.

    By itself cattrs takes true for 1, "3" for 3 and 2.7 for 2.

    Args:
        converter: What turns JSON values into dataclasses.
        most: The largest absolute value of a number.
    """

    def whole(value: Any, _: Any) -> int:
        if type(value) is not int or abs(value) > most:
            raise ConfigError(f"{_shown(value)} is no whole number from {-most} to {most}")
        return value

    def number(value: Any, _: Any) -> float:
        if type(value) not in {int, float} or not abs(value) <= most:  # NaN, too
            raise ConfigError(f"{_shown(value)} is no number from {-most} to {most}")
        return float(value)

    def flag(value: Any, _: Any) -> bool:
        if type(value) is not bool:
            raise ConfigError(f"{_shown(value)} is neither true nor false")
        return value

    converter.register_structure_hook(int, whole)
    converter.register_structure_hook(float, number)
    converter.register_structure_hook(bool, flag)


def _shown(value: object) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**20 else "an integer of more than 20 digits"
    return text if len(text) <= 40 else f"{text[:40]}..."


def check_size(build: Callable[[], nn.Module], weights: Mapping[str, Tensor], path: Path) -> None:
    """Checks that a system has not many more values than the file that it is filled from, before memory is allocated.

    Fewer missing ones are told by name when the system is filled.

    Args:
        build: Builds the system; called once, on PyTorch's meta device.
        weights: The tensors of the file.
        path: The file, for the message.

    Raises:
        CheckpointError: The system has far more values, or sizes that no tensor can have.
    """
    held = sum(tensor.numel() for tensor in weights.values())
    try:
        with torch.device("meta"):
            wanted = sum(tensor.numel() for tensor in build().state_dict().values())
    except (RuntimeError, OverflowError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: its configuration asks for sizes that no tensor can have") from error
    if wanted > held + _SLACK:
        raise CheckpointError(
            f"{path} holds {held} values, but its configuration asks for {wanted}; it is damaged or forged"
        )
