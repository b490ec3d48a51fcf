"""The errors a user can meet. Each message says what was expected, what came and what to do."""

from collections.abc import Sequence

__all__ = [
    "CheckpointError",
    "ConfigError",
    "DataError",
    "DownloadError",
    "FlowdetError",
    "VideoError",
    "check_positive",
    "counted",
    "some",
]


class FlowdetError(Exception):
    """Something the user can mend; the command line prints its message without a traceback."""


class ConfigError(FlowdetError):
    """A configuration or an argument holds a value that cannot work."""


class CheckpointError(FlowdetError):
    """A weight file cannot be read, or does not fit the system."""


class DataError(FlowdetError):
    """Annotations, or detections to be evaluated, cannot be read or contradict themselves."""


class DownloadError(FlowdetError):
    """A published file could not be fetched or is not what was published."""


class VideoError(FlowdetError):
    """A video source cannot be opened or holds no frame, or a video cannot be written."""


def check_positive(config: object, *names: str) -> None:
    """Passes if these whole numbers of a configuration are 1 or more, or None.

    Raises:
        ConfigError: One is not.
    """
    for name in names:
        value = getattr(config, name)
        if value is not None and value < 1:
            raise ConfigError(f"{type(config).__name__}: {name} must be 1 or more, not {value}")


def some(names: Sequence[str], most: int = 5, kind: str = "") -> str:
    """Returns the first names, and how many more there are, of what kind."""
    more = f" and {len(names) - most} more{kind and f' {kind}'}" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def counted(number: int, one: str, many: str = "") -> str:
    """Returns a number with its noun, "1 frame" or "2 frames"; `many` is the plural where it takes more than an s."""
    return f"{number} {one if number == 1 else many or one + 's'}"
