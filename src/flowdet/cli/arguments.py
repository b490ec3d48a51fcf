"""Arguments that several commands take, and their checks."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from flowdet.errors import ConfigError
from flowdet.systems.options import SystemOptions

__all__ = ["DEFAULTS", "Options", "check_outputs", "for_making", "parse_size"]

Options = Annotated[SystemOptions, Parameter(name="*")]
"""The options of `SystemOptions`, each as one of the command."""

DEFAULTS = SystemOptions()


def for_making(options: SystemOptions, system: str | None) -> SystemOptions:
    """Returns the options of a command that makes something of the modules of a system, on the CPU.

    Raises:
        ConfigError: An option of detecting came, which has no effect there.
    """
    for name in ("device", "backend", "precision"):
        if getattr(options, name) != getattr(DEFAULTS, name):
            raise ConfigError(f"--{name} has no effect here: this command works on the CPU in float32; leave it out")
    return replace(options, system=system, backend="torch")


def parse_size(text: str | None) -> tuple[int, int] | None:
    """Returns the (height, width) that an option such as 600x1000 states; None for None.

    Raises:
        ConfigError: It is no size.
    """
    if text is None:
        return None
    if not (match := re.fullmatch(r"(\d+)[xX](\d+)", text)):
        raise ConfigError(f"a size is height x width in pixels, such as 600x1000, not {text!r}")
    return int(match[1]), int(match[2])


def check_outputs(folder: Path | None, json: Path | None) -> None:
    """Checks before the work that its outputs can be written.

    Raises:
        ConfigError: They cannot.
    """
    for place in (folder, json.parent if json else None):
        if place:
            try:
                place.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ConfigError(f"the folder {place} cannot be made: {error.strerror}") from error
    if json and json.is_dir():
        raise ConfigError(f"--json is a file to write, and {json} is a folder")
