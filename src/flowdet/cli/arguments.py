"""Arguments that several commands take, and their checks."""

import re
from pathlib import Path

from flowdet.errors import ConfigError

__all__ = ["check_outputs", "parse_size"]


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
